"""The gate: which figures of evaluation a model must reach to pass."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic import ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator
from pydantic_core import PydanticCustomError

from components.shared.errors import ParamsError, Problem
from components.shared.params.types import Entry, Real, real, refusal, refusals
from components.shared.text import described, shortened

# The figures of a whole split that evaluation computes, and what each may be.
METRIC_RANGES: dict[str, tuple[float, float | None]] = {
    **dict.fromkeys(("accuracy", "balanced_accuracy", "top_5_accuracy"), (0, 1)),
    **dict.fromkeys(("precision_macro", "recall_macro", "f1_macro"), (0, 1)),
    **dict.fromkeys(("precision_weighted", "recall_weighted", "f1_weighted"), (0, 1)),
    "log_loss": (0, None),
    "brier_score": (0, 2),
    "expected_calibration_error": (0, 1),
    **dict.fromkeys(("roc_auc_ovr", "average_precision"), (0, 1)),
    **dict.fromkeys(("cohen_kappa", "matthews_corrcoef"), (-1, 1)),
}
# Those of one class: recall[cat].
CLASS_METRICS = ("precision", "recall", "f1")
CLASS_METRIC = re.compile(rf"({'|'.join(CLASS_METRICS)})\[(.+)\]", re.DOTALL)
_ALLOWED = (
    f"{', '.join(METRIC_RANGES)}, vs_baseline, and of a class {', '.join(f'{name}[CLASS]' for name in CLASS_METRICS)}"
)
# JSON Schema of a gate's keys, which are its metrics.
_KEYS: dict[str, Any] = {"anyOf": [{"enum": [*METRIC_RANGES, "vs_baseline"]}, {"pattern": f"^{CLASS_METRIC.pattern}$"}]}
# Names the field uses elsewhere, which spelling alone would lead elsewhere.
_KNOWN_ELSEWHERE = {
    "auc": "roc_auc_ovr",
    "ece": "expected_calibration_error",
    "f1": "f1_macro",
    "kappa": "cohen_kappa",
    "loss": "log_loss",
    "mcc": "matthews_corrcoef",
    "precision": "precision_macro",
    "recall": "recall_macro",
    "top_5": "top_5_accuracy",
}
_VERSUS = ("better", "not_worse")
_SHOWN_CLASSES = 20


class _AsWritten(Entry):
    """What is written without the keys that nobody gave."""

    @model_serializer(mode="wrap")
    def _given(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in write(self).items() if value is not None}


class Threshold(_AsWritten):
    """What one figure must be: at least `min`, at most `max`, or both."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    min: Real | None = Field(None, description="The least that passes.")
    max: Real | None = Field(None, description="The most that passes.")

    def __str__(self) -> str:
        least, most = (f"{bound:.12g}" if bound is not None else "" for bound in (self.min, self.max))
        if least and most:
            return f"from {least} to {most}"
        return f"at least {least}" if least else f"at most {most}"


class Gate(_AsWritten):
    """What a model's figures on the test split must be for it to pass: a threshold by metric."""

    # Metrics are its extra keys, as a class of the data is part of the name.
    model_config = ConfigDict(extra="allow", json_schema_extra={"propertyNames": _KEYS, "minProperties": 1})
    __pydantic_extra__: dict[str, Threshold]

    vs_baseline: Literal["better", "not_worse"] | None = Field(
        None,
        description="How the model must compare to the baseline: better, or not distinguishably worse.",
    )

    @property
    def thresholds(self) -> dict[str, Threshold]:
        """The threshold of each metric, in the params' order."""
        return dict(self.__pydantic_extra__)

    def wanted(self) -> dict[str, str]:
        """What is wanted of each metric, in words: ``at least 0.97``."""
        texts = {metric: str(threshold) for metric, threshold in self.thresholds.items()}
        if self.vs_baseline is not None:
            texts["vs_baseline"] = f"{self.vs_baseline.replace('_', ' ')} than the baseline"
        return texts

    def classes(self) -> Iterator[tuple[str, str]]:
        """Metric and class of each threshold that is of one class: ``recall[cat]`` and ``cat``."""
        for metric in self.__pydantic_extra__:
            if found := CLASS_METRIC.fullmatch(metric):
                yield metric, found[2]

    @model_validator(mode="before")
    @classmethod
    def _checked(cls, value: object) -> object:
        """Every problem at once, in terms of metrics."""
        if isinstance(value, Gate):
            return value
        if not isinstance(value, Mapping):
            raise refusal(f"must be a mapping of metrics such as {{accuracy: {{min: 0.97}}}}, got {described(value)}")
        problems = [problem for metric, wanted in value.items() for problem in _problems(metric, wanted)]
        if not problems and all(wanted is None for wanted in value.values()):
            problems.append(("", "must have a threshold such as {accuracy: {min: 0.97}}; null: no gate"))
        if problems:
            raise refusals(problems)
        return value


