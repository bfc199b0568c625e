"""The learning rates of a run before it begins: torch's schedules are run over its epochs, and their effect is judged.

What sets the rate (OneCycleLR, CyclicLR, CosineAnnealingWarmRestarts, a CosineAnnealingLR with ``eta_min`` or beyond
its ``T_max``) would undo what acts beside it; the other schedules multiply it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, MultiStepLR, ReduceLROnPlateau

from components.classifier.optimisers import Schedules, plain_optimiser
from components.shared.errors import ParamsError, Problem
from components.shared.params.params import Params
from components.shared.params.rules import instead_of_warmup
from components.shared.params.schedules import Stretch, stretches
from components.shared.text import first_line

# Steps that are run in one pass: 0.4 s where an epoch's steps are not known yet, and 4 s of a run of a million.
_STEPS, _STEPS_OF_A_RUN = 100_000, 1_000_000
# Steps after which schedules that set the rate have shown that learning_rate has no part in it.
_FIRST_STEPS = 50
# Of a run's highest rate: OneCycleLR ends at 4e-6 of its own, which is the lowest end that torch proposes. A weight in
# float32 has 24 bits, so that a step a millionth of an ordinary one, a thousandth of the weight, mostly rounds to none.
_NOTHING = 1e-6
# Arguments that are a number of steps, by the attribute in which torch keeps them.
_LENGTHS = {name: name for name in ("T_max", "T_0", "step_size", "total_iters", "total_steps")}
_LENGTHS["total_size"] = "step_size_up + step_size_down"


class Rehearsal(NamedTuple):
    """What a rehearsal found.

    Attributes:
        problems: What would fail in mid-training, or train with other rates than were meant.
        notes: What has no effect, or another one than it seems; a sentence each.
    """

    problems: list[Problem]
    notes: list[str]


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
    found = Rehearsal([], [])

    def collect(findings: Iterator[Problem | str]) -> bool:
        try:
            for finding in findings:
                if isinstance(finding, Problem):
                    found.problems.append(finding)
                else:
                    found.notes.append(finding)
        except ParamsError as error:
            found.problems.extend(error.problems)
        return not found.problems

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # no optimiser step is made between the schedules' steps
        if collect(_of_optimiser(params, steps_per_epoch or 1)):
            for stretch in stretches(params):
                for index in stretch.indices:
                    collect(_One(params, stretch, index, steps_per_epoch).findings())
            if not found.problems:
                collect(_of_run(params, steps_per_epoch))
    return found


class _Course(NamedTuple):
    """What schedules do to an optimiser: the rate of each step, every momentum, the optimiser's own first."""

    scheduler: Any  # the first of those that act first
    rates: list[float]
    momenta: list[float | None]


def _run(
    params: Params,
    plan: Sequence[Stretch],
    steps_per_epoch: int,
    most: int,
    is_evaluated: Callable[[int], bool],
    before: int = 0,
) -> _Course:
    """Run schedules over their epochs, or over the first `most` steps."""
    optimiser = plain_optimiser(params)
    momenta, rates = [_momentum(optimiser)], list[float]()
    schedules = Schedules(params, optimiser, steps_per_epoch, plan)
    course = _Course(next(iter(schedules.by_epoch + schedules.by_batch), None), rates, momenta)
    (group,) = optimiser.param_groups
    begins = {stretch.begin for stretch in plan}
    for epoch in range(1, plan[-1].end + 1):
        try:
            if epoch - 1 in begins:
                optimiser.step()  # which fails where a schedule brings a momentum, and there was none
            for _ in range(steps_per_epoch):
                if len(rates) == most:
                    return course
                rates.append(float(group["lr"]))
                if (momentum := _momentum(optimiser)) != momenta[-1]:
                    momenta.append(momentum)
                schedules.step_batch()
            schedules.step(*((1.0, 0.5) if is_evaluated(epoch) else (None, None)))
        except ParamsError:
            raise
        except Exception as error:  # whatever a schedule raises is about its kwargs
            why = first_line(error) if not isinstance(error, KeyError) else f"no {error} in the optimiser's state"
            raise _BrokenError(f"fails in epoch {before + epoch} of {params.num_epochs}: {why}") from error
    return course


def _momentum(optimiser: Optimizer) -> float | None:
    (group,) = optimiser.param_groups
    found = group["betas"][0] if "betas" in group else group.get("momentum")
    return None if found is None else float(found)


def _of_optimiser(params: Params, steps_per_epoch: int) -> Iterator[Problem | str]:
    optimiser = plain_optimiser(params)
    Schedules(params, optimiser, steps_per_epoch)
    try:
        optimiser.step()
    except Exception as error:  # whatever an optimiser raises is about its kwargs or the learning rate
        message = f"{params.optim_class} fails at a step with learning_rate {params.learning_rate:g}"
        yield Problem("optim_class", f"{message} and these optim_kwargs: {first_line(error)}")


