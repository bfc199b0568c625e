"""Settings of Kubeflow Pipelines: what each step's pod asks the cluster for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError

from components.shared.errors import Problem
from components.shared.kubeflow.train_job import DEFAULT_RUNTIME, REFUSED, NodeSpec, RuntimeRef
from components.shared.params.parsed import as_problems
from components.shared.params.types import Truth, Whole
from pipelines.quantities import quantity
from pipelines.settings.common import (
    EVERY_STEP,
    SHARDS_MEANING,
    STEP_FIELDS,
    PlatformSettings,
    Shards,
    StepSettings,
)
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
    matching,
)

# Of the memory-backed /dev/shm: the pod's volume, and where it is mounted.
SHM_VOLUME = "shm"
SHM_PATH = "/dev/shm"  # noqa: S108 - the mount point that the C library names, nothing is written by us

# The API server refuses a file for a field that it does not know. Of what is compiled all is known to 2.15.0 but these
# fields, by their setting; from the protobuf definitions of github.com/kubeflow/pipelines at its tags.
FIRST_RELEASE = {"securityContext": "2.16.0", "subPath": "2.16.0"}
FIELD_OF = {"security": "securityContext", "volumes.sub_path": "subPath"}
_SUB_PATH_SINCE, _SECURITY_SINCE = FIRST_RELEASE["subPath"], FIRST_RELEASE["securityContext"]

_RESOURCE = r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[a-z0-9]([-a-z0-9.]*[a-z0-9])?"
_RESOURCE_RULE = "must be the name of a device plugin's resource, such as nvidia.com/gpu"
_KEY_RULE = "must be the key inside the secret: letters, digits and -_."
_RUNTIME = r"((Cluster)?TrainingRuntime/)?(?=.{1,253}$)[a-z0-9]([-a-z0-9.]*[a-z0-9])?"
_RUNTIME_RULE = "must be the name of a TrainingRuntime, such as shutterline, or ClusterTrainingRuntime/NAME"
# The small step that waits has the credentials of the nodes, for bucket and brokers, and is placed as any small step.
_SMALL = {"cpu": "500m", "memory": "512Mi"}
_OF_BOTH = (
    *("env", "secret_env", "secret_files", "volumes", "cache", "retry", "labels", "annotations"),
    *("pull_secrets", "pull_policy", "security"),
)
# Kueue queues the TrainJob by these; a pod that has them waits in the queue by itself, where Kueue takes pods, too.
_KUEUE = "kueue.x-k8s.io/"
_OF_NODES = NodeSpec.model_fields.keys() - {"image", "runtime"}
_IDENTITY = Annotated[Whole, Field(ge=1, le=2**31 - 1)]


class Gpu(SettingsRecord):
    """The accelerators of a step."""

    count: Annotated[Whole, Field(ge=0, le=64)] = Field(1, description="How many; 0: none.")
    resource: Annotated[str, matching(_RESOURCE, _RESOURCE_RULE)] = Field(
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

    def problems(self) -> Iterator[tuple[str, str]]:
        """What contradicts itself, by the key."""
        if self.operator == "Equal" and self.key is None:
            yield ".key", "is required with the operator Equal"
        if self.operator != "Equal" and self.value is not None:
            yield ".value", "needs the operator Equal"
        if self.seconds is not None and self.effect != "NoExecute":
            yield ".seconds", "needs the effect NoExecute"


class SecretKey(SettingsRecord):
    """Where a variable's value is kept."""

    secret: ObjectName = Field(description="Name of the Kubernetes secret.")
    key: Annotated[str, matching(r"[-._A-Za-z0-9]{1,253}", _KEY_RULE)] = Field(description="Key inside it.")
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
    )

    @property
    def is_accelerated(self) -> bool:
        """Whether it gets accelerators."""
        return self.gpu is not None and self.gpu.count > 0

    def problems(self) -> list[Problem]:
        """What contradicts itself, once everything is merged."""
        has_shm = self.shm is not None
        limits = (("cpu", self.cpu_request, self.cpu), ("memory", self.memory_request, self.memory))
        # KFP's driver calls the pod's volumes like what is in them, whatever kind it is.
        claims = Counter(volume.claim for volume in self.volumes)
        secrets = Counter(files.secret for files in self.secret_files)
        mounts = [*(files.path for files in self.secret_files), *(volume.path for volume in self.volumes)]
        paths = Counter([*mounts, SHM_PATH] if has_shm else mounts)
        others = secrets.keys() | ({SHM_VOLUME} if has_shm else set())
        found = [
            *((f"{name}_request", f"is more than {name}, which is {limit}") for name, asked, limit in limits
              if asked and limit and quantity(asked) > quantity(limit)),
            *((f"secret_env.{name}", "is given by env too; only one can be meant")
              for name in self.secret_env.keys() & self.env.keys()),
            *((f"tolerations[{index}]{where}", message) for index, toleration in enumerate(self.tolerations)
              for where, message in toleration.problems()),
            *(("volumes", f"{path} is mounted at twice") for path, times in sorted(paths.items()) if times > 1),
            *((field, f"{name} is mounted {times} times; mount it once, and name directories in it")
              for field, names in (("volumes", claims), ("secret_files", secrets))
              for name, times in sorted(names.items()) if times > 1),
            *(("volumes", f"the claim {name} is called like another volume of the pod; KFP needs different names")
              for name in sorted(claims.keys() & others)),
        ]  # fmt: skip
        if self.retry and self.retry.factor is not None and not self.retry.factor.is_integer():
            # Argo Workflows reads it as an integer, and fails a step that it should repeat where it is none.
            found.append(("retry.factor", "must be a whole number on Kubeflow, such as 1 or 2"))
        if self.shm and self.memory and quantity(self.shm) >= quantity(self.memory):
            found.append(("shm", f"must be less than memory ({self.memory}), which it counts against"))
        if has_shm and SHM_VOLUME in secrets:
            found.append(("secret_files", f"KFP would call the secret's volume {SHM_VOLUME}, as shm is called"))
        return super().problems() + [Problem(path, message) for path, message in found]

    def keeps(self, path: str) -> bool:
        """Whether a path is in a volume that outlives the pod."""
        return any(PurePosixPath(path).is_relative_to(volume.path) for volume in self.volumes)


