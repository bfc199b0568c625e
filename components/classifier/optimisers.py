"""The optimiser and the learning-rate schedules of a run."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LinearLR, LRScheduler, ReduceLROnPlateau

from components.classifier.building import build, construct, fitted_kwargs, resolve
from components.shared.errors import ParamsError, Problem
from components.shared.params import Params
from components.shared.params_types import ScheduleSpec, first_line

# Steps of a schedule in a rehearsal, all schedules together: 0.4 s.
_STEPS = 100_000


# What torch has a fused step for, on the CPU and on a GPU.
_FUSED = (torch.optim.Adagrad, torch.optim.Adam, torch.optim.SGD)  # AdamW is an Adam

# A warm-up begins with this share of the learning rate.
_WARMUP_START = 0.01


def build_optimiser(params: Params, parameters: Iterable[Tensor]) -> Optimizer:
    """The optimiser over those of a network's parameters that are trained; fused where torch has such a step.

    Raises:
        ParamsError: ``optim_kwargs`` do not fit ``optim_class``.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    return _build_optimiser(params, trained, lambda cls: cls, fused=True)


def _build_optimiser(
    params: Params,
    parameters: Iterable[Tensor],
    adapt: Callable[[type[Optimizer]], type[Optimizer]],
    *,
    fused: bool = False,
) -> Optimizer:
    passed: dict[str, Any] = {"params": list(parameters), "lr": params.learning_rate}
    kwargs, problems = fitted_kwargs(params.optim_class, params.optim_kwargs, "optim_class", "optim_kwargs", passed)
    if not problems and not issubclass(resolve(params.optim_class), Optimizer):  # of a module that an operator named
        problems.append(Problem("optim_class", f"{params.optim_class} is not a torch.optim.Optimizer"))
    if problems:
        raise ParamsError(problems)
    cls = resolve(params.optim_class)
    # Not one of an operator's own, which may be built on torch's and take other arguments.
    if (
        fused
        and cls.__module__.startswith("torch.optim")
        and issubclass(cls, _FUSED)
        and not {"fused", "foreach"} & kwargs.keys()
    ):
        passed["fused"] = True
    optimiser: Optimizer = construct(adapt(cls), "optim_kwargs", {**kwargs, **passed})
    return optimiser


