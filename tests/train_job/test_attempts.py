"""An attempt that comes after another of the same step, and one that is asked to end at any moment."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from components.shared.events.data import Cancelled, Checkpoint, Progress
from components.shared.events.status_lines import status_line
from components.shared.kubeflow.train_job import NodeSpec, Volume
from tests.examples import SMALL
from tests.peers.http_server import BrokenError
from tests.peers.trainer.api import Asked, TrainerApi
from tests.peers.trainer.refusals import Refused
from tests.train_job.conftest import FAST, Training
from tests.train_job.test_follow import RESUMED, STARTED, finish, finish_at_once, looked, wait_for

Told = pytest.CaptureFixture[str]


class Trap(list[Asked]):
    """The server's requests: at one of them something happens."""

    def __init__(self, number: int, spring: Callable[[], None]) -> None:
        super().__init__()
        self._number, self._spring = number, spring

    def append(self, asked: Asked) -> None:
        super().append(asked)
        if len(self) == self._number:
            self._spring()


def killed(training: Training, api: TrainerApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """An attempt that has made a job and is gone without a word, as where its node is lost."""

    class Lost(BaseException):
        pass

    def lost(*args: Any) -> None:
        raise Lost

    with monkeypatch.context() as patched:
        patched.setattr("components.train_job.step.Follower.until_over", lost)
        patched.setattr("components.train_job.step.Follower.end", lost)
        with pytest.raises(Lost):
            training.step.run()
    assert len(api.store.select("trainjobs")) == 1


def test_a_repeated_attempt_takes_up_the_job_that_runs(
    training: Training, trainer_api: TrainerApi, monkeypatch: pytest.MonkeyPatch, capsys: Told
) -> None:
    """Its log is passed on from the beginning; status of before was emitted by the attempt before."""
    nodes = training.nodes
    killed(training, trainer_api, monkeypatch)
    nodes.start()
    nodes.say(STARTED, RESUMED, "line 1", status_line(Progress(1, 4)), status_line(Checkpoint(1, 2, "s3://b/c/1")))
    earlier = len(training.events())
    capsys.readouterr()

    def script() -> None:
        looked(trainer_api)
        nodes.wait_a_second()
        nodes.say("line 2", status_line(Progress(3, 4)))
        finish(training)

    nodes.play(script)
    record = training.run()

    assert (record.status, record.report["resumed_from"]) == ("succeeded", "epoch 2, batch 3")
    assert training.states()[earlier:] == ["started", "progress", "succeeded"]
    assert len([each for each in trainer_api.requests("create", "trainjobs") if not each.query.get("dryRun")]) == 1
    err = capsys.readouterr().err
    assert f"TrainJob {nodes.name} of an earlier attempt of this step goes on; its log from the beginning:" in err
    assert err.index("line 1") < err.index("line 2")
    assert nodes.trouble == []


def test_a_job_that_has_succeeded_meanwhile_is_the_result(
    training: Training, trainer_api: TrainerApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed(training, trainer_api, monkeypatch)
    finish_at_once(training)

    assert training.run().status == "succeeded"
    assert len(trainer_api.store.select("trainjobs")) == 1


def test_a_job_whose_model_is_gone_is_no_result(
    training: Training, trainer_api: TrainerApi, monkeypatch: pytest.MonkeyPatch, capsys: Told
) -> None:
    killed(training, trainer_api, monkeypatch)
    training.nodes.start()
    training.nodes.complete()
    training.nodes.play(lambda: finish_at_once(training), anew=True)

    assert training.run().status == "succeeded"
    assert [job["metadata"]["name"][-2:] for job in trainer_api.store.select("trainjobs")] == ["-0", "-1"]
    assert "of an earlier attempt has succeeded, and there is no model of it" in capsys.readouterr().err


def test_after_a_job_that_failed_the_next_attempt_makes_another(training: Training, trainer_api: TrainerApi) -> None:
    training.nodes.play(lambda: training.nodes.fail())
    assert training.run().status == "failed"
    training.nodes.play(lambda: finish_at_once(training), anew=True)

    assert training.run().status == "succeeded"
    assert [job["metadata"]["name"][-2:] for job in trainer_api.store.select("trainjobs")] == ["-0", "-1"]
    assert training.states() == ["started", "failed", "started", "succeeded"]


def test_a_job_of_other_params_that_runs_is_left_alone(
    training: Training, trainer_api: TrainerApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed(training, trainer_api, monkeypatch)

    record = training.run(params=json.dumps(SMALL | {"num_epochs": 9}))

    assert record.exit_code == 2
    assert record.error is not None
    assert record.error.message.startswith(f"TrainJob {training.nodes.name} of this run trains with other params")
    assert len(trainer_api.store.select("trainjobs")) == 1


@pytest.mark.parametrize("is_stuck", [False, True])
def test_the_end_of_a_job_that_is_being_deleted_is_waited_for(
    training: Training, trainer_api: TrainerApi, monkeypatch: pytest.MonkeyPatch, capsys: Told, is_stuck: bool
) -> None:
    killed(training, trainer_api, monkeypatch)
    name = training.nodes.name

    def delete(job: Any) -> None:
        job["metadata"]["deletionTimestamp"] = "2026-11-29T00:00:00Z"

    trainer_api.store.update("trainjobs", trainer_api.namespace, name, delete)

    def spring() -> None:
        if not is_stuck:
            trainer_api.store.delete("trainjobs", trainer_api.namespace, name)

    trainer_api.sent = Trap(12, spring)
    training.nodes.play(lambda: finish_at_once(training), anew=True)

    assert training.run(pace=replace(FAST, gone_s=0.1) if is_stuck else FAST).status == "succeeded"
    err = capsys.readouterr().err
    assert f"waits for the end of TrainJob {name}, which is being deleted" in err
    assert (f"WARNING TrainJob {name} is still being deleted after 0.1 s" in err) == is_stuck
    found = [job["metadata"]["name"][-2:] for job in trainer_api.store.select("trainjobs")]
    assert found == (["-0", "-1"] if is_stuck else ["-1"])


@pytest.mark.parametrize("code", [None, 500, 504])
def test_a_job_whose_creation_was_not_answered_is_found(
    training: Training, trainer_api: TrainerApi, code: int | None
) -> None:
    def spring() -> None:
        trainer_api.fail(code, "create", "trainjobs", after_work=True)

    trainer_api.sent = Trap(8, spring)  # after the dry run
    training.nodes.play(lambda: finish_at_once(training))

    assert training.run().status == "succeeded"
    assert len(trainer_api.requests("create", "trainjobs")) == 3
    assert len(trainer_api.store.select("trainjobs")) == 1


def test_the_job_is_owned_by_the_workflow_of_the_steps_pod(
    training: Training, trainer_api: TrainerApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    workflow = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "run-x", "uid": "u-1"}
    monkeypatch.setenv("KFP_POD_NAME", "run-x-1")
    owners = [workflow | {"controller": True, "blockOwnerDeletion": True}]
    pod = {"metadata": {"name": "run-x-1", "namespace": trainer_api.namespace, "ownerReferences": owners}}
    trainer_api.store.create("pods", pod)
    volume = '"volumes":[{"claim":"runs","path":"/"}]'
    training.nodes.play(lambda: finish_at_once(training))

    assert training.run(nodes=f"{training.step.nodes[:-1]},{volume}}}").status == "succeeded"
    (job,) = trainer_api.store.select("trainjobs")
    assert job["metadata"]["ownerReferences"] == [workflow]


@pytest.mark.parametrize(
    ("how", "number"),
    [
        *((signal.SIGTERM, number) for number in (2, 8, 9, 11, 13)),
        *(pytest.param(signal.SIGTERM, number, marks=pytest.mark.slow) for number in (1, 3, 4, 6, 7, 10, 12, 15, 18)),
        (signal.SIGINT, 9),
        (signal.SIGINT, 14),
    ],
)
def test_a_signal_at_any_request_deletes_the_job_and_is_one_end(
    training: Training, trainer_api: TrainerApi, capsys: Told, how: signal.Signals, number: int
) -> None:
    nodes = training.nodes
    delete = trainer_api.on_delete

    def save(job: Any) -> None:
        if nodes.has_started:
            nodes.say(status_line(Checkpoint(0, 3, "s3://b/c/0", 7)), status_line(Cancelled(1.0, "SIGTERM", 143)))
        delete(job)

    def script() -> None:
        with suppress(Refused):  # it may be deleted at any moment
            nodes.start()
            nodes.say(STARTED, status_line(Progress(1, 4)))
        wait_for(nodes.gone)

    trainer_api.on_delete = save
    trainer_api.sent = Trap(number, lambda: os.kill(os.getpid(), how))
    nodes.play(script)
    record = training.run()

    assert (record.status, record.exit_code) == ("cancelled", 128 + how)
    assert nodes.gone()
    states = training.states()
    assert (states[0], states[-1]) == ("started", "cancelled")
    assert [state for state in states if state in ("succeeded", "failed", "cancelled")] == ["cancelled"]
    if "checkpoint" in states:
        assert record.saved == f"epoch 1, batch 7 is saved in {training.model}-checkpoints"
    assert not nodes.trouble


@pytest.mark.parametrize("comes", [True, False])
def test_a_job_whose_creation_is_under_way_as_the_step_ends_is_deleted_or_named(
    training: Training, trainer_api: TrainerApi, monkeypatch: pytest.MonkeyPatch, capsys: Told, comes: bool
) -> None:
    """The API server goes on with a request whose client is gone."""
    answered, is_deleted = trainer_api.methods.answer, threading.Event()

    def answer(asked: Asked, *more: Any) -> Any:
        if (asked.verb, asked.resource) == ("create", "trainjobs") and "dryRun" not in asked.query:
            os.kill(os.getpid(), signal.SIGTERM)
            is_deleted.wait(20)
            if not comes:
                raise BrokenError
        if asked.verb == "delete":
            is_deleted.set()
        return answered(asked, *more)

    monkeypatch.setattr(trainer_api.methods, "answer", answer)
    assert training.run(pace=replace(FAST, answer_s=0.5, stop_s=1.0)).status == "cancelled"

    assert training.states() == ["started", "cancelled"]
    assert training.nodes.gone()
    text = "as it cannot be deleted: whether it was made was not answered, and it is not there yet; delete it: kubectl"
    assert (text in capsys.readouterr().err) is not comes


def test_a_job_that_another_attempt_may_follow_is_not_deleted(
    training: Training, trainer_api: TrainerApi, monkeypatch: pytest.MonkeyPatch, capsys: Told
) -> None:
    """A node that was cut off is back: its pods were deleted and replaced meanwhile, and are now asked to end."""
    monkeypatch.setenv("KFP_POD_NAME", "run-x-1")
    monkeypatch.setenv("KFP_POD_UID", "u-1")

    def script() -> None:
        training.nodes.start()
        looked(trainer_api)
        os.kill(os.getpid(), signal.SIGTERM)

    training.nodes.play(script)
    nodes = NodeSpec(image="x", nodes=2, volumes=(Volume(claim="runs", path="/"),)).to_json()
    assert training.run(nodes=nodes).status == "cancelled"

    (job,) = trainer_api.store.select("trainjobs")
    name = job["metadata"]["name"]
    assert f"TrainJob {name}, which another attempt may follow, is not deleted" in capsys.readouterr().err
    assert not trainer_api.requests("delete", "trainjobs")
    assert not training.nodes.trouble
