"""The generators that layers and transforms of a training share with its process: their states, taken and put back."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def shared_states(device: torch.device) -> dict[str, Any]:
    """The states of Python's, numpy's and torch's generator, and that of a GPU, as a checkpoint keeps them."""
    legacy: Any = np.random.get_state(legacy=True)
    kind, keys, *rest = legacy
    return {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(keys.astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def set_shared_states(states: dict[str, Any], device: torch.device) -> None:
    """Go on from states as :func:`shared_states` has taken them; a GPU's has no effect on a CPU."""
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)


@contextmanager
def generators_kept(device: torch.device, *others: torch.Generator) -> Iterator[None]:
    """Put the generators that are shared, and others, back to where they are now, once this is left."""
    states, of_others = shared_states(device), [generator.get_state() for generator in others]
    try:
        yield
    finally:
        set_shared_states(states, device)
        for generator, state in zip(others, of_others, strict=True):
            generator.set_state(state)
