from __future__ import annotations

import gzip
import io
import json
import struct
from collections.abc import Iterable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from components.data_prep.__main__ import main
from components.data_prep.prepare import PrepareResult, prepare
from components.shared.artifacts.dataset import open_dataset
from components.shared.params.params import Params
from tests.shared.decoding.pictures import Pixels, plain, save

NOTHING_LEFT_OUT = {"files": {}, "images": {}, "folders": {}, "files_in_folders": 0}
PLAIN = {"constant": 8, "small_classes": 2}  # what is found in eight images of a colour each
TWO_OF_EACH = ("cat/×2.png", "dog/×2.png")
IMAGES = np.arange(6 * 16, dtype=np.uint8).reshape(6, 4, 4)
LABELS = np.array([0, 1, 0, 1, 0, 1], dtype=np.uint8)


def params(**changes: Any) -> Params:
    """Params of 4×4 grey images in two classes, half of them held out, with other values where they are given."""
    return Params.from_dict(
        {
            "image_height": 4,
            "image_width": 4,
            "n_classes": 2,
            "test_fraction": 0.5,
            "num_epochs": 1,
            "net_arch": [{"class": "torch.nn.ReLU"}],
            **changes,
        }
    )


def params_json(**changes: Any) -> str:
    return json.dumps(params(**changes).to_dict())


def prepared(data: Path, out: str = "out", **changes: Any) -> PrepareResult:
    return prepare(data=data, dataset=data.parent / out, params=params(**changes))


def refusal(data: Path, *options: str, **changes: Any) -> str:
    """The message that data prep ends with: one line, exit code 2, and nothing written."""
    dataset = data.parent / "out"
    told = io.StringIO()
    with redirect_stderr(told), redirect_stdout(io.StringIO()) as printed:
        code = main(["--data", str(data), "--dataset", str(dataset), "--params", params_json(**changes), *options])
    lines = told.getvalue().splitlines()
    errors = [line for line in lines if " ERROR " in line]
    assert (code, len(errors), printed.getvalue()) == (2, 1, ""), told.getvalue()
    assert all(" data-prep " in line for line in lines), "nothing but log lines, and so no traceback"
    assert files_of(dataset) == {}
    return errors[0].partition(" failed: ")[2].replace(f"{data}", "DATA")


def run(*options: object, **changes: Any) -> int:
    return main([*map(str, options), "--params", params_json(**changes)])


def in_parts(data: Path, shards: int, into: Path, **changes: Any) -> Path:
    for shard in range(shards):
        assert run("--data", data, "--dataset", into / f"part-{shard}", "--shard", f"{shard}/{shards}", **changes) == 0
    return into


def joined(data: Path, shards: int, **changes: Any) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """The files of a single run, and those of parts that are joined."""
    here = data.parent
    assert run("--data", data, "--dataset", here / "single", **changes) == 0
    parts = in_parts(data, shards, here / "parts", **changes)
    assert run("--merge", parts, "--dataset", here / "joined", **changes) == 0
    return files_of(here / "single"), files_of(here / "joined")


def report(dataset: Path, counts: Mapping[str, Mapping[str, int]], **changes: Any) -> dict[str, Any]:
    """The report of a dataset with so many images of each class in each split, nothing unreadable or left out."""
    return {
        "dataset": str(dataset),
        "classes": list(counts["train"]),
        "counts": {split: sum(of_class.values()) for split, of_class in counts.items()},
        "image_shape": [4, 4, 1],
        "unreadable": 0,
        "source": "a folder per class",
        "test_split": "given",
        "validation_split": None,
        "class_counts": counts,
        "left_out": NOTHING_LEFT_OUT,
        "findings": {"small_classes": 2},
        "quality_file": str(dataset / "quality.html"),
        **changes,
    }


def tree(folder: Path, *files: str, first: int = 0) -> Path:
    """A folder with files: ``cat/×3.png`` is three images of their own grey, ``a→b`` a link, what is no PNG is text."""
    folder.mkdir(parents=True, exist_ok=True)
    value = first
    for file in files:
        link, is_link, target = file.partition("→")
        if is_link:
            (folder / link).parent.mkdir(parents=True, exist_ok=True)
            (folder / link).symlink_to(target)
            continue
        start, many, end = file.partition("×")
        count, dot, ending = end.partition(".")
        for name in [f"{start}{number}{dot}{ending}" for number in range(int(count))] if many else [file]:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix.lower() == ".png":
                save(path, plain(value))
                value += 1
            else:
                path.write_text("text")
    return folder


def class_folders(folder: Path, counts: Mapping[str, int], first: int = 0) -> Path:
    value = first
    for name, count in counts.items():
        for index in range(count):
            save(folder / name / f"{index:04d}.png", plain(value))
            value += 1
    return folder


def info_csv(folder: Path, text: str, images: Iterable[str] = ()) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "info.csv").write_text(text, encoding="utf-8")
    for value, name in enumerate(images):
        save(folder / name, plain(value))
    return folder


def idx_bytes(values: Pixels, dims: Iterable[int] | None = None, type_code: int = 8) -> bytes:
    sizes = tuple(values.shape if dims is None else dims)
    return struct.pack(f">BBBB{len(sizes)}I", 0, 0, type_code, len(sizes), *sizes) + values.tobytes()


def idx_folder(
    folder: Path, images: Pixels = IMAGES, labels: Iterable[int] = LABELS, split: str = "train", end: str = ""
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    values = {"images-idx3": images, "labels-idx1": np.array(list(labels), dtype=np.uint8)}
    for content, array in values.items():
        data = idx_bytes(array)
        (folder / f"{split}-{content}-ubyte{end}").write_bytes(gzip.compress(data, mtime=0) if end else data)
    return folder


def stored(dataset: Path, split: str) -> tuple[Pixels, list[int]]:
    opened = next(value for name, value in open_dataset(dataset).splits.items() if name == split)
    return np.array(opened.images()), opened.labels.tolist()


def values_of(dataset: Path, split: str) -> list[int]:
    return [int(image.flat[0]) for image in stored(dataset, split)[0]]


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".stamps"
    }
