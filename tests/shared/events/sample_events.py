"""What the steps of a run tell, as real bytes, and a source of such in memory."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

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
from components.shared.events.event import PIPELINE, EventSource, StepEvent, encode
from components.shared.events.watch import Counts, Message, Subscriber, follow

Ending = Literal["succeeded", "failed", "cancelled"]
STEPS = ("data-prep", "train", "evaluate")
START = 1_795_000_000_000_000_000  # November 2026
A_SECOND = 1_000_000_000


class EventSequence:
    """One attempt of one step, counting its events."""

    def __init__(self, run: str, step: str, attempt: int = 0, begin: int = START, process: str = "pod-1") -> None:
        self._speaker = EventSource(run, step, attempt, process)
        self._sequence = 0
        self._now = begin

    def next(self, state: State, data: Any) -> bytes:
        body = encode(self._speaker, self._sequence, state, self._now, data).body
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
    voice = EventSequence(run, step)
    told = [voice.next("started", StepStarted("1.0", "pod-1"))]
    told += [voice.next("progress", progress(epoch, epochs)) for epoch in range(1, epochs + 1)]
    told.append(voice.next("checkpoint", Checkpoint(epochs, epochs, "gs://bucket/last")))
    return [*told, voice.next(outcome, END[outcome])]


END: dict[str, Any] = {
    "succeeded": Succeeded(12.5, {"accuracy": 0.98}, {"model": "gs://bucket/model"}),
    "failed": Failed(3.0, Error("DataError", "images/cat.png: is not an image; leave it out"), 2),
    "cancelled": Cancelled(4.0, "SIGTERM", 143),
}


def a_pipeline(run: str, outcome: Ending = "succeeded") -> list[bytes]:
    """A pipeline of three steps whose training ends so; evaluation follows a success only."""
    pipeline = EventSequence(run, PIPELINE)
    told = [pipeline.next("started", PipelineStarted("image-classifier", list(STEPS), "1.0", "pod-1"))]
    for step in STEPS if outcome == "succeeded" else STEPS[:2]:
        voice = EventSequence(run, step)
        told.append(voice.next("started", StepStarted("1.0", "pod-1", None, "image-classifier")))
        told += [voice.next("progress", progress(epoch, 3)) for epoch in (1, 2, 3)]
        end: Ending = outcome if step == "train" else "succeeded"
        told.append(voice.next(end, END[end]))
    outcomes = [StepOutcome("data-prep", "succeeded", 0), StepOutcome("train", outcome, 0)]
    outcomes.append(StepOutcome("evaluate", "succeeded" if outcome == "succeeded" else "not started"))
    reason = "" if outcome == "succeeded" else "train did not succeed"
    end_of_all = PipelineEnded("image-classifier", outcome, outcome.upper(), reason, outcomes)
    return [*told, pipeline.next(outcome, end_of_all)]


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


_BAD: list[Callable[[random.Random, dict[str, Any]], object]] = [
    lambda _, d: d.pop("specversion"),
    lambda _, d: d.update(specversion=1.0),
    lambda _, d: d.update(id="run/step"),
    lambda _, d: d.update(id=d["id"] + "x"),
    lambda _, d: d.update(id=d["id"].rpartition("/")[0] + "/" + "9" * 5000),
    lambda _, d: d.update(source=""),
    lambda _, d: d.update(source="\x1b]0;owned\x07"),
    lambda _, d: d.update(type="com.example.order.created"),
    lambda _, d: d.update(type="shutterline.step.exploded"),
    lambda _, d: d.update(subject="\ud800"),
    lambda _, d: d.update(subject="pipeline"),
    lambda _, d: d.update(runid="../" + d["runid"]),
    lambda _, d: d.update(runid="\x1b[31mred"),
    lambda _, d: d.update(runid=None),
    lambda _, d: d.update(time="yesterday"),
    lambda _, d: d.update(time="2026-11-23T14:00:00"),
    lambda _, d: d.update(time=12345),
    lambda _, d: d.pop("data"),
    lambda _, d: d.update(data=[]),
    lambda _, d: d.update(data={"step": "many"}),
    lambda r, d: d.update(data={key: r.choice([None, [], {}, "x", -1, 1e308]) for key in [*d["data"], "step"]}),
    lambda _, d: d.update(data={"seconds": -1, "error": {"type": 5}}),
]


def foreign(seed: int) -> Iterator[bytes]:
    """Endless messages that are none of our events: noise, other people's JSON, events with something wrong."""
    chosen = random.Random(seed)  # noqa: S311 - makes the same noise again, protects nothing
    events = a_pipeline("foreign-run") + a_step("foreign-step", "failed")
    while True:
        kind = chosen.randrange(8)
        if kind == 0:
            yield chosen.randbytes(chosen.randrange(1, 300))
        elif kind == 1:
            yield json.dumps(_any(chosen, 4)).encode("utf-8", "surrogatepass")
        elif kind == 2:
            depth = chosen.choice([10, 1_000]) if chosen.random() < 0.95 else 50_000
            yield chosen.choice([b"[" * depth, b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth])
        elif kind == 3:
            yield b"\x1b[2J\x1b[31m" + chosen.randbytes(20)
        elif kind == 4:  # cut short
            event = chosen.choice(events)
            yield event[: chosen.randrange(1, len(event))]
        elif kind == 5:
            yield chosen.choice([b"null", b"NaN", b'"text"', b"1e999", b"{}", b"[]", "ÿ".encode("utf-16"), b"\xff\xfe"])
        else:
            document = json.loads(chosen.choice(events))
            chosen.choice(_BAD)(chosen, document)
            message = json.dumps(document).encode()
            if not _is_ours(message):  # a change may leave an event whole
                yield message


def _is_ours(message: bytes) -> bool:
    try:
        StepEvent.from_bytes(message)
    except ValueError:
        return False
    return True


def _any(chosen: random.Random, depth: int) -> Any:
    kind = chosen.randrange(8 if depth else 5)
    if kind == 0:
        return chosen.choice([None, True, False, 0, -1, 2**70, 1e308, float("nan"), float("inf")])
    if kind in (1, 2):
        return "".join(chr(chosen.choice([0, 7, 27, 65, 0x9B, 0x202E, 0xD800, 0x1F600])) for _ in range(8))
    if kind in (3, 4):
        return chosen.random()
    if kind in (5, 6):
        keys = ["specversion", "type", "id", "data", "runid", "subject", "\x1b[0m"]
        return {chosen.choice(keys): _any(chosen, depth - 1) for _ in range(chosen.randrange(6))}
    return [_any(chosen, depth - 1) for _ in range(chosen.randrange(5))]
