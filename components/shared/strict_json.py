"""JSON as RFC 8259 has it, from files of unknown origin: no key twice, no NaN, no number beyond float64."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NoReturn

from components.shared.files import read_regular
from components.shared.text import shortened

# The largest manifest is an evaluation's of 2,000 classes: its matrix takes 40 MB. Reading takes ten times the memory.
MAX_BYTES = 64 * 1024**2


class StrictJsonError(ValueError):
    """JSON as many readers take it, and the standard does not."""


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON document.

    Raises:
        ValueError: It is none, or no UTF-8; a :class:`StrictJsonError` where it is only not the standard's.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8")
    try:
        return json.loads(text, object_pairs_hook=unique_keys, parse_constant=no_constant, parse_float=_finite)
    except RecursionError:
        raise StrictJsonError("is nested too deep") from None


def read_json(file: str | Path, limit: int = MAX_BYTES) -> Any:
    """The value of a JSON file; OSError as :func:`~components.shared.files.read_regular`, ValueError as above."""
    return parse_json(read_regular(file, limit))


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A mapping of a JSON document, for :func:`json.loads`; StrictJsonError if it has a key twice."""
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise StrictJsonError(f"has the key {shortened(key)!r} twice in one mapping")
        result[key] = value
    return result


def no_constant(name: str) -> NoReturn:
    """Refuse NaN and the infinities, for :func:`json.loads`."""
    raise StrictJsonError(f"{name} is not a number a run can use")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise StrictJsonError(f"{shortened(text)} is beyond what a number can be")
    return value
