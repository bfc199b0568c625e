"""The whole check of a run's params where torch is present: signatures, shapes, schedules; all problems at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from components.classifier.building import checked_kwargs, fitted_kwargs
from components.classifier.losses import PASSED, Criterion
from components.classifier.network import LayerTable, examine
from components.classifier.parameter_groups import notes_of_groups
from components.classifier.rates import rehearse
from components.shared.artifacts.model import MAX_ONNX_BYTES
from components.shared.errors import ParamsError, Problem
from components.shared.params.params import Params, in_document_order
from components.shared.params.parsed import Parsed
from components.shared.params.schedules import as_long_as
from components.shared.params.types import ScheduleSpec

# Lists of classes, each with the arguments that Shutterline passes itself.
_LISTS: dict[str, tuple[str, ...]] = {
    "net_arch": (),
    "additional_transforms": (),
    "learning_rate_schedule": ("optimizer",),
}
# Keys that the learning rates follow from.
_RATES = ("optim", "learning_rate", "milestones", "warmup")
# Bytes of weights, less what the graph itself may take.
_LARGEST_ONNX = MAX_ONNX_BYTES - 2**26
# Images of a batch whose size is chosen later.
_SEVERAL = 8
_SHAPE = ("net_arch", "image_height", "image_width", "is_image_color", "n_classes", "batch_size")


class Checked(NamedTuple):
    """Params that passed every check that needs no data, their layer table, and what has no effect, a line each."""

    params: Params
    table: LayerTable
    notes: tuple[str, ...] = ()


def check(given: Params | Parsed) -> Checked:
    """Check everything that can be checked without data, once a process: params, or what was read of wrong ones.

    Raises:
        ParamsError: With every problem found, each with its path. Of the network's shapes, the first layer that does
            not fit is named, since every later shape depends on it.
    """
    if isinstance(given, Params):
        entries = {key: list(getattr(given, key) or ()) for key in _LISTS}
        given = Parsed(params=given, values=dict(given), entries=entries)
    params, values = given.params, given.values
    problems, notes = [*given.problems, *_kwargs_problems(given)], list(given.notes)

    def sound(*keys: str) -> bool:
        return not any(problem.path.startswith(keys) for problem in problems)

    table = None
    if sound("net_arch") and values.keys() >= set(_SHAPE):
        shape = (values["image_height"], values["image_width"], 3 if values["is_image_color"] else 1)
        frozen = values.get("frozen_layers", 0)
        try:
            size = _SEVERAL if isinstance(values["batch_size"], str) else values["batch_size"]
            table = examine(values["net_arch"], shape, values["n_classes"], size, frozen)
        except ParamsError as error:
            problems += error.problems
    if params is not None:
        if sound(*_RATES):
            rehearsal = rehearse(params)
            problems += rehearsal.problems
            notes += rehearsal.notes
        if sound("loss"):
            problems += _refused(lambda: Criterion(params, [1] * params.n_classes, torch.device("cpu")))
        if params.additional_transforms and sound("additional_transforms"):
            problems += _refused(lambda: notes.extend(_rehearsed(params)))
        if table is not None:
            frozen_problems, frozen_notes = _frozen_layers(params, table)
            problems += frozen_problems
            notes += frozen_notes
            problems += _larger_than_onnx(table)
            if sound("optim"):
                notes += notes_of_groups(params, table)
    if problems or params is None or table is None:
        raise ParamsError(in_document_order(problems), given.source)
    return Checked(params, table, tuple(notes))


def _larger_than_onnx(table: LayerTable) -> list[Problem]:
    values = sum(row.parameters + row.buffers for row in table.rows)
    if 4 * values < _LARGEST_ONNX:
        return []
    message = (
        f"has {values:,} weights, which take {4 * values / 1e9:.1f} GB, and a model.onnx may have 2 GB; choose a "
        "smaller network"
    )
    return [Problem("net_arch", message)]


def _refused(attempt: Callable[[], object]) -> Sequence[Problem]:
    try:
        attempt()
    except ParamsError as error:
        return error.problems
    return ()


def _rehearsed(params: Params) -> list[str]:
    # Imported here: torchvision costs seconds, and most runs name no transform.
    from components.classifier.rehearsal import rehearse_transforms

    return rehearse_transforms(params.additional_transforms or [], params.stored_shape, params.image_shape)


def _frozen_layers(params: Params, table: LayerTable) -> tuple[list[Problem], list[str]]:
    frozen = table.rows[: params.frozen_layers]
    if not frozen:
        return [], []
    kept = next((row for row in frozen if row.parameters or row.buffers), None)
    if kept is None:
        first = f"first {len(frozen)} layers of net_arch have" if len(frozen) > 1 else "first layer of net_arch has"
        dropout = any("Dropout" in row.name for row in frozen)
        effect = "freezing only turns dropout off" if dropout else "freezing has no effect"
        return [], [f"frozen_layers: the {first} no parameters; {effect}"]
    if params.initial_weights is not None:
        return [], []
    count = sum(row.parameters for row in frozen)
    random = f", {count:,} random parameters in all" if count else ""
    message = (
        f"would keep {kept.place} ({kept.name}) as it is initialised{random}; name the weights that it is to keep by "
        "initial_weights, or set frozen_layers to 0"
    )
    return [Problem("frozen_layers", message)], []


def _kwargs_problems(given: Parsed) -> list[Problem]:
    """Arguments that do not fit their class's signature, of every entry that is sound otherwise."""
    problems: list[Problem] = []
    for key, passed in _LISTS.items():
        for index, spec in enumerate(given.entries.get(key, ())):
            if spec is not None:
                if isinstance(spec, ScheduleSpec):
                    spec = as_long_as(spec, 1)
                problems += checked_kwargs(spec, f"{key}[{index}]", passed)[1]
    if (loss := given.values.get("loss")) is not None:
        problems += checked_kwargs(loss, "loss", PASSED)[1]
    optimiser, kwargs = given.values.get("optim_class"), given.values.get("optim_kwargs")
    if optimiser is not None and kwargs is not None:
        problems += fitted_kwargs(optimiser, kwargs, "optim_class", "optim_kwargs", ("params", "lr"))[1]
    return problems
