"""One thing that happened, as a CloudEvents 1.0 document.

On the wire an event is structured-mode JSON, the same bytes on every broker, with the attributes repeated as the
binding's headers so that consumers can route without parsing. Sources: CloudEvents 1.0.2 with its JSON format, Kafka
binding, Partitioning and Sequence extensions; for Pub/Sub the binding that Google's CloudEvents documents describe.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, lru_cache
from typing import Any, cast
from urllib.parse import quote

from pydantic import ValidationError

from components.shared.events.data import (
    KINDS,
    SCHEMA_VERSION,
    TERMINAL,
    State,
    Subject,
    adapter,
    data_schema_uri,
    data_schemas,
    event_type,
    to_json,
)
from components.shared.events.redaction import Redactor

CONTENT_TYPE = "application/cloudevents+json; charset=utf-8"
PIPELINE = "pipeline"  # what a pipeline's own events have instead of a step's name

# Far above what an event of ours takes; a foreign message beyond it is not even parsed.
SIZE_LIMIT = 1_000_000
_LINE_WIDTH = 120  # of the published schema

_ENCODE_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode
_RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_TYPE = re.compile(r"shutterline\.(?P<subject>[a-z]+)\.(?P<state>[a-z]+)")


class EventError(ValueError):
    """A message is not one of our events; the text is the reason."""


@dataclass(frozen=True, slots=True)
class EventSource:
    """Where an event is from.

    Attributes:
        run: The run's id: letters, digits and ``._-``; the message's key.
        step: The step's name, or ``pipeline``.
        attempt: From 0, one more for every time the step was started again, as far as that can be learned.
        process: Id of the process, which no other one has.
    """

    run: str
    step: str
    attempt: int
    process: str

    @property
    def source(self) -> str:
        """CloudEvents source: with the id it names one event, even of two processes that know nothing of each other."""
        return f"/shutterline/runs/{self.run}/{quote(self.step)}/{quote(self.process, safe='', errors='replace')}"


@dataclass(frozen=True, slots=True)
class EncodedEvent:
    """An event as brokers and spools have it.

    Attributes:
        body: The CloudEvents JSON, one line without its end.
        key: The run's id, by which brokers keep the order.
        attributes: The CloudEvents attributes as text, for the bindings' headers.
    """

    body: bytes
    key: str
    attributes: dict[str, str]

    @property
    def is_progress(self) -> bool:
        """Whether it is one of many of its kind, and may be lost in a power cut."""
        return self.attributes["type"] == event_type("step", "progress")

    @classmethod
    def from_body(cls, body: bytes) -> EncodedEvent:
        """An event that was spooled; EventError if it is none, as in a damaged spool."""
        try:
            document = json.loads(body)
            key, attributes = document["partitionkey"], _as_text(document)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise EventError("is no spooled event") from error
        if not isinstance(key, str):
            raise EventError("is no spooled event")
        return cls(body, key, attributes)


def _as_text(document: dict[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in document.items() if name not in ("data", "datacontenttype")}


@dataclass(frozen=True, slots=True)
class StepEvent:
    """One thing that happened.

    Attributes:
        step: The step's name, or ``pipeline``.
        sequence: Number among the events of this attempt, from 0 without gaps.
        id: ``run/step/attempt/sequence``.
    """

    run: str
    step: str
    attempt: int
    sequence: int
    state: State
    time: datetime
    data: Any
    id: str
    source: str

    @property
    def is_terminal(self) -> bool:
        """Whether nothing follows it from the same attempt."""
        return self.state in TERMINAL

    @property
    def identity(self) -> tuple[str, str]:
        """What no two different events share."""
        return self.source, self.id

    @classmethod
    def from_bytes(cls, message: bytes) -> StepEvent:
        """Read an event off the wire; EventError if it is none of ours, or of a kind this version does not know."""
        if len(message) > SIZE_LIMIT:
            raise EventError(f"is {len(message):,} bytes long, more than an event can be")
        try:
            document = json.loads(message)
        except (ValueError, RecursionError) as error:
            raise EventError("is not JSON") from error
        if not isinstance(document, dict) or document.get("specversion") != "1.0":
            raise EventError("is not a CloudEvents 1.0 document")
        if (named := _TYPE.fullmatch(_text(document, "type"))) is None:
            raise EventError("is an event of another type")
        key = cast("tuple[Subject, State]", (named["subject"], named["state"]))
        if key not in KINDS:
            raise EventError(f"is of the type {document['type']}, which this version does not know")
        run, step, source, name = (_text(document, part) for part in ("runid", "subject", "source", "id"))
        parts = name.split("/")
        if not is_run_id(run) or len(parts) != 4 or parts[:2] != [run, step]:
            raise EventError("has an id that is not run/step/attempt/sequence")
        if (key[0] == PIPELINE) != (step == PIPELINE):
            raise EventError("has a type and a subject that contradict each other")
        if not all(re.fullmatch(r"[0-9]{1,9}", number) for number in parts[2:]):
            raise EventError("has an id without attempt and sequence")
        try:
            time = datetime.fromisoformat(_text(document, "time"))
            data = adapter(KINDS[key]).validate_python(document.get("data"))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise EventError(f"has data that does not fit its type: {where}: {first['msg']}") from error
        except (ValueError, OverflowError) as error:
            raise EventError("has no readable time") from error
        if time.tzinfo is None:
            raise EventError("has a time without a zone")
        return cls(run, step, int(parts[2]), int(parts[3]), key[1], time, data, name, source)


def _text(document: dict[str, Any], name: str) -> str:
    value = document.get(name)
    if not isinstance(value, str) or not value or not value.isprintable():
        raise EventError(f"has no {name}")
    return value


def is_run_id(text: str) -> bool:
    """Whether a text can be a run's id."""
    return _RUN.fullmatch(text) is not None


