"""One event: encoded, read by ourselves and by the official CloudEvents SDK."""

from __future__ import annotations

import dataclasses
import json
import math
import random
import re
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pytest
from cloudevents.core.bindings import kafka
from cloudevents.core.formats.json import JSONFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from components.shared.events.data import (
    KINDS,
    TEXT_LIMIT,
    Cancelled,
    Checkpoint,
    DataFinding,
    Error,
    Failed,
    PipelineEnded,
    PipelineStarted,
    Progress,
    State,
    StepOutcome,
    StepStarted,
    Succeeded,
)
from components.shared.events.event import CONTENT_TYPE, EncodedEvent, EventError, EventSource, StepEvent, encode
from tests.shared.events.sample_events import JSON, START, a_pipeline, a_step, is_event, progress


class UnencodedEvent(NamedTuple):
    """An event before it is sealed."""

    event_source: EventSource
    sequence: int
    state: State
    nanoseconds: int
    data: Any


# Words that no redaction touches and that are as long as they were.
WORDS = st.text(st.sampled_from('abcXYZ 019._-/:äß漢🙂\n\t"\\\x00\u2028'), max_size=40)
COUNTS = st.integers(0, 2**53)
SECONDS = st.floats(0, allow_infinity=False)
FIGURES = st.dictionaries(WORDS, st.none() | st.floats(), max_size=4)
ERRORS = st.builds(Error, WORDS, WORDS)
MAYBE = {field: st.none() | st.floats() for field in ("samples_per_second", "learning_rate", "eta_seconds")} | {
    field: st.none() | COUNTS for field in ("epoch", "epochs")
}
OUTCOMES = st.builds(
    StepOutcome,
    WORDS,
    st.sampled_from(["succeeded", "failed", "cancelled", "killed", "cached", "not started", "unknown"]),
    st.none() | COUNTS,
    st.none() | ERRORS,
)


def ended(outcome: Any) -> st.SearchStrategy[PipelineEnded]:
    return st.builds(PipelineEnded, WORDS, st.just(outcome), WORDS, WORDS, st.lists(OUTCOMES, max_size=4))


DATA: dict[tuple[str, str], st.SearchStrategy[Any]] = {
    ("step", "started"): st.builds(StepStarted, WORDS, WORDS, st.none() | WORDS, st.none() | WORDS),
    ("step", "progress"): st.builds(
        Progress,
        step=COUNTS,
        steps=COUNTS,
        unit=st.sampled_from(["batches", "images", "bytes"]),
        losses=FIGURES,
        metrics=FIGURES,
        device=st.none() | WORDS,
        **MAYBE,
    ),
    ("step", "checkpoint"): st.builds(Checkpoint, COUNTS, COUNTS, WORDS),
    ("step", "finding"): st.builds(
        DataFinding,
        WORDS,
        st.sampled_from(["problem", "warning", "note"]),
        COUNTS,
        st.sampled_from(["images", "classes", "files"]),
        WORDS,
        st.dictionaries(WORDS, COUNTS, max_size=3),
        st.booleans(),
        st.lists(st.lists(WORDS, max_size=2), max_size=3),
    ),
    ("step", "succeeded"): st.builds(Succeeded, SECONDS, FIGURES, st.dictionaries(WORDS, WORDS, max_size=4)),
    ("step", "failed"): st.builds(Failed, SECONDS, ERRORS, st.integers(0, 255)),
    ("step", "cancelled"): st.builds(Cancelled, SECONDS, WORDS, st.integers(0, 255)),
    ("pipeline", "started"): st.builds(
        PipelineStarted, WORDS, st.lists(WORDS, max_size=4), WORDS, WORDS, st.none() | WORDS
    ),
    **{("pipeline", state): ended(state) for state in ("succeeded", "failed", "cancelled", "unknown")},
}


def of_kind(kind: tuple[Any, Any]) -> st.SearchStrategy[UnencodedEvent]:
    steps = st.just("pipeline") if kind[0] == "pipeline" else st.sampled_from(["data-prep", "train", "evaluate"])
    runs = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", fullmatch=True)
    hosts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    numbers = st.integers(0, 999_999_999)
    speakers = st.builds(EventSource, runs, steps, numbers, hosts)
    return st.builds(UnencodedEvent, speakers, numbers, st.just(kind[1]), st.integers(0, 2**62), DATA[kind])


