"""The data of each kind of event, a frozen record, and the JSON Schema they publish.

Every kind has a version of its own schema in :data:`SCHEMA_VERSION`. A field or a kind may be added within a version;
renaming, removing or changing the meaning of one makes a new version. Readers pass over what they do not know.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

SCHEMA_VERSION = 1
# Longer texts are cut: an event must fit every broker's message limit many times over.
TEXT_LIMIT = 4_000

# "unknown" is a pipeline's alone: it is over, and nothing that could be read shows how.
State = Literal["started", "progress", "checkpoint", "finding", "succeeded", "failed", "cancelled", "unknown"]
# How a step of a run can have ended: the states above, and four outcomes without an event of the end.
Outcome = Literal["succeeded", "failed", "cancelled", "killed", "cached", "not started", "unknown"]
TERMINAL: frozenset[str] = frozenset({"succeeded", "failed", "cancelled", "unknown"})

# problem: labels or figures are wrong; warning: a look is worth it.
Severity = Literal["problem", "warning", "note"]

Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
# null: the number was not finite, which JSON does not have.
Measured = Annotated[float, Field(allow_inf_nan=False)] | None


@dataclass(frozen=True, slots=True)
class StepStarted:
    """A step has begun.

    Attributes:
        host: Machine, or the pod's name, by which `kubectl logs` finds it.
        params_sha256: Digest of the run's params; equal for equal params.
        pipeline: Name of the pipeline the step belongs to; null for a step that was run by itself.
    """

    version: str
    host: str
    params_sha256: str | None = None
    pipeline: str | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """A step has done `step` of `steps` units of work.

    Attributes:
        unit: What is counted: batches in training, bytes while artifacts travel, images elsewhere.
        epoch: Epochs begun, from 1; null outside training.
        samples_per_second: Images a second: of the epoch's training where an epoch ended, else since the last progress.
        losses: Mean loss by split: of training, and of the held-out split where the epoch evaluated it.
        metrics: Figures by name, such as accuracy on the held-out split.
        eta_seconds: Estimated seconds left.
        mlflow_run: Id of the MLflow run that has these figures; null: there is none, or it is not known yet.
    """

    step: Count
    steps: Count
    unit: Literal["batches", "images", "bytes"] = "images"
    epoch: Count | None = None
    epochs: Count | None = None
    samples_per_second: Measured = None
    losses: dict[str, Measured] = field(default_factory=dict)
    metrics: dict[str, Measured] = field(default_factory=dict)
    learning_rate: Measured = None
    eta_seconds: Measured = None
    device: str | None = None
    mlflow_run: str | None = None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Training saved what it needs to go on.

    Attributes:
        epoch: The last epoch that is done, from 1; 0 in the first.
        uri: A path, a bucket's URI, or pod:/PATH for what ends with the pod.
        batch: Batches of the next epoch that are done.
    """

    epoch: Count
    epochs: Count
    uri: str
    batch: Count = 0


@dataclass(frozen=True, slots=True)
class DataFinding:
    """Data prep found something in the data, once of each kind; quality.json of the dataset has the whole.

    Attributes:
        kind: Such as leakage; readers pass over one that they do not know.
        of: What is counted.
        splits: The count by split of the dataset, where it has one.
        at_least: Whether there may be more.
        text: What was found, as a sentence.
        examples: Files of the first few cases, those of one case together.
    """

    kind: str
    severity: Severity
    count: Count
    of: Literal["images", "classes", "files"]
    text: str
    splits: dict[str, Count] = field(default_factory=dict)
    at_least: bool = False
    examples: list[list[str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ThresholdOutcome:
    """One threshold of the gate.

    Attributes:
        metric: Such as accuracy, recall[cat] or vs_baseline.
        wanted: As text, such as "at least 0.97".
        got: The figure; of vs_baseline the difference in accuracy; null where it cannot be computed.
        reason: Why there is no figure, or how the model compares to the baseline.
    """

    metric: str
    wanted: str
    passed: bool
    got: Measured = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class GateOutcome:
    """Whether a model reaches every threshold of the gate.

    Attributes:
        thresholds: Those that are not reached first.
        left_out: Further thresholds that are reached; evaluation.json has all.
    """

    passed: bool
    thresholds: list[ThresholdOutcome]
    left_out: Count = 0


@dataclass(frozen=True, slots=True)
class Mistake:
    """An image that a model takes for another class than its own: its file, both classes, and how sure the model is."""

    file: str
    label: str
    predicted: str
    confidence: Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, slots=True)
class Succeeded:
    """A step is done, after so many seconds.

    Attributes:
        metrics: Final figures by name.
        artifacts: Paths or URIs of what it made, by name.
        left_out: Data prep's: how much of the data was not read, by ending, folder or reason; bounded.
        findings: Data prep's: the count of each kind of finding.
        gate: Evaluation's: whether the model passes; null without a gate.
        publishes: Evaluation's: whether its pipeline publishes the model next.
        mistakes: Evaluation's: the most confident errors, at most 10.
    """

    seconds: Seconds
    metrics: dict[str, Measured] = field(default_factory=dict)
    artifacts: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, Count] | None = None
    findings: dict[str, Count] | None = None
    gate: GateOutcome | None = None
    publishes: bool | None = None
    mistakes: list[Mistake] | None = None
    mlflow_run: str | None = None


