"""Steps that Kubeflow starts again by hand: another attempt, another source, and a new end of the pipeline."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from components.exit_step.step import report_end
from components.shared.errors import DataError
from components.shared.events.event import StepEvent
from components.shared.events.runs import fold
from components.shared.params.params import Params
from components.shared.run import step_run
from components.shared.step import StepFailed, StepName, StepRecord, run_step
from tests.configs import small
from tests.peers.fixtures import kafka_broker as kafka_broker
from tests.peers.fixtures import topic as topic
from tests.peers.kafka_topics import KafkaTopics
from tests.peers.kubeflow_runs import KubeflowRuns
from tests.shared.test_step import Result, failing

RUN = "b94b712e-6d1f-45cd-9151-bbdcf19d24c6"  # of the recorded run
POD = "shutterline-image-classifier-hqblv-metadata-1-2-retry-system-container-impl-1920548461"


@pytest.fixture(autouse=True)
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[KubeflowRuns]:
    """Kubeflow's API, which knows nothing of the run until a test says so."""
    for name in ("SHUTTERLINE_RUN_ID", "SHUTTERLINE_EVENTS", "RANK"):
        monkeypatch.delenv(name, raising=False)
    with KubeflowRuns() as server:
        monkeypatch.setenv("KF_PIPELINES_ENDPOINT", server.url)
        yield server


@pytest.fixture
def params(kafka_broker: KafkaTopics, topic: str) -> Params:
    kafka_broker.create_topic(topic)
    return Params.from_dict(small(KAFKA_HOST=kafka_broker.bootstrap, KAFKA_TOPIC=topic, TIMEOUT=10))


class Pods:
    """Starts steps as Kubeflow does: a retry by hand has the old pod's name and index, and a new UID."""

    def __init__(self, patch: pytest.MonkeyPatch, params: Params) -> None:
        self._patch = patch
        self._params = params

    def step(self, name: StepName, error: Exception | None = None, *, index: int = 0) -> StepRecord:
        self._pod(index)
        work = failing(error) if error is not None else lambda params, emit: Result()
        try:
            return run_step(name, self._params, work, lambda: step_run(in_pipeline=True, platform_run=RUN))[1]
        except StepFailed as failed:
            return failed.record

    def exit(self, state: str) -> None:
        self._pod(0)
        run = step_run(in_pipeline=True, platform_run=RUN)
        work = lambda params, emit: report_end(state=state, run=run, targets=params.status_targets)  # noqa: E731
        run_step("exit", self._params, work, lambda: run)

    def _pod(self, index: int) -> None:
        self._patch.setenv("KFP_POD_NAME", POD)
        self._patch.setenv("KFP_POD_UID", str(uuid4()))
        self._patch.setenv("KFP_RETRY_INDEX", str(index))


@pytest.fixture
def pods(monkeypatch: pytest.MonkeyPatch, params: Params) -> Pods:
    return Pods(monkeypatch, params)


