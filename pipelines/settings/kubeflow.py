"""Settings of Kubeflow Pipelines: what each step's pod asks the cluster for."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from components.shared.errors import Problem
from components.shared.params.types import Truth, Whole, refusal
from components.shared.run import EVENTS_VARIABLE
from components.shared.step import StepName
from pipelines.quantities import bytes_of, processors
from pipelines.settings.common import EVERY_STEP, STEP_FIELDS, PlatformSettings, Retry, StepSettings
from pipelines.settings.fields import (
    Annotations,
    Cpu,
    Labels,
    Memory,
    MountPath,
    ObjectName,
    Seconds,
    SettingsRecord,
    SubPath,
    TaintKey,
    TaintValue,
    VariableNames,
    VolumeName,
    durable_location,
)

# Of the memory-backed /dev/shm: the pod's volume, and where it is mounted.
SHM_VOLUME = "shm"
SHM_PATH = "/dev/shm"  # noqa: S108 - the mount point that the C library names, nothing is written by us

# The API server refuses a file for a field that it does not know. Of what is compiled all is known to 2.15.0 but these
# fields; from the protobuf definitions of github.com/kubeflow/pipelines at its tags.
FIRST_RELEASE = {"securityContext": "2.16.0", "subPath": "2.16.0"}
# In the JSON Schema of a key: the first release of Kubeflow Pipelines that takes it, where that is not the oldest.
BACKEND = "x-kubeflow-pipelines"
_SUB_PATH_SINCE, _SECURITY_SINCE = FIRST_RELEASE["subPath"], FIRST_RELEASE["securityContext"]

_RESOURCE = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
SECRET_KEY = re.compile(r"[-._A-Za-z0-9]{1,253}")
_IDENTITY = Annotated[Whole, Field(ge=1, le=2**31 - 1)]


def _resource(value: object) -> str:
    if not isinstance(value, str) or not _RESOURCE.fullmatch(value):
        raise refusal("must be the name of a device plugin's resource, such as nvidia.com/gpu")
    return value


def _secret_key(value: object) -> str:
    if not isinstance(value, str) or not SECRET_KEY.fullmatch(value):
        raise refusal("must be the key inside the secret: letters, digits and -_.")
    return value


class Gpu(SettingsRecord):
    """The accelerators of a step."""

    count: Annotated[Whole, Field(ge=0, le=64)] = Field(1, description="How many; 0: none.")
    resource: Annotated[str, BeforeValidator(_resource)] = Field(
        "nvidia.com/gpu", description="What the cluster's device plugin calls them."
    )


class Toleration(SettingsRecord):
    """A taint of nodes that a step's pod may be placed on all the same."""

    key: TaintKey | None = Field(None, description="The taint's key; none: every taint.")
    operator: Literal["Exists", "Equal"] = Field("Exists", description="Whether the value must be equal.")
    value: TaintValue | None = Field(None, description="The taint's value, with the operator Equal.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        None, description="The taint's effect; none: every effect."
    )
    seconds: Seconds | None = Field(None, description="How long it is tolerated, with the effect NoExecute.")


class SecretKey(SettingsRecord):
    """Where a variable's value is kept."""

    secret: ObjectName = Field(description="Name of the Kubernetes secret.")
    key: Annotated[str, BeforeValidator(_secret_key)] = Field(description="Key inside it.")
    optional: Truth = Field(False, description="Whether the pod starts without it.")


class SecretFiles(SettingsRecord):
    """A secret mounted as files, one per key."""

    secret: VolumeName = Field(description="Name of the Kubernetes secret.")
    path: MountPath = Field(description="Directory where its keys are files.")
    optional: Truth = Field(False, description="Whether the pod starts without it.")


class Volume(SettingsRecord):
    """A persistent volume claim."""

    claim: VolumeName = Field(description="Name of the claim, which must exist.")
    path: MountPath = Field(description="Directory where it is mounted.")
    sub_path: SubPath | None = Field(
        None,
        description="Directory inside the volume; none: all of it. Needs Kubeflow Pipelines "
        f"{_SUB_PATH_SINCE} or later.",
        json_schema_extra={BACKEND: _SUB_PATH_SINCE},
    )


class Security(SettingsRecord):
    """Who the container runs as, other than the image says. KFP drops every capability by itself since 2.16."""

    run_as_user: _IDENTITY | None = Field(None, description="User id; the images are made for any, and say 10001.")
    run_as_group: _IDENTITY | None = Field(None, description="Group id; the images say 10001.")
    run_as_non_root: Truth | None = Field(
        None, description="Whether a container whose user is root is refused; those of the images are not."
    )


