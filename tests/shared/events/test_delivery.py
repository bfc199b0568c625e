"""Delivery: in order whatever a broker does, and no broker in the way of another."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.shared.events import delivery as courier
from components.shared.events.data import Checkpoint, StepStarted, Succeeded
from components.shared.events.spool import WINDOW_EVENTS, Spool, spools_of
from components.shared.events.stream import BrokerReport, DeliveryReport
from components.shared.events.transport import RefusedError, RetryableError
from tests.shared.events.told import progress
from tests.shared.events.transports import (
    PATIENCE_S,
    Act,
    Gate,
    ScriptedTransport,
    TakesAndFails,
    left_spool,
    lines_of,
    stream_to,
    until,
)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(courier, "_FIRST_PAUSE_S", 0.0001)
    monkeypatch.setattr(courier, "_LONGEST_PAUSE_S", 0.001)


@pytest.fixture
def gate() -> Iterator[Gate]:
    """Opened at the end, so that no thread of a test outlives it."""
    gate = Gate()
    yield gate
    gate.open()


def deliver(transport: ScriptedTransport, directory: Path | None, count: int = 5) -> tuple[DeliveryReport, list[str]]:
    """Tell a step's events to a broker; what became of them, and all their ids."""
    stream = stream_to(directory, transport)
    for epoch in range(count):
        stream.emit(Checkpoint(epoch, count, "/c"))  # which is spooled at once, as progress is not
        if epoch == 0:
            stream.first_answers(PATIENCE_S)  # so that what follows comes in windows of its own
    return stream.close(PATIENCE_S), [f"run-1/train/0/{number}" for number in range(count)]


TROUBLE = st.one_of(
    st.builds(RetryableError, st.just("not now"), st.integers(0, 3)),
    st.builds(RefusedError, st.just("no"), st.integers(0, 3)),
    st.builds(RuntimeError, st.just("a defect of the client")),
)


def troubles(kinds: st.SearchStrategy[Act]) -> st.SearchStrategy[list[Act]]:
    """What a broker does in a row; five refusals while the end is waited for are enough."""
    acts = st.lists(kinds, max_size=8)
    return acts.filter(lambda found: sum(isinstance(act, RefusedError) for act in found) < 5)


@given(troubles(TROUBLE), troubles(TROUBLE), st.booleans(), st.integers(1, 12))
def test_each_broker_gets_every_event_once_and_in_order(
    kafka_acts: list[Act], pubsub_acts: list[Act], pausing: bool, count: int
) -> None:
    kafka, pubsub = ScriptedTransport("kafka", kafka_acts), ScriptedTransport("pubsub", pubsub_acts)
    stream = stream_to(None, kafka, pubsub)
    for epoch in range(count):
        stream.emit(Checkpoint(epoch, count, "/c"))
        if pausing:
            stream.first_answers(PATIENCE_S)
    report = stream.close(PATIENCE_S)

    ids = [f"run-1/train/0/{number}" for number in range(count)]
    assert (kafka.ids, pubsub.ids) == (ids, ids)
    assert report.brokers == {
        "kafka": BrokerReport("kafka in memory", count, 0),
        "pubsub": BrokerReport("pubsub in memory", count, 0),
    }
    assert (kafka.closed, pubsub.closed) == (1, 1)


@given(troubles(TROUBLE | st.builds(TakesAndFails, st.integers(1, 3))), st.integers(1, 12))
def test_events_come_twice_only_where_an_answer_was_lost_and_still_in_order(acts: list[Act], count: int) -> None:
    transport = ScriptedTransport(acts=acts)
    report, ids = deliver(transport, None, count)

    first = list(dict.fromkeys(transport.ids))
    assert first == ids
    assert report.brokers["kafka"].undelivered == 0
    if not any(isinstance(act, TakesAndFails) for act in acts):
        assert transport.ids == ids
    # What comes again comes from where it went wrong, so the newest word is always the last.
    assert all(later <= earlier + 1 for earlier, later in zip(numbers(transport), numbers(transport)[1:], strict=False))
    assert numbers(transport)[-1] == count - 1


def numbers(transport: ScriptedTransport) -> list[int]:
    return [int(name.rpartition("/")[2]) for name in transport.ids]


