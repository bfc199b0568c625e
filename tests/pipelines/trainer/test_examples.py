"""The manifests that are shipped run as they stand: Trainer and Kubernetes take every field, and the command trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from components.data_prep.__main__ import main as data_prep
from components.shared.kubeflow.train_job import COMMAND, DEFAULT_RUNTIME
from components.shared.version import __version__
from components.train.__main__ import main as train
from pipelines.cli import main
from pipelines.lint.train_job_rules import lint_train_jobs
from pipelines.lint.train_job_view import TrainJobFile
from pipelines.params_files import EXAMPLE_DATA, EXAMPLE_PARAMS
from tests.peers.gcs import GcsBucket
from tests.pipelines.conftest import Environment
from tests.pipelines.trainer.examples import FOLDER, RUNTIME, TRAIN_JOBS, manifest
from tests.pipelines.trainer.jobs import require_known, require_valid_pods, started


@pytest.mark.parametrize("name", TRAIN_JOBS)
def test_trainer_and_kubernetes_know_every_field_of_a_job(name: str) -> None:
    job = TRAIN_JOBS[name]

    require_known(job)
    pod = require_valid_pods(job, RUNTIME)

    (container,) = pod["containers"]
    assert tuple(container["command"]) == COMMAND
    assert job["spec"]["runtimeRef"]["name"] == RUNTIME["metadata"]["name"] == DEFAULT_RUNTIME
    assert job["metadata"] == {"generateName": "shutterline-"}, "a job that is made twice is two runs"
    assert container["image"] in ("IMAGE", f"registry.example.com/shutterline/train:{__version__}")


def test_under_the_runtime_bad_input_ends_the_job_and_its_pods_stay() -> None:
    require_known(RUNTIME)
    template = RUNTIME["spec"]["template"]["spec"]
    (replicated,) = template["replicatedJobs"]
    job = replicated["template"]["spec"]

    assert template["failurePolicy"] == {
        "maxRestarts": 3,
        "rules": [{"name": "badinput", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}],
    }
    assert (job["backoffLimit"], job["template"]["spec"]["restartPolicy"]) == (0, "Never")
    assert job["podFailurePolicy"]["rules"] == [
        {"action": "FailJob", "onExitCodes": {"containerName": "node", "operator": "In", "values": [2]}}
    ]
    assert replicated["template"]["metadata"]["labels"] == {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}
    (container,) = job["template"]["spec"]["containers"]
    assert container["image"] == f"registry.example.com/shutterline/train:{__version__}"


def test_what_the_runtime_says_of_spot_nodes_is_taken_too(tmp_path: Path) -> None:
    text = (FOLDER / "runtime.yaml").read_text(encoding="utf-8")
    (tmp_path / "spot.yaml").write_text(text.replace("# - {action: Ignore", "- {action: Ignore"))
    spot = manifest(tmp_path / "spot.yaml")

    require_known(spot)
    require_valid_pods(TRAIN_JOBS["trainjob-cpu"], spot)

    (replicated,) = spot["spec"]["template"]["spec"]["replicatedJobs"]
    assert [rule["action"] for rule in replicated["template"]["spec"]["podFailurePolicy"]["rules"]] == [
        "FailJob",
        "Ignore",
    ]


@pytest.mark.parametrize("name", TRAIN_JOBS)
def test_a_job_is_sound_but_for_its_image_of_nobodys_registry(name: str) -> None:
    found = lint_train_jobs(TrainJobFile(yaml.safe_dump(TRAIN_JOBS[name])))

    assert [finding.rule for finding in found] == ["unpinned-image"]


def compiled(folder: Path) -> dict[str, Any]:
    """A job of the digits' params that `shutterline compile` writes."""
    places = ("--dataset", "gs://my-bucket/digits/dataset", "--model", "gs://my-bucket/digits/{run}/model")
    file = folder / "job.yaml"
    assert main(["compile", "--target", "trainjob", "--params", str(EXAMPLE_PARAMS), *places, "-o", str(file)]) == 0
    return manifest(file)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["compiled", "trainjob-gpu"])
def test_the_command_of_a_job_trains(
    name: str, gcs_bucket: GcsBucket, tmp_path: Path, monkeypatch: Environment
) -> None:
    """That of a compiled one, and that for GPUs with the params that its config map is made of."""
    job = compiled(tmp_path) if name == "compiled" else TRAIN_JOBS[name]
    command, environment = started(job, "shutterline-x7k2p")
    mine = {"gs://my-bucket": gcs_bucket.uri, "/params/params.json": str(EXAMPLE_PARAMS)}
    for theirs, ours in mine.items():
        command = [part.replace(theirs, ours) for part in command]
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("SHUTTERLINE_RUN_ID", environment["SHUTTERLINE_RUN_ID"])
    arguments = command[len(COMMAND) :]
    (params,) = [part for part in arguments if part.startswith("--params=")]
    (dataset,) = [part for part in arguments if part.startswith("--dataset=")]
    (model,) = [part.partition("=")[2] for part in arguments if part.startswith("--model=")]
    assert data_prep([f"--data={EXAMPLE_DATA}", dataset, params]) == 0

    assert train([*arguments, "--set=num_epochs=1"]) == 0

    assert "/shutterline-x7k2p/" in model
    key = model.removeprefix(f"{gcs_bucket.uri}/")
    assert f"{key}/model.json" in gcs_bucket.names(key)
