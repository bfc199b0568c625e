"""``shutterline compile --target trainjob``: what it writes, and what it refuses to write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from components.shared.params.params import Params
from components.shared.version import __version__
from pipelines.params_files import EXAMPLE_PARAMS
from tests.examples import write_params
from tests.pipelines.conftest import Environment, Refused, Shutterline
from tests.pipelines.trainer.examples import RUNTIME, manifest
from tests.pipelines.trainer.jobs import require_known, require_valid_pods, started

PLACES = ("--dataset", "s3://bucket/dataset", "--model", "s3://bucket/{run}/model")
SETTINGS = """
target: kubeflow
checkpoints: s3://bucket/checkpoints
events: s3://bucket/events
every-step:
  secret_env: {AWS_ACCESS_KEY_ID: {secret: s3, key: id}, AWS_SECRET_ACCESS_KEY: {secret: s3, key: key}}
train:
  nodes: 3
  runtime: ClusterTrainingRuntime/ours
  cpu: 8
  memory: 32Gi
  gpu: {count: 2}
  shm: 4Gi
  volumes: [{claim: data, path: /data}]
  labels: {kueue.x-k8s.io/queue-name: gpus}
  timeout_s: 3600
"""


def job_in(file: Path) -> dict[str, Any]:
    """A file's manifest: the same by YAML 1.1 and 1.2, known to Trainer's models, its pods to Kubernetes' schemas."""
    job = manifest(file)
    require_known(job)
    require_valid_pods(job, RUNTIME)
    return job


@pytest.fixture
def params(here: Path) -> Path:
    return write_params(here / "params.json")


def test_without_settings_it_is_a_node_with_the_defaults(shutterline: Shutterline, here: Path, params: Path) -> None:
    done = shutterline("compile", "--target", "trainjob", "--params", params, *PLACES)

    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[0] == "wrote train-job.yaml"
    job = job_in(here / "train-job.yaml")
    assert job["metadata"] == {"generateName": "shutterline-"}
    assert job["spec"]["runtimeRef"]["name"] == "shutterline"
    trainer = job["spec"]["trainer"]
    assert (trainer["image"], trainer["numNodes"]) == (f"shutterline/train:{__version__}", 1)
    assert trainer["resourcesPerNode"] == {"limits": {"cpu": "4", "memory": "16Gi"}}
    command, environment = started(job, "shutterline-x7k2p")
    assert environment == {"SHUTTERLINE_RUN_ID": "shutterline-x7k2p"}
    *places, given, processes = command[3:]
    assert places == ["--dataset=s3://bucket/dataset", "--model=s3://bucket/shutterline-x7k2p/model"]
    assert processes == "--processes=auto"
    assert Params.load(given.removeprefix("--params=")) == Params.load(params)


