"""Where images are kept follows from their size and the memory that is free, and the log says why."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from components.classifier.batches import ResidentImages
from components.classifier.mapped_images import MappedImages
from components.classifier.placement import spelled_bytes, store_images
from components.shared.artifacts.dataset import Split
from components.shared.errors import ParamsError
from tests.classifier.test_mapped_images import Pixels, split_of

CPU = torch.device("cpu")
SIZE = 23 * 10 * 10 * 3


@pytest.fixture
def images() -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (23, 10, 10, 3), dtype=np.uint8)


def free(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr("components.classifier.placement.free_bytes", lambda device: count)


@pytest.mark.parametrize("per_shard", [5, 23])
def test_a_split_that_fits_is_put_on_the_device_in_its_order(images: Pixels, tmp_path: Path, per_shard: int) -> None:
    store = store_images(split_of(images, tmp_path, per_shard), CPU).store
    assert isinstance(store, ResidentImages)
    assert np.array_equal(store.images.numpy(), images)
    store.images[0] = 0  # a copy, not the file


def test_a_split_that_does_not_fit_stays_mapped() -> None:
    vast = np.broadcast_to(np.zeros((1, 1, 1, 1), np.uint8), (2**45, 1, 1, 1))  # 32 TiB that are one byte
    placed = store_images(Split((vast,), np.zeros(1, np.int64)), CPU)
    assert isinstance(placed.store, MappedImages)
    assert len(placed.store) == 2**45
    assert placed.reason.startswith("35.2 TB of images stay mapped on the host: more than half of the ")


def test_auto_takes_half_of_what_is_free(images: Pixels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = split_of(images, tmp_path, 5)
    free(monkeypatch, 2 * SIZE)
    placed = store_images(split, CPU)
    assert isinstance(placed.store, ResidentImages)
    assert placed.reason == "6.9 kB of images on cpu: they fit (half of 13.8 kB free)"
    free(monkeypatch, 2 * SIZE - 2)
    placed = store_images(split, CPU)
    assert isinstance(placed.store, MappedImages)
    assert placed.reason == "6.9 kB of images stay mapped on the host: more than half of the 13.8 kB free on cpu"


def test_a_choice_is_followed(images: Pixels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = split_of(images, tmp_path, 5)
    free(monkeypatch, SIZE)
    placed = store_images(split, CPU, "device")
    assert isinstance(placed.store, ResidentImages)
    assert placed.reason == "6.9 kB of images on cpu: data_placement is device"
    free(monkeypatch, 2**40)
    placed = store_images(split, CPU, "host")
    assert isinstance(placed.store, MappedImages)
    assert placed.reason == "6.9 kB of images stay mapped on the host: data_placement is host"


def test_what_cannot_be_on_the_device_is_refused(
    images: Pixels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free(monkeypatch, SIZE - 1000)
    with pytest.raises(ParamsError) as caught:
        store_images(split_of(images, tmp_path, 5), CPU, "device")
    (problem,) = caught.value.problems
    assert problem.path == "data_placement"
    assert problem.message == "is device, and 6.9 kB of images are more than the 5.9 kB free on cpu; use auto or host"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (47_040_000, "47.0 MB"), (12_345_000_000, "12.3 GB")],
)
def test_bytes_are_spelled_for_people(count: int, text: str) -> None:
    assert spelled_bytes(count) == text
