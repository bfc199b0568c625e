"""Rules of single params, and between params, that types alone do not say."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from pydantic_core import PydanticCustomError

from components.shared.errors import InputError, Problem
from components.shared.events.targets import bootstrap_servers
from components.shared.params.allowed_classes import shortened
from components.shared.params.types import (
    LARGEST_DIVISOR,
    SMALLEST_DIVISOR,
    ScheduleSpec,
    described,
    real,
    refusal,
    refusals,
)
from components.shared.storage.location import place


def credentials_reference(value: object) -> object:
    """Before any check that shows the value in its message."""
    if isinstance(value, str) and ("{" in value or "PRIVATE KEY" in value or not value.isprintable()):
        raise refusal("must be the path of a service-account file, never its content")
    return value


def following(rule: tuple[str, str]) -> Callable[[str], str]:
    """A validator of text by a (pattern, message) rule."""
    pattern, message = rule

    def follow(value: str) -> str:
        if re.fullmatch(pattern, value) is None:
            raise refusal(f"{message}, got {described(value)}")
        return value

    return follow


def servers(value: str) -> str:
    """Kafka brokers, as `bootstrap_servers` reads them."""
    try:
        bootstrap_servers(value)
    except ValueError as error:
        raise refusal(f"{error}; several brokers are separated by commas") from error
    return value


def unique_names(schedules: list[ScheduleSpec]) -> list[ScheduleSpec]:
    """No two schedules of one name, where they have names."""
    seen = set()
    for index, name in enumerate(schedule.name for schedule in schedules):
        if name is not None and name in seen:
            raise refusal(f"the name {shortened(name)!r} is taken by an earlier entry", f"[{index}].name")
        seen.add(name)
    return schedules


def rising(epochs: list[int]) -> list[int]:
    """Each later than the one before."""
    for index, (before, epoch) in enumerate(pairwise(epochs), 1):
        if epoch <= before:
            raise refusal(f"must be later than the one before, {before}, got {epoch}", f"[{index}]")
    return epochs


def optimiser_kwargs(kwargs: dict[str, Any]) -> dict[str, Any]:
    """An optimiser's arguments without what Shutterline passes itself."""
    problems = [
        (f".{key}", f"must not be given here; {instead}")
        for key, instead in (("lr", "set learning_rate instead"), ("params", "the network's parameters are passed"))
        if key in kwargs
    ]
    problems += [
        (f".{key}", f"must be false; {why}")
        for key, why in (
            ("capturable", "steps are not captured into CUDA graphs"),
            ("differentiable", "nothing is differentiated through a step"),
        )
        if kwargs.get(key)
    ]
    if problems:
        raise refusals(problems)
    return kwargs


def weights_place(value: str) -> str:
    """A path, or a location in a bucket; nothing else is fetched from."""
    try:
        place(value)
    except InputError as error:
        raise refusal(str(error)) from error
    return value


def none_as_empty(value: object) -> object:
    """Null for an empty list."""
    return [] if value is None else value


def _range_of(value: float) -> str:
    """What a number must be that is divided by, or summed up."""
    return "must be greater than 0" if value <= 0 else f"must be from {SMALLEST_DIVISOR:g} to {LARGEST_DIVISOR:g}"


def weights_of_classes(value: object) -> list[float] | str | None:
    """``"balanced"``, a positive number for each class, or nothing."""
    if value is None or value == "balanced":
        return value
    if not isinstance(value, list | tuple):
        raise refusal(f'must be "balanced" or a list of a number for each class, got {described(value)}')
    weights, problems = [], []
    for index, item in enumerate(value):
        try:
            weights.append(real(item))
            if not SMALLEST_DIVISOR <= weights[-1] <= LARGEST_DIVISOR:
                problems.append((f"[{index}]", f"{_range_of(weights[-1])}, got {described(item)}"))
        except PydanticCustomError as error:
            problems.append((f"[{index}]", str(error)))
    if problems:
        raise refusals(problems)
    return weights


