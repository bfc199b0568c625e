"""The stream of a step's events: emitting never raises, never waits, and the report says what became of them."""

from __future__ import annotations

import json
import logging
import math
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from components.shared.errors import RetryableError
from components.shared.events.data import Checkpoint, PipelineEnded, PipelineStarted, Progress, StepStarted, Succeeded
from components.shared.events.event import EventSource
from components.shared.events.spool import Spool, events_in, spools_of
from components.shared.events.stream import BrokerReport, DeliveryReport, StatusStream
from tests.shared.events.sample_events import parsed, progress
from tests.shared.events.transports import LOG, WAIT_S, Gate, HangingDisk, ScriptedTransport, opened, stream_to, until

ROOT = Path(__file__).parents[3]
STARTED, DONE = StepStarted("1.0", "pod-1"), Succeeded(1.0)


def spooled(directory: Path) -> list[tuple[str, Any]]:
    return [(event.id, event.data) for event in events_in(directory)]


def test_what_is_emitted_is_in_the_spool_and_at_the_brokers(tmp_path: Path) -> None:
    transport = ScriptedTransport()
    status = stream_to(tmp_path, transport)
    emitted: list[Any] = [STARTED, progress(1, 1), Checkpoint(1, 1, "/c/1"), DONE]
    for data in emitted:
        status.emit(data)
    report = status.close(WAIT_S)
    status.emit(DONE)  # after the end nothing is taken
    assert spooled(tmp_path) == [(f"run-1/train/0/{number}", data) for number, data in enumerate(emitted)]
    assert parsed(transport.taken) == list(events_in(tmp_path))
    (path,) = spools_of(tmp_path)
    assert report == DeliveryReport("run-1", 4, str(path), 0, 0, {"kafka": BrokerReport("kafka in memory", 4, 0)})


def test_a_pipelines_start_is_emitted_by_whichever_step_comes_first(tmp_path: Path) -> None:
    begun = PipelineStarted("image-classifier", ["train"], "1.0", "pod-1")
    status = stream_to(tmp_path)
    for data in (begun, STARTED, DONE):
        status.emit(data)
    assert status.close(WAIT_S).events == 3
    assert spooled(tmp_path) == [("run-1/pipeline/0/0", begun), ("run-1/train/0/0", STARTED), ("run-1/train/0/1", DONE)]


def test_a_pipelines_end_is_its_second_event(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path, "run-1", "pipeline", 0, {})
    status = StatusStream(EventSource("run-1", "pipeline", 0, "pod-1"), spool, [], log=LOG, first_sequence=1)
    status.emit(PipelineEnded("image-classifier", "failed", "FAILED", "", []))
    status.close(WAIT_S)
    assert [(event.id, event.state) for event in events_in(tmp_path)] == [("run-1/pipeline/0/1", "failed")]


def test_a_broker_that_hangs_does_not_keep_the_step(tmp_path: Path, gate: Gate) -> None:
    status = stream_to(tmp_path, ScriptedTransport(acts=[gate]))
    status.emit(STARTED)
    until(gate.reached.is_set)
    ((address, answer),) = status.first_answers(0).items()
    assert (address, type(answer)) == ("kafka in memory", TimeoutError)
    status.emit(DONE)
    report = status.close(0.05)
    assert report.brokers == {"kafka": BrokerReport("kafka in memory", 0, 2, "no answer in time")}
    (path,) = spools_of(tmp_path)
    assert len(spooled(tmp_path)) == 2
    assert Spool.open(path) is None  # its delivery may yet come back and write to the ledger
    gate.open()
    until(lambda: not [thread for thread in threading.enumerate() if thread.name == "status-spool"])
    spool = opened(path)
    assert spool.undelivered("kafka") == 1  # what was taken late is not sent again
    spool.close()


def test_the_first_answers_are_the_brokers_own() -> None:
    away = RetryableError("kafka: is away")
    status = stream_to(None, ScriptedTransport("kafka", [away]), ScriptedTransport("pubsub"))
    status.emit(STARTED)
    assert status.first_answers(WAIT_S).keys() == {"kafka in memory", "pubsub in memory"}
    assert status.close(WAIT_S).brokers["kafka"].undelivered == 0


