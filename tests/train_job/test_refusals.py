"""What is wrong before a TrainJob is made: one line, exit code 2, and nothing is there."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from components.shared.kubeflow.train_job import NodeSpec, RuntimeRef, Volume
from tests.peers.trainer.api import TrainerApi
from tests.train_job.conftest import Training

Told = pytest.CaptureFixture[str]

USER = 'User "system:serviceaccount:team-a:pipeline-runner"'
ROLE = "pipelines/examples/trainer/role.yaml has a Role and a RoleBinding with what is needed"
RUNTIME = "pipelines/examples/trainer/runtime.yaml has a runtime, and the setting train.runtime names it"


def without(*rights: tuple[str, str]) -> Callable[[TrainerApi], None]:
    return lambda api: api.denied.update(rights)


def trainer(version: tuple[int, int] | None) -> Callable[[TrainerApi], None]:
    return lambda api: setattr(api, "crd", version)


def nodes(**changes: Any) -> dict[str, str]:
    return {"nodes": NodeSpec(image="x", nodes=2, **changes).to_json()}


REFUSED: dict[str, tuple[Callable[[TrainerApi], None], dict[str, Any], str]] = {
    "no right to list": (
        without(("list", "trainjobs")),
        {},
        f'trainjobs.trainer.kubeflow.org is forbidden: {USER} cannot list resource "trainjobs" in API group '
        f'"trainer.kubeflow.org" in the namespace "team-a"; {ROLE}',
    ),
    "no right to create": (
        without(("create", "trainjobs")),
        {},
        f'trainjobs.trainer.kubeflow.org is forbidden: {USER} cannot create resource "trainjobs" in API group '
        f'"trainer.kubeflow.org" in the namespace "team-a"; {ROLE}',
    ),
    **{
        f"no right to {verb}": (
            without((verb, "trainjobs")),
            {},
            f"the pod's service account may not {verb} trainjobs in the namespace team-a; {ROLE}",
        )
        for verb in ("get", "delete")
    },
    "no CRD": (
        trainer(None),
        {},
        "Kubeflow Trainer is not installed in this cluster: there are no trainjobs of trainer.kubeflow.org/v1alpha1 "
        "(404 page not found)",
    ),
    **{
        f"Trainer {version}": (
            trainer(version),
            {},
            "this Kubeflow Trainer is too old, and 2.2 or later is needed: TrainJob in version \"v1alpha1\" cannot be "
            'handled as a TrainJob: strict decoding error: unknown field "spec.runtimePatches"',
        )
        for version in ((2, 0), (2, 1))
    },
    "no runtime": (
        lambda api: None,
        nodes(runtime=RuntimeRef(name="other")),
        'the cluster refuses the TrainJob: spec.runtimeRef: Invalid value: {"name":"other","apiGroup":'
        '"trainer.kubeflow.org","kind":"TrainingRuntime"}: TrainingRuntime.trainer.kubeflow.org "other" not found: '
        f"specified trainingRuntime must be created before the TrainJob is created; {RUNTIME}",
    ),
    "no cluster's runtime": (
        lambda api: None,
        nodes(runtime=RuntimeRef(kind="ClusterTrainingRuntime", name="other")),
        'the cluster refuses the TrainJob: spec.RuntimeRef: Invalid value: {"name":"other","apiGroup":'
        '"trainer.kubeflow.org","kind":"ClusterTrainingRuntime"}: ClusterTrainingRuntime.trainer.kubeflow.org "other" '
        f"not found: specified clusterTrainingRuntime must be created before the TrainJob is created; {RUNTIME}",
    ),
    "no token": (lambda api: setattr(api, "token", "another"), {}, "the API server answers 401: Unauthorized"),
    "bad nodes": (lambda api: None, {"nodes": '{"image": "x", "nodes": 0}'}, "nodes: nodes: must be at least 1"),
    "another dataset": (
        lambda api: None,
        {"dataset_sha256": "f" * 64},
        "reported): something else was stored in its place; run the step that makes it again without cache",
    ),
    "no location": (
        lambda api: None,
        {"dataset_location": "/nowhere"},
        "/nowhere: does not name the dataset's location",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("make", "changes", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_is_one_line_and_2_and_nothing_is_made(
    training: Training,
    trainer_api: TrainerApi,
    capsys: Told,
    make: Callable[[TrainerApi], None],
    changes: dict[str, Any],
    message: str,
) -> None:
    make(trainer_api)

    record = training.run(**changes)

    assert (record.status, record.exit_code, training.states()) == ("failed", 2, ["started", "failed"])
    _, *lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]
    assert trainer_api.store.select("trainjobs") == []
    assert all(each.query.get("dryRun") == "All" for each in trainer_api.requests("create", "trainjobs"))


def test_a_dataset_or_a_model_of_another_is_refused(
    training: Training, trainer_api: TrainerApi, tmp_path: Path
) -> None:
    location = tmp_path / "another.json"
    document = json.loads(Path(training.step.dataset_location).read_text(encoding="utf-8"))
    location.write_text(json.dumps(document | {"sha256": "f" * 64}), encoding="utf-8")

    record = training.run(dataset_location=str(location), dataset_sha256="")

    assert record.error is not None
    assert "something else was stored in its place" in record.error.message
    assert not trainer_api.requests("create", "trainjobs")

    training.dataset_sha256 = "f" * 64  # of what the nodes publish
    training.publish()
    training.nodes.play(lambda: training.nodes.complete())

    record = training.run()

    assert record.error is not None
    assert record.error.message == f"{training.model}: is a model of another dataset; something else was stored there"


def test_in_a_platforms_pod_the_nodes_must_reach_every_location(
    training: Training, trainer_api: TrainerApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KFP_POD_NAME", "a-pod")

    record = training.run()

    assert record.exit_code == 2
    assert record.error is not None
    assert record.error.message.endswith(
        "is on this pod's own disk, which the nodes do not reach; use gs:// or s3://, or a path in "
        "one of train's volumes"
    )
    on_volumes = nodes(volumes=(Volume(claim="runs", path="/"),))
    training.nodes.play(lambda: training.nodes.fail("X", "y"))
    record = training.run(**on_volumes)  # and so it gets further
    assert record.error is not None
    assert record.error.message == f"TrainJob {training.nodes.name} failed: X: y"


@pytest.mark.parametrize("named", ["", "kubeconfig"])
def test_without_a_cluster_the_step_is_refused(
    training: Training, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, named: str
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / named) if named else "")
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)

    record = training.run()

    assert (record.status, record.exit_code) == ("failed", 2)
    assert record.error is not None
    assert record.error.message.startswith("the cluster cannot be asked: ")


def test_a_cluster_that_does_not_answer_ends_the_step_with_1(training: Training, trainer_api: TrainerApi) -> None:
    trainer_api.go_away(503)

    record = training.run(pace=replace(training.step.pace, setup_s=0.3))

    assert (record.status, record.exit_code) == ("failed", 1)
    assert record.error is not None
    assert record.error.type == "PlatformUnavailableError"
    assert record.error.message.endswith(
        "attempts in 0.3 s: the API server answers 503: the server is currently unable to handle the request"
    )
    trainer_api.come_back()
