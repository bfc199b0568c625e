from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from components.shared.artifacts.dataset import open_dataset
from components.shared.logs import log_to_stderr
from tests.data_prep.building import (
    NOTHING_LEFT_OUT,
    class_folders,
    plain,
    prepared,
    random_pixels,
    save,
    stored,
    tree,
    values_of,
)


def test_a_folder_per_class_with_its_own_test_split(tmp_path: Path) -> None:
    class_folders(tmp_path / "data" / "train", {"cat": 3, "dog": 2})
    class_folders(tmp_path / "data" / "test", {"dog": 2, "cat": 1}, first=100)

    result = prepared(tmp_path / "data")

    assert result.report() == {
        "dataset": str(tmp_path / "out"),
        "classes": ["cat", "dog"],
        "counts": {"train": 5, "test": 3},
        "image_shape": [4, 4, 1],
        "unreadable": 0,
        "source": "a folder per class",
        "test_split": "given",
        "validation_split": None,
        "class_counts": {"train": {"cat": 3, "dog": 2}, "test": {"cat": 1, "dog": 2}},
        "left_out": NOTHING_LEFT_OUT,
    }
    assert values_of(tmp_path / "out", "train") == [0, 1, 2, 3, 4]
    assert stored(tmp_path / "out", "train")[1] == [0, 0, 0, 1, 1]
    assert values_of(tmp_path / "out", "test") == [102, 100, 101]
    assert stored(tmp_path / "out", "test")[1] == [0, 1, 1]


@pytest.mark.parametrize("color", [False, True])
def test_pixels_of_the_right_size_are_kept_exactly(tmp_path: Path, color: bool) -> None:
    pixels = random_pixels(4, 4, 3) if color else random_pixels(4, 4)
    for split in ("train", "test"):
        for name in ("a", "b"):
            save(tmp_path / "data" / split / name / "x.png", pixels)

    prepared(tmp_path / "data", is_image_color=color)

    for image in stored(tmp_path / "out", "train")[0]:
        np.testing.assert_array_equal(image, pixels.reshape(image.shape))


@pytest.mark.parametrize(
    ("names", "order"),
    [
        (["10", "9", "1"], ["1", "9", "10"]),
        (["007", "7", "08"], ["007", "7", "08"]),
        (["10", "9", "b"], ["10", "9", "b"]),
        (["b", "B", "ä"], ["B", "b", "ä"]),
        (["-1", "2", "10"], ["-1", "10", "2"]),
        (["²", "1", "10"], ["1", "10", "²"]),
    ],
)
def test_classes_are_ordered_by_number_where_all_are_numbers(
    tmp_path: Path, names: list[str], order: list[str]
) -> None:
    class_folders(tmp_path / "data", dict.fromkeys(names, 2))

    assert list(prepared(tmp_path / "data", n_classes=3).manifest.classes) == order


def test_images_in_deeper_folders_belong_to_the_class(tmp_path: Path) -> None:
    class_folders(tmp_path / "data" / "train", {"a": 1, "b": 1})
    class_folders(tmp_path / "data" / "test", {"a": 1, "b": 1})
    save(tmp_path / "data" / "train" / "a" / "2024" / "may" / "x.PNG", plain(50))

    prepared(tmp_path / "data")

    assert values_of(tmp_path / "out", "train") == [0, 50, 1]


def test_hidden_files_and_files_that_are_no_images_are_passed_over(tmp_path: Path) -> None:
    data = class_folders(tmp_path / "data", {"a": 2, "b": 2})
    for name in (".hidden.png", "Thumbs.db", "notes.txt", "README"):
        (data / "a" / name).write_text("no image")
    save(data / "a" / ".ipynb_checkpoints" / "copy.png", plain(9))
    save(data / ".cache" / "x.png", plain(9))
    (data / "lost+found").mkdir()
    (data / "README.md").write_text("about")

    result = prepared(data)

    assert result.counts == {"train": 2, "test": 2}
    assert len(result.manifest.unreadable) == 0


def test_folders_beside_those_of_splits_are_named_in_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_to_stderr()
    class_folders(tmp_path / "data" / "train", {"a": 2, "b": 2})
    class_folders(tmp_path / "data" / "test", {"a": 1, "b": 1})
    class_folders(tmp_path / "data" / "more", {"a": 2, "b": 3})
    save(tmp_path / "data" / "train" / "loose.png", plain(1))

    result = prepared(tmp_path / "data")

    assert result.counts == {"train": 4, "test": 2}
    assert result.manifest.left_out.images == {"in no class folder": 1, "in no split's folder": 5}
    told = capsys.readouterr().err
    assert "not read, being no split: folder(s) more" in told
    assert "not read, being in no split's folder: 5 image(s), such as more/a/0000.png" in told
    assert "not read, being in no class folder: 1 image(s), such as train/loose.png" in told


def test_links_inside_the_data_folder_are_followed(tmp_path: Path) -> None:
    data = class_folders(tmp_path / "data" / ".version-1", {"a": 2, "b": 2}).parent
    for name in ("a", "b"):
        (data / name).symlink_to(Path(".version-1") / name)  # as Kubernetes mounts a ConfigMap
    (data / "a" / "again.png").symlink_to("0001.png")

    assert prepared(data).counts == {"train": 2, "test": 3}


def test_the_data_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    class_folders(tmp_path / "elsewhere", {"a": 2, "b": 2})
    (tmp_path / "data").symlink_to("elsewhere")

    assert prepared(tmp_path / "data").counts == {"train": 2, "test": 2}


def test_a_dataset_directory_below_the_data_is_no_class(tmp_path: Path) -> None:
    data = class_folders(tmp_path / "data", {"a": 2, "b": 2})
    prepared(data)
    (tmp_path / "out").rename(data / "prepared")  # as 0.5.0 wrote it

    result = prepared(data)

    assert result.manifest.classes == ["a", "b"]
    assert result.manifest.left_out.folders == {"a dataset directory": 1}


def test_a_file_name_of_any_bytes_is_read(tmp_path: Path) -> None:
    data = class_folders(tmp_path / "data", {"a": 2, "b": 2})
    (data / "a" / "0000.png").rename(data / "a" / os.fsdecode(b"\xff\n.png"))
    (data / "b" / os.fsdecode(b"\xfe\n.png")).write_bytes(b"")

    result = prepared(data, max_unreadable=0.5)

    assert result.counts == {"train": 2, "test": 2}
    assert [image.file for image in open_dataset(tmp_path / "out").manifest.unreadable] == ["b/\\udcfe\\n.png"]


def test_test_images_that_are_training_images_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log_to_stderr()
    data = tree(tmp_path / "data", "train/cat/×3.png", "train/dog/×2.png")
    tree(data, "test/cat/×3.png", "test/dog/×2.png", first=3)
    shutil.copy(data / "train" / "cat" / "1.png", data / "test" / "cat" / "1.png")
    shutil.copytree(data / "train", data / "val")

    prepared(data)

    told = capsys.readouterr().err
    assert (
        "WARNING 1 of 5 test images are the same files as training images (such as test/cat/1.png); test accuracy will "
        "be too high"
    ) in told
    assert "WARNING 5 of 5 validation images are the same files as training images (such as val/cat/0.png)" in told
