"""The processes of one training: one alone, or a group that torchrun has started.

Every process holds the whole network and computes its part of every batch; torch's DistributedDataParallel averages
the gradients. What decides how the run goes on, that it is told to end or is to save, is agreed on first, because
processes that do not do the same at the same step wait for each other for ever.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")

# How long a process waits for the others: longer than fetching a dataset or writing a model takes.
_PATIENCE = timedelta(minutes=60)


@dataclass(frozen=True)
class Group:
    """This process among those that train together.

    Attributes:
        rank: From 0; rank 0 speaks and saves.
        size: How many there are.
        control: Where they agree, on the CPU whatever trains; None for one alone.
    """

    rank: int = 0
    size: int = 1
    control: Any = None

    @property
    def is_first(self) -> bool:
        """Whether this process speaks and saves."""
        return self.rank == 0

    def own(self, part: slice) -> slice:
        """This process's share of a batch: contiguous, and all shares together are the batch."""
        count = part.stop - part.start
        start = part.start + count * self.rank // self.size
        return slice(start, part.start + count * (self.rank + 1) // self.size)

    def summed(self, values: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def gathered(self, value: T) -> list[T]:
        """The values of all processes by rank."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value, group=self.control)
        return found

    def from_first(self, value: T) -> T:
        """The value of rank 0."""
        if self.size == 1:
            return value
        box: list[Any] = [value if self.is_first else None]
        dist.broadcast_object_list(box, src=0, group=self.control)
        return box[0]  # type: ignore[no-any-return]

    def on_first(self, work: Callable[[], T]) -> T:
        """What rank 0 makes of some work, or the error it makes of it; every process of the group gets either.

        Raises:
            Exception: As rank 0's work.
        """
        if self.size == 1:
            return work()
        outcome: tuple[T | None, Exception | None] = (None, None)
        if self.is_first:
            try:
                outcome = work(), None
            except Exception as error:  # is raised by all of them, below
                outcome = None, error
        value, failure = self.from_first(outcome)
        if failure is not None:
            raise failure
        return value  # type: ignore[return-value] # rank 0's own


ALONE = Group()


class Agreement:
    """What any process wants, known to all of them one step later, without anybody having waited for it."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self._asked: tuple[Tensor, Any] | None = None

    def __call__(self, *wanted: bool) -> tuple[bool, ...]:
        """Ask at a step; the answer is to what was asked at the step before, of one process alone to this."""
        if self._group.size == 1:
            return wanted
        answer = self.close() or (False,) * len(wanted)
        asked = torch.tensor([int(one) for one in wanted])
        self._asked = asked, dist.all_reduce(asked, dist.ReduceOp.MAX, group=self._group.control, async_op=True)
        return answer

    def close(self) -> tuple[bool, ...]:
        """The answer that is still on its way; empty if none is."""
        if self._asked is None:
            return ()
        asked, work = self._asked
        self._asked = None
        work.wait()
        return tuple(bool(one) for one in asked.tolist())


def in_group() -> bool:
    """Whether torchrun, or what sets the same variables, has started this process."""
    return int(os.environ.get("WORLD_SIZE", "1") or 1) > 1


@contextmanager
def joined(device: torch.device) -> Iterator[Group]:
    """Join the group that the environment tells of; without one, be alone.

    Args:
        device: This process's.
    """
    if not in_group():
        yield ALONE
        return
    cuda = device.type == "cuda"
    dist.init_process_group("nccl" if cuda else "gloo", timeout=_PATIENCE, device_id=device if cuda else None)
    try:
        control = dist.new_group(backend="gloo", timeout=_PATIENCE)
        yield Group(dist.get_rank(), dist.get_world_size(), control)
    finally:
        dist.destroy_process_group()
