"""A TrainJob of Kubeflow Trainer (trainer.kubeflow.org/v1alpha1) as a mapping, made of what each node shall get.

Nothing is asked of a cluster here. What `spec.trainer` has no field for goes through `spec.runtimePatches` (since
Trainer 2.2), merged into the runtime's pod template. What neither of them takes is in `REFUSED`.
Sources: manifests/base/crds, pkg/webhooks and pkg/runtime of github.com/kubeflow/trainer at v2.3.0.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from components.shared.errors import InputError
from components.shared.files import CLAIMS_VARIABLE
from components.shared.params.parsed import as_problems
from components.shared.params.types import refusal, refusals
from components.shared.run import RUN_VARIABLE

GROUP = "trainer.kubeflow.org"
API_VERSION = f"{GROUP}/v1alpha1"
KIND: Final = "TrainJob"
RuntimeKind = Literal["TrainingRuntime", "ClusterTrainingRuntime"]
DEFAULT_RUNTIME = "shutterline"
# The replicated job and the container that spec.trainer is of: Trainer's own name for both, in every runtime.
NODE = "node"
# Who the patches are of: a DNS name and a path, as Trainer's webhook asks.
PATCH_OWNER = "shutterline/train-job"
# A pod is called NAME-node-0-0-abcde and its host NAME-node-0-0, which with JobSet's suffixes must stay within 63.
LONGEST_NAME = 40
COMMAND = ("python", "-m", "components.train")
# In a pod: the name of its TrainJob. A job that is created twice from one file is two runs by it.
JOB_NAME_FIELD = "metadata.labels['jobset.sigs.k8s.io/jobset-name']"
# In a location, Kubernetes puts the run's id there when a pod starts.
RUN_REFERENCE = f"$({RUN_VARIABLE})"

# Settings of a pod that a TrainJob has no field for, and what to do instead.
REFUSED = {
    "pull_policy": "Trainer takes none of a TrainJob; set imagePullPolicy of the container node in the runtime",
}
_SHM_PATH = "/dev/shm"  # noqa: S108 - the mount point that the C library names, nothing is written by us
# The five that Trainer's webhook refuses, and what torch elastic sets for its processes. Others of torchrun's, such as
# PET_RDZV_CONF, are the user's.
_RESERVED = frozenset(
    "PET_NNODES PET_NPROC_PER_NODE PET_NODE_RANK PET_MASTER_ADDR PET_MASTER_PORT "
    "RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT".split()
)
# Who the container runs as, other than the image says, and Kubernetes' names of it.
_SECURITY = {"run_as_user": "runAsUser", "run_as_group": "runAsGroup", "run_as_non_root": "runAsNonRoot"}
_RESERVED_PREFIXES = ("KUBEFLOW_TRAINER_", "TORCHELASTIC_")
_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_GENERATED = re.compile(r"[a-z][-a-z0-9]*")
# Linux takes one argument of a process up to here, its end included (MAX_ARG_STRLEN).
_LONGEST_ARGUMENT = 128 * 1024 - 1


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, populate_by_name=True)


class RuntimeRef(_Record):
    """The runtime that a TrainJob is started by."""

    kind: RuntimeKind = "TrainingRuntime"
    name: str = Field(DEFAULT_RUNTIME, min_length=1, max_length=253)

    @classmethod
    def parse(cls, text: str) -> Self:
        """A runtime as settings name it: ``NAME`` of the job's namespace, or ``ClusterTrainingRuntime/NAME``."""
        kind, _, name = text.rpartition("/")
        return cls.model_validate({"kind": kind or "TrainingRuntime", "name": name})

    def __str__(self) -> str:
        return self.name if self.kind == "TrainingRuntime" else f"{self.kind}/{self.name}"


class Gpu(_Record):
    """The accelerators of a node."""

    count: int = Field(1, ge=0)
    resource: str = "nvidia.com/gpu"


class SecretKey(_Record):
    """Where a variable's value is kept."""

    # As KFP calls them: by these names lint knows that no secret's value is here.
    secret: str = Field(alias="secretName")
    key: str = Field(alias="secretKey")
    optional: bool = False


class SecretFiles(_Record):
    """A secret mounted as files."""

    secret: str = Field(alias="secretName")
    path: str
    optional: bool = False


class Volume(_Record):
    """A persistent volume claim."""

    claim: str
    path: str
    sub_path: str | None = None


class Toleration(_Record):
    """A taint of nodes that pods may be placed on all the same."""

    key: str | None = None
    operator: Literal["Exists", "Equal"] = "Exists"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    seconds: int | None = None