@dataclass(frozen=True)
class Schedules:
    """The learning-rate schedules, each stepped once an epoch or once a step of the optimiser, in order.

    ReduceLROnPlateau looks at the evaluated metric, the loss in mode min and the accuracy in mode max, and so is
    stepped in evaluated epochs only.

    Attributes:
        by_epoch: Stepped after every epoch.
        by_batch: Stepped after every step of the optimiser; a warm-up is the last of them.
    """

    by_epoch: tuple[LRScheduler, ...]
    by_batch: tuple[LRScheduler, ...] = ()

    def step(self, loss: float | None, accuracy: float | None) -> None:
        """End an epoch; `loss` and `accuracy` are None where it was not evaluated."""
        for scheduler in self.by_epoch:
            if isinstance(scheduler, ReduceLROnPlateau):
                metric = loss if scheduler.mode == "min" else accuracy
                if metric is not None:
                    scheduler.step(metric)
            else:
                scheduler.step()

    def step_batch(self) -> None:
        """End a step of the optimiser."""
        for scheduler in self.by_batch:
            scheduler.step()

    def state_dict(self) -> list[dict[str, Any]]:
        """The state of each schedule, in order."""
        return [scheduler.state_dict() for scheduler in (*self.by_epoch, *self.by_batch)]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Go on from what :meth:`state_dict` gave."""
        for scheduler, state in zip((*self.by_epoch, *self.by_batch), states, strict=True):
            scheduler.load_state_dict(state)


@dataclass(frozen=True)
class RunLength:
    """How long schedules last that are as long as the run.

    Attributes:
        epochs: Epochs in all.
        steps_per_epoch: Steps of the optimiser in one epoch.
    """

    epochs: int
    steps_per_epoch: int = 1


def as_long_as(spec: ScheduleSpec, length: RunLength) -> ScheduleSpec:
    """An entry in which what says how long the run is, and was left out, is filled in."""
    steps = length.epochs * (length.steps_per_epoch if spec.interval == "batch" else 1)
    given, name = spec.kwargs.keys(), spec.short_name
    if name == "CosineAnnealingLR" and "T_max" not in given:
        return spec.model_copy(update={"kwargs": {**spec.kwargs, "T_max": steps}})
    if name == "OneCycleLR" and not given & {"total_steps", "epochs", "steps_per_epoch"}:
        return spec.model_copy(update={"kwargs": {**spec.kwargs, "total_steps": steps}})
    return spec


def build_schedules(params: Params, optimiser: Optimizer, steps_per_epoch: int = 1) -> Schedules:
    """The schedules over an optimiser.

    Args:
        params: Name them.
        optimiser: Whose learning rate they change.
        steps_per_epoch: Its steps in an epoch.

    Raises:
        ParamsError: The kwargs do not fit the class.
    """
    length = RunLength(params.num_epochs, steps_per_epoch)
    by_epoch, by_batch = [], []
    for index, spec in enumerate(params.learning_rate_schedule):
        path = f"learning_rate_schedule[{index}]"
        if spec.kwargs.get("last_epoch", -1) != -1:
            raise ParamsError([Problem(f"{path}.kwargs.last_epoch", "must be -1: a run starts its schedules anew")])
        scheduler = build(as_long_as(spec, length), path, optimizer=optimiser)
        if spec.interval == "epoch":
            by_epoch.append(scheduler)
        elif isinstance(scheduler, ReduceLROnPlateau):
            raise ParamsError([Problem(f"{path}.interval", "must be epoch: ReduceLROnPlateau looks at evaluations")])
        else:
            by_batch.append(scheduler)
    if params.warmup_epochs:
        steps = max(1, round(params.warmup_epochs * steps_per_epoch))
        by_batch.append(LinearLR(optimiser, start_factor=_WARMUP_START, total_iters=steps))
    return Schedules(tuple(by_epoch), tuple(by_batch))


def rehearse(params: Params, steps_per_epoch: int = 1, epochs_at_most: int = 10_000) -> list[Problem]:
    """Build the optimiser and run the schedules over the run's epochs with one dummy parameter; tell what fails.

    Finds in milliseconds what else would fail in mid-training: a OneCycleLR shorter than the run, a CyclicLR on an
    optimiser without momentum, momentum out of range.

    Args:
        params: The run's options.
        steps_per_epoch: Steps of the optimiser in an epoch, where they are known.
        epochs_at_most: How many are tried.
    """
    try:
        parameter = torch.nn.Parameter(torch.zeros(2, 2))
        parameter.grad = torch.ones(2, 2)
        optimiser = _build_optimiser(params, [parameter], _without_compiler)
        build_schedules(params, optimiser, steps_per_epoch)
    except ParamsError as error:
        return list(error.problems)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no optimiser step is made between the schedules' steps
        try:
            with torch.no_grad():
                optimiser.step()
        except Exception as error:  # whatever an optimiser raises is about its kwargs or the learning rate
            message = f"{params.optim_class} fails at a step with learning_rate {params.learning_rate:g}"
            return [Problem("optim_class", f"{message} and these optim_kwargs: {first_line(error)}")]
        return _rehearse_schedules(params, steps_per_epoch, epochs_at_most)


def _rehearse_schedules(params: Params, steps_per_epoch: int, epochs_at_most: int) -> list[Problem]:
    optimiser = _build_optimiser(params, [torch.nn.Parameter(torch.zeros(2, 2))], _without_compiler)
    each = _STEPS // max(1, len(params.learning_rate_schedule))
    for index, spec in enumerate(params.learning_rate_schedule):
        alone = params.model_copy(update={"learning_rate_schedule": [spec], "warmup_epochs": 0.0})
        schedules = build_schedules(alone, optimiser, steps_per_epoch)
        steps = 1 if spec.interval == "epoch" else steps_per_epoch
        for epoch in range(1, min(params.num_epochs, epochs_at_most, each // steps) + 1):
            try:
                for _ in range(steps_per_epoch if schedules.by_batch else 0):
                    schedules.step_batch()
                schedules.step(loss=1.0, accuracy=0.5)
            except Exception as error:  # whatever a schedule raises is about its kwargs
                message = f"{spec.class_} fails in epoch {epoch} of {params.num_epochs}: {first_line(error)}"
                return [Problem(f"learning_rate_schedule[{index}].kwargs", message)]
    return []


def _without_compiler(cls: type[Optimizer]) -> type[Optimizer]:
    """The optimiser class without the wrappers that import torch's compiler, 1.2 s, when the first one is made."""
    unwrapped = {name: inspect.unwrap(getattr(cls, name)) for name in ("add_param_group", "step")}
    plain: type[Optimizer] = type(cls.__name__, (cls,), unwrapped)
    return plain
