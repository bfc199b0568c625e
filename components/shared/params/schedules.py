"""How long learning-rate schedules act, read from the params; without torch."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from components.shared.params.params import Params
from components.shared.params.types import ScheduleSpec

# The argument that says how long a schedule lasts, where an entry may leave it out: then it lasts all of its epochs.
_LENGTHS = {"CosineAnnealingLR": "T_max", "OneCycleLR": "total_steps", "PolynomialLR": "total_iters"}


def as_long_as(spec: ScheduleSpec, epochs: int, steps_per_epoch: int = 1) -> ScheduleSpec:
    """An entry in which the argument that says how long it lasts, where it was left out, is filled in."""
    argument = _LENGTHS.get(spec.short_name)
    if argument is None or spec.kwargs.keys() & {argument, "epochs", "steps_per_epoch"}:
        return spec
    steps = epochs * (steps_per_epoch if spec.interval == "batch" else 1)
    return spec.model_copy(update={"kwargs": {**spec.kwargs, argument: steps}})


class Stretch(NamedTuple):
    """Epochs in which the same schedules act: after `begin` epochs, up to `end`.

    Attributes:
        indices: Which of ``learning_rate_schedule`` act in it.
        warmup: Epochs of the warm-up, which is at the start of a run.
    """

    begin: int
    end: int
    indices: tuple[int, ...]
    warmup: float

    @property
    def epochs(self) -> int:
        """How many they are."""
        return self.end - self.begin


def stretches(params: Params) -> list[Stretch]:
    """The stretches of a run: one, or with ``milestones`` one for each schedule."""
    if not params.milestones:
        return [Stretch(0, params.num_epochs, tuple(range(len(params.learning_rate_schedule))), params.warmup_epochs)]
    bounds = pairwise([0, *params.milestones, params.num_epochs])
    return [Stretch(*ends, (index,), 0.0 if index else params.warmup_epochs) for index, ends in enumerate(bounds)]


def schedules_of_run_length(params: Params) -> list[str]:
    """The learning-rate schedules that last as long as the run, so that more epochs would have changed earlier ones."""
    found = []
    longer = params.model_copy(update={"num_epochs": params.num_epochs + 1})
    for one, other in zip(stretches(params), stretches(longer), strict=True):
        for index in one.indices:
            spec = params.learning_rate_schedule[index]
            here, there = (as_long_as(spec, stretch.epochs) for stretch in (one, other))
            if here != there:
                missing = ", ".join(here.kwargs.keys() - spec.kwargs.keys())
                found.append(f"learning_rate_schedule[{index}] ({spec.short_name} without {missing})")
    return found
