"""Random histories of a run on a platform, against a model of it: every event is true, or says that it does not know.

The model is Kubeflow's as it was seen (2.16.1 and 2.17.0): pods that are deleted are started again, exit codes are not;
Retry by hand starts the failed steps with a retry index of 0 and the same pod name, and never an exit task that had
succeeded; the state that is handed to the exit task is RUNNING where everything came from the cache or the run was
terminated. Each process has its own luck with the broker, the folder of events and Kubeflow's API.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import event as note
from hypothesis import strategies as st

from components.exit_step import step as exit_report
from components.exit_step.step import report_end
from components.shared import status as status_module
from components.shared.errors import InputError, RetryableError
from components.shared.events import delivery
from components.shared.events.data import Error, EventData, Failed, Progress, Succeeded
from components.shared.events.event import PIPELINE, EncodedEvent, StepEvent
from components.shared.events.history import bucket_of
from components.shared.events.kafka import subscriber
from components.shared.events.replay import find_spools, replay
from components.shared.events.runs import RunView, fold
from components.shared.events.spool import events_in
from components.shared.events.stream import StatusStream
from components.shared.kubeflow.api import NoAnswerError
from components.shared.kubeflow.report import RunReport, TaskReport, TaskState
from components.shared.params.params import Params
from components.shared.pipeline_end import PipelineEnd
from components.shared.retry import TimeLeft
from components.shared.run import EVENTS_VARIABLE, RETRY_VARIABLE, step_run
from components.shared.status import PIPELINE_STEPS, Status
from components.shared.step import StepFailed, run_step
from components.shared.storage.location import parse_location
from tests.configs import small
from tests.peers.fixtures import gcs_bucket as gcs_bucket
from tests.peers.fixtures import gcs_server as gcs_server
from tests.peers.gcs import GcsBucket

RUN = "0a1b2c3d-4e5f-6789-abcd-ef0123456789"
PARAMS = Params.from_dict(small(KAFKA_HOST="localhost", KAFKA_TOPIC="status", TIMEOUT=0.1))
LOG = logging.getLogger("tests.histories")
HOUR = timedelta(hours=1)
FATES = ["succeeds", "fails", "killed", "killed at once", "deleted", "terminated"]


@dataclass(frozen=True)
class Luck:
    """What one process meets."""

    broker_at_start: bool = True
    broker_at_end: bool = True
    folder: bool = True
    api: bool = True


LUCK = st.builds(Luck, st.booleans(), st.booleans(), st.booleans(), st.booleans()) | st.just(Luck())


@dataclass
class Broker:
    """A topic in memory, and whether it can be reached."""

    records: list[bytes] = field(default_factory=list)
    is_up: bool = True

    name: str = "kafka"
    address: str = "kafka in memory"

    def send(self, events: Sequence[EncodedEvent], time_left: TimeLeft) -> int:
        if not self.is_up:
            raise RetryableError("kafka in memory does not answer")
        self.records += [event.body for event in events]
        return len(events)

    def close(self) -> None:
        """Nothing to let go of."""

    def read(self, *_: object, **__: object) -> subscriber.TopicHistory:
        return subscriber.TopicHistory(list(self.records) if self.is_up else [], "" if self.is_up else "away")


@dataclass
class World:
    """A platform, the run on it, and what the run's processes have emitted."""

    folder: Path | None
    bucket: str = ""  # address in one, instead
    broker: Broker = field(default_factory=Broker)
    states: dict[str, TaskState] = field(default_factory=lambda: dict.fromkeys(PIPELINE_STEPS, "waiting"))
    terminated: bool = False
    retried: bool = False
    exit_succeeded: bool = False
    luck: Luck = field(default_factory=Luck)
    truths: list[str] = field(default_factory=list)  # after each phase
    began: datetime = field(default_factory=lambda: datetime.now(UTC))  # of the last phase
    opened: list[Any] = field(default_factory=list)  # stream and bucket of the process

    @property
    def truth(self) -> str:
        """How the run ended, by the platform."""
        if self.terminated:
            return "cancelled"
        done = all(state in ("succeeded", "cached") for state in self.states.values())
        return "succeeded" if done else "failed"

    def ask(self, run: str, within_s: float, *, is_over: bool) -> RunReport:
        """Kubeflow's API, as a process of the run meets it."""
        if not self.luck.api:
            raise NoAnswerError("no API here")
        body = {"cancelled": "cancelled", "succeeded": "succeeded", "failed": "failed"}[self.truth]
        tasks = {step: TaskReport(step, state) for step, state in self.states.items()}
        state = "cancelling" if self.terminated else "running"
        return RunReport(state, tasks, self.retried, body if is_over else "running")  # type: ignore[arg-type] # its words

    def environment(self, patch: pytest.MonkeyPatch, attempt: int) -> None:
        patch.setenv("KFP_POD_NAME", "shutterline-image-classifier-x-retry-system-container-impl-1")
        patch.setenv("KFP_POD_UID", str(uuid4()))
        patch.setenv(RETRY_VARIABLE, str(attempt))
        if self.bucket:
            patch.setenv(EVENTS_VARIABLE, self.bucket)
        elif self.folder is None:
            patch.delenv(EVENTS_VARIABLE, raising=False)
        else:
            # A file in the way, as nobody can write below one, root neither.
            patch.setenv(EVENTS_VARIABLE, str(self.folder if self.luck.folder else self.folder / "file" / "events"))
        self.broker.is_up = self.luck.broker_at_start

    def process(self, patch: pytest.MonkeyPatch, step: str, attempt: int, fate: str, luck: Luck) -> None:
        """One pod of a step."""
        self.luck, self.states[step] = luck, "running"
        self.environment(patch, attempt)
        if fate != "killed at once":
            self.opened.clear()
            status = Status(step, step_run(in_pipeline=True, platform_run=RUN), LOG)
            status.open(PARAMS)
            status.check("warn")
            status.emit(Progress(1, 2))
            self.broker.is_up = luck.broker_at_end
            ends: dict[str, EventData] = {
                "succeeds": Succeeded(1.0),
                "fails": Failed(1.0, Error("DataError", "no images"), 2),
            }
            end = ends.get(fate)
            if end is not None:
                status.end(end)
            else:
                self.kill()
        self.states[step] = "succeeded" if fate == "succeeds" else "cancelled" if fate == "terminated" else "failed"

    def open(self, kind: Callable[..., Any]) -> Callable[..., Any]:
        """`kind`, whose things are remembered as those of the process."""

        def opened(*args: Any, **kwargs: Any) -> Any:
            self.opened.append(kind(*args, **kwargs))
            return self.opened[-1]

        return opened

    def kill(self) -> None:
        """As SIGKILL: what is spooled stays, and nobody reports an end."""
        for each in reversed(self.opened):  # a bucket's thread would have put what is some seconds old
            each.close(0.05 if isinstance(each, StatusStream) else 5)

    def phase(self, patch: pytest.MonkeyPatch, draw: Draw) -> None:
        """All steps that have not succeeded, in order, until one does not."""
        self.began = datetime.now(UTC)
        cached = not self.retried
        for step in PIPELINE_STEPS:
            if self.states[step] in ("succeeded", "cached"):
                continue
            if cached and draw.one_in(3):
                self.states[step] = "cached"
                continue
            cached = False
            for attempt in range(3):
                fate = draw.fate()
                self.process(patch, step, attempt, fate, draw.luck())
                if fate != "deleted":
                    break
            if fate == "terminated":
                self.terminated = True
            if self.states[step] != "succeeded":
                break
        for step, state in self.states.items():
            if state in ("waiting", "running"):
                self.states[step] = "skipped"

    def exit(self, patch: pytest.MonkeyPatch, luck: Luck) -> None:
        """The exit task, with the state that Kubeflow hands it."""
        self.luck = luck
        self.environment(patch, 0)
        is_cached = all(state == "cached" for state in self.states.values())
        state = "RUNNING" if self.terminated or is_cached else "COMPLETE" if self.truth == "succeeded" else "FAILED"
        run = step_run(in_pipeline=True, platform_run=RUN)

        def work(params: Params, emit: object) -> PipelineEnd:
            self.broker.is_up = luck.broker_at_end
            return report_end(state=state, run=run, targets=params.status_targets)

        with suppress(StepFailed):  # it could not publish
            run_step("exit", PARAMS, work, lambda: run)
            self.exit_succeeded = True


