"""Params as the texts that travel: one JSON line, or a form that a person edits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def as_json(options: Mapping[str, Any], indent: int | None) -> str:
    """One line of JSON, or indented, in which KFP sees no placeholder."""
    return _without_placeholders(json.dumps(options, indent=indent, allow_nan=False))


def as_form(options: Mapping[str, Any]) -> str:
    """JSON with a line for each option, and for each entry of a list of mappings; again without placeholders."""
    lines = []
    for key, value in options.items():
        if isinstance(value, list) and any(isinstance(item, dict) for item in value):
            items = ",\n".join(f"    {json.dumps(item, allow_nan=False)}" for item in value)
            lines.append(f"  {json.dumps(key)}: [\n{items}\n  ]")
        else:
            lines.append(f"  {json.dumps(key)}: {json.dumps(value, allow_nan=False)}")
    return _without_placeholders("{\n" + ",\n".join(lines) + "\n}")


def _without_placeholders(text: str) -> str:
    return text.replace("{{", "\\u007b\\u007b")