def check_gate(gate: Gate | None, classes: Sequence[str]) -> None:
    """Refuse, by a ParamsError, a gate on classes that there are not; before anything is computed."""
    problems = [
        Problem(f"gate.{shortened(metric)}", _no_such_class(name, classes))
        for metric, name in (gate.classes() if gate is not None else ())
        if name not in classes
    ]
    if problems:
        raise ParamsError(problems)


def _no_such_class(name: str, classes: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, classes, n=1, cutoff=0.5)
    more = f", … ({len(classes):,} in all)" if len(classes) > _SHOWN_CLASSES else ""
    known = ", ".join(shortened(each) for each in classes[:_SHOWN_CLASSES])
    hint = f"; did you mean {shortened(near[0])!r}?" if near else ""
    return f"there is no class {shortened(name)!r} among {known}{more}{hint}"


def _problems(metric: object, wanted: object) -> Iterator[tuple[str, str]]:
    where = f".{shortened(metric)}"
    if metric == "vs_baseline":
        if wanted is not None and wanted not in _VERSUS:
            yield where, f'must be "better" or "not_worse", got {described(wanted)}'
        return
    name = metric if isinstance(metric, str) else ""
    if CLASS_METRIC.fullmatch(name):
        bounds: tuple[float, float | None] | None = (0, 1)
    else:
        bounds = METRIC_RANGES.get(name)
    if bounds is None:
        yield where, _unknown(metric)
    elif not isinstance(wanted, Mapping):
        yield where, f"must be a mapping of min, max or both, such as {{min: 0.97}}, got {described(wanted)}"
    else:
        yield from ((where + inner, message) for inner, message in _threshold_problems(wanted, bounds))


def _threshold_problems(wanted: Mapping[Any, Any], bounds: tuple[float, float | None]) -> Iterator[tuple[str, str]]:
    least, most = bounds
    found: dict[str, float] = {}
    for key, value in wanted.items():
        where = f".{shortened(key)}"
        if key not in ("min", "max"):
            yield where, "unknown key; allowed are min, max"
            continue
        if value is None:
            continue
        try:
            number = real(value)
        except PydanticCustomError as error:
            yield where, error.message()
            continue
        if number < least or (most is not None and number > most):
            allowed = f"at least {least:g}" if most is None else f"from {least:g} to {most:g}"
            yield where, f"must be {allowed}, got {described(value)}"
        found[key] = number
    if not wanted or all(value is None for value in wanted.values()):
        yield "", "must have min, max or both"
    elif len(found) == 2 and found["min"] > found["max"]:
        yield ".min", f"must be at most max, {found['max']:g}, got {found['min']:g}"


def _unknown(metric: object) -> str:
    name = str(metric).casefold()
    close = difflib.get_close_matches(name, METRIC_RANGES, n=1, cutoff=0.5)
    near = _KNOWN_ELSEWHERE.get(name) or (close[0] if close else None)
    return f"unknown metric; {f'did you mean {near}? ' if near else ''}Allowed are {_ALLOWED}"
