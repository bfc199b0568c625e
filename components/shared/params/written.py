"""How params are written: as plain data, as JSON, as the text of a platform's form, and as a digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from typing import Any

from components.shared.params.recipes import keys_of_recipe
from components.shared.params.types import EXACT_FLOAT_LIMIT, Entry


class WrittenParams(Entry):
    """What is the same for any keys."""

    def to_dict(self) -> dict[str, Any]:
        """Every option as plain data, classes as dotted names."""
        return self.model_dump(by_alias=True)

    def to_json(self, indent: int | None = None) -> str:
        """One line of JSON (or indented) that ``Params.load`` reads back without loss."""
        return _without_placeholders(json.dumps(self.to_dict(), indent=indent, allow_nan=False))

    def to_form(self) -> str:
        """JSON without defaults, a line for each option and entry, as a person edits it in a platform's form."""
        lines, whole = [], self.to_dict()
        # A default that stands where the recipe would fill in something else is kept.
        kept = {key: whole[key] for key in keys_of_recipe(whole)}
        kept |= self.model_dump(by_alias=True, exclude_defaults=True)
        for key, value in kept.items():
            if isinstance(value, list) and any(isinstance(item, dict) for item in value):
                items = ",\n".join(f"    {json.dumps(item, allow_nan=False)}" for item in value)
                lines.append(f"  {json.dumps(key)}: [\n{items}\n  ]")
            else:
                lines.append(f"  {json.dumps(key)}: {json.dumps(value, allow_nan=False)}")
        return _without_placeholders("{\n" + ",\n".join(lines) + "\n}")

    def digest(self, without: Collection[str] = ()) -> str:
        """SHA-256 of the params without some keys, hexadecimal; equal however they were written, 5 or 5.0."""
        plain = _one_spelling({key: value for key, value in self.to_dict().items() if key not in without})
        canonical = json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(canonical.encode()).hexdigest()


def _one_spelling(value: Any) -> Any:
    # Integral floats as integers: KFP turns the one into the other, and both mean the same run.
    if isinstance(value, dict):
        return {key: _one_spelling(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_one_spelling(item) for item in value]
    exact = isinstance(value, float) and value.is_integer() and abs(value) <= EXACT_FLOAT_LIMIT
    return int(value) if exact else value


def _without_placeholders(text: str) -> str:
    return text.replace("{{", "\\u007b\\u007b")  # KFP takes {{ inside a parameter for a placeholder
