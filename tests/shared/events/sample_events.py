"""Events of runs as real bytes, a subscription to such in memory, and messages that are none."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

from hypothesis import strategies as st

from components.shared.events.data import (
    Cancelled,
    Checkpoint,
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
from components.shared.events.event import PIPELINE, EventError, EventSource, StepEvent, encode
from components.shared.events.watch import Counts, Message, Subscriber, follow

Ending = Literal["succeeded", "failed", "cancelled"]
STEPS = ("data-prep", "train", "evaluate")
START = 1_795_000_000_000_000_000  # November 2026
A_SECOND = 1_000_000_000


class EventSequence:
    """One attempt of one step, counting its events."""

    def __init__(self, run: str, step: str, attempt: int = 0, begin: int = START, process: str = "pod-1") -> None:
        self._event_source = EventSource(run, step, attempt, process)
        self._sequence = 0
        self._now = begin

    def next(self, state: State, data: Any) -> bytes:
        body = encode(self._event_source, self._sequence, state, self._now, data).body
        self._sequence += 1
        self._now += A_SECOND
        return body


def progress(epoch: int, epochs: int, **more: Any) -> Progress:
    return Progress(
        step=epoch * 100,
        steps=epochs * 100,
        unit="batches",
        epoch=epoch,
        epochs=epochs,
        samples_per_second=51_234.5,
        losses={"train": 1 / (epoch + 1)},
        metrics={"accuracy": 1 - 1 / (epoch + 1)},
        learning_rate=1e-3,
        eta_seconds=float(epochs - epoch),
        **more,
    )


def a_step(run: str, outcome: Ending = "succeeded", *, step: str = "train", epochs: int = 3) -> list[bytes]:
    """A step that was run by itself."""
    of_step = EventSequence(run, step)
    bodies = [of_step.next("started", StepStarted("1.0", "pod-1"))]
    bodies += [of_step.next("progress", progress(epoch, epochs)) for epoch in range(1, epochs + 1)]
    bodies.append(of_step.next("checkpoint", Checkpoint(epochs, epochs, "gs://bucket/last")))
    return [*bodies, of_step.next(outcome, END[outcome])]


END: dict[str, Any] = {
    "succeeded": Succeeded(12.5, {"accuracy": 0.98}, {"model": "gs://bucket/model"}),
    "failed": Failed(3.0, Error("DataError", "images/cat.png: is not an image; leave it out"), 2),
    "cancelled": Cancelled(4.0, "SIGTERM", 143),
}


def a_pipeline(run: str, outcome: Ending = "succeeded") -> list[bytes]:
    """A pipeline of three steps whose training ends so; evaluation follows a success only."""
    pipeline = EventSequence(run, PIPELINE)
    bodies = [pipeline.next("started", PipelineStarted("image-classifier", list(STEPS), "1.0", "pod-1"))]
    for step in STEPS if outcome == "succeeded" else STEPS[:2]:
        of_step = EventSequence(run, step)
        bodies.append(of_step.next("started", StepStarted("1.0", "pod-1", None, "image-classifier")))
        bodies += [of_step.next("progress", progress(epoch, 3)) for epoch in (1, 2, 3)]
        end: Ending = outcome if step == "train" else "succeeded"
        bodies.append(of_step.next(end, END[end]))
    outcomes = [StepOutcome("data-prep", "succeeded", 0), StepOutcome("train", outcome, 0)]
    outcomes.append(StepOutcome("evaluate", "succeeded" if outcome == "succeeded" else "not started"))
    reason = "" if outcome == "succeeded" else "train did not succeed"
    end_of_all = PipelineEnded("image-classifier", outcome, outcome.upper(), reason, outcomes)
    return [*bodies, pipeline.next(outcome, end_of_all)]


def parsed(bodies: Sequence[bytes]) -> list[StepEvent]:
    return [StepEvent.from_bytes(body) for body in bodies]


LONG_S = 60.0


def late() -> Callable[[], bool]:
    """Whether a minute has passed; only so that a defect ends a test instead of hanging it."""
    end = time.monotonic() + LONG_S
    return lambda: time.monotonic() > end


def shown_by(source: Subscriber, count: int) -> tuple[list[StepEvent], Counts]:
    """Follow until so many events are shown."""
    shown: list[StepEvent] = []
    is_late = late()
    counts = follow(source, shown.append, until=lambda counts: counts.shown >= count or is_late(), poll_s=0.1)
    return shown, counts


def shown_over_an_outage(
    source: Subscriber, before: int, total: int, begin: Callable[[], object], end: Callable[[], object]
) -> tuple[list[StepEvent], list[str | None]]:
    """Follow until so many events are shown, with an outage once the first are; the events, and the troubles."""
    shown: list[StepEvent] = []
    troubles: list[str | None] = []
    has_begun, is_late = False, late()

    def until(counts: Counts) -> bool:
        nonlocal has_begun
        if counts.shown == before and not has_begun:
            has_begun = True
            begin()
        return counts.shown >= total or is_late()

    def on_trouble(message: str | None) -> None:
        troubles.append(message)
        if message is not None:
            end()

    follow(source, shown.append, until=until, on_trouble=on_trouble, poll_s=0.05)
    return shown, troubles


class MemorySource:
    """Delivers rounds of messages; a round may be an error to raise instead.

    Attributes:
        acknowledged: Bodies, in the order they were acknowledged.
    """

    address = "memory"
    remembers = True

    def __init__(self, rounds: Sequence[Sequence[bytes] | Exception]) -> None:
        self.rounds = list(rounds)
        self.acknowledged: list[bytes] = []
        self.refusals: list[Exception] = []  # of the next acknowledgements
        self.closed = False

    def receive(self, timeout_s: float) -> list[Message]:
        if not self.rounds:
            time.sleep(min(timeout_s, 0.001))
            return []
        head = self.rounds.pop(0)
        if isinstance(head, Exception):
            raise head
        return [Message(body, index) for index, body in enumerate(head)]

    def acknowledge(self, messages: Sequence[Message]) -> None:
        if self.refusals:
            raise self.refusals.pop(0)
        self.acknowledged += [message.body for message in messages]

    def close(self) -> None:
        self.closed = True


def is_event(message: bytes) -> bool:
    """Whether a message is an event; anything but an EventError escapes."""
    try:
        StepEvent.from_bytes(message)
    except EventError:
        return False
    return True


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=[])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
_WRONG: list[dict[str, Any]] = [
    {"specversion": 1.0}, {"id": "run/step"}, {"id": f"run/step/0/{'9' * 5000}"}, {"source": ""},
    {"source": "\x1b]0;owned\x07"}, {"type": "com.example.order.created"}, {"type": "shutterline.step.exploded"},
    {"subject": "\ud800"}, {"runid": "../run"}, {"runid": "\x1b[31mred"}, {"runid": None}, {"time": "yesterday"},
    {"time": "2026-11-23T14:00:00"}, {"time": 12345}, {"data": None}, {"data": []}, {"data": {"step": "many"}},
    {"data": {"seconds": -1, "error": {"type": 5}}},
]  # fmt: skip
_NOISE = [
    b"[" * 50_000, b"[" * 1_000 + b"]" * 1_000, b'{"a":' * 1_000 + b"1" + b"}" * 1_000, b"\x1b[2J\x1b[31m", b"null",
    b"NaN", b'"text"', b"1e999", b"{}", b"[]", "ÿ".encode("utf-16"), b"\xff\xfe", b'{"specversion": "1.0"}',
]  # fmt: skip


def foreign(seed: int) -> Iterator[bytes]:
    """Endless messages that are none of our events: noise, other people's JSON, events with something wrong."""
    chosen = random.Random(seed)  # noqa: S311 - makes the same noise again, protects nothing
    events = a_pipeline("foreign-run") + a_step("foreign-step", "failed")
    while True:
        event = chosen.choice(events)
        yield chosen.randbytes(chosen.randrange(1, 300))
        yield event[: chosen.randrange(1, len(event))]
        yield json.dumps(json.loads(event) | chosen.choice(_WRONG)).encode()
        yield chosen.choice(_NOISE)
