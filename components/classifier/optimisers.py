"""The optimiser of a run and its learning-rate schedules: all together, or by ``milestones`` one after the other.

Together they multiply: the rate of a step is ``learning_rate`` times the factor of each schedule. With ``milestones``
the first has the epochs up to the first milestone, the second those up to the second, and so on, as in torch's
SequentialLR; each begins as it would begin a run, with ``learning_rate``, and lasts its own epochs. (SequentialLR
itself takes no ReduceLROnPlateau, and has all schedules built at the start, where OneCycleLR and CyclicLR set the rates
and the momentum of the others.)
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LinearLR, LRScheduler, ReduceLROnPlateau

from components.classifier.building import build, construct, fitted_kwargs, resolve
from components.shared.errors import ParamsError, Problem
from components.shared.params.params import Params
from components.shared.params.schedules import Stretch, as_long_as, stretches

# What torch has a fused step for, on the CPU and on a GPU.
_FUSED = (torch.optim.Adagrad, torch.optim.Adam, torch.optim.SGD)  # AdamW is an Adam
# A warm-up begins with this share of the learning rate.
_WARMUP_START = 0.01


def build_optimiser(params: Params, parameters: Iterable[Tensor] | Iterable[dict[str, Any]]) -> Optimizer:
    """The optimiser over parameters that are trained, or groups of them; fused where torch has such a step.

    Raises:
        ParamsError: ``optim_kwargs`` do not fit ``optim_class``.
    """
    return _build(params, list(parameters), is_plain=False)


def plain_optimiser(params: Params) -> Optimizer:
    """The optimiser over one small parameter, to rehearse with."""
    parameter = torch.nn.Parameter(torch.zeros(2, 2))
    parameter.grad = torch.ones(2, 2)
    return _build(params, [parameter], is_plain=True)


def _build(params: Params, parameters: list[Any], *, is_plain: bool) -> Optimizer:
    passed: dict[str, Any] = {"params": parameters, "lr": params.learning_rate}
    kwargs, problems = fitted_kwargs(params.optim_class, params.optim_kwargs, "optim_class", "optim_kwargs", passed)
    if not problems and not issubclass(resolve(params.optim_class), Optimizer):  # of a module that an operator named
        problems.append(Problem("optim_class", f"{params.optim_class} is not a torch.optim.Optimizer"))
    if problems:
        raise ParamsError(problems)
    cls = resolve(params.optim_class)
    # Not one of an operator's own, which may be built on torch's and take other arguments.
    is_torchs = cls.__module__.startswith("torch.optim")
    if is_plain or is_torchs:
        cls = _without_compiler(cls)
    if not is_plain and is_torchs and issubclass(cls, _FUSED) and not {"fused", "foreach"} & kwargs.keys():
        passed["fused"] = True
    optimiser: Optimizer = construct(cls, "optim_kwargs", {**kwargs, **passed})
    return optimiser


@cache
def _without_compiler(cls: type[Optimizer]) -> type[Optimizer]:
    """An optimiser whose methods do not import torch's compiler, 0.7 s, to be left alone by it."""
    plain = inspect.unwrap(cls.step)

    def step(self: Optimizer, *arguments: Any) -> Any:
        with torch.set_grad_enabled(self.defaults.get("differentiable", False)):
            return plain(self, *arguments)

    names = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")
    own = {name: inspect.unwrap(getattr(cls, name)) for name in names}
    own |= {"__module__": cls.__module__, "__doc__": cls.__doc__}  # whether it is torch's is asked elsewhere
    return type(cls.__name__, (cls,), own | {"step": step})