class _One:
    """One schedule in the epochs in which it acts."""

    def __init__(self, params: Params, stretch: Stretch, index: int, steps_per_epoch: int | None) -> None:
        self._params, self._stretch = params, stretch
        self._spec = params.learning_rate_schedule[index]
        self._name, self._path = self._spec.short_name, f"learning_rate_schedule[{index}]"
        by_epoch = self._spec.interval == "epoch"
        self._has_known_length = by_epoch or steps_per_epoch is not None
        self._steps_per_epoch = 1 if by_epoch else (steps_per_epoch or 1)
        self._steps = stretch.epochs * self._steps_per_epoch
        self._most = (_STEPS if steps_per_epoch is None else _STEPS_OF_A_RUN) // len(stretch.indices)
        self._unit = f"{self._steps:,} {'epoch' if by_epoch else 'step'}{'s'[: self._steps > 1]}"
        self._beside = [f"learning_rate_schedule[{other}]" for other in stretch.indices if other != index]
        self._plan = [Stretch(0, stretch.epochs, (index,), 0.0)]

    def _is_evaluated(self, epoch: int) -> bool:
        of_run = self._stretch.begin + epoch
        return of_run % self._params.eval_freq == 0 or of_run == self._params.num_epochs

    def _epoch_of(self, step: int) -> int:
        """The run's epoch, from 1, that a step of the schedule is in."""
        return self._stretch.begin + step // self._steps_per_epoch + 1

    def _alone(self, *, most: int | None = None, params: Params | None = None) -> _Course:
        most = self._most if most is None else most
        return _run(
            params or self._params, self._plan, self._steps_per_epoch, most, self._is_evaluated, self._stretch.begin
        )

    def findings(self) -> Iterator[Problem | str]:
        """What is wrong with it by itself, with it beside the others, and what has no effect."""
        kwargs, warmup = f"{self._path}.kwargs", self._stretch.warmup
        try:
            scheduler = self._alone(most=0).scheduler
            if problems := list(self._argument_problems(scheduler)):
                yield from problems
                return
            course = self._alone()
        except _BrokenError as error:
            lengths = ("total_steps", "epochs", "steps_per_epoch")
            given = [key for key in lengths if self._spec.kwargs.get(key) is not None]
            # Which alone fails beyond its end.
            is_short = self._name == "OneCycleLR" and given
            advice = f"; leave {' and '.join(given)} out, and it lasts as long as its epochs" if is_short else ""
            yield Problem(kwargs, f"{self._spec.class_} {error}{advice}")
            return
        wrong = next((step for step, each in enumerate(course.rates) if not 0 <= each < math.inf), None)
        if wrong is not None:
            made = f"makes the learning rate {course.rates[wrong]:g} in epoch {self._epoch_of(wrong)}"
            yield Problem(kwargs, f"{self._name} {made}")
            return
        beside = self._beside + (["warmup_epochs"] if warmup else [])
        if isinstance(scheduler, ReduceLROnPlateau):
            if self._beside and (lowest := max(scheduler.min_lrs)) > 0:
                yield (
                    f"{self._path} ({self._name}): min_lr {lowest:g} is compared with what all schedules make the "
                    "learning rate together: below it, this one reduces no more"
                )
        elif beside and isinstance(scheduler, CosineAnnealingLR):
            # Up to its T_max it multiplies the rate that it finds, as long as it falls to 0.
            is_beyond = self._has_known_length and self._steps > scheduler.T_max + 1
            if scheduler.eta_min > 0 or is_beyond:
                how = f"with eta_min {scheduler.eta_min:g}" if scheduler.eta_min > 0 else "beyond its T_max"
                by_milestones = "give each schedule its own epochs by milestones, or leave one out"
                advice = by_milestones if self._beside else instead_of_warmup(self._name, warmup)
                message = f"{self._name} {how} sets the learning rate whatever {' and '.join(beside)} made it; {advice}"
                yield Problem(f"{self._path}.class", message)
        if self._has_known_length:
            yield from (f"{self._path} ({self._name}): {note}" for note in self._notes(course))

    def _argument_problems(self, scheduler: Any) -> Iterator[Problem]:
        """Arguments that torch takes, and that mean nothing."""
        kwargs, rate = f"{self._path}.kwargs", self._params.learning_rate
        for attribute, argument in _LENGTHS.items():
            if (length := getattr(scheduler, attribute, 1)) < 1:
                where = f"{kwargs}.{argument}" if argument.isidentifier() else kwargs
                yield Problem(where, f"{argument} must be at least 1, got {length:g}")
        if (lowest := getattr(scheduler, "eta_min", 0.0)) > rate:
            message = f"must be at most learning_rate, {rate:g}, which falls to it; got {lowest:g}"
            yield Problem(f"{kwargs}.eta_min", message)
        if isinstance(scheduler, MultiStepLR) and any(epoch != int(epoch) for epoch in scheduler.milestones):
            yield Problem(f"{kwargs}.milestones", "must be whole numbers")

    def _notes(self, course: _Course) -> Iterator[str]:
        """What has no effect, or another one than it seems."""
        scheduler, rates, rate = course.scheduler, course.rates, self._params.learning_rate
        if all(math.isclose(each, rate) for each in rates):
            # The first evaluation is the best so far; after the last epoch there is nothing left to train.
            needed = scheduler.patience + 2 if isinstance(scheduler, ReduceLROnPlateau) else 0
            evaluations = sum(self._is_evaluated(epoch) for epoch in range(1, min(self._stretch.epochs, self._most)))
            if evaluations < needed:
                yield (
                    f"has no effect: patience {scheduler.patience} asks for {needed:,} evaluations before the last of "
                    f"its {self._unit}, and eval_freq {self._params.eval_freq} makes {evaluations:,}"
                )
            else:
                yield f"has no effect in its {self._unit}: the rate stays {rate:g}"
        if isinstance(scheduler, MultiStepLR):
            never = sorted(step for step in scheduler.milestones if not 0 <= step < self._steps)
            if never:
                yield f"milestones {', '.join(f'{step:g}' for step in never)} are not reached in its {self._unit}"
        for attribute, argument in _LENGTHS.items():
            length = getattr(scheduler, attribute, 0)
            if attribute != "step_size" and length > self._steps:
                yield f"{argument} {length:g} is longer than its {self._unit}; the rate ends at {rates[-1]:.4g}"
        if self._steps > (turn := getattr(scheduler, "T_max", self._steps)) + 1:
            again = self._epoch_of(turn + 1)
            yield f"T_max {turn} is shorter than its {self._unit}; the rate rises again in epoch {again}"
        doubled = self._params.model_copy(update={"learning_rate": 2 * rate})
        if any(rates) and self._alone(most=_FIRST_STEPS, params=doubled).rates == rates[:_FIRST_STEPS]:
            beside = "" if self._params.backbone_learning_rate is None else " but on the backbone's share"
            own = f"the rates are its own, {min(rates):.4g} to {max(rates):.4g}"
            yield f"learning_rate {rate:g} has no effect{beside}; {own}"
        momenta = [momentum for momentum in course.momenta if momentum is not None]
        if moved := momenta[1:]:
            yield (
                f"moves the optimiser's momentum, {momenta[0]:g}, between {min(moved):.4g} and {max(moved):.4g}; "
                "cycle_momentum: false keeps it"
            )


