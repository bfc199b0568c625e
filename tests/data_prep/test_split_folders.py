from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from components.data_prep.prepare import prepare
from components.shared.artifacts.dataset import open_dataset
from components.shared.logs import log_to_stderr
from tests.data_prep.building import (
    class_folders,
    idx_folder,
    info_csv,
    params,
    plain,
    prepared,
    refusal,
    tree,
    values_of,
)

TWO_CLASSES = "two classes named after the folders, exit 0"
IN_SPLITS = "cat and dog, each folder its split"


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
def test_splits_by_another_name(tmp_path: Path, capsys: pytest.CaptureFixture[str], train: str, test: str) -> None:
    log_to_stderr()
    data = tree(tmp_path / "data", f"{train}/cat/×2.png", f"{train}/dog/×3.png")
    tree(data, f"{test}/cat/0.png", f"{test}/dog/0.png", first=100)

    result = prepared(data)

    assert (result.manifest.classes, result.counts, result.manifest.test_split) == (
        ["cat", "dog"],
        {"train": 5, "test": 2},
        "given",
    )
    assert values_of(tmp_path / "out", "test") == [100, 101]
    assert open_dataset(tmp_path / "out").manifest.split_folders == {"train": train, "test": test}
    assert f"{test} as test" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["validation", "Val", "valid", "DEV", "val_set", "validation images", "validate"])
def test_the_users_own_validation_split_is_used_and_test_is_held_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    log_to_stderr()
    data = tree(tmp_path / "data", "training/cat/×4.png", "training/dog/×4.png")
    tree(data, f"{name}/cat/×2.png", f"{name}/dog/0.png", first=100)

    result = prepared(data, validation_fraction=0.3)

    assert result.counts == {"train": 4, "test": 4, "validation": 3}
    assert (result.manifest.validation_split, result.manifest.test_split) == ("given", "held out")
    assert values_of(tmp_path / "out", "validation") == [100, 101, 102]
    assert set(values_of(tmp_path / "out", "test")) <= set(range(8))
    assert open_dataset(tmp_path / "out").manifest.validation_split == "given"
    assert "WARNING validation_fraction 0.3 has no effect" in capsys.readouterr().err


def test_three_splits_are_taken_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log_to_stderr()
    data = tree(tmp_path / "data", "train/cat/×2.png", "train/dog/×2.png")
    tree(data, "val/cat/0.png", "val/dog/0.png", first=50)
    tree(data, "test/cat/0.png", "test/dog/0.png", first=100)

    result = prepared(data)

    assert result.counts == {"train": 4, "validation": 2, "test": 2}
    assert [values_of(tmp_path / "out", split) for split in ("train", "validation", "test")] == [
        [0, 1, 2, 3],
        [50, 51],
        [100, 101],
    ]
    assert "no effect" not in capsys.readouterr().err


def test_classes_may_have_the_names_of_splits(tmp_path: Path) -> None:
    beside = tree(tmp_path / "beside", "bus/×2.png", "train/×2.png", "test/×2.png")
    within = tree(tmp_path / "within", "train/bus/×2.png", "train/train/×2.png", "test/train/3.png")
    word = tree(tmp_path / "word", "bullet train/×2.png", "bus/×2.png")
    deeper = tree(tmp_path / "deeper", "bullet train/day/×2.png", "bullet train/night/0.png", "bus/×2.png")

    made = {
        data.name: prepare(data=data, dataset=tmp_path / f"out-{data.name}", params=params(n_classes=n_classes))
        for data, n_classes in ((beside, 3), (within, 2), (word, 2), (deeper, 2))
    }

    assert {name: result.manifest.classes for name, result in made.items()} == {
        "beside": ["bus", "test", "train"],
        "within": ["bus", "train"],
        "word": ["bullet train", "bus"],
        "deeper": ["bullet train", "bus"],
    }
    # As a class in the test split, not in the training split, too.
    assert made["within"].counts == {"train": 4, "test": 1}


