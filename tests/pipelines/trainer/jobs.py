"""What becomes of a TrainJob's manifest: the Job that Trainer makes of it and its runtime, and the process's words.

The merge follows pkg/runtime/core/trainingruntime.go and the plugin torch of Kubeflow Trainer 2.3.0, the filling in of
variables Kubernetes' third_party/forked/golang/expansion; both are our own reading of it.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped] # publishes no types
from kubeflow_trainer_api.models.trainer_v1alpha1_train_job import TrainerV1alpha1TrainJob
from kubeflow_trainer_api.models.trainer_v1alpha1_training_runtime import TrainerV1alpha1TrainingRuntime

Document = dict[str, Any]
# The oldest that Trainer 2.3 names, and the newest whose schemas are here.
VERSIONS = ("1.32.0", kubernetes_validate.latest_version())
_MODELS = {"TrainJob": TrainerV1alpha1TrainJob, "TrainingRuntime": TrainerV1alpha1TrainingRuntime}
# Of lists that are merged by a key of their entries; others are replaced.
_MERGED_BY = {"containers": "name", "volumes": "name", "env": "name", "volumeMounts": "mountPath",
              "imagePullSecrets": "name"}  # fmt: skip


def require_known(manifest: Document) -> None:
    """Require that Trainer's own models read a manifest and have every field of it."""
    model = _MODELS[manifest["kind"]].from_dict(manifest)
    assert model is not None
    assert model.to_dict() == manifest


def require_valid_pods(job: Document, runtime: Document) -> Document:
    """The pod's spec of a TrainJob's nodes, once it conforms to what Kubernetes publishes of Jobs."""
    made = _job(job, runtime)
    for version in VERSIONS:
        kubernetes_validate.validate(made, version, strict=True)
    pod: Document = made["spec"]["template"]["spec"]
    names = {volume["name"] for volume in pod.get("volumes", [])}
    (container,) = pod["containers"]
    mounts = container.get("volumeMounts", [])
    assert {mount["name"] for mount in mounts} == names
    assert len(pod.get("volumes", [])) == len(names), "the schemas do not know that names must differ"
    return pod


def started(job: Document, name: str) -> tuple[list[str], dict[str, str]]:
    """Command with arguments, and environment without secrets, of a node's process; `name` is the job's."""
    trainer = job["spec"]["trainer"]
    environment = {}
    for entry in trainer["env"]:
        if "value" in entry:
            environment[entry["name"]] = entry["value"]
        elif field := entry["valueFrom"].get("fieldRef"):
            assert field == {"fieldPath": "metadata.labels['jobset.sigs.k8s.io/jobset-name']"}
            environment[entry["name"]] = name
    return [_filled(part, environment) for part in (*trainer["command"], *trainer["args"])], environment


def _filled(text: str, environment: Mapping[str, str]) -> str:
    def found(match: re.Match[str]) -> str:
        return "$" if match[0] == "$$" else environment.get(match[1], match[0])

    return re.sub(r"\$\$|\$\(([^)]*)\)", found, text)


def _job(job: Document, runtime: Document) -> Document:
    (replicated,) = copy.deepcopy(runtime["spec"]["template"]["spec"]["replicatedJobs"])
    for patch in job["spec"].get("runtimePatches", []):
        (patched,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
        replicated = _merged(replicated, patched)
    trainer, template = job["spec"]["trainer"], replicated["template"]
    (container,) = template["spec"]["template"]["spec"]["containers"]
    container |= {key: trainer[key] for key in ("image", "command", "args")}
    container |= {"env": trainer["env"], "resources": trainer.get("resourcesPerNode", {})}
    sized = {"parallelism": trainer["numNodes"], "completions": trainer["numNodes"], "completionMode": "Indexed"}
    metadata = template.get("metadata", {}) | {"name": "job-node-0"}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": template["spec"] | sized}


def _merged(ours: Any, theirs: Any, key: str = "") -> Any:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return ours | {name: _merged(ours.get(name), value, name) for name, value in theirs.items()}
    if isinstance(ours, list) and (by := _MERGED_BY.get(key)):
        rest = {entry[by]: entry for entry in theirs}
        return [_merged(entry, rest.pop(entry[by], {})) for entry in ours] + list(rest.values())
    return theirs