def test_a_broker_that_hangs_for_good_does_not_delay_the_other(tmp_path: Path, gate: Gate) -> None:
    hanging, working = ScriptedTransport("kafka", [gate]), ScriptedTransport("pubsub")
    stream = stream_to(tmp_path, hanging, working)
    for epoch in range(WINDOW_EVENTS + 10):
        stream.emit(progress(epoch, 300))
    until(lambda: len(working.taken) == WINDOW_EVENTS + 10)
    until(gate.reached.is_set)
    assert hanging.taken == []

    stream.emit(Succeeded(1.0))
    until(lambda: len(working.taken) == WINDOW_EVENTS + 11)
    report = stream.close(0.05)
    count = WINDOW_EVENTS + 11
    assert report.brokers == {
        "kafka": BrokerReport("kafka in memory", 0, count, "no answer in time"),
        "pubsub": BrokerReport("pubsub in memory", count, 0),
    }
    assert (report.events, report.unspooled) == (count, 0)


def test_while_a_window_is_under_way_the_next_one_fills(tmp_path: Path, gate: Gate) -> None:
    transport = ScriptedTransport(acts=[gate])
    stream = stream_to(tmp_path, transport)
    stream.emit(StepStarted("1.0", "pod-1"))
    until(gate.reached.is_set)
    for epoch in range(20):
        stream.emit(progress(epoch, 20))
    until(lambda: len(lines_in(tmp_path)) == 21)
    assert transport.windows == [1]
    gate.open()
    stream.close(PATIENCE_S)
    assert transport.windows == [1, 20]


def lines_in(directory: Path) -> list[bytes]:
    return [line for path in spools_of(directory) for line in path.read_bytes().splitlines()]


@pytest.mark.parametrize("trouble", [RetryableError("broker: is away"), RefusedError("broker: no such topic")])
def test_closing_wakes_a_courier_that_pauses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, trouble: Act) -> None:
    for name in ("_FIRST_PAUSE_S", "_LONGEST_PAUSE_S"):
        monkeypatch.setattr(courier, name, 1e6)
    transport = ScriptedTransport(acts=[trouble])
    report, ids = deliver(transport, tmp_path)
    assert transport.ids == ids
    assert report.brokers == {"kafka": BrokerReport("kafka in memory", 5, 0)}


@pytest.mark.parametrize(
    ("trouble", "told"),
    [
        (RetryableError("broker: is away"), "broker: is away"),
        (RefusedError("broker: no such topic"), "broker: no such topic"),
        (KeyError("partition"), "kafka in memory: KeyError: 'partition'"),
    ],
)
def test_a_broker_that_takes_nothing_is_reported_with_its_last_word(
    tmp_path: Path, trouble: Exception, told: str
) -> None:
    transport = ScriptedTransport(acts=[RetryableError("first", delivered=2), *[trouble] * 100_000])
    stream = stream_to(tmp_path, transport)
    for epoch in range(5):
        stream.emit(progress(epoch, 5))
    until(lambda: len(lines_in(tmp_path)) == 5 and len(transport.windows) > 9)
    taken = len(transport.taken)
    assert taken == min(2, transport.windows[0])
    report = stream.close(0.01)
    assert report.brokers == {"kafka": BrokerReport("kafka in memory", taken, 5 - taken, told)}


def test_a_change_of_a_brokers_state_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    away = RetryableError("kafka: is away")
    # The very first answer is told by whoever waits for it.
    with caplog.at_level(logging.INFO, "tests.delivery"):
        stream = stream_to(tmp_path, transport := ScriptedTransport(acts=[lambda: None, away, away, away]))
        stream.emit(StepStarted("1.0", "pod-1"))
        until(lambda: transport.taken)
        stream.emit(Succeeded(1.0))
        stream.close(PATIENCE_S)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "kafka: is away; status waits in the spool"),
        ("INFO", "kafka in memory is back"),
    ]


def opened(*paths: Path) -> list[Spool]:
    spools = [Spool.open(path) for path in paths]
    assert None not in spools
    return [spool for spool in spools if spool is not None]


def test_what_earlier_steps_left_comes_first_and_only_to_the_same_topic(tmp_path: Path) -> None:
    first = left_spool(tmp_path, lines_of(300, step="data-prep"), "kafka", "pubsub", step="data-prep")
    other = left_spool(tmp_path, lines_of(2, step="evaluate"), "kafka", step="evaluate", topic="elsewhere")
    kafka, pubsub = ScriptedTransport("kafka", [RetryableError("", 3), TakesAndFails(2)]), ScriptedTransport("pubsub")
    stream = stream_to(tmp_path, kafka, pubsub, earlier=opened(first, other))
    stream.emit(StepStarted("1.0", "pod-1"))
    report = stream.close(PATIENCE_S)

    before = [f"run-1/data-prep/0/{number}" for number in range(300)]
    assert pubsub.ids == [*before, "run-1/train/0/0"]
    assert list(dict.fromkeys(kafka.ids)) == [*before, "run-1/train/0/0"]
    # The report is of this step's own events.
    assert (report.events, report.brokers["kafka"].delivered, report.brokers["kafka"].undelivered) == (1, 1, 0)
    again, left = opened(first, other)
    assert [again.undelivered(name) for name in ("kafka", "pubsub")] == [0, 0]
    assert left.undelivered("kafka") == 2
    again.close()
    left.close()


