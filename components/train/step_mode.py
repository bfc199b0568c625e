"""Whether the steps of a run are captured as graphs, with the reason."""

from __future__ import annotations

from typing import NamedTuple

from torch.optim import SGD, Adagrad, Optimizer

from components.shared.params.params import Params
from components.train.step_graph import MOST_BATCHES
from components.train.training_step import TrainingStep

# Schedules that move the momentum, too, unless `cycle_momentum` is false.
_CYCLES = ("CyclicLR", "OneCycleLR")


class StepMode(NamedTuple):
    """Whether steps are captured, and why, for the log."""

    is_captured: bool
    reason: str


def choose_step_mode(step: TrainingStep, *, has_graphs: bool) -> StepMode:
    """Whether a run's steps are captured; `has_graphs` says whether its device makes graphs."""
    params = step.params
    if params.step == "eager":
        return StepMode(False, "as step says")
    if params.step == "auto":
        return StepMode(False, "auto: not yet tried on a GPU" if has_graphs else "on the CPU")
    reason = why_not(step, has_graphs=has_graphs)
    return StepMode(reason is None, reason or "as step says")


def why_not(step: TrainingStep, *, has_graphs: bool) -> str | None:
    """What keeps a run's steps from being captured, where that is known before it is tried."""
    params = step.params
    if not has_graphs:
        return "there is no GPU"
    if step.group.size > 1:
        return "several processes train together, whose exchange of gradients is not captured"
    if (together := params.gradient_accumulation_steps) > MOST_BATCHES:
        return f"gradient_accumulation_steps is {together}, and a graph has at most {MOST_BATCHES} batches"
    if (reason := _of_optimiser(step.optimiser)) is not None:
        return f"{params.optim_class} {reason}"
    if step.transforms is not None and (names := step.transforms.image_by_image):
        return f"{', '.join(names)} in additional_transforms run image by image"
    if step.recomputing is not None and step.recomputing.draws:
        return "gradient_checkpointing draws the random numbers of its layers again on the host"
    return _of_schedules(params, step.optimiser)


def _of_optimiser(optimiser: Optimizer) -> str | None:
    if not type(optimiser).__module__.startswith("torch.optim"):
        return "is not torch's own"
    if "capturable" in optimiser.defaults:
        return None
    if not isinstance(optimiser, SGD | Adagrad):
        return "reads values from the GPU at each step"
    return None if optimiser.defaults["fused"] else "has a rate on the GPU only where it is fused"


def _of_schedules(params: Params, optimiser: Optimizer) -> str | None:
    if not {"momentum", "betas"} & optimiser.defaults.keys():
        return None
    for index, spec in enumerate(params.learning_rate_schedule):
        if spec.short_name in _CYCLES and spec.kwargs.get("cycle_momentum", True):
            which = f"learning_rate_schedule[{index}] ({spec.short_name})"
            return f"{which} moves the momentum, which a graph keeps; cycle_momentum: false leaves it alone"
    return None
