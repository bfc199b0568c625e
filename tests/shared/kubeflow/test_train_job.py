"""A TrainJob made of a node's settings: every field at its place, and nothing of it lost on the way."""

from __future__ import annotations

import json
from typing import Any

import pytest

from components.shared.errors import InputError
from components.shared.kubeflow.train_job import NodeSpec, RuntimeRef, train_job

PLAIN = {"image": "registry.example.org/shutterline/train:0.12.0", "nodes": 2}
EVERYTHING: dict[str, Any] = {
    **PLAIN,
    "runtime": {"kind": "ClusterTrainingRuntime", "name": "torch-distributed"},
    "cpu": "8",
    "memory": "64Gi",
    "cpu_request": "4",
    "memory_request": "32Gi",
    "gpu": {"count": 4, "resource": "nvidia.com/gpu"},
    "shm": "8Gi",
    "env": {"NCCL_DEBUG": "INFO", "PET_RDZV_CONF": "timeout=1800"},
    "secret_env": {"KEY_ID": {"secret": "s3", "key": "id"}, "TOKEN": {"secret": "t", "key": "k", "optional": True}},
    "secret_files": [{"secret": "gcs", "path": "/secrets/gcs"}, {"secret": "ca", "path": "/ca", "optional": True}],
    "volumes": [{"claim": "work", "path": "/work", "sub_path": "runs"}, {"claim": "cache", "path": "/cache"}],
    "labels": {"team": "vision"},
    "annotations": {"sidecar.istio.io/inject": "false"},
    "node_selector": {"pool": "gpu"},
    "tolerations": [
        {"key": "nvidia.com/gpu", "effect": "NoSchedule"},
        {"key": "spot", "operator": "Equal", "value": "true", "effect": "NoExecute", "seconds": 60},
    ],
    "pull_secrets": ["registry"],
    "service_account": "trainer",
    "timeout_s": 86400,
    "security": {"run_as_user": 1000, "run_as_group": 1000, "run_as_non_root": True},
}  # fmt: skip


def test_a_job_of_an_image_alone_is_as_small_as_it_can_be() -> None:
    assert train_job("night-7", NodeSpec.model_validate(PLAIN), ["--processes=auto"]) == {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {"name": "night-7"},
        "spec": {
            "runtimeRef": {"apiGroup": "trainer.kubeflow.org", "kind": "TrainingRuntime", "name": "shutterline"},
            "trainer": {
                "image": "registry.example.org/shutterline/train:0.12.0",
                "command": ["python", "-m", "components.train"],
                "args": ["--processes=auto"],
                "numNodes": 2,
                "env": [
                    {
                        "name": "SHUTTERLINE_RUN_ID",
                        "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['jobset.sigs.k8s.io/jobset-name']"}},
                    }
                ],
            },
        },
    }


