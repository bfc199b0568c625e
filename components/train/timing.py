"""Where the time of a training goes."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any

import torch

from components.shared.artifacts.model import TIME_SHARES

STEP_PARTS = TIME_SHARES[:3]
# On a GPU every so many steps are timed on the device: an event costs some microseconds.
_SAMPLED = 25


class Timing:
    """Adds up wall time by what it went to, in `seconds`; a lap costs a tenth of a microsecond.

    On a GPU the host runs ahead of the device, and waits at some later line that is not to blame. There the parts of a
    step come from the device's own clock, in a sample of the steps, and the time that all steps took is shared out
    accordingly.
    """

    def __init__(self, device: torch.device) -> None:
        self.seconds = dict.fromkeys(TIME_SHARES, 0.0)
        self._last = time.perf_counter()
        self._on_device = dict.fromkeys(STEP_PARTS, 0.0)
        self._stream = torch.cuda.current_stream(device) if device.type == "cuda" else None
        self._marks: list[Any] = []
        self._steps = 0
        self._is_sampled = False

    def begin_step(self) -> None:
        """A step of the optimiser begins."""
        if self._stream is None:
            return
        self._is_sampled = self._steps % _SAMPLED == 0
        self._steps += 1
        if self._is_sampled:
            # Read the last sample, which the device has passed many steps ago.
            for (_, before), (part, after) in pairwise(self._marks):
                if after.query():
                    self._on_device[part] += before.elapsed_time(after) / 1000
            self._marks = []
            self._mark("begin")

    def begin(self) -> None:
        """What has passed since the last lap belongs to nothing."""
        self._last = time.perf_counter()

    def lap(self, part: str) -> None:
        """What has passed since the last lap went to `part`."""
        now = time.perf_counter()
        self.seconds[part] += now - self._last
        self._last = now
        if part == "compiling":  # meanwhile the device had nothing to do, which no part of a step is to blame for
            self._is_sampled, self._marks = False, []
        if self._is_sampled and part in STEP_PARTS:
            self._mark(part)

    def _mark(self, part: str) -> None:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(self._stream)
        self._marks.append((part, event))

    @property
    def training(self) -> float:
        """Seconds of the steps."""
        return sum(self.seconds[part] for part in (*STEP_PARTS, "captured_step"))

    def shares(self) -> dict[str, float]:
        """Share of each part in all the time so far; together 1."""
        seconds = dict(self.seconds)
        if (sampled := sum(self._on_device.values())) > 0:
            plain = self.training - self.seconds["captured_step"]  # whose parts nobody knows
            seconds |= {part: plain * self._on_device[part] / sampled for part in STEP_PARTS}
        total = sum(seconds.values()) or 1.0
        return {part: seconds[part] / total for part in TIME_SHARES}