class KubeflowDataPrep(KubeflowStep):
    """What data prep gets; where there are several shards, each of them."""

    shards: Shards | None = Field(None, description=SHARDS_MEANING)


class KubeflowTrain(KubeflowStep):
    """What training gets; where there are several nodes, each of them."""

    nodes: Annotated[Whole, Field(ge=1, le=1000)] | None = Field(
        None,
        description="How many machines train together, as a TrainJob of Kubeflow Trainer 2.2 or later; what train gets "
        "is then each machine's. 1: without Trainer.",
    )
    runtime: Annotated[str, matching(_RUNTIME, _RUNTIME_RULE)] | None = Field(
        None,
        description="The TrainingRuntime in the run's namespace that Trainer makes the nodes by, or "
        f"ClusterTrainingRuntime/NAME; default: {DEFAULT_RUNTIME}.",
    )
    service_account: ObjectName | None = Field(
        None,
        description="Kubernetes account of the nodes' pods, such as one that a cloud's account is bound to; default: "
        "the namespace's default one, which is not that of the pipeline's steps.",
    )

    @property
    def is_distributed(self) -> bool:
        """Whether several machines train."""
        return (self.nodes or 1) > 1

    def problems(self) -> list[Problem]:
        """What contradicts itself, once everything is merged."""
        found = super().problems()
        if self.runtime is not None and self.nodes is None:
            found.append(Problem("runtime", "needs nodes, such as nodes: 2; one machine trains without Trainer"))
        return found + (self.trainers_problems() if self.is_distributed else [])

    def trainers_problems(self) -> list[Problem]:
        """What Kubeflow Trainer does not take of it."""
        try:
            self.node_spec("image")
        except ValidationError as error:
            return as_problems(error, ())
        return []

    def warnings(self) -> list[str]:
        """What has no effect, by its key."""
        if not self.is_distributed:
            why = "has no effect with one node, which trains without Trainer"
            return [f"{key}: {why}" for key in ("runtime", "service_account") if getattr(self, key) is not None]
        return [f"{key}: {why}" for key, why in REFUSED.items() if getattr(self, key) is not None]

    def waiting(self) -> KubeflowStep:
        """What the small step gets that creates the TrainJob and waits for it."""
        given = {name: getattr(self, name) for name in _OF_BOTH}
        for name in ("labels", "annotations"):
            given[name] = {key: value for key, value in given[name].items() if not key.startswith(_KUEUE)}
        return KubeflowStep.model_validate(_SMALL | given)

    def node_spec(self, image: str) -> NodeSpec:
        """What each node gets, which trains by an image."""
        given = {name: value for name, value in self.model_dump(exclude_none=True).items() if name in _OF_NODES}
        runtime = RuntimeRef.parse(self.runtime or DEFAULT_RUNTIME)
        return NodeSpec.model_validate({**given, "image": image, "runtime": runtime})


