"""Histories of a TrainJob, and what the step makes of each."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from components.shared.events.data import (
    Cancelled,
    Checkpoint,
    Error,
    EventData,
    Failed,
    Progress,
    StepStarted,
    Succeeded,
)
from components.shared.events.status_lines import status_line
from components.shared.strict_json import read_json
from tests.peers.trainer.api import TrainerApi
from tests.train_job.conftest import FAST, Training
from tests.train_job.nodes import UNSCHEDULABLE, Nodes

Told = pytest.CaptureFixture[str]

STARTED = status_line(StepStarted("0.11.0", "a pod"))
RESUMED = "12:00:01 train     going on from a checkpoint of epoch 2, batch 3"


def failed(message: str, exit_code: int = 1, kind: str = "InputError") -> list[str]:
    """What a step's process prints last that fails."""
    return [f"12:00:09 train     ERROR failed: {message}", status_line(Failed(1.0, Error(kind, message), exit_code))]


def log_of(capsys: Told) -> list[str]:
    """The step's log without times, and without what differs from run to run."""
    text = re.sub(r"(?m)^\d\d:\d\d:\d\d (?=train)", "", capsys.readouterr().err)
    text = re.sub(r"train-[0-9a-f]{8}-(\d)", r"JOB-\1", text)
    return re.sub(r"in \d+\.\d s", "in N s", text).splitlines()


def ours(lines: list[str]) -> list[str]:
    """Of those the step's own, but for the first."""
    return [line.removeprefix("train     ") for line in lines if line.startswith("train ")][1:]


CREATED = "TrainJob JOB-0 in the namespace team-a: 2 nodes of shutterline/train:1, TrainingRuntime shutterline"


def finish(training: Training) -> None:
    """The end of a history that ends well."""
    training.publish()
    training.nodes.say(status_line(Succeeded(1.0, mlflow_run="m1")))
    training.nodes.end(0)
    training.nodes.end(1)
    training.nodes.complete()


def test_a_job_that_succeeds_is_the_step_as_if_it_had_trained_itself(training: Training, capsys: Told) -> None:
    nodes = training.nodes
    told: list[EventData] = [Progress(1, 4, "batches", epoch=1), Checkpoint(1, 2, "s3://b/c/1"), Progress(4, 4)]

    def script() -> None:
        nodes.start()
        nodes.say(
            STARTED, "12:00:00 train     started", RESUMED, *(status_line(each) for each in told), "  plain \u2028 text"
        )
        nodes.say("reads https://user:hunter2@host/x")
        finish(training)

    nodes.play(script)
    record = training.run()

    model, checkpoints = str(training.model), f"{training.model}-checkpoints"
    assert record.model_dump(exclude={"seconds", "delivery"}) == {
        "step": "train",
        "part": None,
        "status": "succeeded",
        "exit_code": 0,
        "saved": "",
        "error": None,
        "report": {
            "model": model,
            "checkpoints": checkpoints,
            "resumed_from": "epoch 2, batch 3",
            "best_epoch": 2,
            "selected_on": "validation",
            "metrics": {"loss": 0.05, "accuracy": 0.987},
            "train_loss": 2 / 3,
            "epochs": 3,
            "parameters": 406_218,
            "images_per_second": 123_456.0,
            "device": "cuda:0 (NVIDIA L4)",
        },
    }
    events = training.events()
    assert [event.state for event in events] == ["started", "progress", "checkpoint", "progress", "succeeded"]
    assert [event.data for event in events[1:4]] == told
    last = events[-1].data
    assert (last.metrics, last.artifacts, last.mlflow_run) == (
        {"loss": 0.05, "accuracy": 0.987, "train_loss": 2 / 3, "images_per_second": 123_456.0},
        {"model": model, "checkpoints": checkpoints},
        "m1",
    )
    assert read_json(Path(training.step.metrics)) == {"loss": 0.05, "accuracy": 0.987}
    assert Path(training.step.learning_curves).read_text() == "<html>curves</html>"
    assert len(Path(training.step.model_sha256).read_text()) == 64
    lines = log_of(capsys)
    assert lines[0] == "train     started"
    passed_on = ["train     started", RESUMED[9:], "  plain \\u2028 text", "reads https://[redacted]@host/x"]
    assert [line for line in lines[1:] if "pods run" not in line] == [
        f"train     {CREATED}",
        *passed_on,
        "train     succeeded in N s",
    ]
    assert nodes.trouble == []


