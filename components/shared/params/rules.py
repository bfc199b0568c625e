"""Rules of single params, and between params, that types alone do not say."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from components.shared.errors import InputError, Problem
from components.shared.events.targets import bootstrap_servers
from components.shared.params.recipes import recipe_problems
from components.shared.params.types import ScheduleSpec, refusal, refusals
from components.shared.storage.location import parse_location
from components.shared.text import described, shortened

# Schedules of torch that set the learning rate whatever it was, and so undo what acts beside them. A test asks torch's
# schedules; `rehearse` asks those of a run, with their arguments.
ABSOLUTE_SCHEDULES = ("CosineAnnealingWarmRestarts", "CyclicLR", "OneCycleLR")
_SET_ELSEWHERE = {
    "lr": "must not be given here; set learning_rate instead",
    "params": "must not be given here; the network's parameters are passed",
}
_ALWAYS_FALSE = {
    "capturable": "must be false; step: graph captures steps, and sets it where that needs it",
    "differentiable": "must be false; nothing is differentiated through a step",
}


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
    problems = [(f".{key}", message) for key, message in _SET_ELSEWHERE.items() if key in kwargs]
    problems += [(f".{key}", message) for key, message in _ALWAYS_FALSE.items() if kwargs.get(key)]
    if problems:
        raise refusals(problems)
    return kwargs


def location(value: str) -> str:
    """A path, or a location in a bucket; nothing else is fetched from."""
    try:
        parse_location(value)
    except InputError as error:
        raise refusal(str(error)) from error
    return value


def none_as_empty(value: object) -> object:
    """Null for an empty list."""
    return [] if value is None else value


def without_dropped_options(raw: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """`raw` without the schedule options torch no longer has, and their paths."""
    given, dropped = dict(raw), []
    schedules = given.get("learning_rate_schedule")
    if isinstance(schedules, list | tuple):
        given["learning_rate_schedule"] = kept = list(schedules)
        for index, entry in enumerate(schedules):
            kwargs = entry.get("kwargs") if isinstance(entry, Mapping) else None
            if isinstance(kwargs, Mapping) and "verbose" in kwargs:
                dropped.append(f"learning_rate_schedule[{index}].kwargs.verbose")
                kept[index] = {**entry, "kwargs": {key: kwargs[key] for key in kwargs if key != "verbose"}}
    return given, dropped


def cross_problems(values: Mapping[str, Any]) -> Iterator[Problem]:
    """What is wrong between keys that are each right: `values` has those, defaults included."""
    value = values.get
    if (color := value("is_image_color")) is not None:
        channels, kind = (3, "color") if color else (1, "grayscale")
        for key in ("normalise_mean", "normalise_std"):
            if isinstance(given := value(key), list) and len(given) != channels:
                wanted = f"must have {channels} number(s) for {kind} images (is_image_color)"
                yield Problem(key, f"{wanted}, got {len(given)}")
    yield from _stored_size_problems(values)
    classes, weights = value("n_classes"), value("class_weights")
    if classes is not None and isinstance(weights, list) and len(weights) != classes:
        wanted = f"must have a number for each of the {classes} classes (n_classes)"
        yield Problem("class_weights", f"{wanted}, got {len(weights)}")
    layers, frozen = value("net_arch"), value("frozen_layers")
    if layers is not None and frozen is not None and frozen > len(layers):
        yield Problem("frozen_layers", f"must be at most the {len(layers)} layers of net_arch, got {described(frozen)}")
    yield from recipe_problems(values)
    if (schedules := value("learning_rate_schedule")) is not None:
        names = [schedule.short_name for schedule in schedules]
        yield from _schedule_problems(names, value("warmup_epochs"), value("milestones"), value("num_epochs"))
    if (gate := value("gate")) and classes is not None and classes <= 5 and "top_5_accuracy" in gate.thresholds:
        yield Problem("gate.top_5_accuracy", f"needs more than 5 classes, and n_classes is {classes}")
    if gate and gate.vs_baseline and "baseline" in values and values["baseline"] is None:
        yield Problem("baseline", "is required where gate.vs_baseline is given: the model directory to compare to")
    if value("compile") == "always" and value("gradient_checkpointing"):
        yield Problem(
            "compile", 'is "always", and layers of gradient_checkpointing are not compiled; set only one of the two'
        )
    for first, second in (
        ("PUB_SUB_TOPIC", "PUB_SUB_PROJECT"),
        ("PUB_SUB_SUBSCRIPTION", "PUB_SUB_PROJECT"),
        ("KAFKA_TOPIC", "KAFKA_HOST"),
        ("KAFKA_HOST", "KAFKA_TOPIC"),
    ):
        if value(first) is not None and second in values and values[second] is None:
            yield Problem(second, f"is required where {first} is given")


def _stored_size_problems(values: Mapping[str, Any]) -> Iterator[Problem]:
    for side, other in (("height", "width"), ("width", "height")):
        if (stored := values.get(f"stored_{side}")) is None or (taken := values.get(f"image_{side}")) is None:
            continue
        if stored < taken:
            yield Problem(f"stored_{side}", f"must be at least image_{side}, {taken}, got {stored}")
        # Not the model's own side, which would squeeze images, and not one in proportion, which would be a guess.
        if values.get(f"stored_{other}", ...) is None and (taken_other := values.get(f"image_{other}")) is not None:
            advice = f"{round(max(stored, taken) * taken_other / taken)} keeps the model's proportions"
            yield Problem(f"stored_{other}", f"is required where stored_{side} is given; {advice}")


def instead_of_warmup(name: str, warmup: float) -> str:
    """What to set instead of ``warmup_epochs`` before a schedule that sets the rate."""
    if name == "OneCycleLR":
        return "set warmup_epochs to 0: it has a warm-up of its own, pct_start of its steps"
    epochs = math.ceil(warmup)
    return (
        f"put a LinearLR with start_factor 0.01 and total_iters {epochs} before it (learning_rate_schedule: "
        f"[LinearLR, {name}] with milestones: [{epochs}]), and set warmup_epochs to 0"
    )


def _schedule_problems(
    names: Sequence[str], warmup: float | None, milestones: list[int] | None, epochs: int | None
) -> Iterator[Problem]:
    if warmup is not None and epochs is not None and warmup > epochs:
        yield Problem("warmup_epochs", f"must be at most num_epochs, {epochs}, got {warmup:g}")
    if milestones:
        if len(milestones) != len(names) - 1:
            wanted = f"must be one fewer than the {len(names)} schedules of learning_rate_schedule"
            yield Problem("milestones", f"{wanted}, got {len(milestones)}")
        if epochs is not None and milestones[-1] >= epochs:
            wanted = f"must be less than num_epochs, {epochs}, for the last schedule to have epochs"
            yield Problem(f"milestones[{len(milestones) - 1}]", f"{wanted}, got {milestones[-1]}")
        if warmup is not None and warmup > milestones[0]:
            wanted = f"must end by the first of milestones, {milestones[0]}, where another schedule takes over"
            yield Problem("warmup_epochs", f"{wanted}; got {warmup:g}")
    together = 1 if milestones else len(names)
    for index, name in enumerate(names[:together]):
        if name not in ABSOLUTE_SCHEDULES:
            continue
        where, what = f"learning_rate_schedule[{index}].class", f"{name} sets the learning rate whatever it was"
        if warmup:
            yield Problem(where, f"{what}; {instead_of_warmup(name, warmup)}")
        elif together > 1:
            advice = "give each its own epochs by milestones, or leave one out"
            yield Problem(where, f"{what}, and would undo the other schedules; {advice}")