def test_the_nodes_get_what_settings_for_kubeflow_have_train_get(
    shutterline: Shutterline, here: Path, params: Path
) -> None:
    (here / "settings.yaml").write_text(SETTINGS)
    compile = ("compile", "--target", "trainjob", "--params", params, *PLACES, "--settings", "settings.yaml")

    done = shutterline(*compile, "--set", "device=auto", "-o", "job.yaml")

    assert (done.code, done.err) == (0, "")
    job = job_in(here / "job.yaml")
    assert job["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "gpus"}
    assert (job["spec"]["runtimeRef"]["kind"], job["spec"]["runtimeRef"]["name"]) == ("ClusterTrainingRuntime", "ours")
    assert (job["spec"]["trainer"]["numNodes"], job["spec"]["activeDeadlineSeconds"]) == (3, 3600)
    assert job["spec"]["trainer"]["resourcesPerNode"]["limits"] == {"cpu": "8", "memory": "32Gi", "nvidia.com/gpu": 2}
    pod = require_valid_pods(job, RUNTIME)
    assert [volume["name"] for volume in pod["volumes"]] == ["shutterline-claim-0", "shutterline-shm"]
    command, environment = started(job, "name")
    assert environment["SHUTTERLINE_EVENTS"] == "s3://bucket/events"
    (kept,) = [part for part in command if part.startswith("--checkpoints=s3://bucket/checkpoints/")]
    header = (here / "job.yaml").read_text().partition("apiVersion")[0]
    needed = " ".join(header.replace("# ", "").split())
    assert (
        "Where it is created there must be the ClusterTrainingRuntime ours, the secret s3, the claim data. To create"
        in needed
    )
    assert "kubectl create --filename job.yaml" in needed

    assert shutterline(*compile, "--set", "device=auto", "-o", "again.yaml").code == 0
    assert (here / "again.yaml").read_text() == (here / "job.yaml").read_text().replace("job.yaml", "again.yaml")
    assert shutterline(*compile, "--set", "device=auto", "--set", "learning_rate=0.5", "-o", "job.yaml").code == 0
    assert kept not in started(job_in(here / "job.yaml"), "name")[0], "other params keep their checkpoints elsewhere"
    assert shutterline(*compile, "--checkpoints", "s3://bucket/of {run}", "-o", "runs/job.yaml").code == 0
    assert "--checkpoints=s3://bucket/of name" in started(job_in(here / "runs" / "job.yaml"), "name")[0]


@pytest.mark.parametrize("text", ["$(HOME) $$ $(SHUTTERLINE_RUN_ID) {run}", "no: yes # 1é", "  - |- '\"\\"])
def test_params_reach_the_step_as_they_are(text: str, shutterline: Shutterline, here: Path) -> None:
    params = write_params(here / "params.json", publish_uri=f"s3://bucket/{text}")
    assert shutterline("compile", "--target", "trainjob", "--params", params, *PLACES, "-o", "job.yaml").code == 0

    given = started(job_in(here / "job.yaml"), "name")[0][-2]

    assert Params.load(given.removeprefix("--params=")) == Params.load(params)


def test_as_json_it_says_what_it_found(shutterline: Shutterline, here: Path, params: Path) -> None:
    build = {
        "schema_version": 1,
        "version": __version__,
        "images": {"train": {"reference": "registry.example.com/t@sha256:" + "a" * 64, "id": "sha256:" + "b" * 64}},
    }
    (here / "images.json").write_text(json.dumps(build))
    compile = ("compile", "--target", "trainjob", "--params", params, *PLACES, "--images", "images.json", "--json")

    document = shutterline(*compile, "-o", "job.yaml").document

    assert document.pop("params") == Params.load(params).to_dict()
    assert document == {
        "status": "compiled",
        "train_job": "job.yaml",
        "target": "trainjob",
        "images": {"train": build["images"]["train"]["reference"]},  # type: ignore[index]
        "findings": [],
    }
    failed = shutterline(*compile, "--checkpoints", "/checkpoints", "-o", "other.yaml")
    assert (failed.code, failed.document["status"], failed.document["train_job"]) == (2, "failed", None)
    assert [finding["rule"] for finding in failed.document["findings"]] == ["checkpoint-location"]
    assert not (here / "other.yaml").exists()
    assert shutterline(*compile, "--checkpoints", "/checkpoints", "-o", "other.yaml", "--unchecked").code == 0
    assert (here / "other.yaml").exists()


def test_what_has_no_effect_is_warned_of(shutterline: Shutterline, here: Path, params: Path) -> None:
    (here / "settings.yaml").write_text(
        "target: kubeflow\nevents: auto\ntrain: {nodes: 2, pull_policy: Always, cache: false, retry: {times: 5}, "
        "gpu: {count: 1}, shm: 1Gi}\n"
    )

    done = shutterline(
        *("compile", "--target", "trainjob", "--params", params, *PLACES, "--settings", "settings.yaml", "-o", "j.yaml")
    )

    assert done.code == 0
    assert [line.partition(": ")[2].partition(":")[0] for line in done.err.splitlines()] == [
        "train.pull_policy",
        "train.retry",
        "train.cache",
        "events",
        "train",
    ]


REFUSED = {
    "--target trainjob needs --dataset": ("--model", "s3://bucket/model"),
    "and --model, where the model goes": ("--dataset", "s3://bucket/dataset"),
    "--data is not for --target trainjob": (*PLACES, "--data", "s3://bucket/images"),
    "--cache is not for --target trainjob": (*PLACES, "--cache"),
    "--model s3://x: ": ("--dataset", "s3://bucket/dataset", "--model", "s3://x"),
    "--output job.json: the name of what is compiled ends in .yaml": (*PLACES, "-o", "job.json"),
    "these are settings for Vertex AI": (*PLACES, "--settings", "vertex.yaml"),
    "pet.yaml: train.env.PET_NNODES: is set by Trainer": (*PLACES, "--settings", "pet.yaml"),
    "many.yaml: train.env: more than 120 variables": (*PLACES, "--settings", "many.yaml"),
    "--dataset s3://bucket/{run}: {run} is for --model": ("--dataset", "s3://bucket/{run}", *PLACES[2:]),
    "would hold the secret that SOME_PASSWORD has here": (*PLACES[:2], "--model", "s3://bucket/a-long-secret"),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_used_is_refused_and_nothing_written(
    message: str, refused: Refused, here: Path, params: Path, monkeypatch: Environment
) -> None:
    monkeypatch.setenv("SOME_PASSWORD", "a-long-secret")
    (here / "vertex.yaml").write_text("target: vertex\n")
    (here / "pet.yaml").write_text("target: kubeflow\ntrain: {env: {PET_NNODES: '2'}}\n")
    (here / "many.yaml").write_text(json.dumps({"train": {"env": {f"A{number}": "x" for number in range(121)}}}))

    assert message in refused("compile", "--target", "trainjob", "--params", params, "-o", "j.yaml", *REFUSED[message])

    assert not list(here.glob("j*.yaml"))


@pytest.mark.parametrize("option", ["--dataset", "--model"])
def test_a_pipeline_takes_no_option_of_a_train_job(option: str, refused: Refused, params: Path) -> None:
    assert f"{option} is for --target trainjob" in refused("compile", "--params", params, option, "s3://bucket/x")


def test_the_examples_params_are_for_its_digits_alone(refused: Refused) -> None:
    assert "--dataset needs --params" in refused("compile", "--target", "trainjob", *PLACES)


def test_a_train_job_is_no_pipeline_to_submit(shutterline: Shutterline, here: Path, refused: Refused) -> None:
    params = ("--params", EXAMPLE_PARAMS)
    assert shutterline("compile", "--target", "trainjob", *params, *PLACES, "-o", "job.yaml").code == 0

    message = refused("submit", "job.yaml", "--host", "http://localhost:1")

    assert "job.yaml: is a TrainJob, which `kubectl create --filename job.yaml` makes" in message
