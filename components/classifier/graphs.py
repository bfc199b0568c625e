"""Kernels that are recorded once and issued anew as one: CUDA graphs, which spare the host a launch a kernel.

What is captured works on tensors that keep their address, and may neither read a value from the device nor have a
number of Python's change. A maker of graphs is a :class:`Graphs`; torch's is :class:`CudaGraphs`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from components.classifier.device import is_out_of_memory
from components.shared.text import first_line

Replay = Callable[[], object]

# A graph is made for as much as four calls, which what is called once or twice in a run would pay for nothing.
_PLAIN_CALLS = 2
# The allocators keep pointers to graphs whose capture failed, which they read at each later capture.
_FAILED: list[torch.cuda.CUDAGraph] = []


class Graphs(Protocol):
    """Makes graphs of callables."""

    def capture(self, work: Callable[[], object], generators: Sequence[torch.Generator] = ()) -> Replay:
        """Record what `work` has the device do, and return what has it done again.

        `work` may be called more than once, and what it changes in place is undefined afterwards.

        Args:
            work: Draws from torch's own generator and from `generators` alone.
            generators: On the device; each replay draws from them what `work` would.

        Raises:
            Exception: Whatever `work` raises, and torch's error of what cannot be captured.
        """
        ...


def _replay(graph: torch.cuda.CUDAGraph, _work: Callable[[], object]) -> None:
    """Replay a graph; what it was captured of is kept as long, as the graph itself keeps no tensor that it reads."""
    graph.replay()


class CudaGraphs:
    """CUDA graphs of a device over one pool of memory: none of them may keep there what outlives its replay.

    They are captured on the stream that is the current one, where that is not the device's default, else on another.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: torch.cuda.Stream | None = None
        self._pool: Any = None

    def capture(self, work: Callable[[], object], generators: Sequence[torch.Generator] = ()) -> Replay:
        """As :meth:`Graphs.capture`."""
        with torch.cuda.device(self._device):
            current = torch.cuda.current_stream(self._device)
            if self._stream is None:
                is_own = current != torch.cuda.default_stream(self._device)
                self._stream = current if is_own else torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
                self._pool = torch.cuda.graph_pool_handle()
            # What other streams have kept of memory this one cannot have: it would be there twice.
            torch.cuda.synchronize(self._device)
            torch.cuda.empty_cache()
            # Libraries make their handles and workspaces at their first call on a stream, which cannot be recorded.
            with torch.cuda.stream(self._stream):
                work()
            current.wait_stream(self._stream)
            try:
                graph = self._captured(work, generators)
            except BaseException:
                # Earlier versions of torch (2.9 is one) leave generators of a capture that failed in a state in which
                # none can draw; a capture that succeeds gets them out.
                with suppress(Exception):
                    self._captured(torch.zeros(1, device=self._device).zero_, generators)
                raise
        return partial(_replay, graph, work)

    def _captured(self, work: Callable[[], object], generators: Sequence[torch.Generator]) -> torch.cuda.CUDAGraph:
        graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self._device)
        for generator in generators:
            graph.register_generator_state(generator)
        try:
            # Other threads read images and write checkpoints meanwhile, which the mode by default takes for a fault.
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                work()
        except BaseException:
            self._clean_up(graph, current)
            raise
        return graph

    def _clean_up(self, failed: torch.cuda.CUDAGraph, current: torch.cuda.Stream) -> None:
        """Undo what torch, whose own cleaning up stops at the first error, leaves of a capture that failed."""
        _FAILED.append(failed)
        torch.cuda.set_stream(current)
        pool, self._pool = self._pool, torch.cuda.graph_pool_handle()
        # While the allocator takes a capture to be under way, no memory that two streams use is ever given back.
        try:
            torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), pool)
        except RuntimeError:  # a version that has ended it itself
            return
        torch._C._cuda_releasePool(torch.cuda.current_device(), pool)


def own_stream(device: torch.device) -> AbstractContextManager[object]:
    """On a GPU a stream for all of a run that captures steps, on which they are captured, too.

    Memory belongs to a stream, and so do the workspaces of cuBLAS, 32 MiB for each of two threads: steps on the default
    stream, on which nothing can be captured, would keep them a second time.
    """
    if device.type != "cuda":
        return nullcontext()
    return torch.cuda.stream(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]


class GraphedCall:
    """A function of tensors as a graph, for tensors of one shape; what it gives is the caller's own.

    Args:
        graphs: Makes the graph.
        work: Changes nothing in place.
        examples: Tensors as `work` takes them; it is called with them at once.

    Raises:
        RuntimeError: A replay does not give what `work` gave, up to rounding.
        Exception: Whatever `work` or the capture raises.
    """

    def __init__(self, graphs: Graphs, work: Callable[..., Tensor], *examples: Tensor) -> None:
        self._inputs = [example.clone() for example in examples]
        is_cached = torch.is_autocast_cache_enabled()
        # Weights that autocast has rounded already would be those of the capture for ever.
        torch.set_autocast_cache_enabled(False)
        try:
            expected = work(*self._inputs)
            # Not in the pool of the graphs, where the next replay of any of them may write.
            self._output = torch.zeros_like(expected)
            self._replay = graphs.capture(lambda: self._output.copy_(work(*self._inputs)))
        finally:
            torch.set_autocast_cache_enabled(is_cached)
        self._output.zero_()  # what is compared is the replay's
        try:
            torch.testing.assert_close(self(*examples), expected, equal_nan=True)
        except AssertionError as error:
            raise RuntimeError("a replay gave other values than the call that was captured") from error

    def __call__(self, *inputs: Tensor) -> Tensor:
        """What the function gives for `inputs`, shaped as the examples were."""
        for held, value in zip(self._inputs, inputs, strict=True):
            held.copy_(value)
        self._replay()
        return self._output.clone()


class GraphedCalls:
    """Functions by their names, called as graphs from their third call on; themselves where there can be no graph.

    A name stands for one function of tensors that keep their address, and `report` gets why one has no graph, once.
    """

    def __init__(self, graphs: Graphs, report: Callable[[str], None]) -> None:
        self._graphs, self._report = graphs, report
        self._calls: dict[tuple[Hashable, ...], GraphedCall | None] = {}
        self._plain = Counter[tuple[Hashable, ...]]()
        self._is_reported = False

    def __call__(self, name: Hashable, work: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """What `work` gives for `inputs`."""
        key = (name, *(value.shape for value in inputs))
        if key not in self._calls:
            if self._plain[key] < _PLAIN_CALLS:
                self._plain[key] += 1
                return work(*inputs)
            try:
                self._calls[key] = GraphedCall(self._graphs, work, *inputs)
            except Exception as error:  # whatever keeps it from being captured, a plain call does without
                self._calls[key] = None
                if not self._is_reported:
                    self._report(reason_of(error))
                self._is_reported = True
        call = self._calls[key]
        return work(*inputs) if call is None else call(*inputs)


def reason_of(error: BaseException) -> str:
    """Why work was not captured, for the log: the first error, whose cleaning up may have raised others."""
    while error.__context__ is not None:
        error = error.__context__
    return "there is not enough memory" if is_out_of_memory(error) else first_line(error)