def without_dropped_options(raw: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """`raw` without the schedule options torch no longer has, and their paths."""
    given, ignored = dict(raw), []
    schedules = given.get("learning_rate_schedule")
    if isinstance(schedules, list | tuple):
        kept = []
        for index, entry in enumerate(schedules):
            kwargs = entry.get("kwargs") if isinstance(entry, Mapping) else None
            if isinstance(kwargs, Mapping) and "verbose" in kwargs:
                ignored.append(f"learning_rate_schedule[{index}].kwargs.verbose")
                entry = {**entry, "kwargs": {key: value for key, value in kwargs.items() if key != "verbose"}}
            kept.append(entry)
        given["learning_rate_schedule"] = kept
    return given, ignored


def cross_problems(raw: Mapping[str, Any]) -> list[Problem]:
    """What is wrong between keys that may each be right; looks only at values of the expected kind."""
    problems = []
    color = raw.get("is_image_color", False)
    if isinstance(color, bool):
        channels, kind = (3, "color") if color else (1, "grayscale")
        for key in ("normalise_mean", "normalise_std"):
            value = raw.get(key)
            if isinstance(value, list | tuple) and len(value) in (1, 3) and len(value) != channels:
                problems.append(
                    Problem(key, f"must have {channels} number(s) for {kind} images (is_image_color), got {len(value)}")
                )
    problems += _training_problems(raw)
    std = raw.get("normalise_std")
    for index, item in enumerate(std if isinstance(std, list | tuple) else []):
        if (
            isinstance(item, int | float)
            and not isinstance(item, bool)
            and not SMALLEST_DIVISOR <= item <= LARGEST_DIVISOR
        ):
            problems.append(Problem(f"normalise_std[{index}]", f"{_range_of(item)}, got {described(item)}"))
    for first, second in (
        ("PUB_SUB_TOPIC", "PUB_SUB_PROJECT"),
        ("PUB_SUB_SUBSCRIPTION", "PUB_SUB_PROJECT"),
        ("KAFKA_TOPIC", "KAFKA_HOST"),
        ("KAFKA_HOST", "KAFKA_TOPIC"),
    ):
        if raw.get(first) is not None and raw.get(second) is None:
            problems.append(Problem(second, f"is required where {first} is given"))
    return problems


# Schedules of torch that set the learning rate whatever it was, and so undo what acts beside them. A test asks torch's
# schedules; `rehearse` asks those of a run, with their arguments.
ABSOLUTE_SCHEDULES = ("CosineAnnealingWarmRestarts", "CyclicLR", "OneCycleLR")


def _figure(value: float) -> str:
    """A number as short as it goes; KFP makes floats of whole numbers."""
    return described(value) if abs(value) > LARGEST_DIVISOR else f"{value:g}"


def _training_problems(raw: Mapping[str, Any]) -> list[Problem]:
    """Options of training that do not go together."""
    problems = []
    classes, weights = raw.get("n_classes"), raw.get("class_weights")
    if isinstance(weights, list | tuple) and isinstance(classes, int | float) and len(weights) != classes:
        message = f"must have a number for each of the {_figure(classes)} classes (n_classes), got {len(weights)}"
        problems.append(Problem("class_weights", message))
    layers, frozen = raw.get("net_arch"), raw.get("frozen_layers")
    # KFP makes floats of whole numbers.
    if isinstance(layers, list | tuple) and isinstance(frozen, int | float) and frozen > len(layers):
        message = f"must be at most the {len(layers)} layers of net_arch, got {described(frozen)}"
        problems.append(Problem("frozen_layers", message))
    schedules, warmup = raw.get("learning_rate_schedule"), raw.get("warmup_epochs")
    epochs = raw.get("num_epochs")
    if isinstance(warmup, int | float) and isinstance(epochs, int | float) and warmup > epochs:
        problems.append(
            Problem("warmup_epochs", f"must be at most num_epochs, {_figure(epochs)}, got {described(warmup)}")
        )
    if schedules is None or isinstance(schedules, list | tuple):
        problems += _schedule_problems(schedules or [], warmup, raw.get("milestones"), epochs)
    return problems


def instead_of_warmup(name: str, warmup: float) -> str:
    """What to set instead of ``warmup_epochs`` before a schedule that sets the rate."""
    if name == "OneCycleLR":
        return "set warmup_epochs to 0: it has a warm-up of its own, pct_start of its steps"
    epochs = _figure(math.ceil(warmup))
    return (
        f"put a LinearLR with start_factor 0.01 and total_iters {epochs} before it (learning_rate_schedule: "
        f"[LinearLR, {name}] with milestones: [{epochs}]), and set warmup_epochs to 0"
    )


def _schedule_problems(
    schedules: Sequence[Any], warmup: object, milestones: object, epochs: object
) -> Iterator[Problem]:
    """Schedules that undo each other, and milestones that do not fit them."""
    names = []
    for entry in schedules:
        named = entry.get("class") if isinstance(entry, Mapping) else None
        dotted = named.__name__ if isinstance(named, type) else named if isinstance(named, str) else ""
        names.append(dotted.rpartition(".")[2])
    if milestones and isinstance(milestones, list | tuple):
        if len(milestones) != len(schedules) - 1:
            message = f"must be one fewer than the {len(schedules)} schedules of learning_rate_schedule"
            yield Problem("milestones", f"{message}, got {len(milestones)}")
        last = milestones[-1]
        if isinstance(epochs, int | float) and isinstance(last, int | float) and last >= epochs:
            message = f"must be less than num_epochs, {_figure(epochs)}, for the last schedule to have epochs"
            yield Problem(f"milestones[{len(milestones) - 1}]", f"{message}, got {described(last)}")
        first = milestones[0]
        if isinstance(warmup, int | float) and isinstance(first, int | float) and warmup > first:
            message = f"must end by the first of milestones, {_figure(first)}, where another schedule takes over"
            yield Problem("warmup_epochs", f"{message}; got {described(warmup)}")
        together = 1
    else:
        together = len(names)
    for index, name in enumerate(names[:together]):
        if name not in ABSOLUTE_SCHEDULES:
            continue
        what = f"{name} sets the learning rate whatever it was"
        if isinstance(warmup, int | float) and warmup > 0:
            message = f"{what}; {instead_of_warmup(name, warmup)}"
            yield Problem(f"learning_rate_schedule[{index}].class", message)
        elif together > 1:
            message = f"{what}, and would undo the other schedules; give each its own epochs by milestones"
            yield Problem(f"learning_rate_schedule[{index}].class", f"{message}, or leave one out")
