from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from components.data_prep.prepare import prepare
from components.shared.artifacts.dataset import open_dataset
from tests.data_prep.building import TWO_OF_EACH, class_folders, info_csv, params, prepared, refusal, tree, values_of


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("Training", "Testing"),
        ("TRAIN", "TEST"),
        ("training_set", "test_set"),
        ("images-train", "Test Data"),
        ("trainset", "evaluation"),
        ("trn", "tst"),
        ("train", "eval"),
    ],
)
def test_splits_by_another_name(tmp_path: Path, log: Callable[[], str], train: str, test: str) -> None:
    data = tree(tmp_path / "data", f"{train}/cat/×2.png", f"{train}/dog/×3.png")
    tree(data, f"{test}/cat/0.png", f"{test}/dog/0.png", first=100)

    manifest = prepared(data).manifest

    assert (manifest.classes, manifest.test_split) == (["cat", "dog"], "given")
    assert {name: split.count for name, split in manifest.splits.items()} == {"train": 5, "test": 2}
    assert values_of(tmp_path / "out", "test") == [100, 101]
    assert open_dataset(tmp_path / "out").manifest.split_folders == {"train": train, "test": test}
    assert f"{test} as test" in log()


@pytest.mark.parametrize("name", ["validation", "Val", "valid", "DEV", "val_set", "validation images", "validate"])
def test_the_users_own_validation_split_is_used_and_test_is_held_out(
    tmp_path: Path, log: Callable[[], str], name: str
) -> None:
    data = tree(tmp_path / "data", "training/cat/×4.png", "training/dog/×4.png")
    tree(data, f"{name}/cat/×2.png", f"{name}/dog/0.png", first=100)

    result = prepared(data, validation_fraction=0.3)

    assert result.counts == {"train": 4, "test": 4, "validation": 3}
    assert (result.manifest.validation_split, result.manifest.test_split) == ("given", "held out")
    assert values_of(tmp_path / "out", "validation") == [100, 101, 102]
    assert set(values_of(tmp_path / "out", "test")) <= set(range(8))
    assert "WARNING validation_fraction 0.3 has no effect" in log()


def test_three_splits_are_taken_as_they_are(tmp_path: Path, log: Callable[[], str]) -> None:
    data = tree(tmp_path / "data", "train/cat/×2.png", "train/dog/×2.png")
    tree(data, "val/cat/0.png", "val/dog/0.png", first=50)
    tree(data, "test/cat/0.png", "test/dog/0.png", first=100)

    assert prepared(data).counts == {"train": 4, "validation": 2, "test": 2}
    assert {split: values_of(tmp_path / "out", split) for split in ("train", "validation", "test")} == {
        "train": [0, 1, 2, 3],
        "validation": [50, 51],
        "test": [100, 101],
    }
    assert "no effect" not in log()


@pytest.mark.parametrize(
    ("files", "class_counts"),
    [
        (("bus/×2.png", "train/×2.png", "test/×2.png"), {"train": {"bus": 1, "test": 1, "train": 1}}),
        (
            ("train/bus/×2.png", "train/train/×2.png", "test/train/3.png"),
            {"train": {"bus": 2, "train": 2}, "test": {"bus": 0, "train": 1}},
        ),
        (("bullet train/×2.png", "bus/×2.png"), {"train": {"bullet train": 1, "bus": 1}}),
        (
            ("bullet train/day/×3.png", "bullet train/night/0.png", "bus/×2.png"),
            {"train": {"bullet train": 2, "bus": 1}},
        ),
    ],
    ids=["beside", "within", "word", "deeper"],
)
def test_classes_may_have_the_names_of_splits(
    tmp_path: Path, files: tuple[str, ...], class_counts: dict[str, dict[str, int]]
) -> None:
    result = prepared(tree(tmp_path / "data", *files), n_classes=len(class_counts["train"]))

    assert {split: counts for split, counts in result.class_counts.items() if split in class_counts} == class_counts


def test_images_of_a_split_without_labels_are_counted_and_not_used(tmp_path: Path, log: Callable[[], str]) -> None:
    data = tree(tmp_path / "data", "train/cat/×2.png", "train/dog/×2.png", "test/×5.png", "sample_submission.csv")

    result = prepared(data)

    assert (result.counts, result.manifest.test_split) == ({"train": 2, "test": 2}, "held out")
    assert result.manifest.left_out.images == {"in no class folder": 5}
    told = log()
    assert "test: holds images in no class folder, which have no label and cannot be a test split" in told
    assert "not read, being in no class folder: 5 image(s), such as test/0.png" in told


