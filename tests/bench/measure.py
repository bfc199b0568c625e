"""How the benchmarks measure: contenders in turn, several rounds, the ratio of each round."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Ratio:
    """One comparison, measured in rounds in which each side ran once, and what the ratio is held to."""

    name: str
    ours: list[float]
    theirs: list[float]
    unit: str
    bound: str

    @property
    def ratios(self) -> list[float]:
        """Of each round."""
        return [mine / other for mine, other in zip(self.ours, self.theirs, strict=True)]

    @property
    def median(self) -> float:
        """Of the rounds' ratios."""
        return statistics.median(self.ratios)

    def line(self) -> str:
        """One row of the table."""
        return (
            f"{self.name:<58} {statistics.median(self.ours):>11,.1f} {statistics.median(self.theirs):>11,.1f} "
            f"{self.unit:<9} {self.median:>7.2f}  {min(self.ratios):.2f}–{max(self.ratios):.2f}  {self.bound}"
        )


HEAD = f"{'comparison':<58} {'ours':>11} {'theirs':>11} {'unit':<9} {'ratio':>7}  range  held to"


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compare(
    name: str, ours: Callable[[], float], theirs: Callable[[], float], *, unit: str, bound: str, rounds: int = 5
) -> Ratio:
    """Run both sides once to warm up, then `rounds` times in turn."""
    ours()
    theirs()
    pairs = [(ours(), theirs()) for _ in range(rounds)]
    return Ratio(name, [pair[0] for pair in pairs], [pair[1] for pair in pairs], unit, bound)