def test_half_delivered_earlier_spools_go_on_where_they_were(tmp_path: Path) -> None:
    path = left_spool(tmp_path, lines_of(9, step="data-prep"), "kafka", step="data-prep")
    stream = stream_to(
        tmp_path,
        gone := ScriptedTransport(acts=[RetryableError("", 4), *[RetryableError("")] * 100_000]),
        earlier=opened(path),
    )
    until(lambda: len(gone.windows) > 2)
    stream.close(0.01)
    stream = stream_to(tmp_path, back := ScriptedTransport(), earlier=opened(path))
    stream.close(PATIENCE_S)
    assert gone.ids + back.ids == [f"run-1/data-prep/0/{number}" for number in range(9)]


DAMAGE = [
    b"", b"5", b'"text"', b"null", b"[]", b"{}", b'{"partitionkey": 5}', b"[" * 60_000, b"\xff\xfe", b"\0" * 300_000,
    b'{"specversion":"1.0","id":"run-1/tra', b"a\rb", "ÿ".encode("utf-16"),
]  # fmt: skip


@given(st.lists(st.booleans(), max_size=20), st.randoms(use_true_random=False))
def test_damaged_lines_of_a_spool_are_skipped_wherever_they_are(whole: list[bool], chosen: random.Random) -> None:
    good = iter(lines_of(20, step="data-prep"))
    lines = [next(good) if is_whole else chosen.choice(DAMAGE).replace(b"\n", b"") + b"\n" for is_whole in whole]
    troubles: list[Act] = [RetryableError("", 1), TakesAndFails(1), RetryableError("")]
    acts = [chosen.choice(troubles) for _ in range(3)]
    earlier = Spool.in_memory(0, {"kafka": {"topic": "status"}})
    earlier.log.append(lines)
    transport = ScriptedTransport(acts=acts)
    stream = stream_to(None, transport, earlier=[earlier])
    stream.emit(StepStarted("1.0", "pod-1"))
    stream.close(PATIENCE_S)

    assert list(dict.fromkeys(transport.ids)) == [
        *(f"run-1/data-prep/0/{number}" for number in range(sum(whole))),
        "run-1/train/0/0",
    ]
    assert earlier.undelivered("kafka") == 0


def test_an_earlier_spool_that_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    bad = left_spool(tmp_path, lines_of(5, step="data-prep"), "kafka", step="data-prep")
    (earlier,) = opened(bad)
    bad.write_bytes(b"x")
    transport = ScriptedTransport()
    stream = stream_to(tmp_path, transport, earlier=[earlier])
    stream.emit(StepStarted("1.0", "pod-1"))
    assert stream.close(PATIENCE_S).brokers["kafka"].undelivered == 0
    assert transport.ids == ["run-1/train/0/0"]


def test_a_spool_that_somebody_cut_is_reported_and_ends_nothing(tmp_path: Path) -> None:
    transport = ScriptedTransport(acts=[gate := Gate(), RetryableError("not now")])
    stream = stream_to(tmp_path, transport)
    stream.emit(StepStarted("1.0", "pod-1"))
    until(gate.reached.is_set)
    stream.emit(Checkpoint(1, 1, "/c"))
    until(lambda: len(lines_in(tmp_path)) == 2)
    stream.emit(Checkpoint(1, 1, "/c"))
    until(lambda: len(lines_in(tmp_path)) == 3)
    # The third is being written, so the second is in the file alone.
    (path,) = spools_of(tmp_path)
    path.write_bytes(b"")
    gate.open()
    report = stream.close(0.1)
    (broker,) = report.brokers.values()
    assert (report.events, broker.undelivered > 0, broker.trouble) == (
        3,
        True,
        f"{path}: the spool is not what was written to it",
    )


def test_what_is_sent_is_the_spools_line_with_its_attributes(tmp_path: Path) -> None:
    transport = ScriptedTransport()
    deliver(transport, tmp_path, 3)
    lines = lines_in(tmp_path)
    assert transport.taken == lines
    for line, event in zip(lines, transport.events, strict=True):
        document = json.loads(line)
        del document["data"], document["datacontenttype"]
        assert (event.key, event.attributes) == ("run-1", {name: str(value) for name, value in document.items()})
