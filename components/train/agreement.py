"""What decides how a group's training goes on, that it is to end or to save: asked beside the steps, not at each."""

from __future__ import annotations

import time
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from components.train.group import Group

# Between two questions, so that SIGTERM's 30 s of grace stay for the checkpoint. A question costs both processes of a
# machine with two cores 0.6 ms, where a step of a small network takes 5.
_EVERY_S = 0.1
# Steps may become longer than they were: 16 that take a second each from then on are still within the grace.
_MOST_CALLS = 16


class Agreement:
    """What any process wants, known to all of them soon after, without anybody having waited for it.

    All processes call it equally often. Each question carries for how many calls the next one can wait by each
    process's clock, and the fewest count for all.
    """

    def __init__(self, group: Group) -> None:
        self._group = group
        self._wanted: tuple[bool, ...] = ()
        self._asked: tuple[Tensor, Any] | None = None
        self._gap = 1  # calls from one question to the next
        self._calls, self._since = 0, time.monotonic()  # of the last question

    def __call__(self, *wanted: bool, at_once: bool = False) -> tuple[bool, ...]:
        """Say what this process wants from now on; what any of them wants by an earlier call's question.

        Of one process alone the answer is to this call. `at_once` asks whatever the time, for calls far apart.
        """
        if self._group.size == 1:
            return wanted
        answer = self.close() or (False,) * len(wanted)
        self._wanted = tuple(one or before for one, before in zip(wanted, self._wanted or wanted, strict=True))
        self._calls += 1
        if at_once or self._calls >= self._gap:
            self._ask()
        return answer

    def _ask(self) -> None:
        now = time.monotonic()
        gap = min(_MOST_CALLS, max(1, int(_EVERY_S * self._calls / max(now - self._since, 1e-9))))
        asked = torch.tensor([*map(int, self._wanted), -gap])
        self._asked = asked, dist.all_reduce(asked, dist.ReduceOp.MAX, group=self._group.control, async_op=True)
        self._wanted, self._calls, self._since = (), 0, now

    def close(self) -> tuple[bool, ...]:
        """The answer that is still on its way; empty if none is."""
        if self._asked is None:
            return ()
        (asked, work), self._asked = self._asked, None
        work.wait()
        *answer, gap = asked.tolist()
        self._gap = -gap
        return tuple(bool(one) for one in answer)
