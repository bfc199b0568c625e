"""Training on several machines of Vertex AI: the custom job in the compiled file, by Vertex AI's own types."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from google.cloud.aiplatform_v1.types import AcceleratorType, CustomJob
from google.protobuf import json_format  # type: ignore[import-untyped] # publishes no types

from components.shared.version import __version__
from pipelines.compiled import CompiledPipeline, read_compiled
from pipelines.lint.rules import lint
from pipelines.vertex_limits import ACCELERATORS, machine_type
from tests.pipelines.settings.compiling import compiled_with, places_of
from tests.pipelines.test_golden import FOLDER, IMAGES

GOLDEN = FOLDER / "vertex-nodes.yaml"
L4 = {"cpu": "8", "memory": "32G", "accelerator": {"type": "NVIDIA_L4", "count": 1}}


def launcher_of(pipeline: CompiledPipeline) -> dict[str, Any]:
    found: dict[str, Any] = pipeline.executors["exec-train"]["container"]
    return found


def option(container: dict[str, Any], name: str) -> str:
    args: list[str] = container["args"]
    return args[args.index(name) + 1]


def job_of(pipeline: CompiledPipeline) -> dict[str, Any]:
    job: dict[str, Any] = json.loads(option(launcher_of(pipeline), "--payload"))
    return job


def test_the_job_is_what_vertex_ais_own_types_say() -> None:
    job = job_of(read_compiled(GOLDEN))

    parsed = CustomJob(json_format.ParseDict(job, CustomJob.pb()(), ignore_unknown_fields=False))

    assert parsed == CustomJob(job), "the client takes the mapping alike"
    specs = parsed.job_spec.worker_pool_specs
    assert [spec.replica_count for spec in specs] == [1, 3]
    assert {(spec.machine_spec.machine_type, spec.machine_spec.accelerator_count) for spec in specs} == {
        ("g2-standard-8", 1)
    }
    assert {spec.machine_spec.accelerator_type for spec in specs} == {AcceleratorType.NVIDIA_L4}
    assert parsed.job_spec.scheduling.restart_job_on_worker_restart


def test_each_machine_runs_what_the_step_runs_on_one() -> None:
    alone = read_compiled(FOLDER / "vertex-l4.yaml").container("exec-train")
    pipeline = read_compiled(GOLDEN)

    for spec in job_of(pipeline)["job_spec"]["worker_pool_specs"]:
        inside = spec["container_spec"]
        assert inside["image_uri"] == alone["image"] == IMAGES["train"]["reference"]
        assert (inside["command"], inside["env"]) == (alone["command"], alone["env"])
        # Inside of JSON the step's inputs and outputs are marked otherwise, so that their own quotes are escaped.
        assert inside["args"] == [word.replace("{{$}}", "{{$.json_escape[1]}}") for word in alone["args"]]
    assert launcher_of(pipeline)["args"][4:] == [
        "--project",
        "{{$.pipeline_google_cloud_project_id}}",
        "--location",
        "{{$.pipeline_google_cloud_location}}",
        "--gcp_resources",
        "{{$.outputs.parameters['gcp_resources'].output_file}}",
    ]
    assert "gcp_resources" in pipeline.spec["components"]["comp-train"]["outputDefinitions"]["parameters"]
    job = job_of(pipeline)
    assert (job["job_spec"]["service_account"], job["job_spec"]["network"], job["encryption_spec"]) == (
        "{{$.pipeline_service_account}}",
        "{{$.pipeline_network}}",
        {"kms_key_name": "{{$.pipeline_encryption_key_name}}"},
    )


def test_settings_of_the_task_and_the_container_stay(tmp_path: Path) -> None:
    asked = {"nodes": 2, "cpu": "3", "memory": "20G", "env": {"KAFKA_CLIENT_ID": "we"}, "cache": False}
    places = places_of(compiled_with(tmp_path, "vertex", {"train": asked | {"retry": {"times": 7}}}), "train")

    assert (places["task"]["cachingOptions"], places["task"]["retryPolicy"]["maxRetryCount"]) == ({}, 7)
    assert places["environment"] == {
        "KAFKA_CLIENT_ID": "we",
        "SHUTTERLINE_EVENTS": "auto",
        "SHUTTERLINE_TARGET": "vertex",
    }
    assert places["container"]["machine"] == "n1-highmem-4"


def test_one_node_is_no_custom_job(tmp_path: Path) -> None:
    images = tmp_path / "images.json"
    images.write_text(json.dumps({"schema_version": 1, "version": __version__, "images": IMAGES}))

    pipeline = compiled_with(tmp_path, "vertex", {"train": L4 | {"nodes": 1}}, "--images", str(images))

    assert pipeline.file.read_text().replace(f"Shutterline {__version__};", "Shutterline VERSION;") == (
        (FOLDER / "vertex-l4.yaml").read_text()
    )


@pytest.mark.parametrize(
    ("asked", "machine"),
    [
        ((None, None, None, 0), "n1-highmem-2"),
        (("4", "15G", None, 0), "n1-standard-4"),
        (("4", "16G", None, 0), "n1-highmem-4"),
        (("9", "14G", None, 0), "n1-highcpu-16"),
        (("96", "624G", None, 0), "n1-highmem-96"),
        (("8", "30G", "NVIDIA_TESLA_T4", 1), "n1-standard-8"),
        (("500m", "1Gi", "NVIDIA_L4", 1), "g2-standard-4"),
        (("8", "32Gi", "NVIDIA_L4", 1), "g2-standard-12"),  # whose 32 GB are less than 32 GiB
        (("1", None, "NVIDIA_L4", 2), "g2-standard-24"),
        ((None, None, "NVIDIA_TESLA_A100", 8), "a2-highgpu-8g"),
        ((None, None, "NVIDIA_TESLA_A100", 16), "a2-megagpu-16g"),
        ((None, None, "NVIDIA_A100_80GB", 4), "a2-ultragpu-4g"),
        ((None, None, "NVIDIA_H100_80GB", 8), "a3-highgpu-8g"),
        ((None, None, "NVIDIA_RTX_PRO_6000", 2), "g4-standard-96"),
        (("10", None, "NVIDIA_TESLA_V100", 1), None),
    ],
)
def test_the_smallest_machine_that_has_what_is_asked_for(asked: tuple[Any, ...], machine: str | None) -> None:
    assert machine_type(*asked) == machine


def test_every_accelerator_has_a_machine_and_is_known_to_vertex_ai() -> None:
    assert all(hasattr(AcceleratorType, kind) for kind in ACCELERATORS)
    for kind, counts in ACCELERATORS.items():
        for count, (cpus, gigabytes) in counts.items():
            assert machine_type(None, None, kind, count), (kind, count)
            largest = machine_type(str(cpus), f"{gigabytes}G", kind, count)
            assert largest or kind in ("NVIDIA_TESLA_T4", "NVIDIA_TESLA_V100", "NVIDIA_TESLA_P100", "NVIDIA_TESLA_P4")


NAME, VALUE = '"name": "SHUTTERLINE_EVENTS"', '"value": "auto"'
VERTEX, KUBEFLOW = '"SHUTTERLINE_TARGET", "value": "vertex"', '"SHUTTERLINE_TARGET", "value": "kubeflow"'


@pytest.mark.parametrize(
    ("before", "after", "rule", "severity"),
    [
        (f'"{IMAGES["train"]["reference"]}"', '"registry.example/train:1"', "unpinned-image", "warning"),
        ('"image_uri": "registry.example/', '"image_uri": "localhost:5000/', "local-image", "error"),
        (f"{NAME}, {VALUE}", '"name": "A_TOKEN", "value": "hunter2!"', "secret-value", "error"),
        ('"--function_to_execute"', '"--password", "hunter2!"', "secret-value", "error"),
        (VERTEX, KUBEFLOW, "foreign-platform", "error"),
        (f"{NAME}, {VALUE}", '"name": "KAFKA_SSL_CAFILE", "value": "/ca.pem"', "credentials-file", "error"),
    ],
)
def test_lint_looks_inside_the_job(before: str, after: str, rule: str, severity: str) -> None:
    pipeline = read_compiled(GOLDEN)
    assert lint(pipeline, "vertex") == [], "neither Google's tag nor its container without limits is a finding"
    args = launcher_of(pipeline)["args"]
    assert before in args[3]
    args[3] = args[3].replace(before, after)

    found = lint(pipeline, "vertex")

    assert {(finding.rule, finding.severity, finding.steps) for finding in found} == {(rule, severity, ("train",))}
    for finding in found:
        assert finding.where[0].startswith("deploymentSpec.executors.exec-train.container.args[3]")
        assert "hunter2" not in str(finding)


def test_a_job_of_a_python_package_has_no_container_to_look_at() -> None:
    pipeline = read_compiled(GOLDEN)
    args = launcher_of(pipeline)["args"]
    package = {"executor_image_uri": "registry.example/x:1", "package_uris": ["gs://b/p.tgz"], "python_module": "m"}
    args[3] = json.dumps({"job_spec": {"worker_pool_specs": [{"python_package_spec": package}]}})

    assert {finding.severity for finding in lint(pipeline, "vertex")} == {"warning"}  # of Google's own container