@pytest.fixture(params=["a folder", "Kafka alone"])
def kept(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where a step learns of those before it."""
    if request.param == "a folder":
        monkeypatch.setenv("SHUTTERLINE_EVENTS", str(tmp_path / "events"))


def published(broker: KafkaTopics, topic: str) -> list[StepEvent]:
    events = [StepEvent.from_bytes(record.value) for record in broker.records(topic)]
    assert len({event.identity for event in events}) == len(events)
    return events


@pytest.mark.usefixtures("kept")
def test_a_retry_by_hand_is_a_second_attempt_and_ends_the_pipeline_anew(
    pods: Pods, kafka_broker: KafkaTopics, topic: str
) -> None:
    pods.step("data-prep")
    pods.step("train", DataError("no images"))
    pods.exit("FAILED")
    before = published(kafka_broker, topic)
    assert (before[-1].step, before[-1].state) == ("pipeline", "failed")

    pods.step("train")  # Kubeflow gives it the retry index 0 again, and runs no exit task afterwards
    midway = fold(RUN, published(kafka_broker, topic))
    assert (midway.state, midway.steps["train"].attempt) == ("running", 1)
    pods.step("evaluate")

    events = published(kafka_broker, topic)[len(before) :]
    assert [(e.step, e.attempt, e.state) for e in events] == [
        ("train", 1, "started"),
        ("train", 1, "succeeded"),
        ("evaluate", 0, "started"),
        ("evaluate", 0, "succeeded"),
        ("pipeline", 0, "succeeded"),
    ]
    assert events[0].data.host == POD
    end = events[-1].data
    assert [(step.step, step.outcome, step.attempt) for step in end.steps] == [
        ("data-prep", "succeeded", 0),
        ("train", "succeeded", 1),
        ("evaluate", "succeeded", 0),
    ]
    assert fold(RUN, published(kafka_broker, topic)).state == "succeeded"


@pytest.mark.usefixtures("kept")
def test_a_retry_that_fails_again_ends_the_pipeline_anew_too(pods: Pods, kafka_broker: KafkaTopics, topic: str) -> None:
    pods.step("data-prep", DataError("no images"))
    pods.exit("FAILED")
    pods.step("data-prep")
    pods.step("train", DataError("no room"))
    last = published(kafka_broker, topic)[-1]
    assert (last.step, last.state, last.data.reason) == ("pipeline", "failed", "train: no room")
    assert [step.outcome for step in last.data.steps] == ["succeeded", "failed", "not started"]


def test_a_retry_that_torch_elastic_starts_again_has_not_ended(
    pods: Pods, kafka_broker: KafkaTopics, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pods.exit("FAILED")
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "1")
    for restart, ends in ((0, 1), (1, 2)):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(restart))
        pods.step("train", RuntimeError("lost"))
        assert [event.state for event in published(kafka_broker, topic) if event.step == "pipeline"] == [
            "failed"
        ] * ends


def test_in_the_first_life_of_a_run_the_exit_task_alone_ends_the_pipeline(
    pods: Pods, kafka_broker: KafkaTopics, topic: str, api: KubeflowRuns
) -> None:
    api.run, api.workflow = KubeflowRuns("succeeded").run, KubeflowRuns("succeeded").workflow
    for step in ("data-prep", "train", "evaluate"):
        pods.step(step)
    assert [event.state for event in published(kafka_broker, topic) if event.step == "pipeline"] == ["started"]


def test_where_no_event_tells_of_the_first_life_kubeflow_does(
    pods: Pods, kafka_broker: KafkaTopics, topic: str, api: KubeflowRuns
) -> None:
    """Its exit task had no broker, say: Kubeflow knows that the run was retried."""
    api.run, api.workflow = KubeflowRuns("retried").run, KubeflowRuns("retried").workflow
    pods.step("evaluate")
    last = published(kafka_broker, topic)[-1]
    assert (last.step, last.state) == ("pipeline", "succeeded")
    assert [step.outcome for step in last.data.steps] == ["succeeded"] * 3


def test_the_platforms_own_retries_and_those_by_hand_count_on(
    pods: Pods, kafka_broker: KafkaTopics, topic: str
) -> None:
    for index in (0, 1, 2):
        pods.step("train", DataError("no images"), index=index)
    pods.step("train")
    started = [event for event in published(kafka_broker, topic) if event.state == "started" and event.step == "train"]
    assert [event.attempt for event in started] == [0, 1, 2, 3]
    assert len({event.source for event in started}) == 4


@pytest.mark.usefixtures("kept")
def test_outside_kubeflow_the_exit_step_alone_ends_a_run_whose_id_is_used_again(
    pods: Pods, kafka_broker: KafkaTopics, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pods, "_pod", lambda index: None)
    monkeypatch.delenv("KFP_POD_NAME", raising=False)
    for _ in range(2):
        pods.step("evaluate")
        pods.exit("SUCCEEDED")
    assert [(event.step, event.state) for event in published(kafka_broker, topic)].count(("pipeline", "succeeded")) == 2
