"""The optimiser of a run."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from components.classifier.building import construct, fitted_kwargs, resolve
from components.shared.errors import ParamsError, Problem
from components.shared.params.params import Params

# What torch has a fused step for, on the CPU and on a GPU.
_FUSED = (torch.optim.Adagrad, torch.optim.Adam, torch.optim.SGD)  # AdamW is an Adam


def build_optimiser(params: Params, parameters: Iterable[Tensor]) -> Optimizer:
    """The optimiser over those of a network's parameters that are trained; fused where torch has such a step.

    Raises:
        ParamsError: ``optim_kwargs`` do not fit ``optim_class``.
    """
    return _build(params, [parameter for parameter in parameters if parameter.requires_grad], is_plain=False)


def _build(params: Params, parameters: list[Tensor], *, is_plain: bool) -> Optimizer:
    passed: dict[str, Any] = {"params": parameters, "lr": params.learning_rate}
    kwargs, problems = fitted_kwargs(params.optim_class, params.optim_kwargs, "optim_class", "optim_kwargs", passed)
    if not problems and not issubclass(resolve(params.optim_class), Optimizer):  # of a module that an operator named
        problems.append(Problem("optim_class", f"{params.optim_class} is not a torch.optim.Optimizer"))
    if problems:
        raise ParamsError(problems)
    cls = resolve(params.optim_class)
    if is_plain:
        cls = _without_compiler(cls)
    # Not one of an operator's own, which may be built on torch's and take other arguments.
    elif (
        cls.__module__.startswith("torch.optim")
        and issubclass(cls, _FUSED)
        and not {"fused", "foreach"} & kwargs.keys()
    ):
        passed["fused"] = True
    optimiser: Optimizer = construct(cls, "optim_kwargs", {**kwargs, **passed})
    return optimiser


def plain_optimiser(params: Params) -> Optimizer:
    """The optimiser over one small parameter, to rehearse with; made without importing torch's compiler, 1.2 s."""
    parameter = torch.nn.Parameter(torch.zeros(2, 2))
    parameter.grad = torch.ones(2, 2)
    return _build(params, [parameter], is_plain=True)


@cache
def _without_compiler(cls: type[Optimizer]) -> type[Optimizer]:
    unwrapped = {name: inspect.unwrap(getattr(cls, name)) for name in ("add_param_group", "step")}
    plain: type[Optimizer] = type(cls.__name__, (cls,), unwrapped)
    return plain