ANY_EVENT = st.sampled_from(list(KINDS)).flatmap(of_kind)
SAMPLES = a_pipeline("run-1") + a_pipeline("run-2", "failed") + a_step("run-3", "cancelled")


def finite(value: Any) -> Any:
    """What was told as JSON can say it: without what is no number."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [finite(inner) for inner in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return type(value)(**{field.name: finite(getattr(value, field.name)) for field in dataclasses.fields(value)})
    return value


@given(ANY_EVENT)
def test_an_event_reads_back_as_it_was_told(given_event: UnencodedEvent) -> None:
    event_source, sequence, state, nanoseconds, data = given_event
    line = encode(*given_event).body
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    time = datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest // 1000)
    name = f"{event_source.run}/{event_source.step}/{event_source.attempt}/{sequence}"
    run, step, attempt = event_source.run, event_source.step, event_source.attempt
    expected = StepEvent(run, step, attempt, sequence, state, time, finite(data), name, event_source.source)
    assert StepEvent.from_bytes(line) == expected
    assert EncodedEvent.from_body(line) == encode(*given_event)
    assert line.splitlines() == [line]
    assert encode(*given_event).body == line


@given(ANY_EVENT)
def test_the_official_sdk_reads_the_same(given_event: UnencodedEvent) -> None:
    line = encode(*given_event).body
    document = json.loads(line)
    data = document.pop("data")
    document["time"] = datetime.fromisoformat(document["time"])
    for event in (JSONFormat().read(None, line), kafka.from_structured_event(in_kafka(line))):
        assert event.get_attributes() == document
        assert event.get_data() == data


def in_kafka(line: bytes) -> kafka.KafkaMessage:
    """An event as it lies in Kafka: all of it in the value, its attributes once more as headers."""
    message = EncodedEvent.from_body(line)
    headers = {f"ce_{name}": text.encode() for name, text in message.attributes.items()}
    return kafka.KafkaMessage({"content-type": CONTENT_TYPE.encode(), **headers}, message.key.encode(), message.body)


def test_the_official_sdk_has_to_be_told_the_mode() -> None:
    # It takes any ce_ header for binary mode, whatever the content type says. README tells so; it may when this fails.
    line = a_step("run-1")[1]
    assert kafka.from_kafka_event(in_kafka(line)).get_data() != json.loads(line)["data"]


def test_attributes_are_named_as_cloudevents_wants_them() -> None:
    for line in SAMPLES:
        document = json.loads(line)
        assert [name for name in document if re.fullmatch(r"[a-z0-9]{1,20}", name) is None] == []
        assert document["partitionkey"] == document["runid"] == EncodedEvent.from_body(line).key
        assert {type(value) for name, value in document.items() if name != "data"} == {str, int}


def test_ids_come_from_the_source_and_sequences_sort_as_text() -> None:
    event_source = EventSource("run-1", "data-prep", 2, "pod 1/a")
    numbers = [0, 1, 9, 10, 99, 100, 12_345, 999_999_999]
    documents = [json.loads(encode(event_source, number, "progress", START, progress(1, 1)).body) for number in numbers]
    assert [document["id"] for document in documents] == [f"run-1/data-prep/2/{number}" for number in numbers]
    # With it the same id on two machines names two events.
    assert {document["source"] for document in documents} == {"/shutterline/runs/run-1/data-prep/pod%201%2Fa"}
    texts = [document["sequence"] for document in documents]
    assert sorted(texts) == texts
    assert [int(text) for text in texts] == numbers


def message_of(text: str) -> str:
    """An error's message after it was encoded and read."""
    failed = Failed(1.0, Error("DataError", text), 2)
    data: Failed = StepEvent.from_bytes(
        encode(EventSource("r", "train", 0, "pod"), 0, "failed", START, failed).body
    ).data
    return data.error.message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x" * TEXT_LIMIT, "x" * TEXT_LIMIT),
        ("🙂" * (TEXT_LIMIT + 1), "🙂" * (TEXT_LIMIT - 1) + "…"),
        ("photo-\udcff.png", "photo-\\udcff.png"),
        ("half \ud83d emoji, whole 🙂", "half \\ud83d emoji, whole 🙂"),
        ("\x1b[31m\x00\r\n\u2028\u0085", "\x1b[31m\x00\r\n\u2028\u0085"),
        ("no answer from https://me:hunter2@host/", "no answer from https://[redacted]@host/"),
    ],
    ids=["long", "too long", "a file's bytes", "a half character", "controls", "a secret"],
)
def test_a_text_is_cut_escaped_and_without_secrets(text: str, expected: str) -> None:
    assert message_of(text) == expected


