"""The TrainingRuntimes of the server: Trainer's own for torch, and the one that this project ships."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tests.peers.trainer.store import Object, Store

# Of lists that are merged by a key of their entries; others are replaced.
_MERGED_BY = {"containers": "name", "volumes": "name", "volumeMounts": "mountPath", "imagePullSecrets": "name"}

# Of Jobs and pods it leaves everything to its defaults: JobSet's restartPolicy OnFailure, Kubernetes' backoffLimit 6.
STOCK: dict[str, Any] = {
    "metadata": {"name": "torch-distributed", "labels": {"trainer.kubeflow.org/framework": "torch"}},
    "spec": {
        "mlPolicy": {"numNodes": 1, "torch": {}},
        "template": {
            "spec": {
                "replicatedJobs": [
                    {
                        "name": "node",
                        "template": {
                            "metadata": {"labels": {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}},
                            "spec": {"template": {"spec": {"containers": [{"name": "node", "image": "pytorch"}]}}},
                        },
                    }
                ]
            }
        },
    },
}
OURS: dict[str, Any] = yaml.safe_load(
    (Path(__file__).parents[3] / "pipelines" / "examples" / "trainer" / "runtime.yaml").read_text("utf-8")
)


def job_of(job: Object, store: Store) -> tuple[Object, Object]:
    """The spec of the Job that Trainer and JobSet make of a TrainJob and its runtime, and the set's failurePolicy.

    By pkg/runtime/core/trainingruntime.go, as far as a runtime of one replicated job goes.
    """
    reference = job["spec"]["runtimeRef"]
    is_clusters = reference["kind"] == "ClusterTrainingRuntime"
    resource = "clustertrainingruntimes" if is_clusters else "trainingruntimes"
    runtime = store.get(resource, "" if is_clusters else job["metadata"]["namespace"], reference["name"])
    template = runtime["spec"]["template"]["spec"]
    (replicated,) = template["replicatedJobs"]
    for patch in job["spec"].get("runtimePatches") or []:
        for patched in patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]:
            replicated = merged(replicated, patched)
    spec: Object = replicated["template"]["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    trainer = job["spec"].get("trainer") or {}
    container |= {key: trainer[key] for key in ("image", "command", "args", "env") if key in trainer}
    return spec, template.get("failurePolicy", {})


def merged(ours: Any, theirs: Any, key: str = "") -> Any:
    """A strategic merge patch, of the lists that a pod's spec has."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return ours | {name: merged(ours.get(name), value, name) for name, value in theirs.items()}
    if isinstance(ours, list) and (by := _MERGED_BY.get(key)):
        rest = {entry[by]: entry for entry in theirs}
        return [merged(entry, rest.pop(entry[by], {})) for entry in ours] + list(rest.values())
    return theirs
