"""The dataset directory: what went in comes out, in order, with exact statistics, after a kill too."""

from __future__ import annotations

import io
import json
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from components.shared.artifacts import row_files
from components.shared.artifacts.dataset import (
    DATASET,
    DatasetManifest,
    SplitName,
    evaluation_splits,
    files_of_splits,
    open_dataset,
    training_files,
    training_splits,
)
from components.shared.artifacts.dataset_writer import DatasetWriter
from components.shared.artifacts.names import ImageName
from components.shared.errors import ArtifactError
from components.shared.files import sha256_of

SHAPE = (3, 4, 1)
ROOT = Path(__file__).parents[2]

Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


def noise(count: int, shape: tuple[int, int, int] = SHAPE, classes: int = 3, seed: int = 0) -> tuple[Pixels, Labels]:
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (count, *shape), dtype=np.uint8), random.integers(0, classes, count)


def write(
    path: Path, splits: dict[SplitName, tuple[Pixels, Labels]], classes: int = 3, portions: int = 1
) -> DatasetManifest:
    """A dataset of the splits, each added in some portions."""
    shape: Any = next(iter(splits.values()))[0].shape[1:]
    with DatasetWriter(path, [f"class {index}" for index in range(classes)], shape) as writer:
        for name, (images, labels) in splits.items():
            for part in range(portions):
                writer.add(name, images[part::portions], labels[part::portions])
        return writer.commit(source="noise", test_split="given", manual_seed=7, unreadable=[])


