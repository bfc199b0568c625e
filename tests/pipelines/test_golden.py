"""Compiled files as they were last reviewed, compared byte for byte but for our version.

Where a change to them is meant, renew them with `python -m tests.pipelines.test_golden`, and read the difference.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from pathlib import Path

import pytest
from google.protobuf import json_format  # type: ignore[import-untyped] # publishes no types
from kfp import components
from kfp.kubernetes import kubernetes_executor_config_pb2
from kfp.pipeline_spec import pipeline_spec_pb2

from components.shared.version import __version__
from pipelines.compiled import CompiledPipeline, read_compiled
from tests.pipelines.settings.compiling import EXAMPLES, at, compile_file, places_of, platform_of

GOLDEN = ("kubeflow-h100", "kubeflow-nodes", "kubeflow-secrets", "vertex-l4", "vertex-nodes", "vertex-secrets")
STEPS = ("data-prep", "train", "evaluate", "publish", "exit")
FOLDER = Path(__file__).parent / "golden"

IMAGES = {
    step: {"reference": f"registry.example/shutterline/{step}@sha256:{digit * 64}", "id": f"sha256:{digit * 64}"}
    for step, digit in (("data-prep", "1"), ("train", "2"), ("evaluate", "3"), ("train-job", "4"))
}


def compiled(name: str, directory: Path) -> str:
    """An example compiled, without our version."""
    images = directory / "images.json"
    images.write_text(json.dumps({"schema_version": 1, "version": __version__, "images": IMAGES}))
    settings = EXAMPLES / f"{name}.yaml"
    output = compile_file(platform_of(settings), settings, directory / "pipeline.yaml", "--images", str(images))
    return output.read_text().replace(f"by Shutterline {__version__};", "by Shutterline VERSION;")


def golden(name: str) -> CompiledPipeline:
    return read_compiled(FOLDER / f"{name}.yaml")


@pytest.mark.parametrize("name", GOLDEN)
def test_an_example_compiles_to_the_file_that_was_reviewed(tmp_path: Path, name: str) -> None:
    assert compiled(name, tmp_path) == (FOLDER / f"{name}.yaml").read_text(), (
        "the compiled file has changed; if that is meant: python -m tests.pipelines.test_golden"
    )


def test_there_is_no_golden_file_that_nothing_compares() -> None:
    assert sorted(file.stem for file in FOLDER.iterdir()) == sorted(GOLDEN)


@pytest.mark.parametrize("name", GOLDEN)
def test_the_file_is_what_the_official_protobuf_says(name: str) -> None:
    pipeline = golden(name)

    spec = json_format.ParseDict(pipeline.spec, pipeline_spec_pb2.PipelineSpec())
    assert spec.pipeline_info.name == pipeline.name
    assert set(spec.deployment_spec["executors"].keys()) == set(pipeline.executors)
    deployment = json_format.ParseDict(pipeline.spec["deploymentSpec"], pipeline_spec_pb2.PipelineDeploymentConfig())
    assert deployment.executors["exec-evaluate"].container.image == IMAGES["evaluate"]["reference"]
    image = IMAGES["train-job" if name == "kubeflow-nodes" else "train"]["reference"]
    assert pipeline.container("exec-train")["image"] == image
    for label in pipeline.executors:
        assert "@sha256:" in pipeline.container(label)["image"]
        assert pipeline.environment(label)["SHUTTERLINE_TARGET"] == pipeline.target
    if pipeline.target == "kubeflow":
        platforms = json_format.ParseDict({"platforms": pipeline.platforms}, pipeline_spec_pb2.PlatformSpec())
        executors = platforms.platforms["kubernetes"].deployment_spec.executors
        assert {"exec-train"} <= set(executors) <= set(pipeline.executors)
        for executor in executors.values():
            given = json_format.MessageToDict(executor)
            config = json_format.ParseDict(given, kubernetes_executor_config_pb2.KubernetesExecutorConfig())
            assert json_format.MessageToDict(config) == given


@pytest.mark.parametrize("name", [name for name in GOLDEN if name.startswith("kubeflow-")])
def test_kfp_loads_the_file(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # kfp's own deprecations
        loaded = components.load_component_from_file(str(FOLDER / f"{name}.yaml"))

    assert loaded.name == golden(name).name
    assert list(loaded.component_spec.inputs) == ["checkpoints", "data", "params"]


@pytest.mark.parametrize("name", GOLDEN)
def test_steps_with_side_effects_are_never_served_from_the_cache(name: str) -> None:
    tasks = {step: places_of(golden(name), step)["task"] for step in STEPS}

    assert {step: task["cachingOptions"] for step, task in tasks.items()} == {
        "data-prep": {},
        "train": {"enableCache": True},
        "evaluate": {"enableCache": True},
        "publish": {},
        "exit": {},
    }
    assert "retryPolicy" not in tasks["exit"], "the exit step would tell the end twice"
    assert all("retryPolicy" in tasks[step] for step in STEPS if step != "exit")


def test_on_kubeflow_secrets_stand_by_their_names_alone() -> None:
    for step in STEPS:
        places = places_of(golden("kubeflow-secrets"), step)
        assert places["environment"]["SHUTTERLINE_EVENTS"] == "/shared/events"
        assert not [name for name in places["environment"] if "PASSWORD" in name]
        assert at(places, "kubernetes/secretAsEnv/0/keyToEnv") == [
            {"envVar": "KAFKA_SASL_PASSWORD", "secretKey": "password"}
        ]
        assert [entry["mountPath"] for entry in places["kubernetes"]["secretAsVolume"]] == [
            "/etc/kafka-tls",
            "/etc/google",
        ]


def test_on_vertex_ai_secrets_stand_by_their_references_and_nothing_is_kubernetes() -> None:
    for name in ("vertex-l4", "vertex-nodes", "vertex-secrets"):
        pipeline = golden(name)
        assert pipeline.documents == 1
        assert "nvidia.com/gpu" not in (FOLDER / f"{name}.yaml").read_text()
    environment = golden("vertex-secrets").environment("exec-train")
    assert environment["KAFKA_SASL_PASSWORD_FILE"].startswith("sm://projects/my-project/secrets/")


def renew() -> None:
    """Write the golden files as they compile now."""
    FOLDER.mkdir(exist_ok=True)
    for name in GOLDEN:
        with tempfile.TemporaryDirectory() as directory:
            (FOLDER / f"{name}.yaml").write_text(compiled(name, Path(directory)))


if __name__ == "__main__":
    renew()
