"""Batches: every image once, normalised as the formula says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from components.classifier.batches import Normaliser, batch_slices
from components.shared.artifacts.artifact import Normalisation

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
