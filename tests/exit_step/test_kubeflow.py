from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.shared.run import RUN_VARIABLE
from components.shared.step import StepFailed
from tests.exit_step.ends import FAILED, RUN, STARTED, SUCCEEDED, call, ended, outcomes, publish, spool
from tests.exit_step.test_platforms import KUBEFLOW
from tests.peers.http_faults import Answer, Hold, Refuse, Request
from tests.peers.kafka_topics import KafkaTopics
from tests.peers.kubeflow_runs import KubeflowRuns, recorded

COMPLETE = KUBEFLOW | {"state": "COMPLETE", "error": {}}
FINAL_FAILED = KUBEFLOW | {"state": "FAILED", "error": {}}
RUNNING = KUBEFLOW | {"state": "RUNNING", "error": {}}


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[KubeflowRuns]:
    with KubeflowRuns() as server:
        monkeypatch.setenv("KF_PIPELINES_ENDPOINT", server.url)
        monkeypatch.setenv("KFP_POD_NAME", "shutterline-image-classifier-87mwd-system-container-impl-3560414139")
        monkeypatch.setenv("KFP_POD_UID", "3b1c0f5e-0000-4000-8000-000000000001")
        yield server


def reported(server: KubeflowRuns, name: str, folder: Path, status: dict[str, Any]) -> dict[str, Any]:
    server.run, server.workflow = as_the_exit_step_sees_it(*recorded(name))
    return call(folder, status)


