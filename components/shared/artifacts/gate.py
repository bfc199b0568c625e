"""What the gate decided, as evaluation.json, the report, the event and the model card have it."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field

from components.shared.artifacts.artifact import Record
from components.shared.events.data import GateOutcome, ThresholdOutcome

# An event fits every broker's limit; evaluation.json has all of them.
_IN_EVENT = 100

Finite = Annotated[float, Field(allow_inf_nan=False)]
# Low and high of a 95 % interval.
Bounds = Annotated[list[Finite], Field(min_length=2, max_length=2)]


class ThresholdResult(Record):
    """One threshold of the gate, and the figure that was held against it."""

    metric: str = Field(description="Name of the metric: accuracy, recall[cat], or vs_baseline.")
    wanted: str = Field(description='As text: "at least 0.97".')
    got: Finite | None = Field(
        description="The figure; of vs_baseline the difference in accuracy. None where it cannot be computed."
    )
    interval: Bounds | None = Field(None, description="Its 95 % interval, low and high; None where it has none.")
    passed: bool
    reason: str = Field("", description="Why there is no figure, or how the model compares to the baseline.")

    @property
    def got_text(self) -> str:
        """The figure for people: with all its digits where four would hide why it does not pass; a dash for none."""
        if self.got is None:
            return "–"
        rounded = _number(self.got)
        hides = not self.passed and float(rounded) in map(float, re.findall(r"-?[0-9.]+", self.wanted))
        return repr(self.got) if hides else rounded

    def __str__(self) -> str:
        parts = [self.metric]
        if self.got is not None:
            parts.append(self.got_text)
        if self.interval is not None:
            parts.append("({} to {})".format(*map(_number, self.interval)))
        found = " ".join(parts) + (f", {self.reason}" if self.reason else "")
        return f"{found}; wanted {self.wanted}"


class GateResult(Record):
    """What the gate decided of a model: it passes if every threshold is reached."""

    passed: bool
    thresholds: list[ThresholdResult] = Field(min_length=1)

    @property
    def failed(self) -> list[ThresholdResult]:
        """The thresholds that are not reached."""
        return [threshold for threshold in self.thresholds if not threshold.passed]

    def __str__(self) -> str:
        count, failed = len(self.thresholds), len(self.failed)
        of = f"{count} threshold{'' if count == 1 else 's'}"
        return f"gate passed: {of}" if self.passed else f"gate not passed: {failed} of {of} not reached"

    def outcome(self) -> GateOutcome:
        """The result as status events carry it: what is not reached first, and at most a hundred thresholds."""
        shown = sorted(self.thresholds, key=lambda threshold: threshold.passed)[:_IN_EVENT]
        rows = [ThresholdOutcome(one.metric, one.wanted, one.passed, one.got, one.reason or None) for one in shown]
        return GateOutcome(self.passed, rows, len(self.thresholds) - len(shown))


def _number(value: float) -> str:
    return f"{value:.4f}"