def test_images_of_a_split_without_labels_are_counted_and_not_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_to_stderr()
    data = tree(tmp_path / "data", "train/cat/×2.png", "train/dog/×2.png", "test/×5.png", "sample_submission.csv")

    result = prepared(data)

    assert (result.counts, result.manifest.test_split) == ({"train": 2, "test": 2}, "held out")
    assert result.manifest.left_out.images == {"in no class folder": 5}
    told = capsys.readouterr().err
    assert "test: holds images in no class folder, which have no label and cannot be a test split" in told
    assert "not read, being in no class folder: 5 image(s), such as test/0.png" in told


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            ("val/cat/×2.png", "val/dog/×2.png", "test/cat/0.png", "test/dog/0.png"),
            "DATA: holds the split(s) test (test) and val (validation), and none for training; add the training images "
            "as train/, or rename the folder that holds them to train",
        ),
        (
            ("learn/cat/×2.png", "learn/dog/×2.png", "test/cat/0.png", "test/dog/0.png"),
            "none for training; rename the folder with the training images (learn) to train; where all are classes, "
            "put them below a folder train",
        ),
        (
            ("seg_train/cat/×2.png", "seg_train/dog/×2.png", "seg_test/cat/0.png", "seg_test/dog/0.png"),
            "their names sound like splits; rename seg_test to test, seg_train to train; where they are classes, put "
            "all class folders below a folder train",
        ),
        (
            ("train2017/cat/×2.png", "train2017/dog/×2.png", "val2017/cat/0.png", "val2017/dog/0.png"),
            "rename train2017 to train, val2017 to validation",
        ),
        (
            ("trainval/cat/×2.png", "trainval/dog/×2.png", "test/cat/0.png", "test/dog/0.png"),
            "rename the folder with the training images (trainval) to train",
        ),
        (
            ("train/cat/×2.png", "train/dog/×2.png", "val/cat/0.png", "validation/dog/0.png"),
            "DATA: val and validation both name the validation split; rename or remove all but one",
        ),
        (
            ("train/cat/×2.png", "Train/dog/×2.png"),
            "DATA: Train and train both name the train split",
        ),
        (
            ("train/cat/×2.png", "train/dog/×2.png", "test/cat/0.png", "Testing/×3.png"),
            "DATA: test and Testing both name the test split",
        ),
        (
            ("train/steam/×2.png", "train/diesel/×2.png", "bus/×2.png"),
            "DATA: train holds class folders, as a split does, and beside it bus hold(s) images: it is not clear "
            "whether these are splits or classes; where all are classes, put them below a folder DATA/train; else move "
            "what is no split out of the data folder",
        ),
        (
            ("train/cat/×2.png", "train/dog/×2.png", "my-test-2/cat/0.png", "my-test-2/dog/0.png"),
            "rename my-test-2 to test; where all are classes",
        ),
        (
            ("train/cat/×2.png", "train/dog/×2.png", "train_backup/cat/0.png"),
            "whether these are splits or classes; where all are classes",
        ),
        (
            ("test/cat/×2.png", "test/dog/×2.png"),
            "holds the split(s) test (test), and none for training; add the training images as train/, or rename the "
            "folder that holds them to train; or, if its images are to be trained on, give --data DATA/test",
        ),
        (
            ("test/cat/×2.png", "test/dog/×2.png", "train/×4.png"),
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
        (
            ("photos/cat/×2.png", "photos/dog/×2.png"),
            "DATA: the classes lie one folder deeper or more; give --data DATA/photos",
        ),
        (
            ("a/b/c/cat/×2.png", "a/b/c/dog/×2.png", "a/readme.txt", "docs/x.pdf"),
            "DATA: the classes lie one folder deeper or more; give --data DATA/a/b/c",
        ),
        (
            ("archive/Train/cat/×2.png", "archive/Train/dog/×2.png", "archive/val/cat/0.png"),
            "give --data DATA/archive",
        ),
        (
            ("train/images/cat/×2.png", "train/images/dog/×2.png", "test/images/cat/0.png", "test/images/dog/0.png"),
            "DATA: the classes lie one folder deeper, in train/images and test/images; move the class folders up into "
            "train and test, and remove the inner folder of each",
        ),
        (
            ("train/cat/×2.png", "train/dog/×2.png", "test/images/cat/0.png"),
            "DATA/test: the classes lie one folder deeper, in test/images",
        ),
        (
            ("train/train/cat/×2.png", "train/train/dog/×2.png", "train/test/cat/0.png", "train/test/dog/0.png"),
            "DATA/train: holds test, train with class folders, which are splits in a split; give --data DATA/train",
        ),
        (
            (
                *("training_set/training_set/cat/×2.png", "training_set/training_set/dog/×2.png"),
                *("test_set/test_set/cat/0.png", "test_set/test_set/dog/0.png"),
            ),
            "DATA: the classes lie one folder deeper, in training_set/training_set and test_set/test_set; move the "
            "class folders up into training_set and test_set, and remove the inner folder of each",
        ),
        (
            ("train/train/cat/×2.png", "train/train/dog/×2.png"),
            "DATA/train: the classes lie one folder deeper, in train/train; move them up, or give --data "
            "DATA/train/train",
        ),
        (
            ("train/train/cat/×2.png", "train/test/cat/0.png", "test/cat/0.png"),
            "DATA/train: holds test, train with class folders, which are splits in a split; keep one folder of each",
        ),
        (
            ("a/train-images-idx3-ubyte", "b/t10k-images-idx3-ubyte"),
            "the data lie deeper, in a, b; put the files that belong together into one folder",
        ),
        (("train/cat/×2.png", "train/dog/×2.png", "val/cat/notes.txt"), "DATA/val: holds no image; remove"),
        (("MNIST/raw/train-images-idx3-ubyte",), "the data lie deeper; give --data DATA/MNIST/raw"),
        (("photos/train/info.csv", "photos/train/0.png"), "give --data DATA/photos"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_what_may_mean_two_things_is_refused_with_what_to_do(
    tmp_path: Path, files: tuple[str, ...], expected: str
) -> None:
    assert expected in refusal(tree(tmp_path / "data", *files), tmp_path / "out")


def test_moving_a_folder_up_is_all_that_is_advised_where_another_would_be_lost(tmp_path: Path) -> None:
    data = tree(tmp_path / "data", "train/train/cat/×2.png", "train/train/dog/×2.png", "test/cat/0.png")

    message = refusal(data, tmp_path / "out")

    assert message.endswith("in train/train; move them up"), message
    (data / "train" / "train").rename(data / "moved")
    (data / "train").rmdir()
    (data / "moved").rename(data / "train")
    assert prepared(data).counts == {"train": 4, "test": 1}


def test_tables_in_folders_of_splits_by_another_name(tmp_path: Path) -> None:
    data, names = tmp_path / "data", [f"{number}.png" for number in range(4)]
    info_csv(data / "Training", "files,type\n0.png,a\n1.png,b\n2.png,a\n3.png,b\n", names)
    info_csv(data / "Validation", "files,type\n1.png,b\n", names).joinpath("info.csv").rename(
        data / "Validation" / "INFO.CSV"
    )
    info_csv(data / "TEST", "files,type\n2.png,a\n", names)

    result = prepared(data)

    assert result.counts == {"train": 4, "validation": 1, "test": 1}
    assert (result.manifest.validation_split, result.manifest.test_split, result.manifest.source) == (
        "given",
        "given",
        "info.csv",
    )
    assert result.manifest.left_out.images == {"in no table": 6}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (("train/info.csv", "train/INFO.csv"), "train/INFO.csv and train/info.csv are both tables of the train split"),
        (("train/info.csv", "Training/info.csv"), "Training/info.csv and train/info.csv are both tables of the train"),
        (("train/info.csv", "val/0.png"), "DATA/val: has no info.csv, and train has; add one, or remove the folder to"),
        (("val/info.csv", "test/info.csv"), "test/info.csv is there, and train/info.csv is not; add it"),
        (("train/info.csv", "Train/cat/0.png"), "DATA/Train: has no info.csv, and train has"),
    ],
)
def test_tables_that_are_ambiguous_are_refused(tmp_path: Path, files: tuple[str, ...], expected: str) -> None:
    assert expected in refusal(tree(tmp_path / "data", *files), tmp_path / "out")


