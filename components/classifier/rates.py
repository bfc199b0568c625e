"""The learning rates of a run before it begins: torch's schedules are run over its epochs, and asked what they do.

One by one each is run as it would be alone, and once more from half the rate. What multiplies the rate then gives half
of every rate; what sets it (OneCycleLR, CyclicLR, CosineAnnealingWarmRestarts, a CosineAnnealingLR with ``eta_min`` or
beyond its ``T_max``) does not, and would undo what acts beside it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, MultiStepLR, ReduceLROnPlateau

from components.classifier.optimisers import plain_optimiser
from components.classifier.schedules import Schedules, Stretch, stretches
from components.shared.errors import ParamsError, Problem
from components.shared.params.params import Params
from components.shared.params.rules import instead_of_warmup
from components.shared.params.types import ScheduleSpec, first_line

# Steps that are looked at in one pass: 0.4 s where an epoch's steps are not known yet, and 4 s of a run of a million.
_STEPS, _STEPS_OF_A_RUN = 100_000, 1_000_000
# Steps after which schedules that set the rate have shown that learning_rate has no part in it.
_FIRST_STEPS = 50
# Of a run's highest rate: OneCycleLR ends at 4e-6 of its own, which is the lowest end that torch proposes. A weight in
# float32 has 24 bits, so that a step a millionth of an ordinary one, a thousandth of the weight, mostly rounds to none.
_NOTHING = 1e-6
# Arguments that are a number of steps, by the attribute in which torch keeps them.
_LENGTHS = {
    "T_max": "T_max",
    "T_0": "T_0",
    "step_size": "step_size",
    "total_iters": "total_iters",
    "total_steps": "total_steps",
    "total_size": "step_size_up + step_size_down",
}


@dataclass
class Rehearsal:
    """What a rehearsal found.

    Attributes:
        problems: What would fail in mid-training, or train with other rates than were meant.
        notes: What has no effect, or another one than it seems; a sentence each.
    """

    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class _BrokenError(Exception):
    """A schedule fails; the text says in which epoch and why."""


def rehearse(params: Params, steps_per_epoch: int | None = None) -> Rehearsal:
    """Build the optimiser, run the schedules over the run's epochs with one dummy parameter, and say what is wrong.

    Finds in milliseconds what else would fail in mid-training (a OneCycleLR shorter than the run, a CyclicLR on an
    optimiser without momentum), and rates that nobody means: schedules that undo each other, rates below 0.

    Args:
        params: The run's options.
        steps_per_epoch: Steps of the optimiser in an epoch; None where they are not known yet, and little can be said
            of schedules that are stepped by batch.
    """
    found = Rehearsal()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # no optimiser step is made between the schedules' steps
        try:
            optimiser = plain_optimiser(params)
            Schedules(params, optimiser, steps_per_epoch or 1)
        except ParamsError as error:
            found.problems += error.problems
            return found
        try:
            optimiser.step()
        except Exception as error:  # whatever an optimiser raises is about its kwargs or the learning rate
            message = f"{params.optim_class} fails at a step with learning_rate {params.learning_rate:g}"
            found.problems.append(Problem("optim_class", f"{message} and these optim_kwargs: {first_line(error)}"))
            return found
        for stretch in stretches(params):
            for index in stretch.indices:
                _look_at_one(_One(params, stretch, index, steps_per_epoch), found)
        if not found.problems:
            _look_at_all(params, steps_per_epoch, found)
    return found


@dataclass(frozen=True)
class _One:
    """One schedule in the epochs in which it acts."""

    params: Params
    stretch: Stretch
    index: int
    steps_per_epoch: int | None

    @property
    def spec(self) -> ScheduleSpec:
        return self.params.learning_rate_schedule[self.index]

    @property
    def path(self) -> str:
        return f"learning_rate_schedule[{self.index}]"

    @property
    def has_known_length(self) -> bool:
        return self.spec.interval == "epoch" or self.steps_per_epoch is not None

    @property
    def most(self) -> int:
        """Steps that are looked at."""
        steps = _STEPS if self.steps_per_epoch is None else _STEPS_OF_A_RUN
        return steps // max(1, len(self.stretch.indices))

    @property
    def steps_in_epoch(self) -> int:
        """Steps of the schedule in an epoch."""
        return 1 if self.spec.interval == "epoch" else (self.steps_per_epoch or 1)

    @property
    def steps(self) -> int:
        """Steps of the schedule in all."""
        return self.stretch.epochs * self.steps_in_epoch

    @property
    def unit(self) -> str:
        return f"{self.steps:,} {'epoch' if self.spec.interval == 'epoch' else 'step'}{'s'[: self.steps > 1]}"

    def is_evaluated(self, epoch: int) -> bool:
        """Whether an epoch of the stretch, from 1, is evaluated."""
        of_run = self.stretch.begin + epoch
        return of_run % self.params.eval_freq == 0 or of_run == self.params.num_epochs

    def epoch_of(self, step: int) -> int:
        """The run's epoch, from 1, that a step of the schedule is in."""
        return self.stretch.begin + step // self.steps_in_epoch + 1

    def course(self, *, most: int | None = None, times: float = 1.0, of: Params | None = None) -> _Course:
        """Run it alone; `times` the rate once it is built."""
        plan = [Stretch(0, self.stretch.epochs, (self.index,), 0.0)]
        course = _Course(of or self.params, plan, self.steps_in_epoch)
        return course.run(self.most if most is None else most, self.is_evaluated, times, self.stretch.begin)


