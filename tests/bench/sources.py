"""Data prep against what decodes, inflates or transfers the same, nothing else; and against other ways to a dataset."""

from __future__ import annotations

import gc
import gzip
import json
import logging
import multiprocessing
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch
from urllib.parse import urlsplit
from uuid import uuid4

import numpy as np
import pytest
from PIL import Image

from components.data_prep.engine.assemble import Assembled
from components.data_prep.prepare import prepare
from components.data_prep.quality.inspection import Inspection
from components.shared.files import sha256_of
from components.shared.limits import usable_cpus
from components.shared.params.params import Params
from components.shared.storage.fetch import fetch_tree
from components.shared.storage.gcs import EMULATOR_VARIABLE
from components.shared.storage.location import Location
from tests.bench.measure import Ratio, compare, seconds
from tests.bench.slow_link import SlowLink
from tests.bench.storage import small_server
from tests.data_prep.building import idx_folder

CORES = usable_cpus()
ROUNDS = 3
# By name: side of the pictures, ending, side and channels of what is stored, how many.
SETS: dict[str, tuple[int, str, int, int, int]] = {
    "PNG 28², L": (28, ".png", 28, 1, 20_000),
    "JPEG 256² to 224²": (256, ".jpg", 224, 3, 2000),
    "JPEG 1024² to 224²": (1024, ".jpg", 224, 3, 240),
}
_FOR_RATES = 3  # times as many, so that a start, which takes as long for any number, counts as with a real data set
# What a network gives an ordinary machine of two cores, and a store of the same region.
_LINK_MB, _LINK_MS = 20, 10
# Data prep that starts workers however few images there are, as otherwise the machine's speed would decide.
WITH_WORKERS = """
import sys
from components.data_prep.engine import row_decoder
from components.data_prep.__main__ import main

row_decoder._PAYS_S = -1
sys.exit(main(sys.argv[1:]))
"""
_MANY = 10_000
_TIMES = 10  # as many images, where a start is to count little
_KEPT = 1000


