from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from components.data_prep.prepare import prepare
from components.shared.artifacts.dataset import open_dataset
from components.shared.errors import DataError
from tests.data_prep.building import (
    IMAGES,
    LABELS,
    LUMA,
    as_rgb,
    files_of,
    idx_bytes,
    idx_folder,
    params,
    plain,
    prepared,
    random_pixels,
    report,
    stored,
    values_of,
)


@pytest.mark.parametrize("end", ["", ".gz"])
def test_images_and_labels_keep_every_value_and_their_order(tmp_path: Path, end: str) -> None:
    train, test = random_pixels(6, 4, 5), random_pixels(3, 4, 5, seed=1)
    idx_folder(tmp_path / "data", train, LABELS, end=end)
    idx_folder(tmp_path / "data", test, [1, 0, 1], split="t10k", end=end)

    result = prepared(tmp_path / "data", image_width=5)

    counts = {"train": {"0": 3, "1": 3}, "test": {"0": 1, "1": 2}}
    assert result.report() == report(tmp_path / "out", counts, source="IDX files", image_shape=[4, 5, 1])
    for split, pixels, labels in (("train", train, LABELS.tolist()), ("test", test, [1, 0, 1])):
        images, stored_labels = stored(tmp_path / "out", split)
        np.testing.assert_array_equal(images, pixels[..., None])
        assert stored_labels == labels


def test_plain_and_compressed_files_give_the_same_bytes(tmp_path: Path) -> None:
    for end in ("", ".gz"):
        prepare(data=idx_folder(tmp_path / f"in{end}", end=end), dataset=tmp_path / f"out{end}", params=params())

    assert files_of(tmp_path / "out") == files_of(tmp_path / "out.gz")


def test_files_by_another_name(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for split, count, value in (("train", 4, 0), ("test", 2, 100), ("validation", 2, 50)):
        idx_folder(data, np.stack([plain(value + index) for index in range(count)]), [0, 1] * (count // 2), split)
    for file in data.glob("train-*"):
        file.rename(data / file.name.upper())
    (data / "test-labels-idx1-ubyte").rename(data / "test-labels.idx1-ubyte")

    assert prepared(data, validation_fraction=0.1).counts == {"train": 4, "validation": 2, "test": 2}
    assert values_of(tmp_path / "out", "validation") == [50, 51]


@pytest.mark.parametrize(("stored_channels", "color"), [(0, False), (0, True), (1, False), (3, True), (3, False)])
def test_four_dimensions_hold_channels(tmp_path: Path, stored_channels: int, color: bool) -> None:
    train = random_pixels(6, 4, 4, stored_channels) if stored_channels else random_pixels(6, 4, 4)
    idx_folder(tmp_path / "data", train)
    idx_folder(tmp_path / "data", train, split="t10k")

    prepared(tmp_path / "data", is_image_color=color)

    images = stored(tmp_path / "out", "train")[0]
    match stored_channels, color:
        case 0, _:
            np.testing.assert_array_equal(images, as_rgb(train) if color else train[..., None])
        case 3, False:
            np.testing.assert_allclose(images[..., 0], train @ LUMA, atol=1)
        case _:
            np.testing.assert_array_equal(images, train)


def test_another_size_is_resized_image_by_image(tmp_path: Path) -> None:
    train = np.repeat(np.arange(6, dtype=np.uint8) * 40, 14 * 12).reshape(6, 14, 12)
    idx_folder(tmp_path / "data", train)
    idx_folder(tmp_path / "data", train, split="t10k")

    prepared(tmp_path / "data", image_height=7, image_width=5)

    images, labels = stored(tmp_path / "out", "train")
    assert images.shape == (6, 7, 5, 1)
    assert [np.unique(image).tolist() for image in images] == [[index * 40] for index in range(6)]
    assert labels == LABELS.tolist()


@pytest.mark.parametrize("end", ["", ".gz"])
def test_more_images_than_one_batch_holds(tmp_path: Path, end: str) -> None:
    train = random_pixels(18, 600, 500)  # 5.4 MB, in batches of 4 MiB
    idx_folder(tmp_path / "data", train, [0, 1] * 9, end=end)
    idx_folder(tmp_path / "data", train[:2], [0, 1], split="t10k", end=end)

    prepared(tmp_path / "data", image_height=600, image_width=500)

    images, labels = stored(tmp_path / "out", "train")
    np.testing.assert_array_equal(images[..., 0], train)
    assert labels == [0, 1] * 9


def test_a_file_compressed_in_several_members_is_read_whole(tmp_path: Path) -> None:
    idx_folder(tmp_path / "data", end=".gz")
    parts = gzip.compress(idx_bytes(IMAGES)[:50]) + gzip.compress(idx_bytes(IMAGES)[50:])
    (tmp_path / "data" / "train-images-idx3-ubyte.gz").write_bytes(parts)

    assert prepared(tmp_path / "data").counts == {"train": 2, "test": 4}


def test_mean_and_std_are_of_the_training_images_alone(tmp_path: Path) -> None:
    train = random_pixels(6, 4, 4)
    idx_folder(tmp_path / "data", train)
    idx_folder(tmp_path / "data", np.full((2, 4, 4), 255, np.uint8), [0, 1], split="t10k")

    prepared(tmp_path / "data")

    normalisation = open_dataset(tmp_path / "out").manifest.normalisation
    assert normalisation.mean == pytest.approx([train.mean() / 255])
    assert normalisation.std == pytest.approx([train.std() / 255])


def test_a_gzip_bomb_is_not_inflated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    idx_folder(tmp_path / "data")
    (tmp_path / "data" / "train-images-idx3-ubyte").unlink()
    bomb = gzip.compress(idx_bytes(IMAGES) + bytes(16 * 1024**2))
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