class KubeflowStep(StepSettings):
    """What a step's pod gets."""

    cpu_request: Cpu | None = Field(None, description="Processors that must be free; default: as cpu.")
    memory_request: Memory | None = Field(None, description="Memory that must be free; default: as memory.")
    gpu: Gpu | None = Field(None, description="Accelerators.")
    shm: Memory | None = Field(
        None, description="Size of a memory-backed /dev/shm. What lies there counts as the step's memory."
    )
    node_selector: Labels = Field(default_factory=dict, description="Labels that a node must have.")
    tolerations: list[Toleration] = Field(default_factory=list, description="Taints that a node may have.")
    secret_env: Annotated[dict[str, SecretKey], VariableNames] = Field(
        default_factory=dict, description="Environment variables by where their value is kept."
    )
    secret_files: list[SecretFiles] = Field(default_factory=list, description="Secrets mounted as files.")
    volumes: list[Volume] = Field(default_factory=list, description="Persistent volume claims.")
    labels: Labels = Field(default_factory=dict, description="Labels of the pod.")
    annotations: Annotations = Field(default_factory=dict, description="Annotations of the pod.")
    pull_secrets: list[ObjectName] = Field(default_factory=list, description="Secrets that images are pulled with.")
    pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = Field(None, description="When images are pulled.")
    timeout_s: Seconds | None = Field(None, description="Seconds after which one attempt is ended, as failed.")
    security: Security | None = Field(
        None,
        description="Who the container runs as, where that is not the image's own user. Needs Kubeflow Pipelines "
        f"{_SECURITY_SINCE} or later.",
        json_schema_extra={BACKEND: _SECURITY_SINCE},
    )

    def problems(self) -> list[Problem]:
        """What contradicts itself, once everything is put together."""
        found = super().problems()
        if self.retry and self.retry.factor is not None and not self.retry.factor.is_integer():
            # Argo Workflows reads it as an integer, and fails a step that it should repeat where it is none.
            found.append(Problem("retry.factor", "must be a whole number on Kubeflow, such as 1 or 2"))
        if self.cpu_request and self.cpu and processors(self.cpu_request) > processors(self.cpu):
            found.append(Problem("cpu_request", f"is more than cpu, which is {self.cpu}"))
        if self.memory_request and self.memory and bytes_of(self.memory_request) > bytes_of(self.memory):
            found.append(Problem("memory_request", f"is more than memory, which is {self.memory}"))
        if self.shm and self.memory and bytes_of(self.shm) >= bytes_of(self.memory):
            found.append(Problem("shm", f"must be less than memory ({self.memory}), which it counts against"))
        found += [
            Problem(f"secret_env.{name}", "is given by env too; only one can be meant")
            for name in self.secret_env
            if name in self.env
        ]
        found += self._mount_problems()
        for index, toleration in enumerate(self.tolerations):
            if toleration.operator == "Equal" and toleration.key is None:
                found.append(Problem(f"tolerations[{index}].key", "is required with the operator Equal"))
            if toleration.operator == "Exists" and toleration.value is not None:
                found.append(Problem(f"tolerations[{index}].value", "needs the operator Equal"))
            if toleration.seconds is not None and toleration.effect != "NoExecute":
                found.append(Problem(f"tolerations[{index}].seconds", "needs the effect NoExecute"))
        return found

    def _mount_problems(self) -> list[Problem]:
        """What a pod could not have among its volumes."""
        paths = [files.path for files in self.secret_files] + [volume.path for volume in self.volumes]
        paths += [SHM_PATH] if self.shm else []
        twice = sorted({path for path in paths if paths.count(path) > 1})
        found = [Problem("volumes", f"{path} is mounted at twice") for path in twice]
        # KFP's driver calls the pod's volumes like what is in them, whatever kind it is.
        for field, names in (
            ("volumes", [volume.claim for volume in self.volumes]),
            ("secret_files", [files.secret for files in self.secret_files]),
        ):
            found += [
                Problem(
                    field, f"{name} is mounted {names.count(name)} times; mount it once, and name directories in it"
                )
                for name in sorted(set(names))
                if names.count(name) > 1
            ]
        claims = {volume.claim for volume in self.volumes}
        taken = {files.secret for files in self.secret_files} | ({SHM_VOLUME} if self.shm else set())
        found += [
            Problem("volumes", f"the claim {name} is called like another volume of the pod; KFP needs different names")
            for name in sorted(claims & taken)
        ]
        if self.shm and any(files.secret == SHM_VOLUME for files in self.secret_files):
            found.append(Problem("secret_files", f"KFP would call the secret's volume {SHM_VOLUME}, as shm is called"))
        return found

    def keeps(self, path: str) -> bool:
        """Whether a path lies in a volume that outlives the pod."""
        return any(PurePosixPath(path).is_relative_to(volume.path) for volume in self.volumes)


