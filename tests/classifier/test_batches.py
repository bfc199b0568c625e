"""Batches: every image once, the same from memory and from disk, normalised as the formula says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from components.classifier.batches import (
    MappedImages,
    Normaliser,
    ResidentImages,
    batch_slices,
    free_bytes,
    store_images,
)
from components.shared.artifacts import Normalisation
from components.shared.dataset import Split

CPU = torch.device("cpu")


@given(st.integers(0, 300), st.integers(1, 310))
@example(1, 1)
@example(1, 8)
@example(9, 8)
@example(9, 1)
@example(16, 8)
def test_batches_cover_every_image_once_and_none_is_of_a_single_image(count: int, batch_size: int) -> None:
    slices = list(batch_slices(count, batch_size))
    assert [index for part in slices for index in range(count)[part]] == list(range(count))
    sizes = [part.stop - part.start for part in slices]
    assert all(size == batch_size for size in sizes[:-1])
    assert all(size <= batch_size + 1 for size in sizes[-1:])
    if count > 1 and batch_size > 1:
        assert 1 not in sizes
    assert len(sizes) in (-(-count // batch_size), count // batch_size)


def split_of(images: npt.NDArray[np.uint8], folder: Path, per_shard: int) -> Split:
    """A split whose shards are memory-mapped files."""
    shards: list[npt.NDArray[np.uint8]] = []
    for start in range(0, len(images), per_shard):
        file = folder / f"{len(shards)}.npy"
        np.save(file, images[start : start + per_shard])
        shards.append(np.load(file, mmap_mode="r"))
    return Split(tuple(shards), np.arange(len(images)))


@pytest.fixture
def images() -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (23, 3, 4, 3), dtype=np.uint8)


@pytest.mark.parametrize("per_shard", [1, 5, 23, 100])
def test_resident_and_mapped_images_are_the_same(images: npt.NDArray[np.uint8], tmp_path: Path, per_shard: int) -> None:
    mapped = MappedImages(split_of(images, tmp_path, per_shard), CPU)
    resident = ResidentImages(torch.tensor(images))
    assert len(mapped) == len(resident) == 23
    generator = torch.Generator().manual_seed(0)
    for indices in (
        torch.randperm(23, generator=generator),
        torch.tensor([22, 0, 4, 5, 4, 4, 10]),
        torch.tensor([], dtype=torch.int64),
    ):
        for store in (mapped, resident):
            batch = store.take(indices)
            assert batch.dtype is torch.uint8
            assert np.array_equal(batch.numpy(), images[indices.numpy()])
    for start, stop in ((0, 23), (3, 12), (20, 99), (5, 5), (0, 1)):
        for store in (mapped, resident):
            assert np.array_equal(store.span(start, stop).numpy(), images[start:stop])


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_any_indices_give_those_images_from_any_shards(data: st.DataObject) -> None:
    counts = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=5))
    whole = np.arange(sum(counts), dtype=np.uint8).reshape(-1, 1, 1, 1)
    shards = tuple(np.split(whole, np.cumsum(counts)[:-1]))
    indices = data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=12))
    taken = MappedImages(Split(shards, np.arange(len(whole))), CPU).take(torch.tensor(indices, dtype=torch.int64))
    assert taken.flatten().tolist() == indices


@pytest.mark.parametrize("per_shard", [5, 23])
def test_a_split_that_fits_is_put_on_the_device_in_its_order(
    images: npt.NDArray[np.uint8], tmp_path: Path, per_shard: int
) -> None:
    store = store_images(split_of(images, tmp_path, per_shard), CPU)
    assert isinstance(store, ResidentImages)
    assert np.array_equal(store.images.numpy(), images)
    store.images[0] = 0  # a copy, not the file


def test_a_split_that_does_not_fit_stays_mapped() -> None:
    vast = np.broadcast_to(np.zeros((1, 1, 1, 1), np.uint8), (2**45, 1, 1, 1))  # 32 TiB that are one byte
    store = store_images(Split((vast,), np.zeros(1, np.int64)), CPU)
    assert isinstance(store, MappedImages)
    assert len(store) == 2**45


def test_free_memory_is_some_of_the_machines() -> None:
    assert 2**20 < free_bytes(CPU) < 2**50


UNIT = st.floats(-2, 2, allow_subnormal=False)
SCALE = st.floats(1e-3, 10)


@given(st.data(), st.sampled_from([1, 3]))
@settings(max_examples=50, deadline=None)
def test_normalised_images_are_what_the_formula_says(data: st.DataObject, channels: int) -> None:
    mean = data.draw(st.lists(UNIT, min_size=channels, max_size=channels))
    std = data.draw(st.lists(SCALE, min_size=channels, max_size=channels))
    stored = np.random.default_rng(0).integers(0, 256, (3, 2, 5, channels), dtype=np.uint8)
    normalise = Normaliser(Normalisation(mean=mean, std=std), CPU)

    expected = ((stored / 255 - np.array(mean)) / np.array(std)).transpose(0, 3, 1, 2)
    found = normalise(torch.tensor(stored))
    assert found.shape == (3, channels, 2, 5)
    assert found.dtype is torch.float32
    scale = np.abs(expected).max() + 1 / min(std)
    assert np.abs(found.numpy() - expected).max() <= 1e-6 * scale
    unit = torch.tensor(stored.transpose(0, 3, 1, 2) / 255, dtype=torch.float32)
    assert np.abs(normalise.of_unit(unit).numpy() - expected).max() <= 1e-6 * scale


@pytest.mark.parametrize("channels", [1, 3])
def test_without_normalisation_images_are_scaled_to_0_to_1(channels: int) -> None:
    stored: Any = np.random.default_rng(0).integers(0, 256, (2, 2, 2, channels), dtype=np.uint8)
    normalise = Normaliser(None, CPU)
    expected = torch.tensor(stored).permute(0, 3, 1, 2) / 255
    assert torch.allclose(normalise(torch.tensor(stored)), expected, rtol=1e-6)
    assert torch.equal(normalise.of_unit(expected), expected)


def test_stored_images_are_not_changed_and_keep_their_order_in_memory() -> None:
    stored = torch.randint(0, 256, (2, 4, 5, 3), dtype=torch.uint8)
    before = stored.clone()
    found = Normaliser(Normalisation(mean=[0.5] * 3, std=[0.5] * 3), CPU)(stored)
    assert torch.equal(stored, before)
    assert found.is_contiguous(memory_format=torch.channels_last)