def test_every_setting_of_a_node_has_its_place() -> None:
    job = train_job(
        "night-",
        NodeSpec.model_validate(EVERYTHING),
        ["--params={}"],
        namespace="vision",
        labels={"shutterline/run": "7"},
        env={"SHUTTERLINE_RUN_ID": "7"},
        owner={"apiVersion": "v1", "kind": "Pod", "name": "step", "uid": "u"},
        generate_name=True,
    )

    assert job["metadata"] == {
        "generateName": "night-",
        "namespace": "vision",
        "labels": {"team": "vision", "shutterline/run": "7"},
        "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "step", "uid": "u"}],
    }
    spec = job["spec"]
    assert spec["runtimeRef"]["kind"] == "ClusterTrainingRuntime"
    assert spec["activeDeadlineSeconds"] == 86400
    assert spec["trainer"]["resourcesPerNode"] == {
        "limits": {"cpu": "8", "memory": "64Gi", "nvidia.com/gpu": 4},
        "requests": {"cpu": "4", "memory": "32Gi"},
    }
    assert spec["trainer"]["env"] == [
        {"name": "KEY_ID", "valueFrom": {"secretKeyRef": {"name": "s3", "key": "id"}}},
        {"name": "NCCL_DEBUG", "value": "INFO"},
        {"name": "PET_RDZV_CONF", "value": "timeout=1800"},
        {"name": "SHUTTERLINE_CLAIMS", "value": '{"/cache": "cache", "/work": "work"}'},
        {"name": "SHUTTERLINE_RUN_ID", "value": "7"},
        {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "t", "key": "k", "optional": True}}},
    ]
    (patch,) = spec["runtimePatches"]
    assert patch["manager"] == "shutterline/train-job"
    (replicated,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    assert replicated["name"] == "node"
    assert replicated["template"]["spec"]["template"] == {
        "metadata": {
            "labels": {"team": "vision", "shutterline/run": "7"},
            "annotations": {"sidecar.istio.io/inject": "false"},
        },
        "spec": {
            "serviceAccountName": "trainer",
            "nodeSelector": {"pool": "gpu"},
            "tolerations": [
                {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
                {"key": "spot", "operator": "Equal", "value": "true", "effect": "NoExecute", "tolerationSeconds": 60},
            ],
            "imagePullSecrets": [{"name": "registry"}],
            "volumes": [
                {"name": "shutterline-secret-0", "secret": {"secretName": "gcs"}},
                {"name": "shutterline-secret-1", "secret": {"secretName": "ca", "optional": True}},
                {"name": "shutterline-claim-0", "persistentVolumeClaim": {"claimName": "work"}},
                {"name": "shutterline-claim-1", "persistentVolumeClaim": {"claimName": "cache"}},
                {"name": "shutterline-shm", "emptyDir": {"medium": "Memory", "sizeLimit": "8Gi"}},
            ],
            "containers": [
                {
                    "name": "node",
                    "volumeMounts": [
                        {"name": "shutterline-secret-0", "mountPath": "/secrets/gcs", "readOnly": True},
                        {"name": "shutterline-secret-1", "mountPath": "/ca", "readOnly": True},
                        {"name": "shutterline-claim-0", "mountPath": "/work", "subPath": "runs"},
                        {"name": "shutterline-claim-1", "mountPath": "/cache"},
                        {"name": "shutterline-shm", "mountPath": "/dev/shm"},  # noqa: S108 - where it must be
                    ],
                    "securityContext": {"runAsUser": 1000, "runAsGroup": 1000, "runAsNonRoot": True},
                }
            ],
        },
    }


@pytest.mark.parametrize("given", [PLAIN, EVERYTHING], ids=["plain", "everything"])
def test_it_travels_as_one_text_that_its_content_decides(given: dict[str, Any]) -> None:
    spec = NodeSpec.model_validate(given)
    backwards = NodeSpec.model_validate(dict(reversed(given.items())))

    assert NodeSpec.from_json(spec.to_json()) == spec
    assert backwards.to_json() == spec.to_json()
    assert json.loads(spec.to_json())["nodes"] == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nodes": 0}, "nodes: nodes: must be at least 1$"),
        ({"pull_policy": "Always"}, "nodes: pull_policy: unknown key$"),
        ({"env": {"PET_NNODES": "3"}}, "nodes: env.PET_NNODES: is set by Trainer or by torch's launcher"),
        ({"secret_env": {"RANK": {"secret": "a", "key": "b"}}}, "nodes: secret_env.RANK: is set by Trainer"),
        ({"env": {f"A{index}": "" for index in range(121)}}, "nodes: env: more than 120 variables"),
        ({"volumes": [{"claim": f"a{i}", "path": f"/a{i}"} for i in range(121)]}, "nodes: volumes: more than 120"),
    ],
)
def test_what_trainer_would_refuse_is_refused_here(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        NodeSpec.from_json(json.dumps(PLAIN | change))


@pytest.mark.parametrize("name", ["7-night", "night_7", "Night", "n" * 41, "night-"])
def test_a_name_that_trainer_does_not_take_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="a TrainJob's name is at most 40"):
        train_job(name, NodeSpec.model_validate(PLAIN), [])


def test_an_argument_that_no_process_can_be_given_is_refused() -> None:
    with pytest.raises(InputError, match="--params: has 131072 bytes, and a process takes at most 131071"):
        train_job("night", NodeSpec.model_validate(PLAIN), ["--params=" + "x" * 131063])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("shutterline", RuntimeRef(kind="TrainingRuntime", name="shutterline")),
        ("ClusterTrainingRuntime/torch", RuntimeRef(kind="ClusterTrainingRuntime", name="torch")),
    ],
)
def test_a_runtime_is_named_by_one_text(text: str, expected: RuntimeRef) -> None:
    assert RuntimeRef.parse(text) == expected
    assert str(expected) == text
