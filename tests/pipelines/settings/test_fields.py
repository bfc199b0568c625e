"""Each field of a step's settings arrives in the compiled file, at the place where the platform looks for it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from pipelines.compiled import PlatformName
from pipelines.settings.kubeflow import SHM_PATH, KubeflowSettings, KubeflowStep
from pipelines.settings.vertex import VertexSettings, VertexStep
from tests.pipelines.settings.compiling import at, compiled_with, places_of

# The field; what a file says of train; where in the compiled file; what stands there.
Row = tuple[dict[str, Any], str, Any]

COMMON: dict[str, Row] = {
    "cpu": ({"cpu": "3"}, "container/resources/resourceCpuLimit", "3"),
    "memory": ({"memory": "21Gi"}, "container/resources/resourceMemoryLimit", "21Gi"),
    "env": ({"env": {"KAFKA_CLIENT_ID": "we"}}, "environment/KAFKA_CLIENT_ID", "we"),
    "cache": ({"cache": False}, "task/cachingOptions", {}),
    "retry.times": ({"retry": {"times": 7}}, "task/retryPolicy/maxRetryCount", 7),
    "retry.pause_s": ({"retry": {"pause_s": 77}}, "task/retryPolicy/backoffDuration", "77s"),
    "retry.factor": ({"retry": {"factor": 3}}, "task/retryPolicy/backoffFactor", 3.0),
    "retry.window_s": ({"retry": {"window_s": 777}}, "task/retryPolicy/backoffMaxDuration", "777s"),
}

_SECRET = {"secret": "login", "key": "word", "optional": True}
_TOLERATION = {"key": "a.io/b", "operator": "Equal", "value": "c", "effect": "NoExecute", "seconds": 60}
_FILES = {"secret": "tls", "path": "/etc/tls", "optional": True}
_VOLUME = {"claim": "shared", "path": "/shared", "sub_path": "a/b"}
_ENV = "kubernetes/secretAsEnv/0"

KUBEFLOW: dict[str, Row] = COMMON | {
    "cpu_request": ({"cpu_request": "500m"}, "container/resources/resourceCpuRequest", "500m"),
    "memory_request": ({"memory_request": "1Gi"}, "container/resources/resourceMemoryRequest", "1Gi"),
    "gpu.count": ({"gpu": {"count": 5}}, "container/resources/accelerator/resourceCount", "5"),
    "gpu.resource": (
        {"gpu": {"resource": "amd.com/gpu"}},
        "container/resources/accelerator/resourceType",
        "amd.com/gpu",
    ),
    "shm": (
        {"shm": "3Gi"},
        "kubernetes/emptyDirMounts",
        [{"volumeName": "shm", "mountPath": SHM_PATH, "medium": "Memory", "sizeLimit": "3Gi"}],
    ),
    "node_selector": ({"node_selector": {"a.io/b": "c"}}, "kubernetes/nodeSelector/labels", {"a.io/b": "c"}),
    "tolerations.key": ({"tolerations": [_TOLERATION]}, "kubernetes/tolerations/0/key", "a.io/b"),
    "tolerations.operator": ({"tolerations": [_TOLERATION]}, "kubernetes/tolerations/0/operator", "Equal"),
    "tolerations.value": ({"tolerations": [_TOLERATION]}, "kubernetes/tolerations/0/value", "c"),
    "tolerations.effect": ({"tolerations": [_TOLERATION]}, "kubernetes/tolerations/0/effect", "NoExecute"),
    "tolerations.seconds": ({"tolerations": [_TOLERATION]}, "kubernetes/tolerations/0/tolerationSeconds", "60"),
    "secret_env.secret": ({"secret_env": {"A_TOKEN": _SECRET}}, f"{_ENV}/secretName", "login"),
    "secret_env.key": (
        {"secret_env": {"A_TOKEN": _SECRET}},
        f"{_ENV}/keyToEnv",
        [{"envVar": "A_TOKEN", "secretKey": "word"}],
    ),
    "secret_env.optional": ({"secret_env": {"A_TOKEN": _SECRET}}, f"{_ENV}/optional", True),
    "secret_files.secret": ({"secret_files": [_FILES]}, "kubernetes/secretAsVolume/0/secretName", "tls"),
    "secret_files.path": ({"secret_files": [_FILES]}, "kubernetes/secretAsVolume/0/mountPath", "/etc/tls"),
    "secret_files.optional": ({"secret_files": [_FILES]}, "kubernetes/secretAsVolume/0/optional", True),
    "volumes.claim": (
        {"volumes": [_VOLUME]},
        "kubernetes/pvcMount/0/pvcNameParameter/runtimeValue/constant",
        "shared",
    ),
    "volumes.path": ({"volumes": [_VOLUME]}, "kubernetes/pvcMount/0/mountPath", "/shared"),
    "volumes.sub_path": ({"volumes": [_VOLUME]}, "kubernetes/pvcMount/0/subPath", "a/b"),
    "labels": ({"labels": {"team": "vision"}}, "kubernetes/podMetadata/labels", {"team": "vision"}),
    "annotations": ({"annotations": {"a.io/why": "to see"}}, "kubernetes/podMetadata/annotations/a.io|why", "to see"),
    "pull_secrets": ({"pull_secrets": ["registry"]}, "kubernetes/imagePullSecret/0/secretName", "registry"),
    "pull_policy": ({"pull_policy": "Always"}, "kubernetes/imagePullPolicy", "Always"),
    "timeout_s": ({"timeout_s": 4321}, "kubernetes/activeDeadlineSeconds", "4321"),
    "security.run_as_user": ({"security": {"run_as_user": 7}}, "kubernetes/securityContext/runAsUser", "7"),
    "security.run_as_group": ({"security": {"run_as_group": 8}}, "kubernetes/securityContext/runAsGroup", "8"),
    "security.run_as_non_root": (
        {"security": {"run_as_non_root": False}},
        "kubernetes/securityContext/runAsNonRoot",
        False,
    ),
}  # fmt: skip

_L4 = {"accelerator": {"type": "NVIDIA_L4", "count": 4}}
VERTEX: dict[str, Row] = COMMON | {
    "accelerator.type": (_L4, "container/resources/accelerator/resourceType", "NVIDIA_L4"),
    "accelerator.count": (_L4, "container/resources/accelerator/resourceCount", "4"),
}
TABLES: dict[PlatformName, dict[str, Row]] = {"kubeflow": KUBEFLOW, "vertex": VERTEX}


def fields_of(model: type[BaseModel], before: str = "") -> Iterator[str]:
    """Every field of a settings class, those of the mappings inside it by their way."""
    for name, field in model.model_fields.items():
        nested = list(models_in(field.annotation))
        if not nested:
            yield before + name
        for inner in nested:
            yield from fields_of(inner, f"{before}{name}.")


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in getattr(annotation, "__args__", ()):
        yield from models_in(part)


@pytest.mark.parametrize(("step", "table"), [(KubeflowStep, KUBEFLOW), (VertexStep, VERTEX)])
def test_every_field_of_a_step_has_a_row(step: type[BaseModel], table: dict[str, Row]) -> None:
    assert sorted(fields_of(step)) == sorted(table)


def everything_said(table: dict[str, Row]) -> dict[str, Any]:
    """What all rows of a table say, put together: compiling takes seconds, and once is enough."""
    whole: dict[str, Any] = {}
    for said, _, _ in table.values():
        for key, value in said.items():
            whole[key] = whole[key] | value if isinstance(whole.get(key), dict) else value
    return whole


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Callable[[PlatformName], dict[str, dict[str, Any]]]:
    """By platform: what a compiled file says of train by default, and of train and evaluate with all of the table."""

    @functools.cache
    def of(target: PlatformName) -> dict[str, dict[str, Any]]:
        directory = tmp_path_factory.mktemp(target)
        default = compiled_with(directory, target, {"target": target})
        pipeline = compiled_with(directory, target, {"train": everything_said(TABLES[target])})
        return {
            "default": places_of(default, "train"),
            "train": places_of(pipeline, "train"),
            "evaluate": places_of(pipeline, "evaluate"),
        }

    return of


@pytest.mark.parametrize(("target", "field"), [(target, field) for target, table in TABLES.items() for field in table])
def test_a_field_arrives_where_the_platform_looks(
    compiled: Callable[[PlatformName], dict[str, dict[str, Any]]], target: PlatformName, field: str
) -> None:
    _, where, expected = TABLES[target][field]
    steps = compiled(target)
    assert at(steps["train"], where) == expected
    assert at(steps["default"], where) != expected
    assert at(steps["evaluate"], where) != expected


def test_every_field_beside_the_steps_is_known_here() -> None:
    steps = {"every_step", "data_prep", "train", "evaluate", "publish", "exit"}
    assert set(KubeflowSettings.model_fields) - steps == {"target", "checkpoints", "events"}
    assert set(VertexSettings.model_fields) - steps == {"target", "checkpoints", "events"}


def test_each_step_gets_its_own_and_all_get_the_target_and_the_place_of_events(tmp_path: Path) -> None:
    own = {
        step: {"cpu": str(cpu)}
        for cpu, step in enumerate(("data-prep", "train", "evaluate", "publish", "exit"), start=5)
    }
    shared = {"volumes": [{"claim": "shared", "path": "/shared"}]}
    said = {"events": "/shared/events", "checkpoints": "/shared/checkpoints", "every-step": shared, **own}
    pipeline = compiled_with(tmp_path, "kubeflow", said)
    assert pipeline.target == "kubeflow"
    assert pipeline.inputs["checkpoints"]["defaultValue"] == "/shared/checkpoints"
    for step, its_own in own.items():
        places = places_of(pipeline, step)
        assert at(places, "container/resources/resourceCpuLimit") == its_own["cpu"]
        assert places["environment"] == {
            "SHUTTERLINE_CLAIMS": '{"/shared": "shared"}',
            "SHUTTERLINE_EVENTS": "/shared/events",
            "SHUTTERLINE_TARGET": "kubeflow",
        }


def test_a_step_knows_its_claims_in_one_order_whatever_order_they_were_written_in(tmp_path: Path) -> None:
    volumes = [{"claim": "scratch", "path": "/b", "sub_path": "x"}, {"claim": "data", "path": "/a"}]
    pipeline = compiled_with(tmp_path, "kubeflow", {"train": {"volumes": volumes}})
    assert places_of(pipeline, "train")["environment"]["SHUTTERLINE_CLAIMS"] == '{"/a": "data", "/b": "scratch"}'
    assert "SHUTTERLINE_CLAIMS" not in places_of(pipeline, "evaluate")["environment"]


@pytest.mark.parametrize(
    ("target", "said", "expected"),
    [
        ("kubeflow", {"events": "s3://a-bucket/events/"}, "s3://a-bucket/events"),
        ("vertex", {}, "auto"),
        ("vertex", {"events": None}, None),
    ],
)
def test_events_are_kept_where_the_settings_say(
    tmp_path: Path, target: PlatformName, said: dict[str, Any], expected: str | None
) -> None:
    pipeline = compiled_with(tmp_path, target, said)
    for step in ("data-prep", "train", "evaluate", "exit"):
        assert places_of(pipeline, step)["environment"].get("SHUTTERLINE_EVENTS") == expected, step


def test_data_prep_is_cached_on_request(tmp_path: Path) -> None:
    pipeline = compiled_with(tmp_path, "kubeflow", {"data-prep": {"cpu": "1"}}, "--cache")
    cached = {step for step in ("data-prep", "train", "evaluate", "exit")
              if places_of(pipeline, step)["task"]["cachingOptions"] == {"enableCache": True}}  # fmt: skip
    assert cached == {"data-prep", "train", "evaluate"}


def test_checkpoints_of_the_command_line_go_before_those_of_settings(tmp_path: Path) -> None:
    said = {"checkpoints": "gs://a-bucket/x"}
    pipeline = compiled_with(tmp_path, "vertex", said, "--checkpoints", "gs://b-bucket/y")
    assert pipeline.target == "vertex"
    assert pipeline.documents == 1, "one document: Vertex AI's client loads no other"
    assert pipeline.inputs["checkpoints"]["defaultValue"] == "gs://b-bucket/y"
