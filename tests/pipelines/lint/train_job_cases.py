"""A TrainJob without a fault, and what changes a line of it: faults that rules look for, and what only seems one."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

from components.shared.kubeflow.train_job import NodeSpec, train_job
from tests.examples import SMALL
from tests.pipelines.lint.bases import AWS_KEY, DIGEST

Document = dict[str, Any]
Change = Callable[[Document], object]

_SPEC = NodeSpec.model_validate(
    {
        "image": f"registry.example.com/shutterline/train@{DIGEST}",
        "nodes": 2,
        "cpu": "8",
        "memory": "32Gi",
        "gpu": {"count": 2},
        "shm": "8Gi",
        "secret_env": {"KAFKA_SASL_PASSWORD": {"secret": "kafka", "key": "password"}},
        "secret_files": [{"secret": "google", "path": "/secrets/google"}],
        "env": {"GOOGLE_APPLICATION_CREDENTIALS": "/secrets/google/key.json"},
        "volumes": [{"claim": "shared", "path": "/shared"}],
    }
)
_ARGUMENTS = ("--dataset=gs://bucket/dataset", "--model=gs://bucket/model", f"--params={json.dumps(SMALL)}")
_SOUND = train_job("shutterline-", _SPEC, [*_ARGUMENTS, "--processes=auto"], generate_name=True)


def changed(*changes: Change) -> Document:
    """The job without a fault, changed."""
    job = copy.deepcopy(_SOUND)
    for change in changes:
        change(job)
    return job


def trainer(**values: Any) -> Change:
    return lambda job: job["spec"]["trainer"].update(values)


def spec(**values: Any) -> Change:
    return lambda job: job["spec"].update(values)


def metadata(**values: Any) -> Change:
    return lambda job: job.update(metadata=values)


def pod(**values: Any) -> Change:
    return lambda job: _pod(job).update(values)


def container(**values: Any) -> Change:
    return lambda job: _pod(job)["containers"][0].update(values)


def _pod(job: Document) -> Document:
    (patch,) = job["spec"]["runtimePatches"]
    (replicated,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    found: Document = replicated["template"]["spec"]["template"]["spec"]
    return found


def option(name: str, value: str | None) -> Change:
    """Another value of an option; None: not given."""

    def change(job: Document) -> None:
        args = [arg for arg in job["spec"]["trainer"]["args"] if not arg.startswith(f"--{name}=")]
        job["spec"]["trainer"]["args"] = args if value is None else [*args, f"--{name}={value}"]

    return change


def variable(name: str, **entry: Any) -> Change:
    def change(job: Document) -> None:
        env = job["spec"]["trainer"]["env"]
        env[:] = [each for each in env if each["name"] != name] + ([{"name": name, **entry}] if entry else [])

    return change


def runtime(name: str, kind: str = "ClusterTrainingRuntime") -> Change:
    return lambda job: job["spec"]["runtimeRef"].update(kind=kind, name=name)


def params(**changes: Any) -> Change:
    return option("params", json.dumps({**SMALL, **changes}))


def twice(job: Document) -> None:
    job["spec"]["trainer"]["env"] *= 2


def foreign(job: Document) -> None:
    job["spec"]["trainer"] |= {"command": ["python", "train.py"], "args": []}


NO_GPU = trainer(resourcesPerNode={"limits": {"cpu": 2, "memory": "4Gi"}})
SECRETS = {"name": "shutterline-secret-0", "mountPath": "/secrets"}
EMPTY = [{"name": "shutterline-claim-0", "emptyDir": {}}]

FOUND: list[tuple[str, str, tuple[Change, ...]]] = [
    ("secret-value", "error", (variable("KAFKA_SASL_PASSWORD", value="hunter2!"),)),
    ("secret-value", "error", (variable("X", value=AWS_KEY),)),
    ("secret-value", "error", (option("password", "hunter2!"),)),
    ("unpinned-image", "warning", (trainer(image="registry.example.com/train:1.0"),)),
    ("unpinned-image", "error", (trainer(image="registry.example.com/train"),)),
    ("local-image", "warning", (trainer(image=f"shutterline/train@{DIGEST}"),)),
    ("fields", "error", (spec(podTemplateOverrides=[]),)),
    ("fields", "error", (spec(failurePolicy={"maxRestarts": 3}),)),
    ("fields", "error", (container(resources={}),)),
    ("fields", "error", (container(imagePullPolicy="Always"),)),
    ("fields", "error", (pod(restartPolicy="Never"),)),
    ("fields", "error", (variable("EPOCHS", value=3),)),
    ("fields", "error", (trainer(numNodes="2"),)),
    ("fields", "error", (pod(nodeSelector={"spot": True}),)),
    ("fields", "error", (trainer(resourcesPerNode={"limits": {"cpu": 2, "memory": "4GB"}}),)),
    ("fields", "error", (trainer(resourcesPerNode={"limits": {"cpu": 0.5, "memory": "4Gi"}}),)),
    ("fields", "error", (lambda job: job.update(apiVersion="trainer.kubeflow.org/v2"),)),
    ("names", "error", (metadata(),)),
    ("names", "error", (metadata(name="Night_7"),)),
    ("names", "error", (metadata(name="n" * 49),)),
    ("names", "error", (metadata(generateName="n" * 44),)),
    ("names", "error", (runtime("x", "Runtime"),)),
    ("patches", "error", (lambda job: job["spec"]["runtimePatches"][0].update(manager="shutterline"),)),
    ("patches", "error", (container(env=[{"name": "A", "value": "1"}]),)),
    ("patches", "error", (twice,)),
    ("reserved-variable", "error", (variable("PET_NNODES", value="3"),)),
    ("reserved-variable", "error", (variable("RANK", value="0"),)),
    ("arguments", "error", (option("model", None),)),
    ("arguments", "error", (option("dataset", "dataset"),)),
    ("params", "error", (params(batch_siz=3),)),
    ("params", "error", (option("params", '{"batch_size": 3'),)),
    ("params", "error", (option("params", "/params/params.json"),)),
    ("params", "error", (params(device="cuda"), NO_GPU)),
    ("limits", "warning", (trainer(resourcesPerNode={"limits": {"cpu": 2}}),)),
    ("shared-memory", "warning", (container(volumeMounts=[SECRETS]),)),
    ("idle-gpus", "warning", (option("processes", None),)),
    ("restarts", "warning", (runtime("torch-distributed"),)),
    ("restarts", "warning", (lambda job: job["spec"].update(runtimeRef={"name": "torch-distributed"}),)),
    ("run-id", "warning", (variable("SHUTTERLINE_RUN_ID"),)),
    ("run-id", "warning", (variable("SHUTTERLINE_RUN_ID", value="night-7"),)),
    ("checkpoint-location", "error", (option("checkpoints", "/checkpoints"),)),
    ("checkpoint-location", "error", (option("checkpoints", "/shared/x"), pod(volumes=EMPTY))),
    ("data-location", "error", (option("dataset", "/data"),)),
    ("data-location", "error", (params(initial_weights="/weights.safetensors"),)),
    ("model-location", "error", (option("model", "/model"),)),
    ("model-location", "error", (option("model", "/secrets/google/model"),)),
    ("model-location", "warning", (option("model", "/model"), runtime("of-the-team", "TrainingRuntime"))),
    ("credentials-file", "error", (variable("KAFKA_SSL_CAFILE", value="/run/ca.pem"),)),
]  # fmt: skip

SOUND: list[tuple[Change, ...]] = [
    (),
    (metadata(name="n" * 48),),
    (metadata(name="night-7"), variable("SHUTTERLINE_RUN_ID", value="night-7")),
    (params(device="cuda"),),
    (
        params(device="cuda"),
        trainer(resourcesPerNode={"limits": {"cpu": 2, "memory": "4Gi", "nvidia.com/mig-1g.10gb": 1}}),
    ),
    (params(device="cpu"), NO_GPU, option("processes", None)),
    (option("params", "/shared/params.json"),),
    (option("dataset", "/shared/dataset"), option("model", "/shared/model"), option("checkpoints", "/shared/x")),
    (option("dataset", "/secrets/google/dataset"),),
    (params(publish_uri="gs://bucket/a$$(b)"),),
    (lambda job: job["spec"]["trainer"]["args"].append("--set=batch_size=16"),),
    (runtime("of-the-team"), variable("KAFKA_SSL_CAFILE", value="/etc/ssl/ca.pem")),
    (trainer(command=["python", "-m", "components.train", "--dataset", "gs://b/dataset"]), option("dataset", None)),
    (lambda job: job["spec"]["trainer"].pop("command"),),
    (foreign, variable("SHUTTERLINE_RUN_ID"), NO_GPU),
    (lambda job: job["spec"]["trainer"].pop("image"),),
    (spec(suspend=True, managedBy="kueue.x-k8s.io/multikueue"),),
]
