"""The TrainingRuntimes of the server: Trainer's own for torch, and one under which bad input is not tried again."""

from __future__ import annotations

from typing import Any


def _runtime(
    kind: str, name: str, template: dict[str, Any], job: dict[str, Any], pod: dict[str, Any]
) -> dict[str, Any]:
    node = {
        "name": "node",
        "template": {
            "metadata": {"labels": {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}},
            "spec": job | {"template": {"spec": pod}},
        },
    }
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": kind,
        "metadata": {"name": name, "labels": {"trainer.kubeflow.org/framework": "torch"}},
        "spec": {
            "mlPolicy": {"numNodes": 1, "torch": {}},
            "template": {"spec": template | {"replicatedJobs": [node]}},
        },
    }


# A Job's and a pod's defaults are then restartPolicy OnFailure (JobSet's), backoffLimit 6.
STOCK = _runtime(
    "ClusterTrainingRuntime",
    "torch-distributed",
    {},
    {},
    {"containers": [{"name": "node", "image": "pytorch/pytorch:2.13.0-cuda13.0-cudnn9-runtime"}]},
)
OURS = _runtime(
    "TrainingRuntime",
    "shutterline",
    {
        "failurePolicy": {
            "maxRestarts": 3,
            "rules": [{"name": "badinput", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}],
        }
    },
    {
        "backoffLimit": 0,
        "podFailurePolicy": {
            "rules": [{"action": "FailJob", "onExitCodes": {"containerName": "node", "operator": "In", "values": [2]}}]
        },
    },
    {"restartPolicy": "Never", "containers": [{"name": "node", "image": "shutterline/train:latest"}]},
)
