"""A cluster's API with Trainer takes what is shipped and compiled, and refuses what lint calls an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kubernetes.client.exceptions import ApiException

from tests.examples import write_params
from tests.peers.trainer.api import TrainerApi
from tests.peers.trainer.clients import Clients
from tests.pipelines.conftest import Shutterline
from tests.pipelines.lint.train_job_cases import FOUND, SOUND, Document, changed, runtime
from tests.pipelines.trainer.examples import RUNTIME, TRAIN_JOBS, manifest


@pytest.fixture
def cluster(trainer_api: TrainerApi) -> TrainerApi:
    """With the runtime that is shipped."""

    def shipped(found: Document) -> None:
        found["spec"] = RUNTIME["spec"]

    trainer_api.store.update("trainingruntimes", trainer_api.namespace, "shutterline", shipped)
    return trainer_api


def created(cluster: TrainerApi, job: Document) -> Any:
    """As kubectl creates it, with an eye on every field."""
    with Clients(cluster) as clients:
        return clients.create(job, field_validation="Strict")


def test_every_job_that_is_shipped_is_taken_and_twice_is_two(cluster: TrainerApi) -> None:
    names = [created(cluster, job)["metadata"]["name"] for job in [*TRAIN_JOBS.values()] * 2]

    assert len(set(names)) == 2 * len(TRAIN_JOBS)
    assert all(name.startswith("shutterline-") for name in names)


def test_a_compiled_job_is_taken(cluster: TrainerApi, shutterline: Shutterline, here: Path) -> None:
    write_params(here / "params.json")
    (here / "settings.yaml").write_text(
        "target: kubeflow\n"
        "train: {nodes: 2, shm: 1Gi, secret_files: [{secret: ca, path: /ca}], volumes: [{claim: data, path: /data}], "
        "node_selector: {pool: cpu}, tolerations: [{key: spot}], pull_secrets: [hub], labels: {team: vision}, "
        "annotations: {note: x}, security: {run_as_user: 1000}, timeout_s: 60, cpu_request: 1, memory_request: 1Gi}\n"
    )
    places = ("--dataset", "/data/digits", "--model", "/data/{run}/model", "--settings", "settings.yaml")
    assert shutterline("compile", "--target", "trainjob", "--params", "params.json", *places, "-o", "j.yaml").code == 0

    made = created(cluster, manifest(here / "j.yaml"))

    assert made["spec"]["trainer"]["numNodes"] == 2


def test_what_lint_finds_nothing_in_is_taken(cluster: TrainerApi) -> None:
    for changes in SOUND:
        job = changed(*changes)
        if job["spec"]["runtimeRef"]["name"] == "shutterline":  # the only one there
            assert created(cluster, job)["spec"]["runtimeRef"]["name"] == "shutterline"


# Trainer takes a name of 49 characters, and JobSet then none of its pods; and variables that torch's launcher sets.
_LATER = (("names", 2), ("names", 3), ("reserved-variable", 1))
REFUSED = [
    pytest.param(changes, id=f"{rule}-{number}")
    for rule in ("fields", "names", "patches", "reserved-variable")
    for number, changes in enumerate(changes for found, _, changes in FOUND if found == rule)
    if (rule, number) not in _LATER
]


@pytest.mark.parametrize("changes", REFUSED)
def test_what_lint_says_is_refused_is(changes: tuple[Any, ...], cluster: TrainerApi) -> None:
    with pytest.raises(ApiException) as refused:
        created(cluster, changed(*changes))

    assert refused.value.status in (400, 403, 404, 422), refused.value


def test_a_runtime_that_is_not_there_is_named(cluster: TrainerApi) -> None:
    with pytest.raises(ApiException, match="specified clusterTrainingRuntime must be created before"):
        created(cluster, changed(runtime("of-the-team")))
