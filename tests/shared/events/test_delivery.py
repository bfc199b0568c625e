"""Delivery: in order whatever a broker does, and no broker in the way of another."""

from __future__ import annotations

import json
import logging
import random
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.shared.errors import RetryableError, StatusRefusedError
from components.shared.events import delivery
from components.shared.events.data import Checkpoint, StepStarted, Succeeded
from components.shared.events.spool import WINDOW_EVENTS, events_in, spools_of
from components.shared.events.stream import BrokerReport, DeliveryReport
from tests.shared.events.sample_events import progress
from tests.shared.events.transports import (
    WAIT_S,
    Act,
    Gate,
    ScriptedTransport,
    Takes,
    left_spool,
    lines_of,
    opened,
    stream_to,
    until,
)

STARTED = StepStarted("1.0", "pod-1")
AWAY = RetryableError("kafka: is away")


def deliver(directory: Path | None, count: int, *transports: ScriptedTransport, pausing: bool = True) -> DeliveryReport:
    """Emit a step's events; pausing: so that they come in several windows."""
    stream = stream_to(directory, *transports)
    for epoch in range(count):
        stream.emit(Checkpoint(epoch, count, "/c"))  # which is delivered at once, as progress is not
        if pausing:
            stream.first_answers(WAIT_S)
    return stream.close(WAIT_S)


def ids(count: int, step: str = "train") -> list[str]:
    return [f"run-1/{step}/0/{number}" for number in range(count)]


TROUBLE = st.one_of(
    st.builds(RetryableError, st.just("not now")),
    st.builds(StatusRefusedError, st.just("no")),
    st.builds(RuntimeError, st.just("a defect of the client")),
    st.builds(Takes, st.integers(1, 3), st.booleans()),
)
# What a broker does in a row; five refusals while the end is waited for are enough.
ACTS = st.lists(TROUBLE, max_size=8).filter(lambda acts: sum(isinstance(act, StatusRefusedError) for act in acts) < 5)


@given(ACTS, ACTS, st.booleans(), st.integers(1, 12))
def test_each_broker_gets_every_event_in_order_and_twice_only_where_an_answer_was_lost(
    kafka_acts: list[Act], pubsub_acts: list[Act], pausing: bool, count: int
) -> None:
    kafka, pubsub = ScriptedTransport("kafka", kafka_acts), ScriptedTransport("pubsub", pubsub_acts)
    report = deliver(None, count, kafka, pubsub, pausing=pausing)
    assert report.brokers == {
        "kafka": BrokerReport("kafka in memory", count, 0),
        "pubsub": BrokerReport("pubsub in memory", count, 0),
    }
    for transport, acts in ((kafka, kafka_acts), (pubsub, pubsub_acts)):
        assert transport.closed == 1
        assert list(dict.fromkeys(transport.ids)) == ids(count)
        if not any(isinstance(act, Takes) and not act.answers for act in acts):
            assert transport.ids == ids(count)
        # What comes again comes from where it went wrong, so the newest event is always the last.
        numbers = [int(name.rpartition("/")[2]) for name in transport.ids]
        assert all(later <= earlier + 1 for earlier, later in pairwise(numbers))
        assert numbers[-1] == count - 1


def test_a_broker_that_hangs_for_good_does_not_delay_the_other(tmp_path: Path, gate: Gate) -> None:
    hanging, working = ScriptedTransport("kafka", [gate]), ScriptedTransport("pubsub")
    stream = stream_to(tmp_path, hanging, working)
    count = WINDOW_EVENTS + 11
    for epoch in range(count - 1):
        stream.emit(progress(epoch, 300))
    stream.emit(Succeeded(1.0))
    until(lambda: len(working.taken) == count)
    until(gate.reached.is_set)
    report = stream.close(0.05)
    assert report.brokers == {
        "kafka": BrokerReport("kafka in memory", 0, count, "no answer in time"),
        "pubsub": BrokerReport("pubsub in memory", count, 0),
    }
    assert (report.events, report.unspooled) == (count, 0)