def as_the_exit_step_sees_it(run: dict[str, Any], workflow: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    history = [entry for entry in run["state_history"] if entry["state"] not in ("SUCCEEDED", "FAILED")]
    run |= {"state": history[-1]["state"], "state_history": history}
    manifest = json.loads(workflow["pipeline_runtime"]["workflow_manifest"])
    manifest["status"]["phase"] = "Running"
    for node in manifest["status"]["nodes"].values():
        if ".exit-handler-1" not in node["name"] or ".onExit" in node["name"]:
            node["phase"] = "Succeeded" if "driver" in node["name"] else "Running"
    workflow["pipeline_runtime"]["workflow_manifest"] = json.dumps(manifest)
    return run, workflow


@pytest.mark.parametrize(
    ("name", "status", "outcome", "reason", "steps"),
    [
        ("succeeded", COMPLETE, "succeeded", "", ["succeeded", "succeeded", "succeeded"]),
        # Its final status is RUNNING, for which 0.5.0 published pipeline.failed.
        ("cached", RUNNING, "succeeded", "", ["cached", "cached", "cached"]),
        ("oom-killed", FINAL_FAILED, "failed", "train: main: OOMKilled (exit code 1)",
         ["succeeded", "failed", "not started"]),
        ("failed", FINAL_FAILED, "failed", "train: main: Error (exit code 1)", ["succeeded", "failed", "not started"]),
        ("terminated", RUNNING, "cancelled", "train was cancelled", ["succeeded", "cancelled", "not started"]),
        ("retried", COMPLETE, "succeeded", "", ["succeeded", "succeeded", "succeeded"]),
    ],
)  # fmt: skip
def test_without_an_event_kubeflow_itself_says_how_a_run_ended(
    api: KubeflowRuns, alone: Path, name: str, status: dict[str, Any], outcome: str, reason: str, steps: list[str]
) -> None:
    end = reported(api, name, alone, status)
    assert (end["outcome"], end["reason"]) == (outcome, reason)
    assert list(end["steps"].values()) == steps


def test_argos_reason_and_the_steps_own_error_are_both_in_the_event(api: KubeflowRuns, events: Path) -> None:
    spool(events, "data-prep", STARTED, SUCCEEDED)
    spool(events, "train", STARTED)
    assert reported(api, "oom-killed", events.parent, FINAL_FAILED)["reason"] == (
        "train was killed: main: OOMKilled (exit code 1)"
    )
    assert outcomes(ended(events).data) == ["succeeded", "killed", "not started"]
    spool(events, "train", STARTED, FAILED)
    assert reported(api, "failed", events.parent, FINAL_FAILED)["reason"] == "train: no room"


def test_a_step_whose_end_is_with_a_broker_that_is_away_was_not_killed(
    api: KubeflowRuns, alone: Path, kafka_broker: KafkaTopics, topic: str
) -> None:
    kafka_broker.create_topic(topic)
    publish(kafka_broker, topic, "train", STARTED)
    told = {"KAFKA_HOST": kafka_broker.bootstrap, "KAFKA_TOPIC": topic, "TIMEOUT": 10}
    for name, reason in {
        "failed": "train: main: Error (exit code 1)",
        "oom-killed": "train was killed: main: OOMKilled (exit code 1)",
    }.items():
        api.run, api.workflow = as_the_exit_step_sees_it(*recorded(name))
        assert call(alone, FINAL_FAILED, **told)["reason"] == reason


def test_a_step_that_succeeded_by_its_events_and_failed_on_the_platform_is_reported_as_that(
    api: KubeflowRuns, events: Path
) -> None:
    spool(events, "data-prep", STARTED, SUCCEEDED)
    spool(events, "train", STARTED, SUCCEEDED)
    assert reported(api, "failed", events.parent, FINAL_FAILED)["reason"] == (
        "train: succeeded by its own events, and failed on the platform: main: Error (exit code 1)"
    )


def test_without_argos_workflow_the_states_are_there_without_reasons(api: KubeflowRuns, alone: Path) -> None:
    api.run, _ = recorded("oom-killed")
    report = call(alone, FINAL_FAILED)
    assert (report["outcome"], report["reason"]) == ("failed", "train: the platform gave no reason")


@pytest.mark.parametrize("effect", [Refuse(401), Refuse(503), Hold()], ids=["401", "503", "never"])
def test_an_api_that_does_not_answer_leaves_it_to_the_rest_in_bounded_time(
    api: KubeflowRuns, alone: Path, effect: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    api.inject(effect, times=None)
    assert call(alone, RUNNING)["outcome"] == "unknown"
    assert "WARNING Kubeflow cannot be asked how its run ended: http://" in capsys.readouterr().err
    report = call(alone, FINAL_FAILED)
    assert (report["outcome"], set(report["steps"].values())) == ("failed", {"unknown"})


def test_a_token_that_kubernetes_keeps_for_the_api_is_sent(
    api: KubeflowRuns, alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.token = "header.payload.signature"  # noqa: S105 - of this test
    (tmp_path / "token").write_text(f"{api.token}\n")
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(tmp_path / "token"))
    assert reported(api, "cached", alone, RUNNING)["outcome"] == "succeeded"


@pytest.mark.parametrize(
    "answer", [Answer(200, [(f"X-{number}", "1") for number in range(200)]), Answer(200, [], b"[" * 100_000)]
)
def test_an_answer_that_is_none_of_kubeflows_is_no_answer(
    api: KubeflowRuns, alone: Path, answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "answer", lambda request: answer)
    assert call(alone, FINAL_FAILED)["outcome"] == "failed"


@pytest.mark.parametrize("address", ["://", "http://[", "http://host:no-port", "a host"])
def test_an_address_that_is_none_is_no_answer(alone: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KFP_POD_NAME", "pod")
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", address)
    assert call(alone, FINAL_FAILED)["outcome"] == "failed"


def test_a_token_is_sent_to_no_other_host(
    api: KubeflowRuns, alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("header.payload.signature")
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(tmp_path / "token"))
    sent = []
    with KubeflowRuns() as other:

        def redirected(request: Request) -> Answer:
            sent.append(request.header("Authorization"))
            return Answer(302, [("Location", f"{other.url}/")])

        def elsewhere(request: Request) -> Answer:
            sent.append(request.header("Authorization"))
            return Answer(200, [], b"{}")

        monkeypatch.setattr(api, "answer", redirected)
        monkeypatch.setattr(other, "answer", elsewhere)
        call(alone, RUNNING)
    assert sent[:2] == ["Bearer header.payload.signature", ""]


def test_a_wrong_setting_ends_the_exit_step_with_one_message(
    alone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(RUN_VARIABLE, "a b")
    with pytest.raises(StepFailed) as failed:
        call(alone, RUNNING)
    assert failed.value.code == 2
    assert "ERROR failed: SHUTTERLINE_RUN_ID: must be " in capsys.readouterr().err


def test_the_end_counts_the_processes_that_it_knows_of(api: KubeflowRuns, events: Path) -> None:
    spool(events, "train", STARTED, SUCCEEDED)
    reported(api, "succeeded", events.parent, COMPLETE)
    event = ended(events)
    assert [step.source for step in event.data.steps] == [None, f"/shutterline/runs/{RUN}/train/pod", None]
    assert event.source == f"/shutterline/runs/{RUN}/pipeline/3b1c0f5e-0000-4000-8000-000000000001"