@contextmanager
def shards_of(images: int, shape: tuple[int, int, int] = SHAPE) -> Iterator[None]:
    """Shards of so many images, instead of 256 MiB."""
    with pytest.MonkeyPatch.context() as patch:
        size = int(np.prod(shape))
        patch.setattr(row_files, "SHARD_BYTES", images * size + size // 2)
        yield


def test_what_went_in_comes_out(tmp_path: Path) -> None:
    splits: dict[SplitName, tuple[Pixels, Labels]] = {
        "test": noise(5, seed=1),
        "train": noise(20, seed=2),
        "validation": noise(1, seed=3),
    }
    manifest = write(tmp_path, splits)
    dataset = open_dataset(tmp_path)

    assert dataset.manifest == manifest
    assert list(dataset.splits) == ["train", "validation", "test"]
    assert dataset.selection_split == "validation"
    for name, (images, labels) in splits.items():
        split = dataset.splits[name]
        assert len(split) == len(images)
        assert np.array_equal(split.images(), images)
        assert np.array_equal(split.labels, labels)
        assert manifest.splits[name].class_counts == [int((labels == index).sum()) for index in range(3)]
    assert (manifest.classes, manifest.source, manifest.manual_seed) == (["class 0", "class 1", "class 2"], "noise", 7)
    assert manifest.image.as_tuple() == SHAPE


def test_images_stay_on_disk(tmp_path: Path) -> None:
    write(tmp_path, {"train": noise(4), "test": noise(2)})
    dataset = open_dataset(tmp_path)
    assert dataset.selection_split == "test", "where there is no validation split"
    split = dataset.splits["train"]
    assert isinstance(split.shards[0], np.memmap)
    assert split.images() is split.shards[0]
    with pytest.raises(ValueError, match="read-only"):
        split.shards[0][0] = 1


def test_an_image_larger_than_a_shard_has_one_of_its_own(tmp_path: Path) -> None:
    with shards_of(0):
        assert [shard.count for shard in write(tmp_path, {"train": noise(3)}).splits["train"].images] == [1, 1, 1]


@given(
    count=st.integers(1, 60),
    shape=st.tuples(st.integers(1, 5), st.integers(1, 5), st.sampled_from([1, 3])),
    portions=st.integers(1, 4),
    per_shard=st.integers(1, 20),
    high=st.integers(1, 256),
    seed=st.integers(0, 1000),
)
@example(count=1, shape=(1, 1, 1), portions=1, per_shard=1, high=256, seed=0)
@example(count=60, shape=(5, 5, 3), portions=4, per_shard=7, high=1, seed=0)
@settings(max_examples=40, deadline=None)
def test_order_and_statistics_are_exact_for_any_size(
    tmp_path_factory: pytest.TempPathFactory,
    count: int,
    shape: tuple[int, int, int],
    portions: int,
    per_shard: int,
    high: int,
    seed: int,
) -> None:
    random = np.random.default_rng(seed)
    images = random.integers(0, high, (count, *shape), dtype=np.uint8)
    path = tmp_path_factory.mktemp("dataset")
    with shards_of(per_shard, shape):
        manifest = write(path, {"train": (images, np.arange(count))}, count, portions)

    split = open_dataset(path).splits["train"]
    assert all(len(shard) == per_shard for shard in split.shards[:-1])
    names = [shard.file for shard in manifest.splits["train"].images]
    assert names == [f"train/images-{index:05d}.npy" for index in range(len(names))]
    assert np.array_equal(split.images(), images[split.labels])
    assert sorted(split.labels.tolist()) == list(range(count))
    unit = images.astype(np.float64) / 255
    mean, std = unit.mean(axis=(0, 1, 2)), unit.std(axis=(0, 1, 2))
    assert np.abs(np.array(manifest.normalisation.mean) - mean).max() < 1e-12
    for ours, numpys, channel in zip(manifest.normalisation.std, std, np.moveaxis(images, -1, 0), strict=True):
        # A channel that never varies is divided by 1; numpy's two passes leave it at some 1e-17.
        assert abs(ours - (numpys if np.ptp(channel) else 1.0)) < 1e-12


def test_statistics_are_of_the_training_images_alone(tmp_path: Path) -> None:
    black, white = np.zeros((2, *SHAPE), np.uint8), np.full((3, *SHAPE), 255, np.uint8)
    zeros = np.zeros(3, np.int64)
    manifest = write(tmp_path, {"test": (white, zeros), "train": (black, zeros[:2]), "validation": (white, zeros)})
    assert manifest.normalisation.model_dump() == {"mean": [0.0], "std": [1.0]}


def test_the_same_images_are_the_same_bytes(tmp_path: Path) -> None:
    splits: dict[SplitName, tuple[Pixels, Labels]] = {"train": noise(12), "test": noise(7, seed=1)}
    for name in ("a", "b"):
        with shards_of(5):
            write(tmp_path / name, splits)
    write(tmp_path / "b", splits)  # once more over itself, and in one shard
    with shards_of(5):
        write(tmp_path / "b", splits)
    files = sorted(file.relative_to(tmp_path / "a") for file in (tmp_path / "a").rglob("*") if file.is_file())
    assert len(files) == 8
    assert files == sorted(file.relative_to(tmp_path / "b") for file in (tmp_path / "b").rglob("*") if file.is_file())
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (np.zeros((2, *SHAPE), np.float32), [0, 1]),
        (np.zeros((2, 4, 3, 1), np.uint8), [0, 1]),
        (np.zeros(SHAPE, np.uint8), [0, 1, 2]),
        (np.zeros((2, *SHAPE), np.uint8), [0]),
    ],
)
def test_a_writer_takes_only_images_of_its_shape(tmp_path: Path, images: Any, labels: list[int]) -> None:
    with DatasetWriter(tmp_path, ["a", "b"], SHAPE) as writer, pytest.raises(ValueError, match="images of shape"):
        writer.add("train", images, np.array(labels))
    assert list(tmp_path.iterdir()) == []


NAMES = "train/names.jsonl"


