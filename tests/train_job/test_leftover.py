"""What a run's training has left on a cluster ends with the run."""

from __future__ import annotations

from typing import Any

import pytest

from components.train_job.leftover import main
from tests.peers.fixtures import certificates as certificates
from tests.peers.fixtures import trainer_api as trainer_api
from tests.peers.trainer.api import TrainerApi


@pytest.fixture(autouse=True)
def _of_the_cluster(trainer_api: TrainerApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(trainer_api.kubeconfig))


def names(api: TrainerApi) -> list[str]:
    return [job["metadata"]["name"] for job in api.store.select("trainjobs")]


def create(api: TrainerApi, name: str, run: str, step: str = "train", **status: Any) -> None:
    labels = {"shutterline/run": run, "shutterline/step": step, "shutterline/attempt": "0"}
    metadata = {"name": name, "namespace": api.namespace, "labels": labels}
    api.store.create("trainjobs", {"metadata": metadata, "spec": {}, "status": status})


def test_what_goes_on_is_deleted_and_nothing_else(trainer_api: TrainerApi, capsys: pytest.CaptureFixture[str]) -> None:
    create(trainer_api, "left", "run-1")
    create(trainer_api, "ended", "run-1", conditions=[{"type": "Failed", "status": "True", "reason": "FailedJobs"}])
    create(trainer_api, "another-runs", "run-2")
    create(trainer_api, "by-hand", "run-1", step="other")

    (left,) = [job for job in trainer_api.store.select("trainjobs") if job["metadata"]["name"] == "left"]
    assert main(["run-1"]) == 0

    (asked,) = trainer_api.requests("delete", "trainjobs")
    assert asked.body["preconditions"] == {"uid": left["metadata"]["uid"]}  # not one that is made anew meanwhile
    assert names(trainer_api) == ["another-runs", "by-hand", "ended"]
    assert "WARNING TrainJob left goes on although its run is over, and is deleted" in capsys.readouterr().err


def test_where_nothing_is_left_nothing_is_said(trainer_api: TrainerApi, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run-1"]) == 0
    assert capsys.readouterr().err == ""
    assert len(trainer_api.sent) == 1


def test_a_cluster_that_refuses_is_a_warning(trainer_api: TrainerApi, capsys: pytest.CaptureFixture[str]) -> None:
    trainer_api.denied.add(("list", "trainjobs"))
    create(trainer_api, "left", "run-1")

    assert main(["run-1"]) == 0

    (line,) = capsys.readouterr().err.splitlines()
    assert "WARNING whether a TrainJob of this run goes on is not known: " in line
    assert "role.yaml" in line
