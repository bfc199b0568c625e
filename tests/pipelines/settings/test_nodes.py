"""Training on several nodes: what each node gets of the settings, and what the small step that waits for them gets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from components.shared.kubeflow.train_job import NodeSpec, RuntimeRef
from components.shared.version import __version__
from pipelines.cli import main
from pipelines.compiled import CompiledPipeline
from tests.pipelines.conftest import ROOT
from tests.pipelines.settings.compiling import at, compiled_with, places_of, write_settings
from tests.pipelines.settings.test_fields import KUBEFLOW, everything_said

SECRET = {"secret": "login", "key": "word", "optional": True}
FILES = {"secret": "tls", "path": "/etc/tls", "optional": True}
KUEUE = {"kueue.x-k8s.io/queue-name": "gpus"}
TOPOLOGY = {"kueue.x-k8s.io/podset-required-topology": "a.io/rack"}
VOLUME = {"claim": "shared", "path": "/shared", "sub_path": "a/b"}


def node_spec(pipeline: CompiledPipeline) -> NodeSpec:
    constant: str = places_of(pipeline, "train")["task"]["inputs"]["parameters"]["nodes"]["runtimeValue"]["constant"]
    return NodeSpec.from_json(constant)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> CompiledPipeline:
    """Compiled with a value for every setting of train."""
    of_nodes = {"nodes": 3, "runtime": "ClusterTrainingRuntime/fast", "service_account": "trainer"}
    said: dict[str, Any] = of_nodes | everything_said(KUBEFLOW)
    said |= {"labels": {**said["labels"], **KUEUE}, "annotations": {**said["annotations"], **TOPOLOGY}}
    return compiled_with(tmp_path_factory.mktemp("nodes"), "kubeflow", {"train": said, "checkpoints": "auto"})


def test_each_node_gets_what_the_settings_of_train_say(pipeline: CompiledPipeline) -> None:
    tolerated = {"key": "a.io/b", "operator": "Equal", "value": "c", "effect": "NoExecute", "seconds": 60}
    expected = {
        "image": f"shutterline/train:{__version__}",
        "nodes": 3,
        "runtime": RuntimeRef(kind="ClusterTrainingRuntime", name="fast"),
        "cpu": "3",
        "memory": "21Gi",
        "cpu_request": "500m",
        "memory_request": "1Gi",
        "gpu": {"count": 1, "resource": "amd.com/gpu"},
        "shm": "3Gi",
        "env": {"KAFKA_CLIENT_ID": "we"},
        "secret_env": {"A_TOKEN": SECRET},
        "secret_files": [FILES],
        "volumes": [VOLUME],
        "labels": {"team": "vision", **KUEUE},
        "annotations": {"a.io/why": "to see", **TOPOLOGY},
        "node_selector": {"a.io/b": "c"},
        "tolerations": [tolerated],
        "pull_secrets": ["registry"],
        "timeout_s": 4321,
        "service_account": "trainer",
        "security": {"run_as_user": 7, "run_as_group": 8, "run_as_non_root": False},
    }
    assert set(expected) == set(NodeSpec.model_fields)
    said = everything_said(KUBEFLOW)["gpu"]
    assert node_spec(pipeline) == NodeSpec.model_validate(expected | {"gpu": {"count": 1} | said})


def test_the_step_that_waits_is_small_and_has_the_nodes_credentials(pipeline: CompiledPipeline) -> None:
    train = places_of(pipeline, "train")
    environment, kubernetes = train["environment"], dict(train["kubernetes"])

    for step in (train, places_of(pipeline, "exit")):  # whatever is left of a training, the exit step ends
        assert step["container"]["image"] == f"shutterline/train-job:{__version__}"
    asked = train["container"]["resources"]
    assert (asked["resourceCpuLimit"], asked["resourceMemoryLimit"], "accelerator" in asked) == ("500m", "512Mi", False)
    assert environment == {
        "KAFKA_CLIENT_ID": "we",
        "SHUTTERLINE_CLAIMS": '{"/shared": "shared"}',
        "SHUTTERLINE_TARGET": "kubeflow",
    }
    assert (train["task"]["cachingOptions"], train["task"]["retryPolicy"]["maxRetryCount"]) == ({}, 7)
    # Placed as any small step is, and ended by the TrainJob's own limit.
    assert set(kubernetes) == {
        *("secretAsEnv", "secretAsVolume", "pvcMount", "podMetadata", "imagePullSecret", "imagePullPolicy"),
        "securityContext",
    }
    assert at(kubernetes, "pvcMount/0/mountPath") == "/shared"
    # Kueue queues the TrainJob; this pod would wait beside it.
    assert kubernetes["podMetadata"] == {"labels": {"team": "vision"}, "annotations": {"a.io/why": "to see"}}


def test_the_dataset_is_named_and_not_brought(pipeline: CompiledPipeline) -> None:
    inputs = places_of(pipeline, "train")["task"]["inputs"]
    assert {name: at(entry, "taskOutputArtifact/outputArtifactKey") for name, entry in inputs["artifacts"].items()} == {
        "dataset_location": "dataset_location"
    }
    evaluated = places_of(pipeline, "evaluate")["task"]["inputs"]["artifacts"]
    assert {at(entry, "taskOutputArtifact/outputArtifactKey") for entry in evaluated.values()} == {"dataset", "model"}


def test_one_node_is_what_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline = compiled_with(tmp_path, "kubeflow", {"train": {"nodes": 1, "runtime": "shutterline"}})
    train = places_of(pipeline, "train")
    assert train["container"]["image"] == f"shutterline/train:{__version__}"
    assert set(train["task"]["inputs"]["artifacts"]) == {"dataset"}
    assert "nodes" not in train["task"]["inputs"]["parameters"]
    assert "warning: train.runtime: has no effect with one node" in capsys.readouterr().err


def test_the_images_of_a_pipeline_of_one_node_have_nothing_of_this() -> None:
    for image in ("data-prep", "train", "evaluate"):
        assert "\nkubernetes==" not in (ROOT / "requirements" / f"{image}.txt").read_text(), image


def test_what_each_node_gets_by_default(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline = compiled_with(tmp_path, "kubeflow", {"train": {"nodes": 2, "pull_policy": "Always"}})
    image = f"shutterline/train:{__version__}"
    default = {"image": image, "nodes": 2, "cpu": "4", "memory": "16Gi", "gpu": {"count": 1}, "shm": "2Gi"}
    assert node_spec(pipeline) == NodeSpec.model_validate(default)
    warned = capsys.readouterr().err
    assert "warning: train.pull_policy: Trainer takes none of a TrainJob" in warned


def test_more_variables_than_trainer_takes_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = {"train": {"nodes": 2, "env": {f"A{number}": "x" for number in range(121)}}}
    file = write_settings(tmp_path / "settings.yaml", said)
    assert main(["settings", "--target", "kubeflow", "--settings", str(file)]) == 2
    assert "train.env: more than 120 variables" in capsys.readouterr().err


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_build_of_images_without_that_of_the_step_that_waits_serves_one_node(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], nodes: int
) -> None:
    built = {
        step: {"reference": f"registry.example/{step}@sha256:{'a' * 64}", "id": f"sha256:{'a' * 64}"}
        for step in ("data-prep", "train", "evaluate", "predict")
    }
    images, output = tmp_path / "images.json", tmp_path / "pipeline.yaml"
    images.write_text(json.dumps({"schema_version": 1, "version": __version__, "images": built}))
    settings = write_settings(tmp_path / "settings.yaml", {"train": {"nodes": nodes}})
    options = ("--settings", settings, "--images", images, "-o", output)
    assert main(["compile", "--target", "kubeflow", *map(str, options)]) == (0 if nodes == 1 else 2)
    error = capsys.readouterr().err
    assert ("names no image of train-job" in error) == (nodes == 2)
    assert output.exists() == (nodes == 1)