@given(st.text(st.characters(exclude_categories=[])))
def test_any_text_is_one_line(text: str) -> None:
    line = encode(EventSource("r", "train", 0, "pod"), 0, "failed", START, Failed(1.0, Error("E", text))).body
    assert line.splitlines() == [line]
    assert len(StepEvent.from_bytes(line).data.error.message) <= TEXT_LIMIT


def test_fields_of_a_newer_version_are_passed_over() -> None:
    for line in SAMPLES:
        document = json.loads(line)
        document |= {"traceparent": "00-ab-cd-01", "newer": {"a": [1]}}
        document["data"] |= {"newer": {"a": [1]}, "gpu_hours": 3}
        assert StepEvent.from_bytes(json.dumps(document).encode()) == StepEvent.from_bytes(line)


def changed(**changes: Any) -> bytes:
    """A progress event with other attributes; None takes one away."""
    document = json.loads(a_step("run-1")[1]) | changes
    return json.dumps({name: value for name, value in document.items() if value is not None}).encode()


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"\xff\xfe\x00", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b'"' + b"x" * 1_000_000 + b'"', "is 1,000,002 bytes long, more than an event can be"),
        (b"[]", "is not a CloudEvents 1.0 document"),
        (changed(specversion="0.3"), "is not a CloudEvents 1.0 document"),
        (changed(type=None), "has no type"),
        (changed(type="com.example.order"), "is an event of another type"),
        (changed(type="shutterline.step.paused"), "is of the type shutterline.step.paused, which this version does"),
        (changed(type="shutterline.cluster.end"), "is of the type shutterline.cluster.end, which this version does"),
        (changed(runid="../etc"), "has an id that is not run/step/attempt/sequence"),
        (changed(id="run-2/train/0/1"), "has an id that is not run/step/attempt/sequence"),
        (changed(id="run-1/train/0/-1"), "has an id without attempt and sequence"),
        (changed(type="shutterline.pipeline.failed"), "has a type and a subject that contradict each other"),
        (changed(source="a\nb"), "has no source"),
        (changed(time="yesterday"), "has no readable time"),
        (changed(time="2026-11-23T14:00:00"), "has a time without a zone"),
        (changed(data={"step": -1, "steps": 1}), "has data that does not fit its type: step: "),
        (changed(data={"step": 1, "steps": 1, "losses": {"train": "low"}}), "does not fit its type: losses.train: "),
        (changed(data={"step": 1, "steps": 1, "eta_seconds": 10**400}), "does not fit its type: eta_seconds: "),
    ],
)
def test_what_is_no_event_of_ours_says_why(message: bytes, reason: str) -> None:
    with pytest.raises(EventError, match=re.escape(reason)):
        StepEvent.from_bytes(message)


def test_events_with_some_bytes_changed_are_read_or_refused() -> None:
    chosen = random.Random(2)  # noqa: S311 - makes the same changes again, protects nothing
    whole = 0
    for _ in range(3_000):
        message = bytearray(chosen.choice(SAMPLES))
        for _ in range(chosen.randrange(1, 4)):
            start = chosen.randrange(len(message))
            message[start : start + chosen.randrange(3)] = chosen.randbytes(chosen.randrange(3))
        whole += is_event(bytes(message))
    assert 0 < whole < 3_000


@settings(max_examples=300)
@given(st.sampled_from(SAMPLES), st.data())
def test_events_with_any_value_changed_are_read_or_refused(line: bytes, data: st.DataObject) -> None:
    document = json.loads(line)
    part = data.draw(st.sampled_from([document, document["data"]]))
    part[data.draw(st.sampled_from(list(part)))] = data.draw(JSON)
    is_event(json.dumps(document).encode())


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_and_any_json_are_read_or_refused(message: bytes) -> None:
    assert not is_event(message)