@dataclass
class Draw:
    """Hypothesis's choices, one by one."""

    data: st.DataObject

    def fate(self) -> str:
        return self.data.draw(st.sampled_from(["succeeds"] * 6 + FATES[1:]))

    def luck(self) -> Luck:
        return self.data.draw(LUCK)

    def one_in(self, number: int) -> bool:
        return self.data.draw(st.integers(1, number)) == 1


@pytest.fixture(scope="module")
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delivery, "PAUSES_S", (0.005, 0.005))
        yield patch


@pytest.mark.slow
@settings(max_examples=200, suppress_health_check=list(HealthCheck), deadline=None)
@given(st.data(), st.booleans())
def test_every_history_is_told_as_it_was_or_as_unknown(
    patch: pytest.MonkeyPatch, data: st.DataObject, kept: bool
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        world = World(Path(directory) / "events" if kept else None)
        if world.folder is not None:
            world.folder.mkdir()
            (world.folder / "file").touch()
        happen(world, patch, Draw(data))
        judge(world, Path(directory))


@pytest.mark.slow
@settings(max_examples=20, suppress_health_check=list(HealthCheck), deadline=None)
@given(st.data())
def test_so_it_is_with_events_in_a_bucket(
    patch: pytest.MonkeyPatch, gcs_bucket: GcsBucket, data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        world = World(None, bucket=f"{gcs_bucket.uri}/{uuid4()}")
        happen(world, patch, Draw(data))
        judge(world, Path(directory))


def happen(world: World, patch: pytest.MonkeyPatch, draw: Draw) -> None:
    """A run from its start to its end, and as often again as somebody retries it."""
    patch.setattr(status_module, "transport_of", lambda name, target: world.broker)
    patch.setattr(status_module, "StatusStream", world.open(StatusStream))
    patch.setattr(status_module, "bucket_of", world.open(bucket_of))
    patch.setattr(status_module, "ask_run", world.ask)
    patch.setattr(exit_report, "ask_run", world.ask)
    patch.setattr(subscriber, "read_topic", world.broker.read)
    world.phase(patch, draw)
    world.exit(patch, draw.luck())
    world.truths.append(world.truth)
    for _ in range(2):
        if world.truth == "succeeded" or not draw.one_in(2):
            break
        # Retry by hand: what had succeeded stays, the rest runs again, the exit task only if it had failed.
        world.retried, world.terminated = True, False
        world.states = {
            step: state if state in ("succeeded", "cached") else "waiting" for step, state in world.states.items()
        }
        world.phase(patch, draw)
        if not world.exit_succeeded:
            world.exit(patch, draw.luck())
        world.truths.append(world.truth)


def judge(world: World, scratch: Path) -> None:
    """Compare what was published with the model."""
    (scratch / "fetched").mkdir()
    where = parse_location(world.bucket) if world.bucket else world.folder
    found = []
    with suppress(InputError):  # nothing was kept
        found = find_spools([where], scratch / "fetched", LOG) if where is not None else []
    spooled = [event for directory in {spool.path.parent for spool in found} for event in events_in(directory)]
    published = [StepEvent.from_bytes(body) for body in world.broker.records]
    distinct: dict[tuple[str, str], StepEvent] = {}
    for event in (*spooled, *published):
        assert distinct.setdefault(event.identity, event) == event, "one identity for two events"

    world.broker.is_up = True
    if found:
        done = replay(found, lambda name, target: world.broker, timeout_s=5, log=LOG)
        assert sum(entry.undelivered for entry in done) == 0
        published = [StepEvent.from_bytes(body) for body in world.broker.records]
        assert {event.identity for event in spooled} <= {event.identity for event in published}, "undelivered and lost"

    view = fold(RUN, published)
    ends = sorted((event for event in published if event.step == PIPELINE and event.is_terminal), key=lambda e: e.time)
    allowed = {*world.truths, "unknown"}
    if world.terminated or "cancelled" in world.truths:
        allowed.add("failed")  # of a run that was terminated, where Kubeflow cannot be asked
    assert {event.state for event in ends} <= allowed

    if world.retried and not any(event.time >= world.began for event in published):
        return  # nothing of the last phase was ever published or kept: nobody who reads events can know of it
    note(f"the run {world.truth}{' after a Retry' if world.retried else ''}; watch: {state_of(view)}")
    last = {world.truth, "unknown"} | ({"failed"} if world.terminated else set())
    assert state_of(view) in last, (world.truths, [(event.id, event.state) for event in published])


def state_of(view: RunView) -> str:
    """What `watch` shows long after the last event."""
    return view.state_at(view.last + HOUR) if view.last is not None else "unknown"
