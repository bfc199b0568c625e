"""The JSON Schema of events: what we send fits it, what does not fit is refused, and it does not change unnoticed."""

from __future__ import annotations

import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from jsonschema import Draft202012Validator, FormatChecker, ValidationError

from components.shared.events import event
from components.shared.events.data import KINDS, SCHEMA_VERSION, data_schema_uri, data_schemas, event_type
from components.shared.events.event import encode, event_schema, schema_text
from tests.shared.events.test_event import ANY_EVENT, SAMPLES, UnencodedEvent

PUBLISHED = Path(event.__file__).with_name(f"schema-v{SCHEMA_VERSION}.json")

# jsonschema checks these formats only where three more packages are installed.
FORMATS = FormatChecker(())


@FORMATS.checks("date-time", ValueError)
def _is_time(text: object) -> bool:
    shape = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)"
    return not isinstance(text, str) or bool(re.fullmatch(shape, text) and datetime.fromisoformat(text))


@FORMATS.checks("uri-reference")
def _is_reference(text: object) -> bool:
    return not isinstance(text, str) or bool(re.fullmatch(r"([A-Za-z0-9._~:/?#@!$&'()*+,;=-]|%[0-9A-F]{2})+", text))


@FORMATS.checks("uri")
def _is_uri(text: object) -> bool:
    return not isinstance(text, str) or (bool(re.match(r"[a-z]+:[^/]", text)) and _is_reference(text))


EVENT = Draft202012Validator(event_schema(), format_checker=FORMATS)
DATA = {name: Draft202012Validator(schema, format_checker=FORMATS) for name, schema in data_schemas().items()}


def test_the_schema_that_is_published_is_the_one_the_code_has() -> None:
    assert json.loads(schema_text()) == event_schema()
    assert PUBLISHED.read_text(encoding="utf-8") == schema_text(), (
        f"events no longer look as {PUBLISHED.name} publishes them. Where fields were only added, write the new one: "
        f"`shutterline events schema > {PUBLISHED}`. Where one was renamed, removed or means something else, readers "
        "of the old events would be misled: raise SCHEMA_VERSION, keep this file and write the new version's beside it."
    )


def test_the_schemas_are_schemas_with_names_of_their_own() -> None:
    for schema in (event_schema(), *data_schemas().values()):
        Draft202012Validator.check_schema(schema)
    assert {name: schema["$id"] for name, schema in data_schemas().items()} == {
        event_type(subject, state): data_schema_uri(subject, state) for subject, state in KINDS
    }
    assert event_schema()["$defs"] == data_schemas()


@given(ANY_EVENT)
def test_whatever_is_told_fits_the_schema_of_events_and_that_of_its_data(given_event: UnencodedEvent) -> None:
    document = json.loads(encode(*given_event).body)
    EVENT.validate(document)
    DATA[document["type"]].validate(document["data"])
    assert document["dataschema"] == data_schemas()[document["type"]]["$id"]


def test_fields_of_a_newer_version_fit() -> None:
    for line in SAMPLES:
        document = json.loads(line)
        document |= {"traceparent": "00-ab-cd-01", "newer": {}}
        document["data"] |= {"newer": 1}
        EVENT.validate(document)


def whole() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(SAMPLES[2])
    assert document["type"] == "shutterline.step.progress"
    return document


@pytest.mark.parametrize("name", event_schema()["required"])
def test_what_every_event_has_is_required(name: str) -> None:
    document = whole()
    del document[name]
    with pytest.raises(ValidationError, match=f"'{name}' is a required property"):
        EVENT.validate(document)


@pytest.mark.parametrize(
    "changes",
    [
        {"specversion": "0.3"},
        {"id": "run-1/train/0"},
        {"source": "a b"},
        {"type": "shutterline.step.paused"},
        {"type": "shutterline.step.failed"},
        {"subject": ""},
        {"time": "2026-11-23 14:00:00Z"},
        {"time": "2026-13-23T14:00:00Z"},
        {"dataschema": "step.progress"},
        {"runid": "../run"},
        {"attempt": 2**31},
        {"attempt": "0"},
        {"sequence": "1"},
        {"data": {"step": 1}},
        {"data": {"step": 1, "steps": "many"}},
        {"data": {"step": 1, "steps": 1, "losses": {"train": "low"}}},
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        EVENT.validate(whole() | changes)


def test_a_pipelines_outcomes_are_checked_to_the_bottom() -> None:
    document = json.loads(next(line for line in SAMPLES if b"platform_state" in line))
    EVENT.validate(document)
    document["data"]["steps"][0]["outcome"] = "vanished"
    with pytest.raises(ValidationError, match="'vanished' is not one of"):
        EVENT.validate(document)