def _of_run(params: Params, steps_per_epoch: int | None) -> Iterator[Problem | str]:
    """What is wrong with the rates of the run."""
    key = "learning_rate_schedule"
    steps, plan = steps_per_epoch or 1, stretches(params)
    most = (_STEPS if steps_per_epoch is None else _STEPS_OF_A_RUN) // max(1, *(len(one.indices) for one in plan))
    try:
        rates = _run(params, plan, steps, most, lambda _: False).rates
    except _BrokenError as error:
        yield Problem(key, f"{params.optim_class} {error}")
        return
    if not all(0 <= rate < math.inf for rate in rates):
        yield Problem(key, "together the schedules make the rate infinite")
        return
    if steps_per_epoch is None and any(spec.interval == "batch" for spec in params.learning_rate_schedule):
        return
    epochs = [rates[begin : begin + steps] for begin in range(0, len(rates), steps)]
    still = [number for number, of_epoch in enumerate(epochs, 1) if not any(of_epoch)]
    highest = max(rates)
    tiny = [number for number, of_epoch in enumerate(epochs, 1) if 0 < max(of_epoch) < _NOTHING * highest]
    if len(still) == params.num_epochs:
        yield Problem(key, "the learning rate is 0 in every epoch")
    elif still:
        yield f"{key}: the learning rate is 0 in {_spelled(still)}: nothing is trained"
    if tiny:
        yield (
            f"{key}: the learning rate is below a millionth of its highest, {highest:.4g}, in {_spelled(tiny)}, at "
            f"last {epochs[-1][-1]:.2g}: next to nothing is trained"
        )
    if len(rates) == most < params.num_epochs * steps:
        yield f"{key}: the rates of the first {most:,} of {params.num_epochs * steps:,} steps were tried"


def _spelled(epochs: list[int]) -> str:
    """``epoch 7`` or ``epochs 6 to 10``; of several spans their ends and their number."""
    if len(epochs) == 1:
        return f"epoch {epochs[0]}"
    is_span = epochs[-1] - epochs[0] == len(epochs) - 1
    return f"{'' if is_span else f'{len(epochs):,} of '}epochs {epochs[0]} to {epochs[-1]}"