class Schedules:
    """The learning-rate schedules over an optimiser, each stepped once an epoch or once a step of the optimiser.

    ReduceLROnPlateau takes the evaluated metric, the loss in mode min and the accuracy in mode max, and so is stepped
    in evaluated epochs only.

    `plan` says which schedules act when; by default as the params say.

    Attributes:
        by_epoch: Those that act now and are stepped after every epoch, in order.
        by_batch: Those that act now and are stepped after every step of the optimiser; a warm-up is the last of them.

    Raises:
        ParamsError: The kwargs do not fit the class.
    """

    def __init__(
        self, params: Params, optimiser: Optimizer, steps_per_epoch: int = 1, plan: Sequence[Stretch] | None = None
    ) -> None:
        self._params = params
        self._optimiser = optimiser
        self._steps_per_epoch = steps_per_epoch
        self._stretches = {stretch.begin: stretch for stretch in plan or stretches(params)}
        groups = optimiser.param_groups
        self._own = [{key: value for key, value in group.items() if key != "params"} for group in groups]
        self._epochs = 0
        self.by_epoch: list[LRScheduler] = []
        self.by_batch: list[LRScheduler] = []
        self._begin(self._stretches[0])

    def _begin(self, stretch: Stretch) -> None:
        """Let a stretch's schedules act, on an optimiser as the params say it."""
        for group, own in zip(self._optimiser.param_groups, self._own, strict=True):
            for key in group.keys() - own.keys() - {"params"}:
                del group[key]  # where torch's schedules keep what they began with
            group.update(own)
        self.by_epoch, self.by_batch = [], []
        for index in stretch.indices:
            spec, path = self._params.learning_rate_schedule[index], f"learning_rate_schedule[{index}]"
            if spec.kwargs.get("last_epoch", -1) != -1:
                raise ParamsError([Problem(f"{path}.kwargs.last_epoch", "must be -1: a run starts its schedules anew")])
            filled = as_long_as(spec, stretch.epochs, self._steps_per_epoch)
            scheduler = build(filled, path, optimizer=self._optimiser)
            if spec.interval == "batch" and isinstance(scheduler, ReduceLROnPlateau):
                message = "must be epoch: ReduceLROnPlateau takes evaluations"
                raise ParamsError([Problem(f"{path}.interval", message)])
            (self.by_epoch if spec.interval == "epoch" else self.by_batch).append(scheduler)
        if stretch.warmup:
            steps = max(1, round(stretch.warmup * self._steps_per_epoch))
            self.by_batch.append(LinearLR(self._optimiser, start_factor=_WARMUP_START, total_iters=steps))
        self._keep_ratios()

    def _keep_ratios(self) -> None:
        """Give each group the share of the first one's rate that it began with, whatever a schedule made of it.

        Torch's schedules multiply every group alike, but a OneCycleLR, a CyclicLR, an ``eta_min`` or a ``min_lr`` gives
        all of them one rate.
        """
        first, *others = self._optimiser.param_groups
        for group, own in zip(others, self._own[1:], strict=True):
            group["lr"] = own["lr"] * (first["lr"] / self._own[0]["lr"])

    def step(self, loss: float | None, accuracy: float | None) -> None:
        """End an epoch; `loss` and `accuracy` are None where it was not evaluated."""
        self._epochs += 1
        if (following := self._stretches.get(self._epochs)) is not None:
            self._begin(following)
            return
        for scheduler in self.by_epoch:
            if not isinstance(scheduler, ReduceLROnPlateau):
                scheduler.step()
            elif (metric := loss if scheduler.mode == "min" else accuracy) is not None:
                scheduler.step(metric)
        self._keep_ratios()

    def step_batch(self) -> None:
        """End a step of the optimiser."""
        for scheduler in self.by_batch:
            scheduler.step()
        if self.by_batch:
            self._keep_ratios()

    def state_dict(self) -> list[dict[str, Any]]:
        """The state of each schedule that acts now, in order."""
        return [scheduler.state_dict() for scheduler in self.by_epoch + self.by_batch]

    def load_state_dict(self, states: list[dict[str, Any]], epochs: int) -> None:
        """Go on from the states of :meth:`state_dict` after so many epochs; before the optimiser's own are loaded."""
        self._epochs = epochs
        self._begin(self._stretches[max(begin for begin in self._stretches if begin <= epochs)])
        for scheduler, state in zip(self.by_epoch + self.by_batch, states, strict=True):
            scheduler.load_state_dict(state)