@pytest.mark.parametrize(("memory_events", "windows"), [(10_000, [1, 99]), (3, None)])
def test_while_a_window_is_under_way_the_next_one_fills_from_memory_or_the_file(
    tmp_path: Path, gate: Gate, memory_events: int, windows: list[int] | None
) -> None:
    transport = ScriptedTransport(acts=[gate])
    stream = stream_to(tmp_path, transport, memory_events=memory_events)
    stream.emit(STARTED)
    until(gate.reached.is_set)
    for epoch in range(99):
        stream.emit(Checkpoint(epoch, 99, "/c"))
    until(lambda: len(list(events_in(tmp_path))) == 100)
    gate.open()
    report = stream.close(WAIT_S)
    assert (transport.ids, report.brokers["kafka"].undelivered) == (ids(100), 0)
    assert windows in (None, transport.windows)
    (path,) = spools_of(tmp_path)
    assert transport.taken == path.read_bytes().splitlines()
    for event in transport.events:
        document = json.loads(event.body)
        assert event.key == document["partitionkey"] == "run-1"
        del document["data"], document["datacontenttype"]
        assert event.attributes == {name: str(value) for name, value in document.items()}


@pytest.mark.parametrize("trouble", [AWAY, StatusRefusedError("broker: no such topic")])
def test_closing_wakes_a_delivery_that_pauses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, trouble: Act) -> None:
    monkeypatch.setattr(delivery, "PAUSES_S", (1e6, 1e6))
    transport = ScriptedTransport(acts=[trouble])
    assert deliver(tmp_path, 5, transport).brokers == {"kafka": BrokerReport("kafka in memory", 5, 0)}
    assert transport.ids == ids(5)


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        (AWAY, "kafka: is away"),
        (StatusRefusedError("broker: no such topic"), "broker: no such topic"),
        (KeyError("partition"), "kafka in memory: KeyError: 'partition'"),
    ],
)
def test_a_broker_that_takes_nothing_is_reported_with_its_last_answer(
    tmp_path: Path, trouble: Exception, reason: str
) -> None:
    transport = ScriptedTransport(acts=[Takes(2), *[trouble] * 100_000])
    stream = stream_to(tmp_path, transport)
    for epoch in range(5):
        stream.emit(progress(epoch, 5))
    until(lambda: len(transport.windows) > 9)
    report = stream.close(0.01)
    taken = len(transport.taken)
    assert report.brokers == {"kafka": BrokerReport("kafka in memory", taken, 5 - taken, reason)}


def test_a_change_of_a_brokers_state_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "tests.delivery"):
        stream = stream_to(tmp_path, transport := ScriptedTransport(acts=[lambda: None, AWAY, AWAY, AWAY]))
        stream.emit(STARTED)
        until(lambda: transport.taken)
        stream.emit(Succeeded(1.0))
        stream.close(WAIT_S)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "kafka: is away; status waits in the spool"),
        ("INFO", "kafka in memory is back"),
    ]


@given(st.lists(st.booleans(), min_size=1, max_size=30), ACTS)
def test_an_event_that_is_too_large_is_passed_over_and_no_other_is_lost(large: list[bool], acts: list[Act]) -> None:
    transport = ScriptedTransport(acts=acts, limit=2_000)
    stream = stream_to(None, transport)
    for epoch, is_large in enumerate(large):
        stream.emit(Checkpoint(epoch, 30, "/c" * (1_000 if is_large else 1)))
    broker = stream.close(WAIT_S).brokers["kafka"]
    fitting = [name for name, is_large in zip(ids(len(large)), large, strict=True) if not is_large]
    assert list(dict.fromkeys(transport.ids)) == fitting
    assert (broker.delivered, broker.undelivered, broker.too_large) == (len(fitting), sum(large), sum(large))
    assert (broker.trouble or "").startswith(f"{sum(large)} too large: kafka in memory: 2," if any(large) else "")