def write_named(path: Path, count: int = 3, portions: int = 1) -> list[ImageName]:
    """A dataset whose training images have names, and whose one test image has, too."""
    names = [ImageName(f"cat/{index} ü.png", 10 + index, 5) for index in range(count)]
    images = np.zeros((count, *SHAPE), np.uint8)
    with DatasetWriter(path, ["a"], SHAPE) as writer:
        for start in range(0, count, max(1, count // portions)):
            part = slice(start, start + max(1, count // portions))
            writer.add("train", images[part], np.zeros(len(images[part]), np.int64), names[part])
        writer.add("test", images[:1], np.zeros(1, np.int64), names[:1])
        writer.commit(source="noise", test_split="given", manual_seed=7, unreadable=[])
    return names


def test_names_come_out_in_stored_order(tmp_path: Path) -> None:
    names = write_named(tmp_path, 50, portions=7)
    dataset = open_dataset(tmp_path)
    for split, expected in (("train", names), ("test", names[:1])):
        found = next(value for name, value in dataset.splits.items() if name == split).names()
        assert found is not None
        assert list(found) == expected


def test_training_reads_no_names_and_a_dataset_may_have_none(tmp_path: Path) -> None:
    manifest = write(tmp_path / "of-0.8", {"train": noise(4), "test": noise(1)})
    document = json.loads((tmp_path / "of-0.8" / "dataset.json").read_text())
    assert [split.pop("names") for split in document["splits"].values()] == [None, None]
    (tmp_path / "of-0.8" / "dataset.json").write_text(json.dumps(document))
    opened = open_dataset(tmp_path / "of-0.8")
    assert opened.manifest == manifest
    assert opened.splits["train"].names() is None

    write_named(tmp_path / "now")
    manifest = open_dataset(tmp_path / "now").manifest
    evaluated = [record.file for record in files_of_splits(manifest, evaluation_splits)]
    assert evaluated == ["test/images-00000.npy", "test/labels.npy", "test/names.jsonl"]
    trained = {record.file for record in training_files(manifest)}
    for file in (tmp_path / "now").rglob("*.*"):
        if file.relative_to(tmp_path / "now").as_posix() not in trained | {"dataset.json"}:
            file.unlink()
    assert open_dataset(tmp_path / "now", training_splits, names=False).splits["train"].names() is None
    with pytest.raises(ArtifactError, match=r"names.jsonl: is missing"):
        open_dataset(tmp_path / "now", training_splits)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has 0 names, and the manifest says 3 images"),
        (b'["a",1,1]\n' * 2, "has 2 names, and the manifest says 3 images"),
        (b'["a",1,1]\n' * 4, "has 4 names, and the manifest says 3 images"),
        (b'["a",1,1]\n["a",1]\n', ", line 2: is no name with width and height (['a', 1])"),
        (b'["a",1,0]\n', ", line 1: is no name with width and height (['a', 1, 0])"),
        (b'["a",1.5,2]\n', ", line 1: is no name with width and height (['a', 1.5, 2])"),
        (b'["a\xff",1,2]\n', ", line 1: is no name with width and height ("),
        (b"[" * 200_000, ", line 1: is no name with width and height ("),
        (b"1" * 10_000, ", line 1: is no name with width and height ("),
        (b"names\n", ", line 1: is no name with width and height ("),
    ],
)
def test_names_that_are_damaged_are_an_error_where_they_are_read(tmp_path: Path, content: bytes, message: str) -> None:
    write_named(tmp_path)
    (tmp_path / NAMES).write_bytes(content)
    seal(tmp_path)
    names = open_dataset(tmp_path).splits["train"].names()
    assert names is not None
    with pytest.raises(ArtifactError) as caught:
        list(names)
    assert str(caught.value).startswith(f"{tmp_path / NAMES}{message if message[0] == ',' else f': {message}'}")
    assert str(caught.value).isprintable()


def test_names_are_printable_whoever_wrote_them(tmp_path: Path) -> None:
    write_named(tmp_path, 1)
    (tmp_path / NAMES).write_bytes(b'["\\u001b[2J.png",1,1]\n')
    seal(tmp_path)
    names = open_dataset(tmp_path).splits["train"].names()
    assert names is not None
    assert list(names) == [ImageName("\\x1b[2J.png", 1, 1)]


def test_of_a_split_all_images_have_names_or_none(tmp_path: Path) -> None:
    images, labels = noise(2)
    names = [ImageName("a", 1, 1), ImageName("b", 1, 1)]
    with DatasetWriter(tmp_path, ["a", "b", "c"], SHAPE) as writer:
        writer.add("train", images, labels, names)
        writer.add("test", images, labels)
        with pytest.raises(ValueError, match="some train images have names and others none"):
            writer.add("train", images, labels)
        with pytest.raises(ValueError, match="some test images have names and others none"):
            writer.add("test", images, labels, names)
        with pytest.raises(ValueError, match="2 images with 1 names"):
            writer.add("train", images, labels, names[:1])
    assert list(tmp_path.iterdir()) == []


def saved(array: npt.NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def archive(array: npt.NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, array)
    return stream.getvalue()


def seal(path: Path) -> None:
    """Make the manifest say of every file what is now in it."""

    def sealed(value: Any) -> Any:
        if isinstance(value, dict):
            if "sha256" in value:
                file = path / value["file"]
                return {**value, "bytes": file.stat().st_size, "sha256": sha256_of(file)}
            return {key: sealed(inner) for key, inner in value.items()}
        return [sealed(inner) for inner in value] if isinstance(value, list) else value

    manifest = path / DATASET.manifest_file
    manifest.write_text(json.dumps(sealed(json.loads(manifest.read_text()))))


LABELS, IMAGES = "train/labels.npy", "train/images-00000.npy"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (LABELS, saved(np.zeros(4, np.int32)), "holds int32 of shape (4,), and the manifest says int64 of (4,)"),
        (LABELS, saved(np.zeros((4, 1), np.int64)), "holds int64 of shape (4, 1), and the manifest says int64 of (4,)"),
        (LABELS, saved(np.zeros(3, np.int64)), "holds int64 of shape (3,), and the manifest says int64 of (4,)"),
        (LABELS, saved(np.array([0, 1, 2, 3])), "holds labels outside 0..2"),
        (LABELS, saved(np.array([0, 1, -1, 0])), "holds labels outside 0..2"),
        (IMAGES, saved(np.zeros((4, *SHAPE), np.float32)), "holds float32 of shape (4, 3, 4, 1)"),
        (IMAGES, saved(np.zeros((4, 4, 3, 1), np.uint8)), "holds uint8 of shape (4, 4, 3, 1)"),
        (IMAGES, saved(np.zeros((5, *SHAPE), np.uint8)), "holds uint8 of shape (5, 3, 4, 1)"),
        (IMAGES, b"", "is not a NumPy array file"),
        (IMAGES, b"not an array", "is not a NumPy array file"),
        (IMAGES, saved(np.zeros((4, *SHAPE), np.uint8))[:-1], "is not a NumPy array file"),
        (IMAGES, archive(np.zeros((4, *SHAPE), np.uint8)), "is not a NumPy array file"),
        (IMAGES, b"PK\x03\x04broken", "is not a NumPy array file"),
        (IMAGES, pickle.dumps(np.zeros(4)), "is not a NumPy array file"),
        (IMAGES, saved(np.array([{}], dtype=object)), "is not a NumPy array file"),
    ],
)
def test_an_array_that_is_not_what_the_manifest_says_is_refused(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    write(tmp_path, {"train": noise(4)})
    (tmp_path / name).write_bytes(content)
    seal(tmp_path)
    with pytest.raises(ArtifactError) as caught:
        open_dataset(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / name}: {message}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda document: document["splits"]["train"].update(class_counts=[1, 1]), "do not add up to its 4 images"),
        (
            lambda document: document["splits"]["train"].update(class_counts=[4]),
            "train counts 1 classes, and there",
        ),
        (lambda document: document["splits"]["train"].update(class_counts=[-1, 5]), "greater than or equal to 0"),
        (lambda document: document["splits"]["train"]["images"].pop(), "the shards of a split do not add up to its 4"),
        (lambda document: document.update(kind="shutterline.model"), "kind: "),
        (lambda document: document.update(classes=[]), "classes: "),
        (lambda document: document["image"].update(channels=2), "image.channels: "),
        (lambda document: document["splits"].update(holdout=None), "splits.holdout"),
        (lambda document: document.update(test_split="none"), "test_split: "),
        (lambda document: document["splits"]["train"].update(count="4"), "valid integer"),
        (lambda document: document.update(classes=["a", "a"]), "two classes have one name"),
        (lambda document: document.update(classes=["a", ""]), "the name of class 1 is empty"),
        (lambda document: document.update(classes=["a", "b\x1b[31m\n"]), "the name of class 1 holds characters"),
        (lambda document: document.update(classes=["a", "b" * 201]), "the name of class 1 has 201 characters"),
        (
            lambda document: document["normalisation"].update(mean=[0.1, 0.2]),
            "its mean has 2 numbers, and images",
        ),
        (lambda document: document["normalisation"].update(std=[5e-324]), "greater than or equal to 0.000000000001"),
        (lambda document: document["normalisation"].update(std=[1e308]), "less than or equal to 1000000000000"),
        (lambda document: document["splits"]["train"]["labels"].update(file="a" * 300), "255 between two slashes"),
        (
            lambda document: document["splits"]["train"]["labels"].update(file="a/" * 600 + "a"),
            "at most 1,000 characters",
        ),
        (lambda document: document["normalisation"].update(std=[]), "its std has 0 numbers"),
        (lambda document: document["splits"]["train"]["labels"].update(file="train/images-00000.npy"), "named twice"),
    ],
)
def test_a_manifest_that_disagrees_with_itself_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    write(tmp_path, {"train": noise(4)})
    manifest = tmp_path / DATASET.manifest_file
    document = json.loads(manifest.read_text())
    change(document)
    manifest.write_text(json.dumps(document))
    with pytest.raises(ArtifactError, match=rf"{message}.*the file is damaged") as caught:
        open_dataset(tmp_path)
    assert "\n" not in str(caught.value)


