"""What MLflow gets of a run, as names, numbers and texts that it takes: params, metrics, tags."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from components.shared.artifacts.model import EpochRecord
from components.shared.events.data import Progress

# MLflow cuts a param's value at 6,000 characters without an error, its servers before 2.8 refuse more than 500, and
# nobody reads more in a table: longer ones are in params.json alone.
_LONGEST_PARAM = 500
_LONGEST_KEY = 250
# As MLflow has it: letters of any script.
_NOT_IN_A_KEY = re.compile(r"[^\w\-. :]")
_OF_A_CLASS = re.compile(r"(\w+)\[(.*)\]", re.DOTALL)


class Point(NamedTuple):
    """One value of a metric at a step of its curve; time in milliseconds since 1970."""

    name: str
    value: float
    time_ms: int
    step: int


def is_end_of_epoch(data: Progress) -> bool:
    """Whether training's progress is that of a whole epoch."""
    return data.epoch is not None and data.epochs is not None and data.step * data.epochs == data.epoch * data.steps


def points_of_epoch(data: Progress, time_ms: int) -> Iterator[Point]:
    """The figures of an epoch that has ended: of its training, and of the held-out split where it was evaluated."""
    split = next((name for name in data.losses if name != "train"), "held-out")
    values = {f"{name}/loss": loss for name, loss in data.losses.items()}
    for name, value in data.metrics.items():
        values["train/accuracy" if name == "train_accuracy" else f"{split}/{name}"] = value
    values |= {"learning_rate": data.learning_rate, "images_per_second": data.samples_per_second}
    return _points(values, time_ms, data.epoch or 0)


def points_of_history(history: Iterable[EpochRecord], split: str, time_ms: int) -> Iterator[Point]:
    """The same figures of epochs that a model's manifest has."""
    for record in history:
        held_out = {name: getattr(record, name) for name in ("loss", "accuracy", "precision", "recall", "f1")}
        values = {
            "train/loss": record.train_loss,
            "train/accuracy": record.train_accuracy,
            **{f"{split}/{name}": value for name, value in held_out.items()},
            "learning_rate": record.learning_rate,
            "images_per_second": record.images_per_second,
        }
        yield from _points(values, time_ms, record.epoch)


def points_at_end(values: Mapping[str, float | None], time_ms: int, step: int = 0) -> Iterator[Point]:
    """Final figures by name; ``recall[cat]`` becomes ``recall/cat``, as MLflow takes no brackets."""
    return _points(values, time_ms, step)


def _points(values: Mapping[str, float | None], time_ms: int, step: int) -> Iterator[Point]:
    taken: set[str] = set()
    for name, value in values.items():
        if value is None:
            continue
        found = _OF_A_CLASS.fullmatch(name)
        key = name = (f"{found[1]}/{_key(found[2])}" if found else _key(name, but="/"))[: _LONGEST_KEY - 4]
        number = 1
        while key in taken:  # of classes whose names differ in such characters alone
            key, number = f"{name}_{number + 1}", number + 1
        taken.add(key)
        # MLflow would store infinity as the largest number there is.
        yield Point(key, value if math.isfinite(value) else math.nan, time_ms, step)


def _key(name: str, but: str = "") -> str:
    """A name as MLflow takes it: as a path it must be one name, or with `but` several."""
    key = _NOT_IN_A_KEY.sub(lambda found: found[0] if found[0] == but else "_", name)
    return key if key.strip(".") else "_" * len(key)


def short_params(params: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """The params that fit MLflow's table: mappings by dotted names, other values as JSON; long ones are left out."""
    found: dict[str, str] = {}
    for name, value in params.items():
        key = _key(f"{prefix}{name}")
        if isinstance(value, Mapping) and value:
            found |= short_params(value, f"{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            if len(text) <= _LONGEST_PARAM and len(key) <= _LONGEST_KEY:
                found[key] = text
    return found


def redacted(document: Any, redact: Callable[[str], str]) -> Any:
    """JSON data without the secrets in its texts."""
    if isinstance(document, str):
        return redact(document)
    if isinstance(document, Mapping):
        return {key: redacted(value, redact) for key, value in document.items()}
    if isinstance(document, list | tuple):
        return [redacted(value, redact) for value in document]
    return document