class _Course:
    """What schedules do to an optimiser, step by step.

    Attributes:
        rates: Of each step.
        momenta: All that were there, and the one of the optimiser's own is the first.
        scheduler: The first of those that act first.
    """

    def __init__(self, params: Params, plan: Sequence[Stretch], steps_per_epoch: int) -> None:
        self._params, self._plan, self._steps = params, plan, steps_per_epoch
        self._optimiser = plain_optimiser(params)
        self.momenta = [_momentum(self._optimiser)]
        self._schedules = Schedules(params, self._optimiser, steps_per_epoch, plan)
        self.scheduler: LRScheduler | None = next(iter(self._schedules.by_epoch + self._schedules.by_batch), None)
        self.rates: list[float] = []

    def run(self, most: int, is_evaluated: Callable[[int], bool], times: float = 1.0, before: int = 0) -> _Course:
        """Run them over their epochs, or over the first `most` steps.

        Raises:
            _BrokenError: A schedule or the optimiser fails.
        """
        (group,) = self._optimiser.param_groups
        group["lr"] *= times
        begins = {stretch.begin for stretch in self._plan}
        for epoch in range(1, self._plan[-1].end + 1):
            try:
                if epoch - 1 in begins:
                    self._optimiser.step()  # which fails where a schedule brings a momentum, and there was none
                for _ in range(self._steps):
                    if len(self.rates) == most:
                        return self
                    self.rates.append(float(group["lr"]))
                    if (momentum := _momentum(self._optimiser)) != self.momenta[-1]:
                        self.momenta.append(momentum)
                    self._schedules.step_batch()
                self._schedules.step(*((1.0, 0.5) if is_evaluated(epoch) else (None, None)))
            except ParamsError:
                raise
            except Exception as error:  # whatever a schedule raises is about its kwargs
                where = f"in epoch {before + epoch} of {self._params.num_epochs}"
                why = first_line(error) if not isinstance(error, KeyError) else f"no {error} in the optimiser's state"
                raise _BrokenError(f"fails {where}: {why}") from error
        return self


def _momentum(optimiser: Optimizer) -> float | None:
    (group,) = optimiser.param_groups
    found = group["betas"][0] if "betas" in group else group.get("momentum")
    return None if found is None else float(found)