def _each(*folders: str) -> tuple[str, ...]:
    return tuple(f"{folder}/{name}/×2.png" for folder in folders for name in ("cat", "dog"))


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            _each("val", "test"),
            "DATA: holds the split(s) test (test) and val (validation), and none for training; add the training images "
            "as train/, or rename the folder that holds them to train",
        ),
        (
            _each("learn", "test"),
            "none for training; rename the folder with the training images (learn) to train; where all are classes, "
            "put them below a folder train",
        ),
        (
            _each("seg_train", "seg_test"),
            "their names sound like splits; rename seg_test to test, seg_train to train; where they are classes, put "
            "all class folders below a folder train",
        ),
        (_each("train2017", "val2017"), "rename train2017 to train, val2017 to validation"),
        (_each("trainval", "test"), "rename the folder with the training images (trainval) to train"),
        (
            (*_each("train"), "val/cat/0.png", "validation/dog/0.png"),
            "DATA: val and validation both name the validation split; rename or remove all but one",
        ),
        (_each("train", "Train"), "DATA: Train and train both name the train split"),
        ((*_each("train"), "test/cat/0.png", "Testing/×3.png"), "DATA: Testing and test both name the test split"),
        (
            ("train/steam/×2.png", "train/diesel/×2.png", "bus/×2.png"),
            "DATA: train holds class folders, as a split does, and beside it bus hold(s) images: it is not clear "
            "whether these are splits or classes; where all are classes, put them below a folder DATA/train; else move "
            "what is no split out of the data folder",
        ),
        (_each("train", "my-test-2"), "rename my-test-2 to test; where all are classes"),
        (_each("train", "train_backup"), "whether these are splits or classes; where all are classes"),
        (
            _each("test"),
            "holds the split(s) test (test), and none for training; add the training images as train/, or rename the "
            "folder that holds them to train; or, if its images are to be trained on, give --data DATA/test",
        ),
        (
            (*_each("test"), "train/×4.png"),
            "and none for training; train holds images in no class folder; put each into a folder of its class",
        ),
        (
            ("Training/×4.png", "Testing/×2.png"),
            "Testing, Training hold(s) images in no class folder, which have no label: put each into a folder of its "
            "class",
        ),
        (
            ("cat/train/×2.png", "cat/test/0.png", "dog/train/×2.png", "dog/test/0.png"),
            "DATA: every class folder holds folders named after splits, such as cat/test; put the splits above the "
            "classes, as test/cat; where they are none, rename them",
        ),
        (_each("photos"), "DATA: the data are deeper; give --data DATA/photos"),
        ((*_each("a/b/c"), "a/readme.txt", "docs/x.pdf"), "DATA: the data are deeper; give --data DATA/a/b/c"),
        (_each("archive/Train", "archive/val"), "give --data DATA/archive"),
        (
            _each("train/images", "test/images"),
            "DATA/train: the classes are one folder deeper, in train/images; move them up",
        ),
        (
            (*_each("train"), "test/images/cat/0.png"),
            "DATA/test: the classes are one folder deeper, in test/images; move them up",
        ),
        (
            _each("train/train", "train/test"),
            "DATA/train: holds test, train with class folders, which are splits in a split; give --data DATA/train",
        ),
        (
            _each("train/train"),
            "DATA/train: the classes are one folder deeper, in train/train; move them up, or give --data "
            "DATA/train/train",
        ),
        (
            ("train/train/cat/×2.png", "train/test/cat/0.png", "test/cat/0.png"),
            "DATA/train: holds test, train with class folders, which are splits in a split; keep one folder of each",
        ),
        (
            ("a/train-images-idx3-ubyte", "b/t10k-images-idx3-ubyte"),
            "the data are deeper, in a, b; put the files that belong together into one folder",
        ),
        (("MNIST/raw/train-images-idx3-ubyte",), "the data are deeper; give --data DATA/MNIST/raw"),
        (("photos/train/info.csv", "photos/train/0.png"), "give --data DATA/photos"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_what_may_mean_two_things_is_refused_with_what_to_do(
    tmp_path: Path, files: tuple[str, ...], expected: str
) -> None:
    assert expected in refusal(tree(tmp_path / "data", *files))


def test_moving_a_folder_up_is_all_that_is_advised_where_another_would_be_lost(tmp_path: Path) -> None:
    data = tree(tmp_path / "data", *_each("train/train"), "test/cat/0.png")

    message = refusal(data)

    assert message.endswith("in train/train; move them up"), message
    (data / "train" / "train").rename(data / "moved")
    (data / "train").rmdir()
    (data / "moved").rename(data / "train")
    assert prepared(data).counts == {"train": 4, "test": 1}


def test_tables_in_folders_of_splits_by_another_name(tmp_path: Path) -> None:
    data, names = tmp_path / "data", [f"{number}.png" for number in range(4)]
    info_csv(data / "Training", "files,type\n0.png,a\n1.png,b\n2.png,a\n3.png,b\n", names)
    val = info_csv(data / "Validation", "files,type\n1.png,b\n", names)
    (val / "info.csv").rename(val / "INFO.CSV")
    info_csv(data / "TEST", "files,type\n2.png,a\n", names)

    result = prepared(data)

    assert result.counts == {"train": 4, "validation": 1, "test": 1}
    assert (result.manifest.validation_split, result.manifest.test_split) == ("given", "given")
    assert result.manifest.left_out.images == {"in no table": 6}


def test_a_table_where_none_is_read_is_named(tmp_path: Path, log: Callable[[], str]) -> None:
    data = info_csv(class_folders(tmp_path / "data", {"cat": 2, "dog": 2}), "files,type\ncat/0000.png,dog\n")

    assert prepared(data).manifest.classes == ["cat", "dog"]
    assert "info.csv is not read, since it is in no folder of a split" in log()


def test_a_dataset_of_an_earlier_version_says_nothing_of_its_folders(tmp_path: Path) -> None:
    prepare(data=tree(tmp_path / "data", *TWO_OF_EACH), dataset=tmp_path / "out", params=params())
    manifest = tmp_path / "out" / "dataset.json"
    text = manifest.read_text()
    start, end = text.index(',\n  "validation_split"'), text.rindex("\n}")
    manifest.write_text(text[:start] + text[end:])

    opened = open_dataset(tmp_path / "out").manifest

    assert (opened.validation_split, opened.split_folders, opened.left_out.files) == (None, {}, {})
