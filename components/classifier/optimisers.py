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
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from components.classifier.building import build, construct, fitted_kwargs, resolve
from components.shared.errors import ParamsError, Problem
from components.shared.params import Params
from components.shared.params_types import ScheduleSpec, first_line

# Steps of a schedule in a rehearsal, all schedules together: 0.4 s.
_STEPS = 100_000


def build_optimiser(params: Params, parameters: Iterable[Tensor]) -> Optimizer:
    """The optimiser over a network's parameters, those that are not frozen.

    Raises:
        ParamsError: ``optim_kwargs`` do not fit ``optim_class``.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    return _build_optimiser(params, trained, lambda cls: cls)


def _build_optimiser(
    params: Params, parameters: Iterable[Tensor], adapt: Callable[[type[Optimizer]], type[Optimizer]]
) -> Optimizer:
    passed = {"params": list(parameters), "lr": params.learning_rate}
    kwargs, problems = fitted_kwargs(params.optim_class, params.optim_kwargs, "optim_class", "optim_kwargs", passed)
    if not problems and not issubclass(resolve(params.optim_class), Optimizer):  # of a module that an operator named
        problems.append(Problem("optim_class", f"{params.optim_class} is not a torch.optim.Optimizer"))
    if problems:
        raise ParamsError(problems)
    optimiser: Optimizer = construct(adapt(resolve(params.optim_class)), "optim_kwargs", {**kwargs, **passed})
    return optimiser


@dataclass(frozen=True)
class Schedules:
    """The learning-rate schedules, each stepped once an epoch, in order.

    ReduceLROnPlateau looks at the evaluated metric, the loss in mode min and the accuracy in mode max, and so is
    stepped in evaluated epochs only.
    """

    specs: tuple[ScheduleSpec, ...]
    schedulers: tuple[LRScheduler, ...]

    def step(self, loss: float | None, accuracy: float | None) -> None:
        """End an epoch; `loss` and `accuracy` are None where it was not evaluated."""
        for scheduler in self.schedulers:
            if isinstance(scheduler, ReduceLROnPlateau):
                metric = loss if scheduler.mode == "min" else accuracy
                if metric is not None:
                    scheduler.step(metric)
            else:
                scheduler.step()

    def state_dict(self) -> list[dict[str, Any]]:
        """The state of each schedule, in order."""
        return [scheduler.state_dict() for scheduler in self.schedulers]


def build_schedules(params: Params, optimiser: Optimizer) -> Schedules:
    """The schedules over an optimiser.

    Raises:
        ParamsError: The kwargs do not fit the class.
    """
    schedulers = []
    for index, spec in enumerate(params.learning_rate_schedule):
        path = f"learning_rate_schedule[{index}]"
        if spec.kwargs.get("last_epoch", -1) != -1:
            raise ParamsError([Problem(f"{path}.kwargs.last_epoch", "must be -1: a run starts its schedules anew")])
        schedulers.append(build(spec, path, optimizer=optimiser))
    return Schedules(tuple(params.learning_rate_schedule), tuple(schedulers))


def rehearse(params: Params, epochs_at_most: int = 10_000) -> list[Problem]:
    """Build the optimiser and run the schedules over the run's epochs with one dummy parameter; tell what fails.

    Finds in milliseconds what else would fail in mid-training: a OneCycleLR shorter than the run, a CyclicLR on an
    optimiser without momentum, momentum out of range.
    """
    try:
        parameter = torch.nn.Parameter(torch.zeros(2, 2))
        parameter.grad = torch.ones(2, 2)
        optimiser = _build_optimiser(params, [parameter], _without_compiler)
        schedules = build_schedules(params, optimiser)
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
        for epoch in range(1, min(params.num_epochs, epochs_at_most, _STEPS // max(1, len(schedules.specs))) + 1):
            for index, scheduler in enumerate(schedules.schedulers):
                try:
                    Schedules((), (scheduler,)).step(loss=1.0, accuracy=0.5)
                except Exception as error:  # whatever a schedule raises is about its kwargs
                    name = params.learning_rate_schedule[index].class_
                    message = f"{name} fails in epoch {epoch} of {params.num_epochs}: {first_line(error)}"
                    return [Problem(f"learning_rate_schedule[{index}].kwargs", message)]
    return []


def _without_compiler(cls: type[Optimizer]) -> type[Optimizer]:
    """The optimiser class without the wrappers that import torch's compiler, 1.2 s, when the first one is made."""
    unwrapped = {name: inspect.unwrap(getattr(cls, name)) for name in ("add_param_group", "step")}
    plain: type[Optimizer] = type(cls.__name__, (cls,), unwrapped)
    return plain
