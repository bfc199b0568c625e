"""A stand-in for CUDA graphs on the CPU: what is captured is recorded kernel by kernel, and replayed as it was.

As in a graph, numbers of Python's are those of the capture for ever, and tensors keep their address. What a GPU refuses
in a capture is refused here: reading a value, and drawing from a generator that is not the graph's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from components.classifier.graphs import Replay

_READING = {"_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "unique_dim", "_unique2"}
_WITHOUT_VALUES = {"empty", "empty_like", "empty_strided", "new_empty", "_record_function_enter_new"}


class RecordedGraphs:
    """Makes graphs that are lists of kernels; `host` are tensors that are the host's, which no kernel of a GPU has."""

    def __init__(self, *host: Tensor) -> None:
        self.host = host
        self.captures = self.replays = 0

    def capture(self, work: Callable[[], object], generators: Sequence[torch.Generator] = ()) -> Replay:
        self.captures += 1
        recorder = _Recorder([*generators, torch.default_generator], self.host)
        work()  # what warms a GPU up
        with recorder:
            work()

        def replay() -> None:
            self.replays += 1
            with torch.no_grad():
                recorder.replay()

        return replay


def _memory(tensor: Any) -> int | None:
    return tensor.untyped_storage().data_ptr() if isinstance(tensor, Tensor) else None


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, generators: Sequence[torch.Generator], host: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        # A kernel gets a generator as another object of Python's.
        self._generators = [generator._cdata for generator in generators]  # type: ignore[attr-defined]
        self._host = [_memory(tensor) for tensor in host]
        self._kernels: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func._schema.name.rpartition("::")[2], kwargs or {}
        taken = pytree.tree_leaves((args, kwargs))
        tensors = [value for value in taken if isinstance(value, Tensor)]
        masks = pytree.tree_leaves(args[1:2]) if name.startswith("index") else ()
        if name in _READING or any(isinstance(mask, Tensor) and mask.dtype is torch.bool for mask in masks):
            raise RuntimeError(f"operation not permitted when stream is capturing: {name}")
        if any(_memory(tensor) in self._host for tensor in tensors):
            raise RuntimeError(f"{name} is called with a tensor of the host in a capture")
        for drawn in taken:
            if isinstance(drawn, torch.Generator) and drawn._cdata not in self._generators:  # type: ignore[attr-defined]
                raise RuntimeError(f"{name} draws from a generator that the graph does not have")
        given = func(*args, **kwargs)
        # Views need no kernel; what may be one (reshape, contiguous) is one where it shares its memory.
        is_view = func.is_view and any(_memory(given) == _memory(tensor) for tensor in tensors)
        if not is_view and name not in _WITHOUT_VALUES and not name.startswith("_record_function"):
            self._kernels.append((func, args, kwargs, None if func._schema.is_mutable else given))
        return given

    def replay(self) -> None:
        for func, args, kwargs, recorded in self._kernels:
            given = func(*args, **kwargs)
            if recorded is not None:
                for held, value in zip(pytree.tree_leaves(recorded), pytree.tree_leaves(given), strict=True):
                    if isinstance(held, Tensor) and held.data_ptr() != value.data_ptr():
                        held.copy_(value)
