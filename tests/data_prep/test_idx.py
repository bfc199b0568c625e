from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from components.data_prep.prepare import prepare
from components.shared.artifacts.dataset import open_dataset
from components.shared.errors import DataError
from tests.data_prep.building import (
    NOTHING_LEFT_OUT,
    files_of,
    idx_bytes,
    idx_folder,
    params,
    prepared,
    random_pixels,
    stored,
    write_idx,
)

LABELS = [0, 1, 0, 1, 1, 0]


@pytest.mark.parametrize("end", ["", ".gz"])
def test_images_and_labels_keep_every_value_and_their_order(tmp_path: Path, end: str) -> None:
    train, test = random_pixels(6, 4, 5), random_pixels(3, 4, 5, seed=1)
    idx_folder(tmp_path / "data", train, LABELS, end=end)
    idx_folder(tmp_path / "data", test, [1, 0, 1], split="t10k", end=end)

    result = prepared(tmp_path / "data", image_width=5)

    assert result.report() == {
        "dataset": str(tmp_path / "out"),
        "classes": ["0", "1"],
        "counts": {"train": 6, "test": 3},
        "image_shape": [4, 5, 1],
        "unreadable": 0,
        "source": "IDX files",
        "test_split": "given",
        "validation_split": None,
        "class_counts": {"train": {"0": 3, "1": 3}, "test": {"0": 1, "1": 2}},
        "left_out": NOTHING_LEFT_OUT,
    }
    images, labels = stored(tmp_path / "out", "train")
    np.testing.assert_array_equal(images, train[..., None])
    assert labels == LABELS
    images, labels = stored(tmp_path / "out", "test")
    np.testing.assert_array_equal(images, test[..., None])
    assert labels == [1, 0, 1]


def test_plain_and_compressed_files_give_the_same_bytes(tmp_path: Path) -> None:
    for name, end in (("plain", ""), ("compressed", ".gz")):
        idx_folder(tmp_path / name, random_pixels(6, 4, 4), LABELS, end=end)
        prepare(data=tmp_path / name, dataset=tmp_path / f"out-{name}", params=params())

    assert files_of(tmp_path / "out-plain") == files_of(tmp_path / "out-compressed")


def test_names_with_a_dot_are_known(tmp_path: Path) -> None:
    write_idx(tmp_path / "data" / "train-images.idx3-ubyte", random_pixels(6, 4, 4))
    write_idx(tmp_path / "data" / "train-labels.idx1-ubyte.gz", np.array(LABELS, dtype=np.uint8))

    assert prepared(tmp_path / "data").counts == {"train": 2, "test": 4}


@pytest.mark.parametrize("channels", [1, 3])
def test_four_dimensions_hold_channels(tmp_path: Path, channels: int) -> None:
    train = random_pixels(6, 4, 4, channels)
    idx_folder(tmp_path / "data", train, LABELS)
    idx_folder(tmp_path / "data", train, LABELS, split="t10k")

    prepared(tmp_path / "data", is_image_color=channels == 3)

    np.testing.assert_array_equal(stored(tmp_path / "out", "train")[0], train)


def test_grey_becomes_color_by_repetition(tmp_path: Path) -> None:
    train = random_pixels(6, 4, 4)
    idx_folder(tmp_path / "data", train, LABELS)
    idx_folder(tmp_path / "data", train, LABELS, split="t10k")

    prepared(tmp_path / "data", is_image_color=True)

    np.testing.assert_array_equal(stored(tmp_path / "out", "train")[0], np.repeat(train[..., None], 3, axis=3))


def test_color_becomes_grey_by_luma(tmp_path: Path) -> None:
    train = random_pixels(6, 4, 4, 3)
    idx_folder(tmp_path / "data", train, LABELS)
    idx_folder(tmp_path / "data", train, LABELS, split="t10k")

    prepared(tmp_path / "data")

    luma = train @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(stored(tmp_path / "out", "train")[0][..., 0], luma, atol=1)


def test_another_size_is_resized_image_by_image(tmp_path: Path) -> None:
    train = np.repeat(np.arange(6, dtype=np.uint8) * 40, 14 * 12).reshape(6, 14, 12)
    idx_folder(tmp_path / "data", train, LABELS)
    idx_folder(tmp_path / "data", train, LABELS, split="t10k")

    prepared(tmp_path / "data", image_height=7, image_width=5)

    images, labels = stored(tmp_path / "out", "train")
    assert images.shape == (6, 7, 5, 1)
    assert [np.unique(image).tolist() for image in images] == [[index * 40] for index in range(6)]
    assert labels == LABELS


@pytest.mark.parametrize("end", ["", ".gz"])
def test_more_images_than_one_batch_holds(tmp_path: Path, end: str) -> None:
    train = random_pixels(120, 250, 200)  # 6 MB, in batches of 4 MiB
    idx_folder(tmp_path / "data", train, [0, 1] * 60, end=end)
    idx_folder(tmp_path / "data", train[:2], [0, 1], split="t10k", end=end)

    prepared(tmp_path / "data", image_height=250, image_width=200)

    images, labels = stored(tmp_path / "out", "train")
    np.testing.assert_array_equal(images[..., 0], train)
    assert labels == [0, 1] * 60


def test_a_file_compressed_in_several_members_is_read_whole(tmp_path: Path) -> None:
    train = random_pixels(6, 4, 4)
    idx_folder(tmp_path / "data", train, LABELS, end=".gz")
    data = idx_bytes(train)
    parts = gzip.compress(data[:50]) + gzip.compress(data[50:])
    (tmp_path / "data" / "train-images-idx3-ubyte.gz").write_bytes(parts)

    prepared(tmp_path / "data")

    opened = open_dataset(tmp_path / "out")
    assert {name: len(split) for name, split in opened.splits.items()} == {"train": 2, "test": 4}


def test_mean_and_std_are_of_the_training_images_alone(tmp_path: Path) -> None:
    train = random_pixels(6, 4, 4)
    idx_folder(tmp_path / "data", train, LABELS)
    idx_folder(tmp_path / "data", np.full((2, 4, 4), 255, np.uint8), [0, 1], split="t10k")

    prepared(tmp_path / "data")

    normalisation = open_dataset(tmp_path / "out").manifest.normalisation
    assert normalisation.mean == pytest.approx([train.mean() / 255])
    assert normalisation.std == pytest.approx([train.std() / 255])


def test_a_gzip_bomb_is_not_inflated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    idx_folder(tmp_path / "data", random_pixels(6, 4, 4), LABELS)
    (tmp_path / "data" / "train-images-idx3-ubyte").unlink()
    bomb = gzip.compress(idx_bytes(random_pixels(6, 4, 4)) + bytes(64 * 1024**2))
    (tmp_path / "data" / "train-images-idx3-ubyte.gz").write_bytes(bomb)
    inflated = 0
    read = gzip.GzipFile.read

    def counting_read(self: gzip.GzipFile, size: int | None = -1) -> bytes:
        nonlocal inflated
        data = read(self, size)
        inflated += len(data)
        return data

    monkeypatch.setattr(gzip.GzipFile, "read", counting_read)
    with pytest.raises(DataError, match="goes on after the 6×4×4 values"):
        prepared(tmp_path / "data")

    assert inflated < 500