def test_threads_may_all_emit_at_once(tmp_path: Path) -> None:
    threads, each = 8, 200
    status = stream_to(tmp_path, transport := ScriptedTransport())

    def emit(number: int) -> None:
        for step in range(each):
            status.emit(Progress(step, each, epoch=number))

    emitters = [threading.Thread(target=emit, args=[number]) for number in range(threads)]
    for emitter in emitters:
        emitter.start()
    for emitter in emitters:
        emitter.join(WAIT_S)
    report = status.close(WAIT_S)
    assert (report.events, report.dropped, report.brokers["kafka"].delivered) == (threads * each, 0, threads * each)
    events = parsed(transport.taken)
    assert [event.sequence for event in events] == list(range(threads * each))
    for number in range(threads):
        assert [event.data.step for event in events if event.data.epoch == number] == list(range(each))


def test_an_event_that_cannot_be_encoded_is_logged_and_leaves_no_gap(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    strange: Any = Progress(1, 2, metrics={"accuracy": object()})  # type: ignore[dict-item] # a defect
    status = stream_to(tmp_path)
    with caplog.at_level(logging.ERROR):
        for data in (STARTED, strange, Progress(1, 2, metrics={"loss": math.nan, "\ud800": math.inf}), DONE):
            status.emit(data)
        report = status.close(WAIT_S)
    assert spooled(tmp_path) == [("run-1/train/0/0", STARTED), ("run-1/train/0/1", DONE)]
    assert (report.events, report.unspooled) == (2, 0)
    assert [record.getMessage() for record in caplog.records] == ["a status event could not be encoded"] * 2


def test_a_number_that_is_not_finite_is_emitted_as_null(tmp_path: Path) -> None:
    status = stream_to(tmp_path)
    status.emit(Progress(1, 2, samples_per_second=math.inf, losses={"train": math.nan}, eta_seconds=-math.inf))
    status.close(WAIT_S)
    assert spooled(tmp_path) == [("run-1/train/0/0", Progress(1, 2, losses={"train": None}))]


@pytest.fixture
def hanging_disk() -> Iterator[Callable[[], Gate]]:
    """From its call on every write waits at the gate."""
    with pytest.MonkeyPatch.context() as patch:
        disks: list[HangingDisk] = []

        def hang() -> Gate:
            disks.append(HangingDisk(patch))
            return disks[0].gate

        yield hang
        disks[0].gate.open()


def test_while_the_disk_hangs_brokers_get_every_event_and_memory_has_an_end(
    tmp_path: Path, hanging_disk: Callable[[], Gate]
) -> None:
    status = stream_to(tmp_path, transport := ScriptedTransport(), memory_events=10)
    gate = hanging_disk()
    status.emit(STARTED)
    until(gate.reached.is_set)
    for step in range(30):
        status.emit(Progress(step, 30))
        if step % 10 == 0:
            status.emit(Checkpoint(step, 30, f"/c/{step}"))
    status.emit(DONE)
    until(lambda: [event.data for event in parsed(transport.taken)[-1:]] == [DONE])
    assert spooled(tmp_path) == []
    gate.open()
    report = status.close(WAIT_S)
    # Once memory is full progress is dropped, and nothing else.
    taken = [event.data for event in parsed(transport.taken)]
    assert [data for data in taken if not isinstance(data, Progress)] == [
        STARTED,
        *(Checkpoint(step, 30, f"/c/{step}") for step in (0, 10, 20)),
        DONE,
    ]
    assert [data for data in taken if isinstance(data, Progress)] == [Progress(step, 30) for step in range(8)]
    assert [data for _, data in spooled(tmp_path)] == taken
    assert [event.sequence for event in parsed(transport.taken)] == list(range(13))
    assert (report.events, report.dropped, report.unspooled) == (13, 22, 0)
    assert report.brokers == {"kafka": BrokerReport("kafka in memory", 13, 0)}


def test_a_disk_that_hangs_at_the_end_is_reported(tmp_path: Path, hanging_disk: Callable[[], Gate]) -> None:
    status = stream_to(tmp_path, ScriptedTransport())
    gate = hanging_disk()
    for data in (STARTED, progress(1, 1), DONE):
        status.emit(data)
    report = status.close(0.05)
    assert (report.events, report.unspooled, report.brokers) == (3, 3, {"kafka": BrokerReport("kafka in memory", 3, 0)})
    gate.open()
    until(lambda: len(spooled(tmp_path)) == 3)


def test_without_a_directory_events_are_delivered_from_memory() -> None:
    status = stream_to(None, transport := ScriptedTransport(acts=[RetryableError("not now")]))
    status.emit(STARTED)
    status.emit(DONE)
    report = status.close(WAIT_S)
    assert [event.data for event in parsed(transport.taken)] == [STARTED, DONE]
    assert report == DeliveryReport("run-1", 2, None, 2, 0, {"kafka": BrokerReport("kafka in memory", 2, 0)})


def test_a_second_start_emits_as_the_next_attempt(tmp_path: Path) -> None:
    for attempt in (0, 1):
        status = stream_to(tmp_path)
        status.emit(STARTED)
        status.close(WAIT_S)
        assert (status.event_source.attempt, spooled(tmp_path)[-1]) == (attempt, (f"run-1/train/{attempt}/0", STARTED))


FORKED = """
import os, sys, threading
from pathlib import Path
from tests.shared.events.transports import WAIT_S, ScriptedTransport, stream_to
from tests.shared.events.sample_events import progress
status = stream_to(Path(sys.argv[1]), transport := ScriptedTransport())
emitted, codes, over = [], set(), threading.Event()
def emit():  # so that a worker may be forked in the midst of it
    while not over.is_set():
        emitted.append(progress(len(emitted), 3))
        status.emit(emitted[-1])
emitter = threading.Thread(target=emit)
emitter.start()
for _ in range(40):
    child = os.fork()
    if child == 0:
        status.emit(progress(1, 3, device="worker"))
        os._exit(7)
    codes.add(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
over.set()
emitter.join()
report = status.close(WAIT_S)
found = b"worker" in b"".join(transport.taken)
print(codes, report.dropped + report.events == len(emitted), report.brokers["kafka"].undelivered, found)
"""


def test_a_forked_worker_is_silent_and_the_step_goes_on(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKED, tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
    )
    assert (done.stdout, done.stderr) == ("{7} True 0 False\n", "")


FULL = """
import json, resource, sys
from pathlib import Path
from components.shared.events.spool import spools_of
from tests.shared.events.transports import LOG, WAIT_S, ScriptedTransport, stream_to, until
from tests.shared.events.sample_events import progress
directory = Path(sys.argv[1])
status = stream_to(directory, transport := ScriptedTransport())
(path,) = spools_of(directory)
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (3_000, most))  # the disk is full in the midst of a line
for epoch in range(20):
    status.emit(progress(epoch, 21))
until(lambda: len(transport.taken) == 20 and path.stat().st_size)
until(lambda: path.read_bytes().endswith(b"\\n"))
full = path.read_bytes()
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
status.emit(progress(20, 21))
report = status.close(WAIT_S)
sent = b"".join(body + b"\\n" for body in transport.taken)
print(json.dumps([
    0 < len(full) < 3_000, sent.startswith(full), sent == path.read_bytes(),
    transport.ids == [f"run-1/train/0/{number}" for number in range(21)], report.unspooled,
]))
"""


def test_a_full_disk_loses_nothing_and_is_written_once_there_is_room(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, tmp_path], cwd=ROOT, capture_output=True, text=True, timeout=WAIT_S
    )
    assert done.stdout, done.stderr
    assert json.loads(done.stdout) == [True, True, True, True, 0]
    assert "takes nothing ([Errno 27] File too large); status is kept in memory" in done.stderr
    assert len(spooled(tmp_path)) == 21


def test_memory_for_what_no_disk_and_no_broker_takes_has_an_end(gate: Gate) -> None:
    transport = ScriptedTransport("kafka", [gate])
    status = stream_to(None, transport, memory_events=10)
    status.emit(STARTED)
    until(gate.reached.is_set)
    for step in range(40):
        status.emit(Progress(step, 40))
    status.emit(DONE)
    until(lambda: status.dropped == 31)
    gate.open()
    report = status.close(WAIT_S)
    taken = [event.data for event in parsed(transport.taken)]
    assert taken == [STARTED, *(Progress(step, 40) for step in range(9)), DONE]
    assert (report.events, report.dropped, report.unspooled) == (11, 31, 11)


def test_memory_for_what_the_broker_has_taken_is_used_again() -> None:
    transport = ScriptedTransport()
    status = stream_to(None, transport, memory_events=3)
    for step in range(10):
        status.emit(Progress(step, 10))
        until(lambda number=step: len(transport.taken) == number + 1)  # type: ignore[misc]
    report = status.close(WAIT_S)
    assert [event.data.step for event in parsed(transport.taken)] == list(range(10))
    assert (report.events, report.dropped, report.brokers["kafka"].undelivered) == (10, 0, 0)
