"""Steps of a run that keep their events in a bucket: GCS and S3, each with an emulator."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.exit_step.step import report_end
from components.shared.errors import DataError
from components.shared.events.event import StepEvent
from components.shared.params.params import Params
from components.shared.run import step_run
from components.shared.step import StepFailed, StepName, StepRecord, run_step
from tests.configs import small
from tests.peers.http_faults import Refuse
from tests.peers.kafka_topics import KafkaTopics
from tests.peers.object_store import Bucket
from tests.peers.ports import claim_port
from tests.shared.test_step import Result, failing

RUN = "0a1b2c3d-4e5f-6789-abcd-ef0123456789"


@pytest.fixture(autouse=True)
def _environment(bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SHUTTERLINE_EVENTS", f"{bucket.uri}/events")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("SHUTTERLINE_RUN_ID", raising=False)


def step(name: StepName, params: Params, error: Exception | None = None) -> StepRecord:
    """One process of the run, with a directory of its own as every pod has."""
    work = failing(error) if error is not None else lambda params, emit: Result()
    try:
        return run_step(name, params, work, lambda: step_run(in_pipeline=True, platform_run=RUN))[1]
    except StepFailed as failed:
        return failed.record


def ended(state: str, params: Params) -> StepRecord:
    run = step_run(in_pipeline=True, platform_run=RUN)
    return run_step("exit", params, lambda p, emit: report_end(state=state, run=run, targets=p.status_targets),
                    lambda: run)[1]  # fmt: skip


def test_a_later_step_delivers_what_an_earlier_pod_could_not(
    bucket: Bucket, kafka_broker: KafkaTopics, topic: str, leaky_kafka_client: None
) -> None:
    kafka_broker.create_topic(topic)
    away = Params.from_dict(small(KAFKA_HOST=f"127.0.0.1:{claim_port()}", KAFKA_TOPIC=topic, TIMEOUT=0.5))
    back = Params.from_dict(small(KAFKA_HOST=kafka_broker.bootstrap, KAFKA_TOPIC=topic, TIMEOUT=10))
    for name in ("data-prep", "train"):
        record = step(name, away)
        assert record.delivery is not None
        assert record.delivery["kept"] is True
    step("train", away, DataError("no images"))
    step("evaluate", back)
    end = ended("COMPLETE", back).report
    events = [StepEvent.from_bytes(record.value) for record in kafka_broker.records(topic)]
    assert [(e.step, e.attempt, e.state) for e in events] == [
        ("pipeline", 0, "started"),
        ("data-prep", 0, "started"),
        ("data-prep", 0, "succeeded"),
        ("train", 0, "started"),
        ("train", 0, "succeeded"),
        ("train", 1, "started"),
        ("train", 1, "failed"),
        ("evaluate", 0, "started"),
        ("evaluate", 0, "succeeded"),
        ("pipeline", 0, "succeeded"),
    ]
    assert len({event.identity for event in events}) == len(events)
    assert end["steps"] == {"data-prep": "succeeded", "train": "succeeded", "evaluate": "succeeded"}


def test_silence_in_the_bucket_is_a_step_that_did_not_run(bucket: Bucket) -> None:
    params = Params.from_dict(small())
    step("data-prep", params, DataError("no images"))
    assert ended("FAILED", params).report["steps"] == {
        "data-prep": "failed", "train": "not started", "evaluate": "not started",
    }  # fmt: skip


def test_a_bucket_that_cannot_be_read_leaves_steps_unknown(bucket: Bucket) -> None:
    bucket.faults.inject(Refuse(403), times=None)
    record = ended("FAILED", Params.from_dict(small()))
    assert record.status == "succeeded"
    assert set(record.report["steps"].values()) == {"unknown"}


def test_a_bucket_that_may_not_be_used_ends_a_step_before_its_work(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    for operation in ("list", "write"):
        fault = bucket.faults.inject(Refuse(403), operation, times=None)
        record = step("train", Params.from_dict(small()), AssertionError("worked"))
        bucket.faults.clear()
        assert (record.exit_code, record.error and record.error.type) == (2, "StorageRefusedError"), operation
        assert fault.happened


def test_while_a_bucket_is_silent_steps_learn_from_kafka_what_was_before(
    bucket: Bucket, kafka_broker: KafkaTopics, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("components.shared.events.history.BUCKET_S", 0.5)
    monkeypatch.setenv("KFP_POD_NAME", "pod")
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", f"http://127.0.0.1:{claim_port()}")
    kafka_broker.create_topic(topic)
    params = Params.from_dict(small(KAFKA_HOST=kafka_broker.bootstrap, KAFKA_TOPIC=topic, TIMEOUT=10))
    step("data-prep", params, DataError("no images"))
    ended("FAILED", params)
    before = len(list(kafka_broker.records(topic)))
    bucket.faults.inject(Refuse(503), "list", times=None)
    for name in ("data-prep", "train", "evaluate"):
        step(name, params)
    bucket.faults.clear()
    events = [StepEvent.from_bytes(record.value) for record in kafka_broker.records(topic)]
    assert [(e.step, e.attempt, e.state) for e in events[before:]] == [
        ("data-prep", 1, "started"),
        ("data-prep", 1, "succeeded"),
        ("train", 0, "started"),
        ("train", 0, "succeeded"),
        ("evaluate", 0, "started"),
        ("evaluate", 0, "succeeded"),
        ("pipeline", 0, "succeeded"),
    ]