def test_the_first_event_that_is_too_large_is_logged_and_ends_no_step(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stream = stream_to(tmp_path, transport := ScriptedTransport(limit=2_000), other := ScriptedTransport("pubsub"))
    for epoch in range(9):
        stream.emit(Checkpoint(epoch, 9, "/c" * (1_000 if epoch in (0, 5, 7) else 1)))
    assert list(stream.first_answers(WAIT_S).values()) == [None, None]
    report = stream.close(WAIT_S)
    assert (len(transport.ids), other.ids, report.brokers["pubsub"].too_large) == (6, ids(9), 0)
    (warning,) = [record.getMessage() for record in caplog.records]
    assert warning.startswith("run-1/train/0/0: kafka in memory: 2,")
    assert warning.endswith("bytes are too many; it stays in the spool, and others are sent")
    assert len(list(events_in(tmp_path))) == 9


def test_what_earlier_steps_left_comes_first_and_only_to_the_same_topic(tmp_path: Path) -> None:
    first = left_spool(tmp_path, lines_of(300, step="data-prep"), "kafka", "pubsub", step="data-prep")
    other = left_spool(tmp_path, lines_of(2, step="evaluate"), "kafka", step="evaluate", topic="elsewhere")
    kafka, pubsub = ScriptedTransport("kafka", [Takes(3), AWAY, Takes(2, answers=False)]), ScriptedTransport("pubsub")
    stream = stream_to(tmp_path, kafka, pubsub, earlier=[opened(first), opened(other)])
    stream.emit(STARTED)
    report = stream.close(WAIT_S)
    expected = [*ids(300, "data-prep"), "run-1/train/0/0"]
    assert pubsub.ids == expected
    assert list(dict.fromkeys(kafka.ids)) == expected
    # The report is of this step's own events.
    assert (report.events, report.brokers["kafka"].delivered, report.brokers["kafka"].undelivered) == (1, 1, 0)
    again, left = opened(first), opened(other)
    assert [again.undelivered(name) for name in ("kafka", "pubsub")] == [0, 0]
    assert left.undelivered("kafka") == 2
    again.close()
    left.close()


def test_half_delivered_earlier_spools_go_on_where_they_were(tmp_path: Path) -> None:
    path = left_spool(tmp_path, lines_of(9, step="data-prep"), "kafka", step="data-prep")
    gone = ScriptedTransport(acts=[Takes(4), *[AWAY] * 100_000])
    stream = stream_to(tmp_path, gone, earlier=[opened(path)])
    until(lambda: len(gone.windows) > 2)
    stream.close(0.01)
    stream_to(tmp_path, back := ScriptedTransport(), earlier=[opened(path)]).close(WAIT_S)
    assert gone.ids + back.ids == ids(9, "data-prep")


DAMAGE = [
    b"", b"5", b'"text"', b"null", b"[]", b"{}", b'{"partitionkey": 5}', b"[" * 60_000, b"\xff\xfe", b"\0" * 300_000,
    b'{"specversion":"1.0","id":"run-1/tra', b"a\rb", "ÿ".encode("utf-16"),
]  # fmt: skip


@given(st.lists(st.booleans(), max_size=20), st.randoms(use_true_random=False))
def test_damaged_lines_of_a_spool_are_skipped_wherever_they_are(
    tmp_path_factory: pytest.TempPathFactory, whole: list[bool], chosen: random.Random
) -> None:
    good = iter(lines_of(20, step="data-prep"))
    lines = [next(good) if is_whole else chosen.choice(DAMAGE).replace(b"\n", b"") + b"\n" for is_whole in whole]
    path = left_spool(tmp_path_factory.mktemp("spool"), lines, "kafka", step="data-prep")
    troubles: list[Act] = [Takes(1), Takes(1, answers=False), AWAY]
    transport = ScriptedTransport(acts=[chosen.choice(troubles) for _ in range(3)])
    stream = stream_to(None, transport, earlier=[opened(path)])
    stream.emit(STARTED)
    stream.close(WAIT_S)
    assert list(dict.fromkeys(transport.ids)) == [*ids(sum(whole), "data-prep"), "run-1/train/0/0"]
    again = opened(path)
    assert again.undelivered("kafka") == 0
    again.close()


def test_an_earlier_spool_that_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    bad = left_spool(tmp_path, lines_of(5, step="data-prep"), "kafka", step="data-prep")
    earlier = opened(bad)
    bad.write_bytes(b"x")
    stream = stream_to(tmp_path, transport := ScriptedTransport(), earlier=[earlier])
    stream.emit(STARTED)
    assert stream.close(WAIT_S).brokers["kafka"].undelivered == 0
    assert transport.ids == ["run-1/train/0/0"]


def test_a_spool_that_somebody_cut_is_reported_and_ends_nothing(tmp_path: Path, gate: Gate) -> None:
    transport = ScriptedTransport(acts=[gate])
    stream = stream_to(tmp_path, transport, memory_events=0)
    stream.emit(STARTED)
    until(gate.reached.is_set)
    for epoch in range(3):  # only the newest event stays in memory
        stream.emit(Checkpoint(epoch, 3, "/c"))
        until(lambda count=epoch + 2: len(list(events_in(tmp_path))) == count)  # type: ignore[misc]
    (path,) = spools_of(tmp_path)
    path.write_bytes(b"")
    gate.open()
    report = stream.close(0.1)
    (broker,) = report.brokers.values()
    assert (report.events, broker.undelivered > 0) == (4, True)
    assert broker.trouble == f"{path}: the spool is not what was written to it"
