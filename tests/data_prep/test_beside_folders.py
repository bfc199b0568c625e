"""Class folders and zips of them beside torchvision's ImageFolder, timm's reader of folders and datasets' imagefolder.

Where ours differs the test says why; samples are written ``class: path``, and are in the reader's order.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import ZipFile

import pytest

from components.data_prep.layouts.layout import open_source
from components.shared.errors import DataError
from tests.data_prep.beside import hf
from tests.data_prep.building import tree

__all__ = ["hf"]  # a fixture
Log = Callable[[], str]


class Seen(NamedTuple):
    """Classes in the order of their labels, and the samples of each split."""

    classes: list[str] | None
    splits: dict[str, list[str]]


def sample(folder: Path, file: str, name: str | None) -> str:
    return f"{name}: {os.path.relpath(file, folder)}"


def ours(data: Path) -> Seen:
    with open_source(data) as source:
        splits: dict[str, list[str]] = {}
        for split, of in source.splits.items():
            labelled = zip(of.labels.tolist(), of.names, strict=True)
            splits[split] = [f"{source.classes[label]}: {name}" for label, name in labelled]
        return Seen(list(source.classes), splits)


def refusal_of(data: Path) -> str:
    with pytest.raises(DataError) as refused:
        ours(data)
    return str(refused.value).replace(f"{data}", "DATA")


def torchvisions(data: Path, split: str = "") -> Seen:
    from torchvision.datasets import ImageFolder

    found = ImageFolder(data / split)
    listed = [sample(data, file, found.classes[label]) for file, label in found.samples]
    return Seen(found.classes, {split or "train": listed})


def timms(data: Path, split: str = "") -> Seen:
    from timm.data.readers.reader_image_folder import ReaderImageFolder

    found: Any = ReaderImageFolder(f"{data / split}")  # type: ignore[no-untyped-call]
    classes = list(found.class_to_idx)
    return Seen(classes, {split or "train": [sample(data, file, classes[label]) for file, label in found.samples]})


def datasets_own(hf: Any, data: Path) -> Seen:
    found = hf.load_dataset("imagefolder", data_dir=f"{data}", cache_dir=f"{data.parent}/cache")
    classes: list[str] | None = None
    splits = {}
    for split, rows in found.items():
        classes = rows.features["label"].names if "label" in rows.features else None
        given = rows.cast_column("image", hf.Image(decode=False)).to_list()
        labels = [classes[row["label"]] if classes and row["label"] is not None else None for row in given]
        paths = [row["image"]["path"] for row in given]
        splits[split] = [sample(data, path, label) for path, label in zip(paths, labels, strict=True)]
    return Seen(classes, splits)


def of_classes(*files: str) -> list[str]:
    return [f"{file.split('/')[-2]}: {file}" for file in files]


def test_r14_splits_are_folders_of_their_names(hf: Any, tmp_path: Path, log: Log) -> None:
    """In any case in ours, where datasets leaves out Testing/, or takes all for train, without a warning."""
    data = tree(tmp_path / "data", *(f"{split}/{name}/1.png" for split in ("train", "dev", "test") for name in "ab"))
    right = {split: of_classes(f"{split}/a/1.png", f"{split}/b/1.png") for split in ("train", "test", "dev")}
    expected = Seen(["a", "b"], {"train": right["train"], "test": right["test"], "validation": right["dev"]})
    assert ours(data) == datasets_own(hf, data) == expected
    assert torchvisions(data, "train").splits["train"] == timms(data, "train").splits["train"] == right["train"]
    (data / "test").rename(data / "Testing")
    assert datasets_own(hf, data).splits.keys() == {"train", "validation"}
    assert ours(data).splits["test"] == of_classes("Testing/a/1.png", "Testing/b/1.png")
    (data / "train").rename(data / "Train")
    (data / "dev").rename(data / "Dev")
    assert len(datasets_own(hf, data).splits["train"]) == 6, "without a key word in small letters all are one split"
    assert ours(data).splits.keys() == {"train", "test", "validation"}
    (data / "Train").rename(data / "train")
    (data / "Dev").rename(data / "dev")
    (data / "Testing").rename(data / "holiday")
    assert datasets_own(hf, data).splits.keys() == {"train", "validation"}
    assert ours(data).splits.keys() == {"train", "validation"}
    assert "not read, being no split: folder(s) holiday" in log()


@pytest.mark.parametrize(
    ("files", "left"),
    [
        (["bullet train/1.png", "bus/1.png", "bus/2.png"], {"train": ["None: bullet train/1.png"]}),
        (["cat/2.png", "cat/test_1.png", "dog/1.png"], {"test": ["None: cat/test_1.png"]}),
    ],
)
def test_r15_a_split_in_a_classs_or_files_name_is_none(
    files: list[str], left: dict[str, list[str]], hf: Any, tmp_path: Path
) -> None:
    """datasets takes it for one, and leaves out all images whose paths name none; for ours a whole folder names one."""
    data = tree(tmp_path / "data", *files)
    assert ours(data) == torchvisions(data) == timms(data)
    assert ours(data).splits == {"train": of_classes(*files)}
    assert datasets_own(hf, data) == Seen(None, left)


def test_r15_an_image_has_one_split(hf: Any, tmp_path: Path) -> None:
    """datasets has test/train/3.png in both; for ours train is a class of test there, which train lacks."""
    data = tree(tmp_path / "data", "train/cat/1.png", "train/dog/1.png", "test/dog/3.png", "test/train/3.png")
    found = datasets_own(hf, data).splits
    assert all("train: test/train/3.png" in found[split] for split in ("train", "test"))
    assert refusal_of(data).startswith("DATA/test: holds 1 class(es) that train does not have (train)")


def test_r16_classes_are_in_order_of_code_points_and_numbers_by_value(hf: Any, tmp_path: Path) -> None:
    """As torchvision and datasets have names, and as timm has numbers: a digit's label is the digit, and 10's is 10.

    The class is the top folder, as torchvision's; the last one, timm's and datasets', mixes cat/old with dog/old.
    """
    names = ["Zebra", "_x", "apple", "class10", "class2"]
    data = tree(tmp_path / "names", *(f"{name}/1.png" for name in names))
    assert ours(data) == torchvisions(data) == datasets_own(hf, data)
    assert ours(data).classes == names
    assert timms(data).classes == ["_x", "apple", "class2", "class10", "Zebra"]
    data = tree(tmp_path / "numbers", *(f"{name}/1.png" for name in range(11)))
    assert ours(data) == timms(data)
    assert ours(data).classes == list(map(str, range(11)))
    assert torchvisions(data).classes == datasets_own(hf, data).classes == sorted(map(str, range(11)))
    data = tree(tmp_path / "deep", "cat/new/1.png", "cat/old/2.png", "dog/new/3.png", "dog/old/4.png")
    assert ours(data) == torchvisions(data)
    assert ours(data).classes == ["cat", "dog"]
    assert timms(data).classes == datasets_own(hf, data).classes == ["new", "old"]


def test_r17_samples_are_in_order_of_class_and_path(hf: Any, tmp_path: Path) -> None:
    """By code points, as torchvision's but for the files beside folders, and as datasets' but for the order of classes.

    The order decides nothing but which row is which: what is held out is drawn within each class.
    """
    files = ["cat/10.png", "cat/2.png", "cat/B.png", "cat b/1.png", "cat-b/1.png", "cat.v2/1.png"]
    data = tree(tmp_path / "data", *files)
    assert ours(data) == torchvisions(data) == Seen(["cat", "cat b", "cat-b", "cat.v2"], {"train": of_classes(*files)})
    found = datasets_own(hf, data)
    assert found == Seen(ours(data).classes, {"train": of_classes(*files[3:], *files[:3])})
    assert sorted(timms(data).splits["train"]) == sorted(ours(data).splits["train"])
    assert timms(data).splits["train"][-3:] == of_classes("cat/2.png", "cat/10.png", "cat/B.png")
    tree(data, "cat/A/1.png")
    assert ours(data).splits["train"][:4] == [f"cat: cat/{name}.png" for name in ("10", "2", "A/1", "B")]
    assert torchvisions(data).splits["train"][:4] == [f"cat: cat/{name}.png" for name in ("10", "2", "B", "A/1")]


def test_r18_labels_are_those_of_the_folders_in_every_split(hf: Any, tmp_path: Path, log: Log) -> None:
    """datasets drops all labels for an image beside the folders of classes, for depths that differ, for one class."""
    data = tree(tmp_path / "beside", "train/cat/1.png", "train/dog/1.png", "test/3.png")
    assert datasets_own(hf, data).splits["train"] == ["None: train/cat/1.png", "None: train/dog/1.png"]
    assert ours(data).splits == {"train": of_classes("train/cat/1.png", "train/dog/1.png")}
    assert "holds images in no class folder, which have no label and cannot be a test split" in log()
    data = tree(tmp_path / "depths", "cat/1.png", "dog/x/1.png")
    assert datasets_own(hf, data).classes is None
    assert ours(data) == torchvisions(data) == Seen(["cat", "dog"], {"train": ["cat: cat/1.png", "dog: dog/x/1.png"]})
    data = tree(tmp_path / "one", "train/cat/1.png", "test/cat/1.png", "test/dog/1.png")
    assert datasets_own(hf, data).splits["train"] == ["None: train/cat/1.png"]
    assert refusal_of(data).startswith("DATA/test: holds 1 class(es) that train does not have (dog)")


def test_r19_hidden_files_and_other_endings(hf: Any, tmp_path: Path) -> None:
    """Ours leaves out what a system hides there, counted, and reads all formats and __y/, which may be a class.

    A class folder without an image is an error as torchvision's: timm and datasets have a class less than there are.
    """
    shown = ["_x/1.png", "cat/1.png", "cat/2.JPG", "cat/3.PNG", "dog/1.png", "dog/__z.png"]
    files = [*shown, "cat/.x.png", ".hid/1.png", "__MACOSX/dog/._2.png"]
    data = tree(tmp_path / "data", *files)
    assert ours(data) == datasets_own(hf, data) == Seen(["_x", "cat", "dog"], {"train": of_classes(*shown)})
    assert torchvisions(data).classes == [".hid", "__MACOSX", "_x", "cat", "dog"]
    assert "dog: __MACOSX/dog/._2.png" in timms(data).splits["train"]
    with open_source(data) as source:
        assert source.left_out.files == {"hidden": 1}
        assert source.left_out.folders == {".hid": 1, "__MACOSX": 1}
    tree(data, "__y/1.png", "cat/4.gif", "cat/5.avif", "cat/6.webp")
    assert ours(data).splits["train"][0] == "__y: __y/1.png"
    assert {line for line in ours(data).splits["train"] if line[-5:] in ("4.gif", ".avif", ".webp")} == {
        "cat: cat/4.gif", "cat: cat/5.avif", "cat: cat/6.webp",
    }  # fmt: skip
    assert "cat: cat/4.gif" not in torchvisions(data).splits["train"] + timms(data).splits["train"]
    found = datasets_own(hf, data)
    assert found.classes == ["_x", "cat", "dog"]
    assert "cat: cat/5.avif" not in found.splits["train"]
    tree(data, "empty/notes.txt")
    assert refusal_of(data).startswith("DATA: class folder(s) without an image: empty;")
    with pytest.raises(FileNotFoundError, match="no valid file for the classes empty"):
        torchvisions(data)
    assert "empty" not in [*timms(data).classes, *datasets_own(hf, data).classes]  # type: ignore[misc]


def test_r21_a_zip_is_the_tree_that_is_in_it(hf: Any, tmp_path: Path) -> None:
    """datasets finds the classes in it, and takes the folder that it is in for the label: wrong, or an error."""
    files = ["cat/1.png", "cat/2.png", "dog/3.png"]
    data = tree(tmp_path / "data", *files)
    for folder in ("cat", "dog", "pets"):
        (tmp_path / "zips" / folder).mkdir(parents=True)
        with ZipFile(tmp_path / "zips" / folder / "images.zip", "w") as archive:
            for file in files:
                archive.write(data / file, file)
    pets = tmp_path / "zips/pets/images.zip"
    assert ours(pets) == ours(data) == Seen(["cat", "dog"], {"train": of_classes(*files)})

    def loaded(folder: str, files: str) -> Any:
        return hf.load_dataset("imagefolder", data_files=f"{tmp_path}/{folder}/{files}", cache_dir=f"{tmp_path}/cache")

    found = loaded("zips", "[cd]*/images.zip")["train"]
    assert found.features["label"].names == ["cat", "dog"]
    assert found["label"][:] == [0, 0, 0, 1, 1, 1], "cat/images.zip and dog/images.zip have each two cats and a dog"
    with pytest.raises(hf.exceptions.DatasetGenerationError):
        loaded("zips", "pets/images.zip")
    for folder in ("cat", "dog"):
        (tmp_path / "zips" / folder / "images.zip").rename(tmp_path / "zips/pets" / f"{folder}.zip")
    assert "no label follows from which archive an image is in" in refusal_of(tmp_path / "zips/pets")