def pictures(folder: Path, side: int, ending: str, channels: int, count: int) -> Path:
    """A folder per class of so many pictures, no two alike: noise on smooth areas, or strokes on black as of digits."""
    noise = np.random.default_rng(0).integers(-6, 7, (2 * side, side, 3), dtype=np.int16)
    for name in "ab":
        (folder / name).mkdir(parents=True, exist_ok=True)

    def make(first: int) -> None:
        random = np.random.default_rng(first)
        for index in range(first, count, CORES):
            small = random.integers(0, 256, (max(4, side // 16), max(4, side // 16), 3), dtype=np.uint8)
            smooth = np.asarray(Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC))
            start = random.integers(0, side)
            pixels = (smooth + noise[start : start + side]).clip(0, 255).astype(np.uint8)
            if channels == 1:
                pixels = np.where(pixels > 150, pixels, 0)[..., 0]
            pixels[0, 0] = index % 251
            path = folder / "ab"[index % 2] / f"{index:06d}{ending}"
            Image.fromarray(pixels).save(path, quality=90, compress_level=1)

    with ThreadPoolExecutor(CORES) as pool:
        list(pool.map(make, range(CORES)))
    return folder


def params(side: int, channels: int, n_classes: int = 2) -> dict[str, Any]:
    """Params of data prep alone."""
    return {
        "image_height": side, "image_width": side, "is_image_color": channels == 3, "n_classes": n_classes,
        "test_fraction": 0.2, "num_epochs": 1, "net_arch": [{"class": "torch.nn.ReLU"}],
    }  # fmt: skip


# Writes into an empty folder, which goes.
Writing = Callable[[Path], object]


def seconds_into(work: Writing) -> float:
    """Wall time of one call, without that the folder goes, for which a disk takes 5 % of data prep's time.

    Data prep's own process has imported neither torch nor datasets: what this one holds is not looked at for garbage.
    """
    gc.collect()
    gc.freeze()
    try:
        with tempfile.TemporaryDirectory(prefix="shutterline-bench-") as out:
            return seconds(lambda: work(Path(out)))
    finally:
        gc.unfreeze()


def writing_nothing(work: Callable[[], object]) -> Writing:
    """What writes nothing, measured as the others are."""
    return lambda _: work()


def preparing(data: Path | Location, side: int, channels: int, n_classes: int = 2) -> Writing:
    """Data prep as it is."""
    logging.disable(logging.WARNING)  # random pictures may look alike
    wanted = Params.from_dict(params(side, channels, n_classes))
    return lambda out: prepare(data=data, dataset=out / "out", params=wanted)


def decoding_rates(directory: Path) -> Iterator[Ratio]:
    """(A) Images a second from files to a dataset, against one thread of Pillow: open, convert, resize."""
    for name, (side, ending, stored, channels, some) in SETS.items():
        count = _FOR_RATES * some
        data = pictures(directory / ending[1:] / f"{side}", side, ending, channels, count)
        files = sorted(data.glob("*/*"))

        load = partial(_load, side=stored, mode="RGB" if channels == 3 else "L")
        shares = [files[core::CORES] for core in range(CORES)]
        with ProcessPoolExecutor(CORES, multiprocessing.get_context("spawn")) as pool:
            several = partial(_all, pool, load, shares)
            several()  # which starts them
            row = f"(A) {name}: such a loop in {CORES} processes / in one"
            alone = writing_nothing(partial(load, files))
            yield _rates(row, count, writing_nothing(several), alone, "none: what these cores give")

        row, ours = f"(A) {name}: data prep / one thread of Pillow", preparing(data, stored, channels)
        yield _rates(row, count, ours, alone, f"> {0.9 * CORES:.1f}")
        shutil.rmtree(data)


def _load(files: list[Path], side: int, mode: str) -> None:
    for file in files:
        with Image.open(file) as image:
            image.convert(mode).resize((side, side), Image.Resampling.BILINEAR)


def _all(pool: Executor, load: Callable[[list[Path]], None], shares: list[list[Path]]) -> None:
    for _ in pool.map(load, shares):
        pass


def _rates(name: str, count: int, ours: Writing, theirs: Writing, bound: str) -> Ratio:
    return compare(
        name,
        lambda: count / seconds_into(ours),
        lambda: count / seconds_into(theirs),
        unit="images/s",
        bound=bound,
        rounds=ROUNDS,
    )


def other_ways(directory: Path) -> Iterator[Ratio]:
    """(B) Against ImageFolder with a DataLoader, and Hugging Face datasets, with as many processes."""
    side, ending, stored, channels, some = SETS["JPEG 256² to 224²"]
    count = _FOR_RATES * some
    data = pictures(directory / "pictures", side, ending, channels, count)

    ours = preparing(data, stored, channels)

    def loaded() -> None:
        from torch.utils.data import DataLoader
        from torchvision.datasets import ImageFolder
        from torchvision.transforms import v2

        transform = v2.Compose([v2.Resize((stored, stored)), v2.PILToTensor()])
        loader = DataLoader(ImageFolder(data, transform), batch_size=256, num_workers=CORES)
        assert sum(len(labels) for _, labels in loader) == count

    def mapped(cache: Path) -> None:
        import datasets

        datasets.disable_progress_bars()

        def resized(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
            size = (stored, stored)
            images = (image.convert("RGB").resize(size, Image.Resampling.BILINEAR) for image in batch["image"])
            return {"pixels": [np.asarray(image) for image in images]}

        found = datasets.load_dataset("imagefolder", data_dir=str(data), split="train", cache_dir=str(cache))
        shape = datasets.Array3D(shape=(stored, stored, 3), dtype="uint8")
        features = datasets.Features({"label": found.features["label"], "pixels": shape})
        made = found.map(
            resized, batched=True, batch_size=64, num_proc=CORES, remove_columns="image", features=features
        )
        assert len(made.with_format("numpy")[:2]["pixels"]) == 2
        assert len(made) == count

    yield _rates("(B) JPEG 256²: data prep / ImageFolder and a DataLoader", count, ours, writing_nothing(loaded), "> 1")
    yield _rates("(B) JPEG 256²: data prep / datasets, imagefolder and map", count, ours, mapped, "> 1")


def inflating(directory: Path) -> Iterator[Ratio]:
    """(D) IDX files, gzip-compressed, against gunzip: with the data quality report and without it."""
    data = directory / "idx"
    # Digits as MNIST has them, no two equal: each of scikit-learn's at 49 places. They compress as MNIST does, 1 to 5.
    small = ((Image.fromarray(np.uint8(each * 15)), label) for each, label in zip(*_digits(), strict=True))
    large = [(np.asarray(image.resize((20, 20), Image.Resampling.BICUBIC)), label) for image, label in small]
    digits = np.pad(np.stack([image for image, _ in large]).astype(np.int16), ((0, 0), (4, 4), (4, 4)))
    digits = ((digits - 70) * 2).clip(0, 255).astype(np.uint8)
    places = [(down, across) for down in range(-3, 4) for across in range(-3, 4)]
    every = np.concatenate([np.roll(digits, place, (1, 2)) for place in places])
    labels = np.tile([label for _, label in large], len(places))
    idx_folder(data, every[:60_000], labels[:60_000], "train", ".gz")
    idx_folder(data, every[60_000:70_000], labels[60_000:70_000], "t10k", ".gz")

    report: list[float] = []
    inspect = Inspection.__call__

    def inspected(self: Inspection, assembled: Assembled) -> list[Path]:
        start = time.perf_counter()
        files = inspect(self, assembled)
        report.append(time.perf_counter() - start)
        return files

    megabytes = every[:70_000].nbytes / 1e6
    with patch.object(Inspection, "__call__", inspected):
        rounds = [(seconds_into(preparing(data, 28, 1, 10)), seconds(lambda: _inflate(data))) for _ in range(6)][1:]
    alone = [megabytes / theirs for _, theirs in rounds]
    name, whole = "(D) 70,000 images, IDX .gz: data prep / gunzip", [ours for ours, _ in rounds]
    yield Ratio(name, [megabytes / each for each in whole], alone, "MB/s", "> 0.7")
    name = "(D) … without the data quality report / gunzip"
    without = [each - of_report for each, of_report in zip(whole, report[1:], strict=True)]
    yield Ratio(name, [megabytes / each for each in without], alone, "MB/s", "> 0.7")
    larger = directory / "larger"
    _repeated(data, larger)
    with patch.multiple(Inspection, __call__=lambda self, assembled: [], counts={}, summary=lambda self: []):
        yield compare(
            f"(D) … so, {_TIMES} times as many images / gunzip",
            lambda: _TIMES * megabytes / seconds_into(preparing(larger, 28, 1, 10)),
            lambda: _TIMES * megabytes / seconds(lambda: _inflate(larger)),
            unit="MB/s",
            bound="> 0.7",
            rounds=ROUNDS,
        )
    shutil.rmtree(larger)


def _inflate(folder: Path) -> None:
    files = map(str, folder.iterdir())
    subprocess.run(["gunzip", "--stdout", *files], stdout=subprocess.DEVNULL, check=True)  # noqa: S607 - any


def _repeated(data: Path, into: Path) -> None:
    """IDX files of the same images again and again: what is compressed once repeats as members of a gzip file."""
    into.mkdir()
    for file in data.iterdir():
        values = gzip.decompress(file.read_bytes())
        before = 4 + 4 * values[3]
        header = values[:4] + struct.pack(">I", _TIMES * int.from_bytes(values[4:8])) + values[8:before]
        members = gzip.compress(header), *[gzip.compress(values[before:])] * _TIMES
        (into / file.name).write_bytes(b"".join(members))


def _digits() -> tuple[Any, Any]:
    from sklearn.datasets import load_digits

    found = load_digits()
    return found.images, found.target


def from_buckets(directory: Path) -> Iterator[Ratio]:
    """(F) JPEG files in a bucket, against fetching them alone: over a network's rate, and where CPUs are the bound."""
    side, ending, stored, channels, count = SETS["JPEG 1024² to 224²"]
    count *= 2  # so that a start counts little; smaller ones, to be decoded, need more CPU time than the link takes
    data = pictures(directory / "pictures", side, ending, channels, count)
    with small_server() as bucket:
        location = Location("gs", bucket.name, uuid4().hex[:8])
        for file in sorted(data.glob("*/*")):
            bucket.blob(location.child(file.relative_to(data).as_posix()).key).upload_from_filename(str(file))

        def fetched(into: Path) -> None:
            fetch_tree(location, into)

        ours = preparing(location, stored, channels)
        port = urlsplit(os.environ[EMULATOR_VARIABLE]).port or 0
        with SlowLink(port, _LINK_MB * 1e6, _LINK_MS / 1e3) as link, pytest.MonkeyPatch.context() as patch:
            patch.setenv(EMULATOR_VARIABLE, link.url)
            name = f"(F) bucket, {_LINK_MB} MB/s, {_LINK_MS} ms: data prep / fetching"
            yield _rates(name, count, ours, fetched, "> 0.9")
        yield _rates("(F) bucket on these CPUs: data prep / fetching", count, ours, fetched, "none: CPU-bound")


def few_new_images(directory: Path) -> Iterator[Ratio]:
    """(R) A run with 1 % new images, beside an earlier dataset of the others, against one from scratch.

    And against what it cannot do without: the earlier files read and digested, copied, and the copies digested.
    """
    side, ending, stored, channels, _ = SETS["JPEG 1024² to 224²"]
    data, earlier = directory / "again", directory / "earlier"
    pictures(data, side, ending, channels, _KEPT)
    time.sleep(2.1)  # what is younger is not known again
    wanted = Params.from_dict(params(stored, channels))
    prepare(data=data, dataset=earlier, params=wanted, stamp=True)
    for index in range(_KEPT // 100):
        with Image.open(data / "a" / f"{2 * index:06d}{ending}") as image:
            image.rotate(90).save(data / "b" / f"new-{index}{ending}", quality=90)

    def again(out: Path) -> None:
        prepare(data=data, dataset=out / "out", params=wanted, reuse=earlier)

    def copied(out: Path) -> None:
        for number, file in enumerate(earlier.glob("*/*")):
            sha256_of(file)
            copy = out / str(number)
            shutil.copyfile(file, copy)
            with copy.open("rb+") as stream:
                os.fsync(stream.fileno())
            sha256_of(copy)

    scratch = preparing(data, stored, channels)
    whole, least = ("from scratch", scratch, "< 0.1"), ("copying and digesting alone", copied, "none")
    for against, theirs, bound in (whole, least):
        row, ours = f"(R) 1 % of {_KEPT:,} JPEG 1024² new, against {against}", partial(seconds_into, again)
        yield compare(row, ours, partial(seconds_into, theirs), unit="s", bound=bound, rounds=ROUNDS)


def memory_peaks(directory: Path) -> Ratio:
    """(M) The most memory of all processes of data prep, 100,000 PNG files against 10,000."""
    data = {count: pictures(directory / f"{count}", 28, ".png", 1, count) for count in (10 * _MANY, _MANY)}
    peaks = {count: _peak(folder, directory / f"out-{count}") / 1024 for count, folder in data.items()}
    name = "(M) most memory of data prep: 100,000 / 10,000 PNG files"
    return Ratio(name, [peaks[10 * _MANY]], [peaks[_MANY]], "MiB", "< 1.2")


def _peak(data: Path, out: Path) -> int:
    """KiB that data prep and its workers had at most: of each process, the most it ever had."""
    words = ["--data", str(data), "--dataset", str(out), "--params", json.dumps(params(28, 1))]
    command = [sys.executable, "-c", WITH_WORKERS, *words]
    peaks: dict[int, int] = {}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as step:
        while step.poll() is None:
            for pid in [step.pid, *_children(step.pid)]:
                with suppress(OSError, StopIteration):  # it has ended
                    status = Path(f"/proc/{pid}/status").read_text()
                    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
                    peaks[pid] = int(line.split()[1])  # which begins anew where a child becomes another program
            time.sleep(0.02)
    assert step.returncode == 0
    return sum(peaks.values())


def _children(pid: int) -> list[int]:
    with suppress(OSError):
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    return []