@dataclass(frozen=True, slots=True)
class Error:
    """An error: the name of its class, and its message without secrets."""

    type: str
    message: str


@dataclass(frozen=True, slots=True)
class Failed:
    """A step could not do its work; its process ends with `exit_code`: 2 for bad input, else 1.

    Attributes:
        starts_again: Whether a next attempt is likely to follow, which another process of the group or the platform
            starts by itself; null: as far as the step knows none does.
    """

    seconds: Seconds
    error: Error
    exit_code: int = 1
    mlflow_run: str | None = None
    starts_again: bool | None = None


@dataclass(frozen=True, slots=True)
class Cancelled:
    """A step was stopped by `reason`, a signal's name; its process ends with 128 and the signal's number.

    Attributes:
        starts_again: As of a step that failed: a platform that takes a machine away starts the step on another one.
    """

    seconds: Seconds
    reason: str
    exit_code: int = 130
    mlflow_run: str | None = None
    starts_again: bool | None = None


@dataclass(frozen=True, slots=True)
class PipelineStarted:
    """The first step of a pipeline has begun; `steps` are all of them in order, `host` is that of the first."""

    pipeline: str
    steps: list[str]
    version: str
    host: str
    params_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """How one step of a pipeline ended, as far as can be known at its end.

    Attributes:
        outcome: Its terminal event's state; or why there is none: killed (it began and never ended), cached (its
            result was there already), not started, or unknown (nothing that could be read says it).
        attempt: The last attempt seen, from 0; null if no event of it was seen.
        error: Why it did not succeed: its own error, or the platform's reason.
        source: CloudEvents source of that attempt's events; null if no event of it was seen.
    """

    step: str
    outcome: Outcome
    attempt: Count | None = None
    error: Error | None = None
    source: str | None = None


@dataclass(frozen=True, slots=True)
class PipelineEnded:
    """A pipeline is over: succeeded, failed, cancelled, or unknown where nothing that could be read says how.

    A pipeline that is retried on its platform goes on after this, and ends once more.

    Attributes:
        outcome: The event's state says the same.
        platform_state: The platform's own name of it; empty where it gave none.
        reason: Why it did not succeed, or is not known; empty if it succeeded.
        steps: How each step ended, in order.
    """

    pipeline: str
    outcome: Literal["succeeded", "failed", "cancelled", "unknown"]
    platform_state: str
    reason: str
    steps: list[StepOutcome]


EventData = (
    StepStarted | Progress | Checkpoint | DataFinding | Succeeded | Failed | Cancelled | PipelineStarted | PipelineEnded
)
# How a step's work reports what happens; calling it costs next to nothing.
Emit = Callable[[EventData], None]


def ignore_events(data: EventData) -> None:
    """An `Emit` for callers of a step's work that want no events."""


Subject = Literal["step", "pipeline"]
# What data an event of a kind carries.
KINDS: dict[tuple[Subject, State], Any] = {
    ("step", "started"): StepStarted,
    ("step", "progress"): Progress,
    ("step", "checkpoint"): Checkpoint,
    ("step", "finding"): DataFinding,
    ("step", "succeeded"): Succeeded,
    ("step", "failed"): Failed,
    ("step", "cancelled"): Cancelled,
    ("pipeline", "started"): PipelineStarted,
    ("pipeline", "succeeded"): PipelineEnded,
    ("pipeline", "failed"): PipelineEnded,
    ("pipeline", "cancelled"): PipelineEnded,
    ("pipeline", "unknown"): PipelineEnded,
}
# The state that data stands for; of a pipeline's end, its outcome is.
STATES: dict[Any, State] = {kind: state for (_, state), kind in KINDS.items() if kind is not PipelineEnded}


def event_type(subject: Subject, state: State) -> str:
    """The CloudEvents type of a kind, such as ``shutterline.step.progress``."""
    return f"shutterline.{subject}.{state}"


def data_schema_uri(subject: Subject, state: State, version: int = SCHEMA_VERSION) -> str:
    """The CloudEvents dataschema of a kind; a name, not an address."""
    return f"urn:shutterline:schema:{subject}.{state}:{version}"


@cache
def adapter(kind: Any) -> TypeAdapter[Any]:
    """The reader of one kind of data; made when it is first asked for."""
    return TypeAdapter(kind)


def to_json(value: Any, redact: Callable[[str], str]) -> Any:
    """Event data as JSON data, without unset options; texts redacted, cut to the limit and valid as UTF-8."""
    if isinstance(value, str):
        text = redact(value.encode("utf-8", "backslashreplace").decode())
        return text if len(text) <= TEXT_LIMIT else f"{text[: TEXT_LIMIT - 1]}…"
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None  # also false for NaN
    if isinstance(value, dict):
        return {key: to_json(inner, redact) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(inner, redact) for inner in value]
    if not (names := getattr(value, "__dataclass_fields__", None)):
        return value
    return {name: to_json(inner, redact) for name in names if (inner := getattr(value, name)) is not None}


def data_schemas() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of every kind's data, by its CloudEvents type."""
    return {
        event_type(*kind): {"$id": data_schema_uri(*kind), **adapter(data).json_schema()}
        for kind, data in KINDS.items()
    }