KILLED = """
import sys, time
from pathlib import Path
import numpy as np
from components.shared.artifacts import artifact, dataset_writer, row_files

row_files.SHARD_BYTES = 5 * 12 + 1

def wait(moment):
    if moment == sys.argv[2]:
        print("now", flush=True)
        time.sleep(60)

with dataset_writer.DatasetWriter(Path(sys.argv[1]), ["a", "b"], (3, 4, 1)) as writer:
    wait("before the first file")
    writer.add("train", np.zeros((7, 3, 4, 1), np.uint8), np.zeros(7, np.int64))
    wait("between two shards")
    writer.add("train", np.zeros((16, 3, 4, 1), np.uint8), np.zeros(16, np.int64))
    write_manifest = artifact.write_atomically
    artifact.write_atomically = lambda *args: (wait("before the manifest"), write_manifest(*args))
    writer.commit(source="noise", test_split="given", manual_seed=0, unreadable=[])
"""


@pytest.mark.parametrize("moment", ["before the first file", "between two shards", "before the manifest"])
def test_a_killed_writer_leaves_nothing_that_opens_and_the_next_one_succeeds(tmp_path: Path, moment: str) -> None:
    path = tmp_path / "dataset"
    if moment != "between two shards":
        write(path, {"train": noise(9), "test": noise(9)})
    with subprocess.Popen([sys.executable, "-c", KILLED, path, moment], cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"now\n"
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL

    with pytest.raises(ArtifactError, match="is not a complete dataset"):
        open_dataset(path)
    assert any(path.iterdir())
    manifest = write(path, {"train": noise(4)})
    assert open_dataset(path).manifest == manifest
    left = {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}
    assert left == {"dataset.json", LABELS, IMAGES}
