"""What is wrong with params or settings, in plain words: pydantic's findings as problems with paths."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from components.shared.errors import Problem
from components.shared.text import described, shortened

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
_BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("greater than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
}


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
    """A pydantic error in our words."""
    kind, context, given = detail["type"], detail.get("ctx", {}), described(detail["input"])
    if kind in _BOUNDS:
        words, key = _BOUNDS[kind]
        return f"must be {words} {_bound(context[key])}, got {given}"
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


def _bound(value: float) -> str:
    """A limit without lost digits."""
    if value == 2**64:
        return "2^64"
    return f"{int(value):,}" if value == int(value) else f"{value:g}"


def _unknown_key(location: tuple[int | str, ...], known: Collection[str]) -> str:
    key = str(location[-1]).casefold()
    if len(location) > 1:
        allowed = ["name", "class", "kwargs"] if location[0] == "learning_rate_schedule" else ["class", "kwargs"]
        return f"unknown key; allowed are {', '.join(allowed)}"
    folded = {name.casefold(): name for name in known}
    close = [folded[name] for name in difflib.get_close_matches(key, folded, n=1, cutoff=0.5)]
    near = KNOWN_ELSEWHERE.get(key) or next(iter(close), None)
    return f"unknown key; did you mean {near}?" if near else "unknown key; README lists the known ones"