def encode(
    event_source: EventSource, sequence: int, state: State, nanoseconds: int, data: Any, redact: Redactor | None = None
) -> EncodedEvent:
    """An event as it is spooled and sent: one line of JSON, secrets removed; `nanoseconds` are since 1970 in UTC."""
    constant, attributes = _constant_attributes(event_source, state)
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    changing = {
        "id": f"{event_source.run}/{event_source.step}/{event_source.attempt}/{sequence}",
        "time": f"{_second(seconds)}.{rest // 1000:06d}Z",
        "sequence": f"{sequence:09d}",  # the extension orders by text
    }
    document = constant | changing | {"data": to_json(data, redact or Redactor())}
    return EncodedEvent(_ENCODE_JSON(document).encode(), event_source.run, attributes | changing)


@cache
def _constant_attributes(event_source: EventSource, state: State) -> tuple[dict[str, Any], dict[str, str]]:
    """The attributes of all events of a source and state, in their order, and as text; those that change are empty."""
    subject: Subject = "pipeline" if event_source.step == PIPELINE else "step"
    constant = {
        "specversion": "1.0",
        "id": "",
        "source": event_source.source,
        "type": event_type(subject, state),
        "subject": event_source.step,
        "time": "",
        "datacontenttype": "application/json",
        "dataschema": data_schema_uri(subject, state),
        "runid": event_source.run,
        "attempt": event_source.attempt,
        "sequence": "",
        "partitionkey": event_source.run,
    }
    return constant, _as_text(constant)


@lru_cache(maxsize=2)
def _second(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"


@cache
def event_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of an event: the envelope, and the data by type."""
    kinds = data_schemas()
    text = {"type": "string", "minLength": 1}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:shutterline:schema:event:{SCHEMA_VERSION}",
        "title": "Shutterline status event",
        "description": "A CloudEvents 1.0 document in structured JSON mode.",
        "type": "object",
        "required": ["specversion", "id", "source", "type", "subject", "time", "runid", "attempt", "sequence", "data"],
        "properties": {
            "specversion": {"const": "1.0"},
            "id": {"type": "string", "pattern": "^[^/]+/[^/]+/[0-9]+/[0-9]+$"},
            "source": {**text, "format": "uri-reference"},
            "type": {"enum": list(kinds)},
            "subject": text,
            "time": {"type": "string", "format": "date-time"},
            "datacontenttype": {"const": "application/json"},
            "dataschema": {"type": "string", "format": "uri"},
            "runid": {"type": "string", "pattern": f"^{_RUN.pattern}$"},
            "attempt": {"type": "integer", "minimum": 0, "maximum": 2**31 - 1},
            "sequence": {"type": "string", "pattern": "^[0-9]{9}$"},
            "partitionkey": text,
            "data": {"type": "object"},
        },
        "allOf": [
            {"if": {"properties": {"type": {"const": name}}}, "then": {"properties": {"data": {"$ref": schema["$id"]}}}}
            for name, schema in kinds.items()
        ],
        "$defs": kinds,
    }


def schema_text() -> str:
    """The schema as it is published."""
    return f"{_layout(event_schema(), '')}\n"


def _layout(value: Any, indent: str) -> str:
    """JSON with whatever fits on a line on one."""
    flat = json.dumps(value)
    if not isinstance(value, dict | list) or len(indent) + len(flat) < _LINE_WIDTH:
        return flat
    inner = indent + "  "
    if isinstance(value, dict):
        lines = [f"{inner}{json.dumps(name)}: {_layout(item, inner)}" for name, item in value.items()]
    else:
        lines = [inner + _layout(item, inner) for item in value]
    start, end = "{}" if isinstance(value, dict) else "[]"
    return "\n".join([start, ",\n".join(lines), indent + end])
