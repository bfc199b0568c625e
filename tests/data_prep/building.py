"""Real data sets in small, as people keep them, for the tests of data prep."""

from __future__ import annotations

import gzip
import io
import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from components.data_prep.__main__ import main
from components.data_prep.prepare import PrepareResult, prepare
from components.shared.artifacts.dataset import open_dataset
from components.shared.params.params import Params

Pixels = npt.NDArray[np.uint8]

NOTHING_LEFT_OUT = {"files": {}, "images": {}, "folders": {}, "files_in_folders": 0}


def params(**changes: Any) -> Params:
    """Params for images of 4×4 in two classes, held out by half, with `changes`."""
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


def prepared(data: Path, out: str = "out", **changes: Any) -> PrepareResult:
    """The dataset that is made of a data folder, beside it."""
    return prepare(data=data, dataset=data.parent / out, params=params(**changes))


def params_json(**changes: Any) -> str:
    return json.dumps(params(**changes).to_dict())


def random_pixels(*shape: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def on_background(shown: Pixels, alpha: Pixels, background: Sequence[int] = (255, 255, 255)) -> Pixels:
    """Pixels (height, width, 3) as they show on a background, by an alpha channel (height, width)."""
    share = alpha[..., None] / 255
    mixed: Pixels = np.rint(shown * share + np.array(background) * (1 - share)).astype(np.uint8)
    return mixed


def plain(value: int, height: int = 4, width: int = 4) -> Pixels:
    """A grayscale image of one value, which then tells one image from another."""
    return np.full((height, width), value, dtype=np.uint8)


def save(path: Path, pixels: Pixels, **options: Any) -> Path:
    """Write an image file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def class_folders(folder: Path, counts: Mapping[str, int], first: int = 0) -> Path:
    """A folder per class of plain images, valued `first`, `first` + 1, … in stored order."""
    value = first
    for name, count in counts.items():
        for index in range(count):
            save(folder / name / f"{index:04d}.png", plain(value))
            value += 1
    return folder


def info_csv(folder: Path, text: str, images: Iterable[str] = ()) -> Path:
    """An ``info.csv`` of this text and plain images, valued 0, 1, …, beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "info.csv").write_text(text, encoding="utf-8")
    for value, name in enumerate(images):
        save(folder / name, plain(value))
    return folder


def idx_bytes(values: Pixels, dims: Iterable[int] | None = None, type_code: int = 8) -> bytes:
    """An IDX file's bytes; `dims` may lie."""
    sizes = tuple(values.shape if dims is None else dims)
    return struct.pack(f">BBBB{len(sizes)}I", 0, 0, type_code, len(sizes), *sizes) + values.tobytes()


def write_idx(path: Path, values: Pixels) -> Path:
    """Write an IDX file, compressed where its name ends in .gz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = idx_bytes(values)
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path


def idx_folder(folder: Path, images: Pixels, labels: Iterable[int], split: str = "train", end: str = "") -> Path:
    """A pair of IDX files with MNIST's names."""
    write_idx(folder / f"{split}-images-idx3-ubyte{end}", images)
    write_idx(folder / f"{split}-labels-idx1-ubyte{end}", np.array(list(labels), dtype=np.uint8))
    return folder


def stored(dataset: Path, split: str) -> tuple[Pixels, list[int]]:
    """Images and labels of one split of a dataset directory, verified while it is opened."""
    opened = next(value for name, value in open_dataset(dataset).splits.items() if name == split)
    return np.array(opened.images()), opened.labels.tolist()


def values_of(dataset: Path, split: str) -> list[int]:
    """For plain images: the value of each, in stored order."""
    return [int(image.flat[0]) for image in stored(dataset, split)[0]]


def files_of(dataset: Path) -> dict[str, bytes]:
    """Every file of a directory by its relative path."""
    return {
        path.relative_to(dataset).as_posix(): path.read_bytes() for path in sorted(dataset.rglob("*")) if path.is_file()
    }


def tree(folder: Path, *files: str, first: int = 0) -> Path:
    """Files below a folder: plain images, valued `first`, `first` + 1, …, and where the ending is another, a text.

    A path with ``×`` and a number stands for so many files: ``cat/×3.png`` is ``cat/0.png`` to ``cat/2.png``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    value = first
    for file in files:
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


def refusal(data: Path, dataset: Path, *options: str, **changes: Any) -> str:
    """What the command says of data that it refuses: exit code 2, one message and nothing written."""
    told = io.StringIO()
    with redirect_stderr(told), redirect_stdout(io.StringIO()) as printed:
        code = main(["--data", str(data), "--dataset", str(dataset), "--params", params_json(**changes), *options])
    errors = [line for line in told.getvalue().splitlines() if " ERROR " in line]
    assert (code, len(errors), printed.getvalue()) == (2, 1, ""), told.getvalue()
    assert "Traceback" not in told.getvalue()
    assert not (dataset / "dataset.json").exists()
    return errors[0].partition(" failed: ")[2].replace(f"{data}", "DATA")
