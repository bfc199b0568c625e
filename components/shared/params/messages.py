"""What is wrong with params, in words for people: pydantic's findings as problems with paths."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from components.shared.errors import Problem
from components.shared.params.allowed_classes import shortened
from components.shared.params.types import described

# Names the field uses elsewhere, so that the suggestion is right where spelling alone would not find it.
KNOWN_ELSEWHERE = {
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


def as_problems(
    error: ValidationError,
    known: Collection[str],
    unknown_key: Callable[[tuple[int | str, ...]], str] | None = None,
) -> list[Problem]:
    """What pydantic found, each with its path and in words for people.

    Args:
        error: What it found.
        known: Every key there is, for the nearest to one that is not known.
        unknown_key: What to say of a key that is not known, by its way down; default: in words for params.
    """
    problems = []
    for detail in error.errors(include_url=False):
        context = detail.get("ctx", {})
        path = _path(detail["loc"])
        if detail["type"] == "refused" and "problems" in context:
            problems += [Problem(path + where, message) for where, message in context["problems"]]
        elif detail["type"] == "refused":
            problems.append(Problem(path + context["where"], context["message"]))
        else:
            if unknown_key is not None and detail["type"] == "extra_forbidden":
                problems.append(Problem(path, unknown_key(detail["loc"])))
            else:
                problems.append(Problem(path, _message(detail, known)))
    return problems


def _path(location: tuple[int | str, ...]) -> str:
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            name = shortened(part)
            path += f".{name}" if path else name
    return path


def _message(detail: ErrorDetails, known: Collection[str]) -> str:
    """A pydantic error in our words."""
    context: dict[str, Any] = detail.get("ctx", {})
    given = described(detail["input"])
    match detail["type"]:
        case "missing":
            return "is required"
        case "extra_forbidden":
            return _unknown_key(detail["loc"], known)
        case "greater_than_equal":
            return f"must be at least {_bound(context['ge'])}, got {given}"
        case "greater_than":
            return f"must be greater than {_bound(context['gt'])}, got {given}"
        case "less_than_equal":
            return f"must be at most {_bound(context['le'])}, got {given}"
        case "less_than":
            return f"must be less than {_bound(context['lt'])}, got {given}"
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
        case _:
            return shortened(detail["msg"], 200)


def _bound(value: float) -> str:
    """A limit without lost digits."""
    if value == 2**64:
        return "2^64"
    return f"{int(value):,}" if value == int(value) else f"{value:g}"


def _unknown_key(location: tuple[int | str, ...], known: Collection[str]) -> str:
    key = str(location[-1])
    if len(location) > 1:
        allowed = ["name", "class", "kwargs"] if location[0] == "learning_rate_schedule" else ["class", "kwargs"]
        return f"unknown key; allowed are {', '.join(allowed)}"
    folded = {name.casefold(): name for name in known}
    near = KNOWN_ELSEWHERE.get(key.casefold()) or next(
        (folded[close] for close in difflib.get_close_matches(key.casefold(), folded, n=1, cutoff=0.5)), None
    )
    return f"unknown key; did you mean {near}?" if near else "unknown key; README lists the known ones"