class KubeflowSettings(PlatformSettings):
    """A settings file for Kubeflow Pipelines."""

    target: Literal["kubeflow"] = Field("kubeflow", description="The platform.")
    checkpoints: Annotated[str, BeforeValidator(durable_location)] | None = Field(
        None,
        description='Where training keeps its checkpoints: a directory of a volume, gs://…, s3://…, or "auto": beside '
        "the run's artifacts, which steps must then have credentials for. Each pair of params and dataset has its own "
        "directory there. Without it they end with the pod.",
    )
    events: Annotated[str, BeforeValidator(durable_location)] | None = Field(
        None,
        description="Where a run's status events are kept, so that a later step delivers what an earlier one could "
        "not, and the exit step knows how each ended: a directory of a volume of all steps; or gs://…, s3://… or "
        '"auto": beside the run\'s artifacts, which steps must then have credentials for.',
    )
    every_step: KubeflowStep | None = Field(None, alias="every-step", description="What all steps get.")
    data_prep: KubeflowStep = Field(default_factory=KubeflowStep, alias="data-prep", description="Data prep.")
    train: KubeflowStep = Field(default_factory=KubeflowStep, description="Training.")
    evaluate: KubeflowStep = Field(default_factory=KubeflowStep, description="Evaluation.")
    exit: KubeflowStep = Field(default_factory=KubeflowStep, description="The exit step.")

    def problems(self) -> list[Problem]:
        """What contradicts itself, once everything is put together."""
        found = []
        steps: dict[StepName, KubeflowStep] = {name: self.step(name) for name in STEP_FIELDS}
        for name, step in steps.items():
            found += [Problem(f"{name}.{problem.path}", problem.message) for problem in step.problems()]
        if self.checkpoints and self.checkpoints.startswith("/") and not self.train.keeps(self.checkpoints):
            found.append(
                Problem("checkpoints", f"no volume of train holds {self.checkpoints}; add it to train.volumes")
            )
        if self.events is not None:
            found += [
                Problem(f"{name}.env.{EVENTS_VARIABLE}", "is what the key events sets; only one can be meant")
                for name, step in steps.items()
                if EVENTS_VARIABLE in (*step.env, *step.secret_env)
            ]
            on_volume = self.events.startswith("/")
            without = [name for name, step in steps.items() if on_volume and not step.keeps(self.events)]
            if without:
                where = without[0] if len(without) == 1 else EVERY_STEP
                advice = f"no volume of {', '.join(without)} holds {self.events}; add it to {where}.volumes"
                found.append(Problem("events", advice))
        return found


_WEEK_S = 7 * 24 * 3600


def kubeflow_defaults(*, gpu: bool) -> KubeflowSettings:
    """What a step gets where nothing is said.

    Args:
        gpu: Whether training gets one.
    """

    def step(cpu: str, memory: str, retry: Retry, *, cache: bool) -> KubeflowStep:
        return KubeflowStep(cpu=cpu, memory=memory, cache=cache, retry=retry)

    # A step publishes whole or not at all, so repeating it is safe; the exit step would tell the end twice.
    again = Retry(times=2, pause_s=30, factor=2.0, window_s=24 * 3600)
    training = step("4", "16Gi", again.model_copy(update={"window_s": _WEEK_S}), cache=True)
    once = Retry(times=0, pause_s=30, factor=2.0, window_s=3600)
    return KubeflowSettings(
        # What its input names may have changed, which a cache cannot see.
        data_prep=step("2", "4Gi", again, cache=False),
        train=training.model_copy(update={"gpu": Gpu(count=1), "shm": "2Gi"}) if gpu else training,
        evaluate=step("2", "8Gi", again, cache=True),
        exit=step("500m", "512Mi", once, cache=False),
    )
