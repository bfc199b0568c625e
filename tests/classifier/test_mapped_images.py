"""Images on disk give the very batches that images in memory give, in any order, from any shards."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.classifier.batches import ImageStore, ResidentImages, batch_slices
from components.classifier.mapped_images import MappedImages
from components.shared.artifacts.dataset import Split
from components.shared.errors import ArtifactError

CPU = torch.device("cpu")
Pixels = npt.NDArray[np.uint8]


def split_of(images: Pixels, folder: Path, per_shard: int) -> Split:
    """A split whose shards are memory-mapped files."""
    shards: list[Pixels] = []
    for start in range(0, len(images), per_shard):
        file = folder / f"{len(shards)}.npy"
        np.save(file, images[start : start + per_shard])
        shards.append(np.load(file, mmap_mode="r"))
    return Split(tuple(shards), np.arange(len(images)))


@pytest.fixture
def images() -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (23, 3, 4, 3), dtype=np.uint8)


@pytest.mark.parametrize("per_shard", [1, 5, 23, 100])
def test_resident_and_mapped_images_are_the_same(images: Pixels, tmp_path: Path, per_shard: int) -> None:
    mapped = MappedImages(split_of(images, tmp_path, per_shard), CPU)
    resident = ResidentImages(torch.tensor(images))
    assert len(mapped) == len(resident) == 23
    for indices in (
        torch.randperm(23, generator=torch.Generator().manual_seed(0)),
        torch.tensor([22, 0, 4, 5, 4, 4, 10]),
        torch.tensor([], dtype=torch.int64),
    ):
        for store in (mapped, resident):
            batch = store.take(indices)
            assert batch.dtype is torch.uint8
            assert np.array_equal(batch.numpy(), images[indices.numpy()])


def collected(store: ImageStore, order: torch.Tensor, slices: Sequence[slice]) -> list[list[int]]:
    """The first value of each image of each batch."""
    return [batch[:, 0, 0, 0].tolist() for batch in store.batches(order, slices)]


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_batches_are_those_of_the_order_from_any_shards(data: st.DataObject) -> None:
    counts = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=5))
    whole = np.arange(sum(counts), dtype=np.uint8).reshape(-1, 1, 1, 1)
    split = Split(tuple(np.split(whole, np.cumsum(counts)[:-1])), np.arange(len(whole)))
    order = data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=20))
    slices = list(batch_slices(len(order), data.draw(st.integers(1, 9))))
    expected = [order[part] for part in slices]
    for store in (MappedImages(split, CPU), ResidentImages(torch.tensor(whole))):
        assert collected(store, torch.tensor(order, dtype=torch.int64), slices) == expected
        assert store.take(torch.tensor(order, dtype=torch.int64)).flatten().tolist() == order


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_spans_are_the_stored_order(data: st.DataObject) -> None:
    counts = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=5))
    whole = np.arange(sum(counts), dtype=np.uint8).reshape(-1, 1, 1, 1)
    split = Split(tuple(np.split(whole, np.cumsum(counts)[:-1])), np.arange(len(whole)))
    bound = st.integers(0, len(whole) + 3)
    slices = [slice(*sorted(pair)) for pair in data.draw(st.lists(st.tuples(bound, bound), max_size=6))]
    expected = [whole[part].flatten().tolist() for part in slices]
    for store in (MappedImages(split, CPU), ResidentImages(torch.tensor(whole))):
        assert [batch.flatten().tolist() for batch in store.spans(slices)] == expected


def test_a_batch_is_never_written_over(images: Pixels, tmp_path: Path) -> None:
    """Every batch kept is still the same after all the others were made."""
    order = torch.arange(23).flip(0)
    slices = [slice(start, start + 2) for start in range(0, 23, 2)]
    kept = list(MappedImages(split_of(images, tmp_path, 5), CPU).batches(order, slices))
    assert torch.equal(torch.cat(kept), torch.tensor(images).flip(0))


def test_reading_draws_nothing_at_random(images: Pixels, tmp_path: Path) -> None:
    mapped = MappedImages(split_of(images, tmp_path, 5), CPU)
    order = torch.randperm(23)
    before = torch.random.get_rng_state(), str(np.random.get_state()), random.getstate()
    list(mapped.batches(order, list(batch_slices(23, 4))))
    list(mapped.spans(list(batch_slices(23, 4))))
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert (str(np.random.get_state()), random.getstate()) == before[1:]


@pytest.mark.parametrize("wanted", [[0, 23], [-1, 4]])
def test_an_index_that_is_not_there_is_an_error(images: Pixels, tmp_path: Path, wanted: list[int]) -> None:
    mapped = MappedImages(split_of(images, tmp_path, 5), CPU)
    with pytest.raises(IndexError, match="of 23 images"):
        list(mapped.batches(torch.tensor(wanted), [slice(0, 2)]))


READS: list[Callable[[MappedImages], object]] = [
    lambda store: list(store.batches(torch.arange(23), [slice(0, 23)])),
    lambda store: list(store.spans([slice(0, 23)])),
    lambda store: store.take(torch.arange(23)),
]


@pytest.mark.parametrize("read", READS, ids=["batches", "spans", "take"])
def test_a_file_cut_short_is_an_error_where_batches_are_used(
    images: Pixels, tmp_path: Path, read: Callable[[MappedImages], object]
) -> None:
    mapped = MappedImages(split_of(images, tmp_path, 10), CPU)
    os.truncate(tmp_path / "1.npy", 200)
    with pytest.raises(ArtifactError, match=r"1\.npy: became shorter while it was read, from 488 to 200 bytes"):
        read(mapped)


def test_a_file_removed_or_replaced_in_use_is_read_to_the_end(images: Pixels, tmp_path: Path) -> None:
    mapped = MappedImages(split_of(images, tmp_path, 10), CPU)
    (tmp_path / "0.npy").unlink()
    (tmp_path / "1.npy").unlink()
    (tmp_path / "1.npy").write_bytes(b"another")
    (batch,) = mapped.batches(torch.arange(23), [slice(0, 23)])
    assert np.array_equal(batch.numpy(), images)


def test_stopping_early_leaves_no_thread(images: Pixels, tmp_path: Path) -> None:
    mapped = MappedImages(split_of(images, tmp_path, 5), CPU)
    with closing(mapped.batches(torch.arange(23), list(batch_slices(23, 1)))) as batches:
        next(batches)
    assert not [thread for thread in threading.enumerate() if thread.name == "read-ahead"]