def test_the_job_is_made_of_the_runs_params_and_places(
    training: Training, trainer_api: TrainerApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHUTTERLINE_RUN_ID", f"{'night.' * 12}-")
    training.nodes.play(lambda: finish_at_once(training))

    assert training.run().status == "succeeded"

    created = [each.body for each in trainer_api.requests("create", "trainjobs") if "dryRun" not in each.query]
    (job,) = created
    labels = job["metadata"]["labels"]
    assert re.fullmatch(r"train-[0-9a-f]{8}-0", job["metadata"]["name"])
    assert (labels["shutterline/step"], labels["shutterline/attempt"]) == ("train", "0")
    assert re.fullmatch(r"(night\.){8}ni-[0-9a-f]{12}", labels["shutterline/run"])
    options = dict(argument.split("=", 1) for argument in job["spec"]["trainer"]["args"])
    assert options.keys() == {"--dataset", "--model", "--params", "--processes"}
    assert (options["--model"], options["--processes"]) == (str(training.model), "auto")
    env = {each["name"]: each.get("value") for each in job["spec"]["trainer"]["env"]}
    assert env == {"SHUTTERLINE_RUN_ID": f"{'night.' * 12}-", "SHUTTERLINE_STATUS": "log"}
    assert trainer_api.requests("create", "trainjobs")[0].query == {"dryRun": "All", "fieldValidation": "Strict"}
    assert not training.nodes.trouble


def finish_at_once(training: Training) -> None:
    training.nodes.start()
    finish(training)


def test_bad_input_ends_the_step_with_2_and_one_message(training: Training, capsys: Told) -> None:
    nodes, message = training.nodes, "params has 2 problems:\n  a: is wrong\n  b: is wrong"

    def script() -> None:
        nodes.start()
        first, *more = message.split("\n")
        start = "12:00:09 train     ERROR "
        nodes.say(STARTED, f"{start}failed: {first}", *(f"{start}{line}" for line in more))
        nodes.say(status_line(Failed(0.1, Error("ParamsError", message), 2)))
        nodes.end(0, 2)
        nodes.fail("FailJobSetFailurePolicyAction", "jobset failed (first failed job: JOB-node-0)")

    nodes.play(script)
    record = training.run()

    assert (record.status, record.exit_code, record.error) == ("failed", 2, Error("InputError", message))
    assert training.states() == ["started", "failed"]
    text = "\n".join(log_of(capsys))
    assert text.count("a: is wrong") == 1
    assert text.endswith(
        "train     ERROR failed: params has 2 problems:\ntrain     ERROR   a: is wrong\ntrain     ERROR   b: is wrong"
    )


def exit_2_and_the_pods_are_gone(nodes: Nodes, api: TrainerApi) -> None:
    message = f"Container node for pod team-a/{nodes.name}-node-0-0-x failed with exit code 2 matching FailJob rule"
    failed_job = {"type": "Failed", "status": "True", "reason": "PodFailurePolicy", "message": message}
    api.store.create(
        "jobs",
        {
            "metadata": {"name": f"{nodes.name}-node-0", "namespace": api.namespace},
            "status": {"conditions": [failed_job]},
        },
    )
    nodes.fail()


@pytest.mark.parametrize(
    ("script", "exit_code", "message"),
    [
        (
            lambda nodes, api: (nodes.start(), nodes.end(1, 137, "OOMKilled"), nodes.end(0, 143), nodes.fail()),
            1,
            "TrainJob JOB-0 failed: pod JOB-0-node-0-1-00001: OOMKilled (exit code 137); it needs more memory; "
            "FailedJobs: jobset failed due to one or more job failures",
        ),
        (
            lambda nodes, api: (
                nodes.start(),
                nodes.pod(1, phase="Failed", reason="Evicted", message="The node was low on resource: memory."),
                nodes.end(0, 143),
                nodes.fail(),
            ),
            1,
            "TrainJob JOB-0 failed: pod JOB-0-node-0-1-00001: Evicted: The node was low on resource: memory.; "
            "FailedJobs: jobset failed due to one or more job failures",
        ),
        (
            lambda nodes, api: (
                nodes.start(),
                nodes.say(STARTED, *failed("another process ended", 1, "GroupLostError")),
                nodes.end(1, 1),
                nodes.end(0, 1),
                nodes.fail(),
            ),
            1,
            "TrainJob JOB-0 failed: 2 pods, such as JOB-0-node-0-0-00000: exit code 1; "
            "FailedJobs: jobset failed due to one or more job failures",
        ),
        (
            exit_2_and_the_pods_are_gone,
            2,
            "TrainJob JOB-0 failed: PodFailurePolicy: Container node for pod team-a/JOB-0-node-0-0-x failed with exit "
            "code 2 matching FailJob rule; FailedJobs: jobset failed due to one or more job failures",
        ),
        (
            lambda nodes, api: (
                nodes.start(),
                nodes.say(STARTED, *failed("loss is NaN", 1, "DivergedError")),
                nodes.end(0, 1),
                nodes.fail(),
            ),
            1,
            "loss is NaN",
        ),
        (
            lambda nodes, api: (
                nodes.start(),
                nodes.say(STARTED, "12:00:09 train     ERROR failed: RuntimeError", "Traceback", "RuntimeError: odd"),
                nodes.say(status_line(Failed(1.0, Error("RuntimeError", "odd"), 1))),
                nodes.end(0, 1),
                nodes.fail(),
            ),
            1,
            "RuntimeError: odd",
        ),
        (
            lambda nodes, api: nodes.fail("TrainingRuntimeNotSupported", "unsupported runtime: x"),
            1,
            "TrainJob JOB-0 failed: TrainingRuntimeNotSupported: unsupported runtime: x",
        ),
    ],
    ids=["oom", "evicted", "group lost", "exit 2, pods gone", "diverged", "a defect", "no runtime"],
)
def test_a_job_that_fails_ends_the_step_with_the_reason(
    training: Training, trainer_api: TrainerApi, capsys: Told, script: Any, exit_code: int, message: str
) -> None:
    training.nodes.play(lambda: script(training.nodes, trainer_api))

    record = training.run()

    assert record.error is not None
    assert re.sub(r"train-[0-9a-f]{8}", "JOB", record.error.message) == message
    assert (record.status, record.exit_code, training.states()) == ("failed", exit_code, ["started", "failed"])
    lines = log_of(capsys)
    assert lines[-1] == f"train     ERROR failed: {message}"
    assert sum(message in line for line in lines if line.startswith("train ")) == 1
    assert trainer_api.store.select("trainjobs")  # its pods' logs stay until the run is deleted
    assert not training.nodes.trouble


def test_lines_of_every_start_and_pod_come_once_whatever_breaks(
    training: Training, trainer_api: TrainerApi, capsys: Told
) -> None:
    """The container starts anew, its pod is replaced, connections break, the last line of each has no end."""
    nodes = training.nodes
    printed: list[str] = []

    def say(*lines: str, is_cut: bool = False) -> None:
        printed.extend(lines)
        nodes.say(*lines, is_cut=is_cut)

    def script() -> None:
        nodes.start()
        say("first 1", "same", "same")
        wait_for(lambda: trainer_api.requests("get", "pods/log"))
        trainer_api.logs.break_streams()
        say("first 2", "same")
        trainer_api.fail(500, "get", "pods/log", times=2)
        trainer_api.fail(None, "get", "pods/log", times=1)
        trainer_api.end_streams()
        say("first 3", *(f"line {number}" for number in range(2000)), is_cut=True)
        nodes.restart(0, 137, "OOMKilled")
        say("second 1")
        looked(trainer_api)
        trainer_api.logs.break_streams()
        say("second 2", "same", is_cut=True)
        nodes.end(0, 143)
        looked(trainer_api)
        nodes.start(0)
        say("third 1", "same")
        finish(training)

    nodes.play(script)
    assert training.run().status == "succeeded"

    lines = log_of(capsys)
    assert [line for line in lines if not line.startswith("train ")] == printed
    assert [line.partition("JOB-0: ")[2] for line in lines if "WARNING" in line] == [
        "pod JOB-0-node-0-0-00000: OOMKilled (exit code 137); it needs more memory",
        "pod JOB-0-node-0-0-00000: exit code 143",
    ]
    assert not nodes.trouble


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def looked(api: TrainerApi) -> None:
    """Wait until the step has looked at the job's pods three times more."""
    asked = len(api.requests("list", "pods"))
    wait_for(lambda: len(api.requests("list", "pods")) > asked + 3)


def test_what_a_job_waits_for_is_logged_once_a_change(
    training: Training, trainer_api: TrainerApi, capsys: Told
) -> None:
    nodes = training.nodes

    def script() -> None:
        looked(trainer_api)
        nodes.suspend(is_suspended=True)
        looked(trainer_api)
        nodes.suspend(is_suspended=False)
        unschedulable = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": UNSCHEDULABLE}
        nodes.start(0, 1, phase="Pending", conditions=[unschedulable])
        looked(trainer_api)
        waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off"}}
        for index in (0, 1):
            nodes.pod(index, phase="Pending", containerStatuses=[{"name": "node", "state": waiting, "image": "x:1"}])
        looked(trainer_api)
        for index in (0, 1):
            nodes.remove(index)
        nodes.start()
        looked(trainer_api)
        finish(training)

    nodes.play(script)
    assert training.run().status == "succeeded"

    assert [line.removeprefix("TrainJob JOB-0: ") for line in ours(log_of(capsys))] == [
        CREATED,
        "waits for Kubeflow Trainer to take it up",
        "is suspended: waits to be resumed, such as by Kueue once there is quota",
        f"2 of 2 pods wait: Unschedulable: {UNSCHEDULABLE}",
        "2 of 2 pods wait: ImagePullBackOff (x:1)",
        "2 of 2 pods run",
        "succeeded in N s",
    ]
    assert not nodes.trouble


def test_a_job_that_is_never_scheduled_fails_at_its_deadline_and_is_deleted(
    training: Training, trainer_api: TrainerApi
) -> None:
    nodes = training.nodes
    unschedulable = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": UNSCHEDULABLE}

    def script() -> None:
        nodes.start(0, 1, phase="Pending", conditions=[unschedulable])
        looked(trainer_api)
        nodes.fail("DeadlineExceeded", "TrainJob exceeded its active deadline")

    nodes.play(script)
    record = training.run()

    assert record.exit_code == 1
    assert re.sub(r"train-[0-9a-f]{8}", "JOB", record.error.message if record.error else "") == (
        "TrainJob JOB-0 took longer than train.timeout_s allows; last seen: 2 of 2 pods wait: Unschedulable: "
        f"{UNSCHEDULABLE}"
    )
    assert nodes.gone()
    assert not nodes.trouble


def test_a_job_that_runs_at_its_deadline_is_given_time_to_save(training: Training, trainer_api: TrainerApi) -> None:
    nodes = training.nodes

    def script() -> None:
        nodes.start()
        nodes.say(STARTED, status_line(Checkpoint(0, 3, "s3://b/c/0", 7)))
        wait_for(lambda: "checkpoint" in training.states())
        nodes.fail("DeadlineExceeded", "TrainJob exceeded its active deadline")
        wait_for(lambda: trainer_api.requests("delete", "trainjobs"))

    def save(job: Any) -> None:
        nodes.say(status_line(Checkpoint(1, 3, "s3://b/c/1")), status_line(Cancelled(1.0, "SIGTERM", 143)))
        nodes.end(0, 143)

    trainer_api.on_delete = save
    nodes.play(script)
    record = training.run()

    assert record.error is not None
    assert record.error.message.endswith(
        f"allows; last seen: 2 of 2 pods run; the beginning of epoch 2 is saved in {training.model}-checkpoints"
    )
    assert training.states() == ["started", "checkpoint", "checkpoint", "failed"]
    assert not nodes.trouble


def test_a_job_that_somebody_deletes_fails_the_step(training: Training, trainer_api: TrainerApi) -> None:
    nodes = training.nodes

    def script() -> None:
        nodes.start()
        nodes.say(STARTED, "line")
        wait_for(lambda: trainer_api.requests("get", "pods/log"))
        nodes.remove(1)
        nodes.remove(0)
        trainer_api.store.delete("trainjobs", trainer_api.namespace, nodes.name)

    nodes.play(script)
    record = training.run()

    assert (record.status, record.exit_code, training.states()) == ("failed", 1, ["started", "failed"])
    assert record.error is not None
    assert f"TrainJob {nodes.name} was deleted by somebody before its end" in record.error.message
    assert not nodes.trouble


@pytest.mark.parametrize("how", [*(pytest.param(how, marks=pytest.mark.slow) for how in ("refused", "hanging")), 503])
def test_a_server_that_is_away_is_waited_for_and_logged_once(
    training: Training, trainer_api: TrainerApi, capsys: Told, how: Any
) -> None:
    nodes = training.nodes

    def script() -> None:
        nodes.start()
        nodes.say(STARTED, "before", status_line(Progress(1, 4)))
        wait_for(lambda: "progress" in training.states())
        trainer_api.go_away(how)
        nodes.say("meanwhile", status_line(Progress(2, 4)))
        time.sleep(1.0)  # until the step has asked in vain
        trainer_api.come_back()
        nodes.say("after")
        finish(training)

    nodes.play(script)
    record = training.run(pace=replace(FAST, answer_s=0.4) if how == "hanging" else FAST)

    assert (record.status, training.states()) == ("succeeded", ["started", "progress", "progress", "succeeded"])
    lines = log_of(capsys)
    assert [line for line in lines if not line.startswith("train ")] == ["before", "meanwhile", "after"]
    own = [line for line in ours(lines) if "seen" in line]
    assert len(own) == 2
    assert own[0].startswith("WARNING TrainJob JOB-0 cannot be seen: ")
    assert own[1] == "TrainJob JOB-0 is seen again"
    assert not nodes.trouble


def test_without_the_right_to_logs_progress_is_trainers_percentage(
    training: Training, trainer_api: TrainerApi, capsys: Told
) -> None:
    nodes = training.nodes
    trainer_api.denied = {("get", "pods/log"), ("get", "jobs")}

    def script() -> None:
        nodes.start()
        nodes.job(trainerStatus={"progressPercentage": 40, "metrics": [{"name": "accuracy", "value": "0.5"}]})
        wait_for(lambda: "progress" in training.states())
        finish(training)

    nodes.play(script)
    assert training.run().status == "succeeded"

    assert [event.data for event in training.events() if event.state == "progress"] == [
        Progress(40, 100, "batches", metrics={"accuracy": 0.5})
    ]
    assert not trainer_api.requests("get", "pods/log")
    what = "the pod's service account may not get"
    role = "pipelines/examples/trainer/role.yaml has a Role and a RoleBinding with what is needed"
    assert [line for line in ours(log_of(capsys)) if "WARNING" in line] == [
        f"WARNING {what} pods/log in the namespace team-a, so there is not: the log of the pods, and progress beyond "
        f"Trainer's own percentage; {role}",
        f"WARNING {what} jobs in the namespace team-a, so there is not: exit codes of pods that are gone; {role}",
    ]
    assert not nodes.trouble


def test_a_right_that_is_taken_away_for_long_ends_the_step(training: Training, trainer_api: TrainerApi) -> None:
    nodes = training.nodes

    def script() -> None:
        nodes.start()
        wait_for(lambda: trainer_api.requests("get", "trainjobs"))
        trainer_api.denied = {("get", "trainjobs")}

    nodes.play(script)
    record = training.run()

    assert (record.status, record.exit_code, training.states()) == ("failed", 2, ["started", "failed"])
    assert record.error is not None
    assert "can no longer be followed: the API server answers 403" in record.error.message
    assert nodes.gone()  # nobody would wait for it
    assert not nodes.trouble


def test_in_a_pod_the_token_is_read_again_where_it_was_renewed(
    training: Training, trainer_api: TrainerApi, monkeypatch: pytest.MonkeyPatch, capsys: Told
) -> None:
    nodes, mounted = training.nodes, trainer_api.service_account
    monkeypatch.delenv("KUBECONFIG")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(trainer_api.port))
    for name, file in (("SERVICE_TOKEN_FILENAME", "token"), ("SERVICE_CERT_FILENAME", "ca.crt")):
        monkeypatch.setattr(f"kubernetes.config.incluster_config.{name}", str(mounted / file))

    def script() -> None:
        nodes.start()
        looked(trainer_api)
        (mounted / "token").write_text("another")
        trainer_api.token = "another"  # noqa: S105 # opens nothing
        looked(trainer_api)
        finish(training)

    nodes.play(script)
    assert training.run().status == "succeeded"

    assert [line for line in ours(log_of(capsys)) if "pods run" not in line] == [CREATED, "succeeded in N s"]
    assert not nodes.trouble
