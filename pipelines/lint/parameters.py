"""The rules ``numbers-in-struct`` and ``params``: values that arrive as something else, or cannot be used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from components.shared.errors import ParamsError
from components.shared.params.params import parse
from components.shared.params.source import from_json
from components.shared.run import PIPELINE_NAME
from pipelines.lint.finding import Note, error, warning
from pipelines.lint.view import View, child, mapping, walk

# Beyond it not every whole number is a double, which is what KFP has for numbers.
_EXACT = 2**53


def numbers_in_struct(view: View) -> Iterator[Note]:
    """Numbers that KFP changes.

    Whole numbers inside STRUCT and LIST parameters arrive as floats (warning); whole numbers above 2^53 arrive rounded
    anywhere (error).
    """
    for where, kind, value in _numbers(view):
        for place, _, item in walk(value, where):
            if isinstance(item, bool) or not isinstance(item, int | float) or item != item // 1:
                continue
            if abs(item) > _EXACT:
                yield error(
                    place,
                    "a whole number above 2^53 arrives rounded",
                    "pass it as a text, and make a number of it in the step",
                )
            elif kind in ("STRUCT", "LIST") and place != where:
                yield warning(
                    place,
                    f"the whole number {int(item)} inside a {kind} arrives as a float, {int(item)}.0",
                    "pass the whole as one JSON text (a STRING), as Shutterline does with its params",
                )


def _numbers(view: View) -> Iterator[tuple[str, str, Any]]:
    """Defaults and constants: place, parameter type, value."""
    kinds: dict[str, dict[str, Any]] = {}
    found = [("root", mapping(view.spec.get("root")))]
    found += [(child("components", name), component) for name, component in view.components.items()]
    for where, component in found:
        definitions = mapping(mapping(component.get("inputDefinitions")).get("parameters"))
        kinds[where] = {name: mapping(item).get("parameterType") for name, item in definitions.items()}
        for name, item in definitions.items():
            place = f"{child(f'{where}.inputDefinitions.parameters', name)}.defaultValue"
            yield place, str(kinds[where][name]), mapping(item).get("defaultValue")
    for where, _, tasks in view.dags:
        for task_name, task in tasks.items():
            called = child("components", str(mapping(task.get("componentRef")).get("name")))
            for name, item in mapping(mapping(task.get("inputs")).get("parameters")).items():
                place = child(f"{child(f'{where}.dag.tasks', task_name)}.inputs.parameters", name)
                constant = mapping(mapping(item).get("runtimeValue")).get("constant")
                yield f"{place}.runtimeValue.constant", str(kinds.get(called, {}).get(name)), constant


def params(view: View) -> Iterator[Note]:
    """The default of our pipeline's input ``params`` that is no valid params."""
    definition = view.inputs.get("params")
    of_ours = any(step.executor.ours and "params" in step.values for step in view.steps)
    if definition is None or not (of_ours or view.pipeline.name == PIPELINE_NAME):
        return
    where = "root.inputDefinitions.parameters.params"
    if definition.get("parameterType") != "STRING":
        yield error(
            f"{where}.parameterType",
            "params are no STRING: as anything else their numbers change on the way",
            "compile the pipeline anew with `shutterline compile`",
        )
    default = definition.get("defaultValue")
    if default is None:
        return
    if not isinstance(default, str):
        yield error(f"{where}.defaultValue", "params are one JSON text, not a mapping", "put the JSON into quotes")
        return
    try:
        problems = parse(from_json(default)).problems
    except ParamsError as refused:
        problems = list(refused.problems)
    for problem in problems:
        yield error(f"{where}.defaultValue", str(problem), "correct the params and compile the pipeline anew")