def test_idx_files_by_another_name(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for split, count, value in (("train", 4, 0), ("test", 2, 100), ("validation", 2, 50)):
        images = np.stack([plain(value + index) for index in range(count)])
        idx_folder(data, images, [0, 1] * (count // 2), split=split)
    for file in data.glob("train-*"):
        file.rename(data / file.name.upper())

    result = prepared(data, validation_fraction=0.1)

    assert result.counts == {"train": 4, "validation": 2, "test": 2}
    assert values_of(tmp_path / "out", "validation") == [50, 51]


def test_an_idx_split_by_two_names_is_refused(tmp_path: Path) -> None:
    images = np.stack([plain(index) for index in range(4)])
    for split in ("train", "test", "t10k"):
        idx_folder(tmp_path / "data", images, [0, 1, 0, 1], split=split)

    message = refusal(tmp_path / "data", tmp_path / "out")

    assert "t10k-images-idx3-ubyte and test-images-idx3-ubyte are both there" in message


def test_a_table_where_none_is_read_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log_to_stderr()
    data = class_folders(tmp_path / "data", {"cat": 2, "dog": 2})
    info_csv(data, "files,type\ncat/0000.png,dog\n")

    assert prepared(data).manifest.classes == ["cat", "dog"]

    assert "info.csv is not read, lying in no folder of a split" in capsys.readouterr().err


def test_a_dataset_of_an_earlier_version_has_no_word_of_its_folders(tmp_path: Path) -> None:
    data = class_folders(tmp_path / "data", {"cat": 2, "dog": 2})
    prepared(data)
    manifest = tmp_path / "out" / "dataset.json"
    text = manifest.read_text()
    start, end = text.index(',\n  "validation_split"'), text.rindex("\n}")
    manifest.write_text(text[:start] + text[end:])

    opened = open_dataset(tmp_path / "out").manifest

    assert (opened.validation_split, opened.split_folders, opened.left_out.files) == (None, {}, {})
