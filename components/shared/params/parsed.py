"""What one reading of params found: the params, or what is sound of them, and pydantic's findings in plain words."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError, ValidationInfo, ValidatorFunctionWrapHandler
from pydantic_core import ErrorDetails

from components.shared.errors import ParamsError, Problem
from components.shared.text import described, shortened

if TYPE_CHECKING:
    from components.shared.params.params import Params
    from components.shared.params.types import ClassSpec

# Names the field uses elsewhere, so that the suggestion is right where spelling alone would not find it.
_KNOWN_ELSEWHERE = {
    "lr": "learning_rate",
    "epochs": "num_epochs",
    "seed": "manual_seed",
    "random_seed": "manual_seed",
    "optimizer": "optim_class",
    "optimiser": "optim_class",
    "scheduler": "learning_rate_schedule",
    "shuffle": "shuffle_dataset",
    "transforms": "additional_transforms",
    "num_classes": "n_classes",
    "layers": "net_arch",
}
_BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("greater than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
}


class ParamsWarning(UserWarning):
    """Something in the params has no effect; the run goes on."""


@dataclass
class Parsed:
    """What one reading of params found.

    Attributes:
        params: The params; None where anything is wrong.
        values: Of every key that is sound by itself its value, or default.
        entries: Of every key with a list of classes its entries; None for one that is not sound.
        problems: What is wrong with all others, and between those that are sound, in the order of the document.
        notes: What has no effect.
        source: What messages call the params' origin.
    """

    params: Params | None = None
    values: dict[str, Any] = field(default_factory=dict)
    entries: dict[str, list[ClassSpec | None]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    source: str | None = None

    def sound(self) -> Params:
        """The params; a ParamsError with every problem if anything is wrong."""
        if self.params is None:
            raise ParamsError(self.problems, self.source)
        return self.params

    def warned(self) -> Params:
        """As :meth:`sound`, and warn of what has no effect."""
        params = self.sound()
        for note in self.notes:
            warnings.warn(note, ParamsWarning, stacklevel=3)
        return params


def keep_sound(value: object, check: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
    """Keep an entry of a list, for checks that go on where others are wrong."""
    kept = info.context.entries.setdefault(str(info.field_name), []) if isinstance(info.context, Parsed) else []
    kept.append(None)
    kept[-1] = checked = check(value)
    return checked


def as_problems(
    error: ValidationError,
    known: Collection[str],
    unknown_key: Callable[[tuple[int | str, ...]], str] | None = None,
) -> list[Problem]:
    """What pydantic found, each with its path and a message for people.

    Args:
        error: What it found.
        known: Every key there is, for the nearest to an unknown one.
        unknown_key: The message for an unknown key, by its way down; default: the one for params.
    """
    problems = []
    for detail in error.errors(include_url=False):
        path = ""
        for part in detail["loc"]:
            path += f"[{part}]" if isinstance(part, int) else f"{'.' if path else ''}{shortened(part)}"
        if detail["type"] == "refused":
            problems += [Problem(path + where, message) for where, message in detail["ctx"]["problems"]]
        elif detail["type"] == "extra_forbidden":
            message = unknown_key(detail["loc"]) if unknown_key else _unknown_key(detail["loc"], known)
            problems.append(Problem(path, message))
        else:
            problems.append(Problem(path, _message(detail)))
    return problems


def _message(detail: ErrorDetails) -> str:
    kind, context, given = detail["type"], detail.get("ctx", {}), described(detail["input"])
    if kind in _BOUNDS:
        comparison, key = _BOUNDS[kind]
        bound = context[key]
        spelled = "2^64" if bound == 2**64 else f"{int(bound):,}" if bound == int(bound) else f"{bound:g}"
        return f"must be {comparison} {spelled}, got {given}"
    match kind:
        case "missing":
            return "is required"
        case "literal_error":
            return f"must be {context['expected'].replace(chr(39), chr(34))}, got {given}"
        case "list_type":
            return f"must be a list, got {given}"
        case "too_short":
            return f"must have at least {context['min_length']} entry"
        case "too_long":
            return f"must have at most {context['max_length']:,} entries"
        case "model_type" | "dict_type":
            return f"must be a mapping such as {{class, kwargs}}, got {given}"
    return shortened(detail["msg"], 200)


def _unknown_key(location: tuple[int | str, ...], known: Collection[str]) -> str:
    if len(location) > 1:
        name = "name, " if location[0] == "learning_rate_schedule" else ""
        return f"unknown key; allowed are {name}class, kwargs"
    key, folded = str(location[-1]).casefold(), {name.casefold(): name for name in known}
    close = difflib.get_close_matches(key, folded, n=1, cutoff=0.5)
    near = _KNOWN_ELSEWHERE.get(key) or (folded[close[0]] if close else None)
    return (
        f"unknown key; did you mean {near}?"
        if near
        else "unknown key; `shutterline params --schema` lists the known ones"
    )