class NodeSpec(_Record):
    """What each node of a TrainJob is: the keys of a step's settings, by their names there.

    Attributes:
        image: Reference of the train image.
        nodes: How many nodes, one pod each.
        timeout_s: Seconds after which the job is ended; counted anew when a suspended job goes on.
        service_account: Of the pods; None: the namespace's default one.
    """

    image: str = Field(min_length=1, max_length=500)
    nodes: int = Field(1, ge=1, le=2**31 - 1)
    runtime: RuntimeRef = RuntimeRef()
    cpu: str | None = None
    memory: str | None = None
    cpu_request: str | None = None
    memory_request: str | None = None
    gpu: Gpu | None = None
    shm: str | None = None
    env: dict[str, str] = {}
    secret_env: dict[str, SecretKey] = {}
    secret_files: tuple[SecretFiles, ...] = ()
    volumes: tuple[Volume, ...] = ()
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    node_selector: dict[str, str] = {}
    tolerations: tuple[Toleration, ...] = Field((), max_length=128)
    pull_secrets: tuple[str, ...] = Field((), max_length=64)
    service_account: str | None = None
    timeout_s: int | None = Field(None, ge=1)
    security: dict[Literal["run_as_user", "run_as_group", "run_as_non_root"], int | bool] = {}

    @field_validator("env", "secret_env")
    @classmethod
    def _of_the_user(cls, value: dict[str, Any]) -> dict[str, Any]:
        if problems := [(f".{name}", problem) for name in sorted(value) if (problem := variable_problem(name))]:
            raise refusals(problems)
        return value

    @model_validator(mode="after")
    def _within_trainers_limits(self) -> Self:
        # 128 each, with room for what train_job adds.
        if len(self.env) + len(self.secret_env) > 120:
            raise refusal("more than 120 variables with secret_env; Trainer takes 128 of a job, ours included", "env")
        if len(self.volumes) + len(self.secret_files) > 120:
            raise refusal("more than 120 with secret_files; Trainer takes 128 of a job, ours included", "volumes")
        return self

    def to_json(self) -> str:
        """One JSON text, the same for the same content."""
        return json.dumps(
            self.model_dump(mode="json", by_alias=True, exclude_defaults=True), sort_keys=True, separators=(",", ":")
        )

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What :meth:`to_json` gave.

        Raises:
            InputError: The text is nothing of the kind.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = as_problems(error, (), lambda where: "unknown key")[0]
            raise InputError(f"nodes: {first}".partition(", got ")[0]) from None  # without a value: it may be a secret


def variable_problem(name: str) -> str | None:
    """Why a TrainJob cannot be given an environment variable of a name; None: it can."""
    if name in _RESERVED or name.startswith(_RESERVED_PREFIXES):
        return "is set by Trainer or by torch's launcher, for each node"
    return None


def train_job(
    name: str,
    spec: NodeSpec,
    arguments: Sequence[str],
    *,
    namespace: str | None = None,
    labels: Mapping[str, str] | None = None,
    env: Mapping[str, str] | None = None,
    owner: Mapping[str, Any] | None = None,
    generate_name: bool = False,
) -> dict[str, Any]:
    """The manifest of a TrainJob.

    Args:
        name: The job's name; with `generate_name` what Kubernetes puts five characters after, at each creation.
        arguments: Of ``python -m components.train``, as the process shall get them: what Kubernetes would fill in
            (``$(NAME)``) stays as it is.
        spec: What each node is.
        namespace: Where it is created; None: where the file is applied.
        labels: Further ones, of the job and its pods.
        env: Further environment variables, which go before those of `spec`; without SHUTTERLINE_RUN_ID the job's name
            is the run's id.
        owner: An entry of ``ownerReferences``: with the owner the job is deleted.
        generate_name: Whether Kubernetes ends the name.

    Raises:
        InputError: The name is none that Trainer takes, or an argument is longer than a process can be given.
    """
    if not (_GENERATED if generate_name else _NAME).fullmatch(name) or len(name) > LONGEST_NAME:
        raise InputError(
            f"{name}: a TrainJob's name is at most {LONGEST_NAME} small letters, digits and hyphens, a letter first"
        )
    if long := next((text for text in arguments if len(text.encode()) > _LONGEST_ARGUMENT), None):
        option, size = long.partition("=")[0][:40], len(long.encode())
        raise InputError(f"{option}: has {size} bytes, and a process takes at most {_LONGEST_ARGUMENT} in one argument")
    given = {**spec.labels, **(labels or {})}
    metadata = {
        "generateName" if generate_name else "name": name,
        "namespace": namespace,
        "labels": given,
        "ownerReferences": [dict(owner)] if owner else [],
    }
    trainer = {
        "image": spec.image,
        "command": list(COMMAND),
        "args": [literal(argument) for argument in arguments],
        "numNodes": spec.nodes,
        "resourcesPerNode": _resources(spec),
        "env": _environment(spec, env or {}),
    }
    job = {
        "runtimeRef": {"apiGroup": GROUP, "kind": spec.runtime.kind, "name": spec.runtime.name},
        "trainer": _filled(trainer),
        "runtimePatches": _patches(spec, given),
        "activeDeadlineSeconds": spec.timeout_s,
    }
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": _filled(metadata), "spec": _filled(job)}