def _look_at_one(one: _One, found: Rehearsal) -> None:
    """What is wrong with one schedule by itself, and with it beside the others."""
    try:
        scheduler = one.course(most=0).scheduler
        if problems := list(_argument_problems(one, scheduler)):
            found.problems += problems
            return
        course = one.course()
    except ParamsError as error:
        found.problems += error.problems
        return
    except _BrokenError as error:
        found.problems.append(Problem(f"{one.path}.kwargs", f"{one.spec.class_} {error}{_without_length(one.spec)}"))
        return
    wrong = next((step for step, rate in enumerate(course.rates) if not 0 <= rate < math.inf), None)
    if wrong is not None:
        message = (
            f"{one.spec.short_name} makes the learning rate {course.rates[wrong]:g} in epoch {one.epoch_of(wrong)}"
        )
        found.problems.append(Problem(f"{one.path}.kwargs", message))
        return
    beside = [f"learning_rate_schedule[{index}]" for index in one.stretch.indices if index != one.index]
    beside += ["warmup_epochs"] if one.stretch.warmup else []
    if beside and not isinstance(scheduler, ReduceLROnPlateau):
        found.problems += _undoes(one, course, beside)
    others = len(one.stretch.indices) > 1
    if others and isinstance(scheduler, ReduceLROnPlateau) and (lowest := max(scheduler.min_lrs)) > 0:
        found.notes.append(
            f"{one.path} ({one.spec.short_name}): min_lr {lowest:g} is compared with what all schedules make the "
            "learning rate together: below it, this one reduces no more"
        )
    if one.has_known_length:
        found.notes += [f"{one.path} ({one.spec.short_name}): {note}" for note in _notes(one, course)]


def _without_length(spec: ScheduleSpec) -> str:
    """What to do where a OneCycleLR, which alone fails beyond its end, is too short."""
    given = [key for key in ("total_steps", "epochs", "steps_per_epoch") if spec.kwargs.get(key) is not None]
    if spec.short_name != "OneCycleLR" or not given:
        return ""
    return f"; leave {' and '.join(given)} out, and it lasts as long as its epochs"


def _argument_problems(one: _One, scheduler: Any) -> Iterator[Problem]:
    """Arguments that torch takes, and that mean nothing."""
    for attribute, argument in _LENGTHS.items():
        if getattr(scheduler, attribute, 1) < 1:
            where = f"{one.path}.kwargs" + (f".{argument}" if argument.isidentifier() else "")
            yield Problem(where, f"{argument} must be at least 1, got {getattr(scheduler, attribute):g}")
    lowest = getattr(scheduler, "eta_min", 0.0)
    if lowest > one.params.learning_rate:
        message = f"must be at most learning_rate, {one.params.learning_rate:g}, which falls to it; got {lowest:g}"
        yield Problem(f"{one.path}.kwargs.eta_min", message)
    if isinstance(scheduler, MultiStepLR) and any(epoch != int(epoch) for epoch in scheduler.milestones):
        yield Problem(f"{one.path}.kwargs.milestones", "must be whole numbers")


def _undoes(one: _One, course: _Course, beside: list[str]) -> Iterator[Problem]:
    """Whether a schedule sets the rate, whatever others have made it."""
    halved = one.course(times=0.5)
    scale = one.params.learning_rate
    for step, (rate, got) in enumerate(zip(course.rates, halved.rates, strict=True)):
        if not math.isclose(got, rate / 2, rel_tol=1e-6, abs_tol=1e-9 * scale):
            message = (
                f"{one.spec.short_name} sets the learning rate whatever {' and '.join(beside)} made it: halved before, "
                f"it is {_apart(got, rate / 2)} in epoch {one.epoch_of(step)}; {_instead(one)}"
            )
            yield Problem(f"{one.path}.class", message)
            return


def _apart(got: float, wanted: float) -> str:
    """Two rates that differ, in as many digits as show it."""
    digits = next(count for count in range(4, 18) if f"{got:.{count}g}" != f"{wanted:.{count}g}")
    return f"{got:#.{digits}g} and not {wanted:#.{digits}g}"  # "#" keeps zeros at the end


def _instead(one: _One) -> str:
    """What to set where a schedule undoes what acts beside it."""
    if len(one.stretch.indices) > 1:
        return "give each schedule its own epochs by milestones, or leave one out"
    return instead_of_warmup(one.spec.short_name, one.stretch.warmup)


