"""The params as a JSON Schema, for editors and other programs."""

from __future__ import annotations

from typing import Any

from components.shared.params.params import Params
from components.shared.params.types import LayerSpec, LossSpec, ScheduleSpec, TransformSpec

_BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}


def json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of the params as JSON or YAML."""
    schema = Params.model_json_schema(by_alias=True)
    # After a validator of ours pydantic writes a bound by its own names, which JSON Schema lacks.
    for declared in schema["properties"].values():
        for part in (declared, *declared.get("anyOf", ()), declared.get("items", {})):
            for bound in _BOUNDS.keys() & part.keys():
                part[_BOUNDS[bound]] = part.pop(bound)
    for spec in (LayerSpec, LossSpec, ScheduleSpec, TransformSpec):
        schema["$defs"][spec.__name__]["properties"]["class"]["enum"] = spec.family.full_names()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "Shutterline params"}
