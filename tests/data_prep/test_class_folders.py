from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from components.shared.artifacts.dataset import open_dataset
from tests.data_prep.building import (
    TWO_OF_EACH,
    as_rgb,
    class_folders,
    prepared,
    random_pixels,
    report,
    save,
    stored,
    tree,
    values_of,
)


def test_a_folder_per_class_with_its_own_test_split(tmp_path: Path) -> None:
    class_folders(tmp_path / "data" / "train", {"cat": 3, "dog": 2})
    class_folders(tmp_path / "data" / "test", {"dog": 2, "cat": 1}, first=100)

    result = prepared(tmp_path / "data")

    counts = {"train": {"cat": 3, "dog": 2}, "test": {"cat": 1, "dog": 2}}
    assert result.report() == report(tmp_path / "out", counts)
    assert values_of(tmp_path / "out", "train") == [0, 1, 2, 3, 4]
    assert stored(tmp_path / "out", "train")[1] == [0, 0, 0, 1, 1]
    assert values_of(tmp_path / "out", "test") == [102, 100, 101]
    assert stored(tmp_path / "out", "test")[1] == [0, 1, 1]


@pytest.mark.parametrize("color", [False, True])
def test_pixels_of_the_right_size_are_kept_exactly(tmp_path: Path, color: bool) -> None:
    pixels = random_pixels(4, 4, 3) if color else random_pixels(4, 4)
    for file in ("train/a/x.png", "train/b/x.png", "test/a/x.png"):
        save(tmp_path / "data" / file, pixels)

    prepared(tmp_path / "data", is_image_color=color)

    for image in stored(tmp_path / "out", "train")[0]:
        np.testing.assert_array_equal(image, pixels if color else as_rgb(pixels)[..., :1])


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
    data = tree(tmp_path / "data", "train/a/0.png", "train/b/0.png", "train/a/2024/may/x.PNG", "test/a/0.png")

    prepared(data)

    assert values_of(tmp_path / "out", "train") == [0, 2, 1]


def test_folders_beside_those_of_splits_are_named_in_a_warning(tmp_path: Path, log: Callable[[], str]) -> None:
    data = tree(tmp_path / "data", "train/a/×2.png", "train/b/×2.png", "test/a/0.png", "test/b/0.png")
    tree(data, "more/a/×2.png", "more/b/×3.png", "train/loose.png")

    result = prepared(data)

    assert result.counts == {"train": 4, "test": 2}
    assert result.manifest.left_out.images == {"in no class folder": 1, "in no split's folder": 5}
    told = log()
    assert "not read, being no split: folder(s) more" in told
    assert "not read, being in no split's folder: 5 image(s), such as more/a/0.png" in told
    assert "not read, being in no class folder: 1 image(s), such as train/loose.png" in told


def test_links_inside_the_data_folder_and_to_it_are_followed(tmp_path: Path) -> None:
    data = tree(tmp_path / "elsewhere" / ".version-1", *TWO_OF_EACH).parent
    for name in ("cat", "dog"):
        (data / name).symlink_to(Path(".version-1") / name)  # as Kubernetes mounts a ConfigMap
    (data / "cat" / "again.png").symlink_to("1.png")
    (tmp_path / "data").symlink_to("elsewhere")

    assert prepared(tmp_path / "data").counts == {"train": 2, "test": 3}


def test_a_dataset_directory_below_the_data_is_no_class(tmp_path: Path) -> None:
    data = tree(tmp_path / "data", *TWO_OF_EACH)
    prepared(data)
    (tmp_path / "out").rename(data / "prepared")

    result = prepared(data)

    assert result.manifest.classes == ["cat", "dog"]
    assert result.manifest.left_out.folders == {"a dataset directory": 1}


def test_a_file_name_of_any_bytes_is_read(tmp_path: Path) -> None:
    data = tree(tmp_path / "data", *TWO_OF_EACH)
    (data / "cat" / "0.png").rename(data / "cat" / os.fsdecode(b"\xff\n.png"))
    (data / "dog" / os.fsdecode(b"\xfe\n.png")).write_bytes(b"")

    assert prepared(data, max_unreadable=0.5).counts == {"train": 2, "test": 2}
    assert [image.file for image in open_dataset(tmp_path / "out").manifest.unreadable] == ["dog/\\udcfe\\n.png"]


def test_test_images_that_are_training_images_are_counted(tmp_path: Path, log: Callable[[], str]) -> None:
    data = tree(tmp_path / "data", "train/cat/×3.png", "train/dog/×2.png")
    tree(data, "test/cat/×3.png", "test/dog/×2.png", first=3)
    shutil.copy(data / "train" / "cat" / "1.png", data / "test" / "cat" / "1.png")
    shutil.copytree(data / "train", data / "val")

    prepared(data)

    told = log()
    assert (
        "WARNING 1 of 5 test images are the same files as training images (such as test/cat/1.png); test accuracy will "
        "be too high"
    ) in told
    assert "WARNING 5 of 5 validation images are the same files as training images (such as val/cat/0.png)" in told