class KubeflowSettings(PlatformSettings[KubeflowStep, KubeflowDataPrep, KubeflowTrain]):
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

    def problems(self) -> list[Problem]:
        """What contradicts itself, once everything is merged."""
        found = super().problems()
        if self.checkpoints and self.checkpoints.startswith("/") and not self.step("train").keeps(self.checkpoints):
            message = f"no volume of train holds {self.checkpoints}; add it to train.volumes"
            found.append(Problem("checkpoints", message))
        if self.events and self.events.startswith("/"):
            without = [name for name in STEP_FIELDS if not self.step(name).keeps(self.events)]
            where = without[0] if len(without) == 1 else EVERY_STEP
            if without:
                advice = f"no volume of {', '.join(without)} holds {self.events}; add it to {where}.volumes"
                found.append(Problem("events", advice))
        return found

    @property
    def distributed(self) -> KubeflowTrain | None:
        """Training, where several machines do it; None: one does."""
        return self.train if self.train and self.train.is_distributed else None

    def newer(self) -> list[str]:
        """The settings that not every release takes."""
        steps = [self.step(name) for name in STEP_FIELDS]
        uses = {
            "security": any(step.security and step.security.model_dump(exclude_none=True) for step in steps),
            "volumes.sub_path": any(volume.sub_path for step in steps for volume in step.volumes),
        }
        return [key for key, is_used in uses.items() if is_used]


def kubeflow_defaults(*, gpu: bool) -> dict[str, Any]:
    """What a step gets by default.

    Args:
        gpu: Whether training gets one.
    """
    # A step publishes whole or not at all, so repeating it is safe; the exit step would report the end twice.
    again = {"times": 2, "pause_s": 30, "factor": 2, "window_s": 24 * 3600}
    training = again | {"window_s": 7 * 24 * 3600}
    once = again | {"times": 0, "window_s": 3600}
    accelerated = {"gpu": {"count": 1}, "shm": "2Gi"} if gpu else {}
    return {
        # What its input names may have changed, which a cache cannot see.
        "data_prep": {"cpu": "2", "memory": "4Gi", "cache": False, "retry": again},
        "train": {"cpu": "4", "memory": "16Gi", "cache": True, "retry": training, **accelerated},
        "evaluate": {"cpu": "2", "memory": "8Gi", "cache": True, "retry": again},
        # What it is run for is not among its outputs; to publish the same again changes nothing.
        "publish": {"cpu": "1", "memory": "2Gi", "cache": False, "retry": again},
        "exit": {"cpu": "500m", "memory": "512Mi", "cache": False, "retry": once},
    }
