"""The whole check of a run's params where torch is present: signatures, shapes, schedules; all problems at once."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from components.classifier.building import checked_kwargs, fitted_kwargs
from components.classifier.losses import PASSED, Criterion
from components.classifier.network import LayerTable, examine
from components.classifier.rates import rehearse
from components.classifier.schedules import RunLength, as_long_as
from components.shared.errors import ParamsError, Problem
from components.shared.params import source as params_source
from components.shared.params.params import (
    Params,
    ParamsWarning,
    in_document_order,
    read_raw,
    valid_entries,
    valid_value,
)
from components.shared.params.types import ScheduleSpec

# Keys that rates follow from.
_RATES = ("optim", "learning_rate", "milestones", "warmup")


def check(source: str | Path | Mapping[str, Any], overrides: Iterable[str] = ()) -> tuple[Params, LayerTable]:
    """Read params as :meth:`Params.load` does and check everything that can be checked without data.

    Returns:
        The params, and the layer table of their network.

    Raises:
        ParamsError: With every problem found, each with its path. Of the network's shapes, the first layer that does
            not fit is named, since every later shape depends on it.
    """
    raw, name = read_raw(source)
    raw = params_source.with_overrides(raw, overrides)
    return check_dict(raw, name)


def check_dict(raw: Mapping[str, Any], name: str | None = None) -> tuple[Params, LayerTable]:
    """As :func:`check`, for options that are already a dict."""
    problems: list[Problem] = []
    notes: list[str] = []
    params: Params | None = None
    params_source.check_size(raw, name)  # what is too large would take too long to look into any further
    try:
        params = Params.from_dict(raw, name)
    except ParamsError as error:
        problems += error.problems
    if not isinstance(raw, Mapping):
        raise ParamsError(problems, name)
    problems += _kwargs_problems(raw)
    table: LayerTable | None = None
    if not any(problem.path.startswith("net_arch") for problem in problems):
        try:
            table = _examined(raw)
        except ParamsError as error:
            problems += error.problems
    if params is not None and not any(problem.path.startswith(_RATES) for problem in problems):
        rehearsal = rehearse(params)
        problems += rehearsal.problems
        notes += rehearsal.notes
    if params is not None and not any(problem.path.startswith("loss") for problem in problems):
        problems += _loss_problems(params)
    if params is not None and not any(problem.path.startswith("additional_transforms") for problem in problems):
        found, idle = _transform_problems(params)
        problems += found
        notes += idle
    if params is not None and table is not None:
        found, idle = frozen_layers(params, table)
        problems += found
        notes += idle
    if problems or params is None or table is None:
        raise ParamsError(in_document_order(problems), name)
    for note in notes:
        warnings.warn(note, ParamsWarning, stacklevel=2)
    return params, table


def _transform_problems(params: Params) -> tuple[list[Problem], list[str]]:
    """What keeps the transforms from leaving training images comparable to held-out ones; and what has no effect."""
    if not params.additional_transforms:
        return [], []
    # Imported here: torchvision costs seconds, and most runs name no transform.
    from components.classifier.rehearsal import rehearse_transforms

    try:
        return [], rehearse_transforms(params.additional_transforms, params.image_shape)
    except ParamsError as error:
        return list(error.problems), []


def frozen_layers(params: Params, table: LayerTable) -> tuple[list[Problem], list[str]]:
    """What keeps frozen layers from being of use, and whether freezing them has an effect."""
    frozen = table.rows[: params.frozen_layers]
    first = f"first {len(frozen)} layers of net_arch have" if len(frozen) > 1 else "first layer of net_arch has"
    if not frozen:
        return [], []
    kept = next((row for row in frozen if row.parameters or row.buffers), None)
    if kept is None:
        where = f"frozen_layers: the {first} no parameters"
        if any("Dropout" in row.name for row in frozen):
            return [], [f"{where}; freezing only turns dropout off"]
        return [], [f"{where}; freezing has no effect"]
    if params.initial_weights is not None:
        return [], []
    count = sum(row.parameters for row in frozen)
    random = f", {count:,} random parameters in all" if count else ""
    message = (
        f"would keep {kept.place} ({kept.name}) as it is initialised{random}; name the weights that it is to keep by "
        "initial_weights, or set frozen_layers to 0"
    )
    return [Problem("frozen_layers", message)], []


def _loss_problems(params: Params) -> list[Problem]:
    """What keeps the loss from being computed."""
    try:
        Criterion(params, [1] * params.n_classes, torch.device("cpu"))
    except ParamsError as error:
        return list(error.problems)
    return []


def network_problems(params: Params) -> LayerTable:
    """Check params that are already sound by themselves against torch; the layer table of their network.

    What has no effect is logged by training, which knows its steps.

    Raises:
        ParamsError: As :func:`check`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParamsWarning)
        return check_dict(params.to_dict())[1]


def _kwargs_problems(raw: Mapping[str, Any]) -> list[Problem]:
    """Arguments that do not fit their class's signature, of every entry that is sound otherwise."""
    problems: list[Problem] = []
    for key, passed in (("net_arch", ()), ("additional_transforms", ()), ("learning_rate_schedule", ("optimizer",))):
        for path, spec in valid_entries(raw, key):
            if isinstance(spec, ScheduleSpec):
                spec = as_long_as(spec, RunLength(1))
            problems += checked_kwargs(spec, path, passed)[1]
    if (loss := valid_value(raw, "loss")) is not None:
        problems += checked_kwargs(loss, "loss", PASSED)[1]
    optimiser, kwargs = valid_value(raw, "optim_class"), valid_value(raw, "optim_kwargs")
    if optimiser is not None and kwargs is not None:
        problems += fitted_kwargs(optimiser, kwargs, "optim_class", "optim_kwargs", ("params", "lr"))[1]
    return problems


def _examined(raw: Mapping[str, Any]) -> LayerTable | None:
    """The layer table, where the keys it follows from are sound."""
    values = {
        key: valid_value(raw, key)
        for key in ("net_arch", "image_height", "image_width", "is_image_color", "n_classes", "batch_size")
    }
    if any(value is None for value in values.values()):
        return None
    shape = (values["image_height"], values["image_width"], 3 if values["is_image_color"] else 1)
    frozen = valid_value(raw, "frozen_layers") or 0
    return examine(values["net_arch"], shape, values["n_classes"], values["batch_size"], frozen)
