"""Images on disk give the very batches that images in memory give; where they are kept follows from their size."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from components.classifier.images import (
    ImageStore,
    Normaliser,
    Placement,
    ResidentImages,
    batch_slices,
    spelled_bytes,
    store_images,
)
from components.classifier.mapped_images import MappedImages, read_ahead
from components.shared.artifacts.artifact import Normalisation
from components.shared.artifacts.dataset import Split
from components.shared.errors import ArtifactError
from tests.configs import refused

CPU = torch.device("cpu")
SOON = 10.0  # seconds; what is waited for here takes milliseconds
SIZE = 23 * 3 * 4 * 3  # bytes of the images below
Pixels = npt.NDArray[np.uint8]
IMAGES: Pixels = np.random.default_rng(0).integers(0, 256, (23, 3, 4, 3), dtype=np.uint8)
LARGE: Pixels = np.random.default_rng(0).integers(0, 256, (23, 80, 70, 3), dtype=np.uint8)  # are read one by one


def split_of(folder: Path, per_shard: int, images: Pixels = IMAGES) -> Split:
    """A split whose shards are memory-mapped files."""
    shards: list[Pixels] = []
    for start in range(0, len(images), per_shard):
        file = folder / f"{len(shards)}.npy"
        np.save(file, images[start : start + per_shard])
        shards.append(np.load(file, mmap_mode="r"))
    return Split(tuple(shards), np.arange(len(images)))


def reading_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("read-ahead")]


@pytest.mark.parametrize("images", [IMAGES, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("per_shard", [1, 5, 100])
def test_images_at_any_indices_come_from_any_shards(tmp_path: Path, per_shard: int, images: Pixels) -> None:
    in_memory = Split(tuple(np.split(images, range(per_shard, 23, per_shard))), np.arange(23))
    for store in (
        MappedImages(split_of(tmp_path, per_shard, images), CPU),
        MappedImages(in_memory, CPU),
        ResidentImages(torch.tensor(images)),
    ):
        assert len(store) == 23
        for indices in (np.random.default_rng(0).permutation(23), [22, 0, 4, 5, 4, 4, 10], []):
            batch = store.take(torch.tensor(indices, dtype=torch.int64))
            assert batch.dtype is torch.uint8
            assert np.array_equal(batch.numpy(), images[np.array(indices, np.int64)])


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_batches_are_those_of_the_order_and_spans_those_of_the_storage(data: st.DataObject) -> None:
    counts = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=5))
    whole = np.arange(sum(counts), dtype=np.uint8).reshape(-1, 1, 1, 1)
    split = Split(tuple(np.split(whole, np.cumsum(counts)[:-1])), np.arange(len(whole)))
    order = data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=20))
    slices = list(batch_slices(len(order), data.draw(st.integers(1, 9))))
    bound = st.integers(0, len(whole) + 3)
    spans = [slice(*sorted(pair)) for pair in data.draw(st.lists(st.tuples(bound, bound), max_size=6))]
    for store in (MappedImages(split, CPU), ResidentImages(torch.tensor(whole))):
        batches = store.batches(torch.tensor(order, dtype=torch.int64), slices)
        assert [batch.flatten().tolist() for batch in batches] == [order[part] for part in slices]
        assert [batch.flatten().tolist() for batch in store.spans(spans)] == [
            whole[part].flatten().tolist() for part in spans
        ]


def test_a_batch_is_never_written_over(tmp_path: Path) -> None:
    slices = [slice(start, start + 2) for start in range(0, 23, 2)]
    kept = list(MappedImages(split_of(tmp_path, 5), CPU).batches(torch.arange(23).flip(0), slices))
    assert torch.equal(torch.cat(kept), torch.tensor(IMAGES).flip(0))


def test_reading_draws_nothing_at_random(tmp_path: Path) -> None:
    mapped = MappedImages(split_of(tmp_path, 5), CPU)
    before = torch.random.get_rng_state(), str(np.random.get_state()), random.getstate()
    list(mapped.batches(torch.arange(23).flip(0), list(batch_slices(23, 4))))
    list(mapped.spans(list(batch_slices(23, 4))))
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert (str(np.random.get_state()), random.getstate()) == before[1:]


@pytest.mark.parametrize("wanted", [[0, 23], [-1, 4]])
def test_an_index_that_is_not_there_is_an_error(tmp_path: Path, wanted: list[int]) -> None:
    with pytest.raises(IndexError, match="of 23 images"):
        list(MappedImages(split_of(tmp_path, 5), CPU).batches(torch.tensor(wanted), [slice(0, 2)]))


READS: list[Callable[[MappedImages], Sequence[torch.Tensor]]] = [
    lambda store: list(store.batches(torch.arange(23), [slice(0, 23)])),
    lambda store: list(store.spans([slice(0, 23)])),
    lambda store: [store.take(torch.arange(23))],
]


@pytest.mark.parametrize("read", READS, ids=["batches", "spans", "take"])
def test_a_file_cut_short_is_an_error_and_one_removed_or_replaced_is_read_to_the_end(
    tmp_path: Path, read: Callable[[MappedImages], Sequence[torch.Tensor]]
) -> None:
    mapped = MappedImages(split_of(tmp_path, 10), CPU)
    for number in (0, 1):
        (tmp_path / f"{number}.npy").unlink()
    (tmp_path / "1.npy").write_bytes(b"another")
    assert np.array_equal(read(mapped)[0].numpy(), IMAGES)
    os.truncate(tmp_path / "2.npy", 150)
    with pytest.raises(ArtifactError, match=r"2\.npy: became shorter while it was read, from 236 to 150 bytes"):
        read(mapped)


@given(st.lists(st.none() | st.integers()), st.integers(1, 4), st.integers(1, 3))
@settings(max_examples=50, deadline=None)
def test_results_read_ahead_come_in_order_and_whole(items: list[int | None], depth: int, threads: int) -> None:
    assert list(read_ahead(lambda item: item, items, depth, threads)) == items
    assert not reading_threads()


def test_so_many_results_are_made_ahead_and_nothing_before_the_first_is_asked_for() -> None:
    made: list[int] = []
    third = threading.Event()

    def work(item: int) -> None:
        made.append(item)
        if len(made) == 4:
            third.set()

    results = read_ahead(work, range(100), 3)
    assert not made
    assert not reading_threads()
    with closing(results):
        next(results)
        assert third.wait(SOON)
    assert made == [0, 1, 2, 3]
    assert not reading_threads()


def test_an_error_comes_after_the_results_before_it() -> None:
    def work(item: int) -> int:
        if item == 3:
            raise OSError("the disk is gone")
        return item

    results = read_ahead(work, range(10), 2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="the disk is gone"):
        next(results)
    assert not reading_threads()


def test_closing_waits_for_the_item_in_work_alone(tmp_path: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()
    finished: list[int] = []

    def work(item: int) -> int:
        if item == 1:
            begun.set()
            go_on.wait(SOON)
        finished.append(item)
        return item

    results = read_ahead(work, range(100), 2)
    next(results)
    assert begun.wait(SOON)
    threading.Timer(0.05, go_on.set).start()
    results.close()
    assert finished == [0, 1]
    with closing(MappedImages(split_of(tmp_path, 5), CPU).batches(torch.arange(23), list(batch_slices(23, 1)))) as some:
        next(some)
    assert not reading_threads()


@pytest.mark.parametrize(
    ("placement", "free", "store", "reason"),
    [
        ("auto", 2 * SIZE, ResidentImages, "828 bytes of images on cpu: they fit (half of 1.7 kB free)"),
        (
            "auto",
            2 * SIZE - 2,
            MappedImages,
            "828 bytes of images stay mapped on the host: more than half of the 1.7 kB free on cpu",
        ),
        ("device", SIZE, ResidentImages, "828 bytes of images on cpu: data_placement is device"),
        ("host", 2**40, MappedImages, "828 bytes of images stay mapped on the host: data_placement is host"),
    ],
)
def test_images_are_placed_by_their_size_and_by_choice(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    placement: Placement,
    free: int,
    store: type[ImageStore],
    reason: str,
) -> None:
    monkeypatch.setattr("components.classifier.images.free_bytes", lambda device: free)
    placed = store_images(split_of(tmp_path, 5), CPU, placement)
    assert isinstance(placed.store, store)
    assert placed.reason == reason
    images = placed.store.take(torch.arange(23))
    assert np.array_equal(images.numpy(), IMAGES)
    images[0] = 0  # a copy, not the file
    if isinstance(placed.store, ResidentImages):
        placed.store.images[0] = 0


def test_a_split_is_put_on_the_device_part_by_part() -> None:
    shades = np.arange(70, dtype=np.uint8)
    shards = [np.broadcast_to(part[:, None, None, None], (35, 1024, 1024, 1)) for part in (shades[:35], shades[35:])]
    stored = store_images(Split(tuple(shards), np.zeros(70, np.int64)), CPU, "device").store
    assert isinstance(stored, ResidentImages)
    assert torch.equal(stored.images, torch.from_numpy(shades)[:, None, None, None].expand(70, 1024, 1024, 1))


def test_what_cannot_be_on_the_device_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.classifier.images.free_bytes", lambda device: SIZE - 100)
    assert refused(store_images, split_of(tmp_path, 5), CPU, "device") == {
        "data_placement": "is device, and 828 bytes of images are more than the 728 bytes free on cpu; use auto or host"
    }


def test_a_split_of_any_size_can_stay_mapped() -> None:
    vast = np.broadcast_to(np.zeros((1, 1, 1, 1), np.uint8), (2**45, 1, 1, 1))  # 32 TiB that are one byte
    placed = store_images(Split((vast,), np.zeros(1, np.int64)), CPU)
    assert len(placed.store) == 2**45
    assert placed.reason.startswith("35.2 TB of images stay mapped on the host: more than half of the ")


def test_bytes_are_spelled_for_people() -> None:
    spelled = [spelled_bytes(count) for count in (999, 1000, 47_040_000, 12_345_000_000)]
    assert spelled == ["999 bytes", "1.0 kB", "47.0 MB", "12.3 GB"]


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


@given(st.data(), st.sampled_from([1, 3]), st.booleans())
@settings(max_examples=50, deadline=None)
def test_normalised_images_are_what_the_formula_says(data: st.DataObject, channels: int, is_normalised: bool) -> None:
    mean, std = [0.0] * channels, [1.0] * channels
    if is_normalised:
        mean = data.draw(st.lists(st.floats(-2, 2, allow_subnormal=False), min_size=channels, max_size=channels))
        std = data.draw(st.lists(st.floats(1e-3, 10), min_size=channels, max_size=channels))
    stored: Any = np.random.default_rng(0).integers(0, 256, (3, 2, 5, channels), dtype=np.uint8)
    normalise = Normaliser(Normalisation(mean=mean, std=std) if is_normalised else None, CPU)
    expected = ((stored / 255 - np.array(mean)) / np.array(std)).transpose(0, 3, 1, 2)
    images = torch.tensor(stored)
    found = normalise(images)
    assert np.array_equal(images.numpy(), stored)
    assert found.shape == (3, channels, 2, 5)
    assert found.dtype is torch.float32
    assert found.is_contiguous(memory_format=torch.channels_last)
    scale = np.abs(expected).max() + 1 / min(std)
    assert np.abs(found.numpy() - expected).max() <= 1e-6 * scale
    unit = torch.tensor(stored.transpose(0, 3, 1, 2) / 255, dtype=torch.float32)
    assert np.abs(normalise.of_unit(unit).numpy() - expected).max() <= 1e-6 * scale