def literal(text: str) -> str:
    """A text of a container's command as Kubernetes leaves it: two dollars are one there, `$(NAME)` a variable."""
    return text.replace("$", "$$")


def _filled(given: Mapping[str, Any]) -> dict[str, Any]:
    """The entries that hold something."""
    return {key: value for key, value in given.items() if value}


def _resources(spec: NodeSpec) -> dict[str, dict[str, Any]]:
    gpus = {spec.gpu.resource: spec.gpu.count} if spec.gpu else {}
    limits = {"cpu": spec.cpu, "memory": spec.memory, **gpus}
    requests = {"cpu": spec.cpu_request, "memory": spec.memory_request}
    return _filled({"limits": _filled(limits), "requests": _filled(requests)})


def _environment(spec: NodeSpec, further: Mapping[str, str]) -> list[dict[str, Any]]:
    values = {**spec.env, **further}
    if claims := {volume.path: volume.claim for volume in spec.volumes}:
        values[CLAIMS_VARIABLE] = json.dumps(claims, sort_keys=True)
    entries: dict[str, dict[str, Any]] = {name: {"value": value} for name, value in values.items()}
    for name, secret in spec.secret_env.items():
        key = _filled({"name": secret.secret, "key": secret.key, "optional": secret.optional})
        entries.setdefault(name, {"valueFrom": {"secretKeyRef": key}})
    entries.setdefault(RUN_VARIABLE, {"valueFrom": {"fieldRef": {"fieldPath": JOB_NAME_FIELD}}})
    return [{"name": name, **entry} for name, entry in sorted(entries.items())]


def _volumes(spec: NodeSpec) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Each volume's name, which no runtime's own has since Trainer merges volumes by name, its source, its mount."""
    for index, files in enumerate(spec.secret_files):
        secret = _filled({"secretName": files.secret, "optional": files.optional})
        yield f"shutterline-secret-{index}", {"secret": secret}, {"mountPath": files.path, "readOnly": True}
    for index, volume in enumerate(spec.volumes):
        claim = {"persistentVolumeClaim": {"claimName": volume.claim}}
        yield f"shutterline-claim-{index}", claim, _filled({"mountPath": volume.path, "subPath": volume.sub_path})
    if spec.shm:
        shm = {"emptyDir": {"medium": "Memory", "sizeLimit": spec.shm}}
        yield "shutterline-shm", shm, {"mountPath": _SHM_PATH}


def _toleration(toleration: Toleration) -> dict[str, Any]:
    given = toleration.model_dump(exclude={"seconds"}, exclude_none=True)
    return given if toleration.seconds is None else {**given, "tolerationSeconds": toleration.seconds}


def _patches(spec: NodeSpec, labels: Mapping[str, str]) -> list[dict[str, Any]]:
    """What runtimePatches have of a pod: everything that `spec.trainer` has no field for."""
    volumes = list(_volumes(spec))
    container = _filled(
        {
            "volumeMounts": [{"name": name, **mount} for name, _, mount in volumes],
            "securityContext": {_SECURITY[key]: value for key, value in spec.security.items()},
        }
    )
    pod = {
        "serviceAccountName": spec.service_account,
        "nodeSelector": spec.node_selector,
        "tolerations": [_toleration(toleration) for toleration in spec.tolerations],
        "imagePullSecrets": [{"name": name} for name in spec.pull_secrets],
        "volumes": [{"name": name, **source} for name, source, _ in volumes],
        "containers": [{"name": NODE, **container}] if container else [],
    }
    metadata = {"labels": dict(labels), "annotations": spec.annotations}
    if not (template := _filled({"metadata": _filled(metadata), "spec": _filled(pod)})):
        return []
    replicated = {"name": NODE, "template": {"spec": {"template": template}}}
    runtime = {"template": {"spec": {"replicatedJobs": [replicated]}}}
    return [{"manager": PATCH_OWNER, "trainingRuntimeSpec": runtime}]