def _notes(one: _One, course: _Course) -> Iterator[str]:
    """What has no effect, or another one than it seems."""
    scheduler: Any = course.scheduler
    rates, rate = course.rates, one.params.learning_rate
    if all(math.isclose(each, rate) for each in rates):
        yield _why_no_effect(one, scheduler)
    if isinstance(scheduler, MultiStepLR):
        never = sorted(step for step in scheduler.milestones if not 0 <= step < one.steps)
        if never:
            yield f"milestones {', '.join(f'{step:g}' for step in never)} are not reached in its {one.unit}"
    for attribute, argument in _LENGTHS.items():
        if attribute != "step_size" and getattr(scheduler, attribute, 0) > one.steps:
            length = getattr(scheduler, attribute)
            yield f"{argument} {length:g} is longer than its {one.unit}; the rate ends at {rates[-1]:.4g}"
    if one.steps > (turn := getattr(scheduler, "T_max", one.steps)) + 1:
        yield f"T_max {turn} is shorter than its {one.unit}; the rate rises again in epoch {one.epoch_of(turn + 1)}"
    doubled = one.params.model_copy(update={"learning_rate": 2 * rate})
    if any(rates) and one.course(most=_FIRST_STEPS, of=doubled).rates == rates[:_FIRST_STEPS]:
        yield f"learning_rate {rate:g} has no effect; the rates are its own, {min(rates):.4g} to {max(rates):.4g}"
    momenta = [momentum for momentum in course.momenta if momentum is not None]
    if moved := momenta[1:]:
        yield (
            f"moves the optimiser's momentum, {momenta[0]:g}, between {min(moved):.4g} and {max(moved):.4g}; "
            "cycle_momentum: false keeps it"
        )


def _why_no_effect(one: _One, scheduler: Any) -> str:
    """Of a schedule that leaves the rate as it is."""
    if isinstance(scheduler, ReduceLROnPlateau):
        # The first evaluation is the best so far; after the last epoch there is nothing left to train.
        needed = scheduler.patience + 2
        evaluations = sum(one.is_evaluated(epoch) for epoch in range(1, min(one.stretch.epochs, one.most)))
        if evaluations < needed:
            return (
                f"has no effect: patience {scheduler.patience} asks for {needed:,} evaluations before the last of its "
                f"{one.unit}, and eval_freq {one.params.eval_freq} makes {evaluations:,}"
            )
    return f"has no effect in its {one.unit}: the rate stays {one.params.learning_rate:g}"


def _look_at_all(params: Params, steps_per_epoch: int | None, found: Rehearsal) -> None:
    """What is wrong with the rates of the run."""
    steps, plan = steps_per_epoch or 1, stretches(params)
    most = (_STEPS if steps_per_epoch is None else _STEPS_OF_A_RUN) // max(1, *(len(one.indices) for one in plan))
    try:
        course = _Course(params, plan, steps).run(most, lambda _: False)
    except ParamsError as error:
        found.problems += error.problems
        return
    except _BrokenError as error:
        found.problems.append(Problem("learning_rate_schedule", f"{params.optim_class} {error}"))
        return
    if not all(0 <= rate < math.inf for rate in course.rates):
        found.problems.append(Problem("learning_rate_schedule", "together the schedules make the rate infinite"))
        return
    if steps_per_epoch is None and any(spec.interval == "batch" for spec in params.learning_rate_schedule):
        return
    epochs = [course.rates[begin : begin + steps] for begin in range(0, len(course.rates), steps)]
    still = [number for number, rates in enumerate(epochs, 1) if not any(rates)]
    highest = max(course.rates)
    tiny = [number for number, rates in enumerate(epochs, 1) if 0 < max(rates) < _NOTHING * highest]
    if len(still) == params.num_epochs:
        found.problems.append(Problem("learning_rate_schedule", "the learning rate is 0 in every epoch"))
    elif still:
        found.notes.append(f"learning_rate_schedule: the learning rate is 0 in {_spelled(still)}: nothing is trained")
    if tiny:
        found.notes.append(
            f"learning_rate_schedule: the learning rate is below a millionth of its highest, {highest:.4g}, in "
            f"{_spelled(tiny)}, at last {epochs[-1][-1]:.2g}: next to nothing is trained"
        )
    if len(course.rates) == most and most < params.num_epochs * steps:
        found.notes.append(
            f"learning_rate_schedule: the rates of the first {most:,} of {params.num_epochs * steps:,} steps were tried"
        )


def _spelled(epochs: list[int]) -> str:
    """``epoch 7`` or ``epochs 6 to 10``; of several spans their ends and their number."""
    if len(epochs) == 1:
        return f"epoch {epochs[0]}"
    is_span = epochs[-1] - epochs[0] == len(epochs) - 1
    return f"{'' if is_span else f'{len(epochs):,} of '}epochs {epochs[0]} to {epochs[-1]}"
