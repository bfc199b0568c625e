"""A copy of a run's state on the host, made quickly: what a checkpoint is written from while training goes on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# The best weights are never changed once they are there, so a reference will do.
UNCHANGING = "best"


class Snapshot:
    """Host memory for one copy of the state; filled again and again, since fresh pages cost more than the copy.

    Copies from a GPU go to pinned memory, all at once, and are waited for together.
    """

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}
        self._devices: set[torch.device] = set()

    def take(self, state: dict[str, Any]) -> dict[str, Any]:
        """A copy of a state whose tensors are this snapshot's own, until the next call."""
        self._devices.clear()
        copied = {key: value if key == UNCHANGING else self._copy(value, key) for key, value in state.items()}
        for device in self._devices:  # not the current one alone, which need not be the one that trains
            torch.cuda.current_stream(device).synchronize()
        return copied

    def _copy(self, value: Any, path: str) -> Any:
        if isinstance(value, Tensor):
            return self._copied(value, path)
        if isinstance(value, dict):
            return {key: self._copy(inner, f"{path}/{key}") for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self._copy(inner, f"{path}/{index}") for index, inner in enumerate(value))
        return value

    def _copied(self, value: Tensor, path: str) -> Tensor:
        kept = self._kept.get(path)
        if kept is None or (kept.shape, kept.stride(), kept.dtype) != (value.shape, value.stride(), value.dtype):
            # In the same order in memory: torch's fused optimisers take it for granted that all of theirs share one.
            pinned = value.device.type == "cuda"
            kept = torch.empty_strided(value.size(), value.stride(), dtype=value.dtype, pin_memory=pinned)
            self._kept[path] = kept
        if value.device.type == "cuda":
            self._devices.add(value.device)
        kept.copy_(value.detach(), non_blocking=True)
        return kept
