"""The Role that is shipped gives the step what it asks for, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import kubernetes.client  # imported now, so that no history waits for it
import kubernetes.config  # noqa: F401
import pytest
import yaml

from components.shared.kubeflow.train_job import NodeSpec, Volume
from tests.peers.trainer.api import TrainerApi
from tests.train_job.conftest import Training
from tests.train_job.nodes import Nodes
from tests.train_job.test_follow import wait_for

ROLE = Path(__file__).parents[2] / "pipelines" / "examples" / "trainer" / "role.yaml"
VERBS = ("create", "get", "list", "watch", "patch", "update", "delete", "deletecollection")
KINDS = (
    *("trainjobs", "trainingruntimes", "clustertrainingruntimes", "pods", "pods/log", "jobs"),
    *("events", "secrets", "configmaps"),
)


def test_the_step_does_with_the_roles_rights_and_uses_each(
    training: Training, trainer_api: TrainerApi, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    role, _ = yaml.safe_load_all(ROLE.read_text())
    given = {right for rule in role["rules"] for right in product(rule["verbs"], rule["resources"])}
    trainer_api.denied |= set(product(VERBS, KINDS)) - given
    workflow = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "run", "uid": "u-1"}
    pod = {"name": "step", "namespace": trainer_api.namespace, "ownerReferences": [workflow]}
    trainer_api.store.create("pods", {"metadata": pod, "spec": {}, "status": {}})
    monkeypatch.setenv("KFP_POD_NAME", "step")
    shared = Volume(claim="shared", path=str(training.folder.parent))
    nodes = NodeSpec(image="shutterline/train:1", nodes=2, volumes=(shared,))
    training.step = replace(training.step, nodes=nodes.to_json())

    def lose_its_pods() -> None:
        training.nodes.start()
        wait_for(lambda: trainer_api.requests("get", "pods/log"))
        for index in (0, 1):
            training.nodes.remove(index)
        training.nodes.fail()

    def miss_its_deadline() -> None:
        training.nodes.fail("DeadlineExceeded", "TrainJob exceeded its active deadline")

    for script in (lose_its_pods, miss_its_deadline):
        training.nodes = Nodes(trainer_api)
        training.nodes.play(script)
        assert training.run().exit_code == 1, training.nodes.trouble

    (first, *_) = [asked.body for asked in trainer_api.requests("create", "trainjobs") if "dryRun" not in asked.query]
    assert first["metadata"]["ownerReferences"] == [workflow]
    asked_for = {(asked.verb, asked.resource) for asked in trainer_api.sent if asked.resource in KINDS}
    assert asked_for == given
    assert "WARNING" not in capsys.readouterr().err, "nothing that would be of use is refused"
