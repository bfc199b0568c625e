"""A TrainJob of Kubeflow Trainer as rules read it, ours or another's; of what is no mapping, nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from components.shared.errors import InputError
from components.shared.kubeflow.train_job import COMMAND, DEFAULT_RUNTIME, GROUP, KIND, NODE
from components.shared.strict_yaml import DocumentError, parse_yaml, read_text
from pipelines.compiled import LARGEST, child, mapping
from pipelines.lint.stock_runtime import STOCK_RUNTIME
from pipelines.lint.view import mappings, text

_MOST_VALUES = 100_000
# Volumes that end with the pod, or that nothing can be written to.
_PASSING = frozenset({"emptyDir", "configMap", "secret", "projected", "downwardAPI", "image", "ephemeral"})
# Runtimes of which it is known that they mount nothing: ours, and Trainer's own.
_BARE_RUNTIMES = frozenset({DEFAULT_RUNTIME, STOCK_RUNTIME})


@dataclass(frozen=True)
class Mount:
    """A mount of the container that trains: its path in the file, where it is mounted, and the volume's source."""

    where: str
    path: str
    volume: Mapping[str, Any] | None  # None: the patches have no such volume, so that the runtime must

    @property
    def keeps(self) -> bool:
        """Whether what is written there outlives the pod."""
        return self.volume is None or not _PASSING & self.volume.keys()


@dataclass(frozen=True)
class TrainJob:
    """A TrainJob, and its path in the file: empty where it is the file's only document."""

    where: str
    manifest: dict[str, Any]

    def at(self, *keys: str | int) -> str:
        """The path of something in it."""
        path = self.where
        for key in keys:
            path = child(path, key)
        return path

    @property
    def spec(self) -> dict[str, Any]:
        """What is asked for."""
        return mapping(self.manifest.get("spec"))

    @property
    def trainer(self) -> dict[str, Any]:
        """The container that trains."""
        return mapping(self.spec.get("trainer"))

    @property
    def runtime(self) -> tuple[str, str]:
        """Kind and name of the runtime; without a kind it is the cluster's."""
        reference = mapping(self.spec.get("runtimeRef"))
        return text(reference.get("kind")) or "ClusterTrainingRuntime", text(reference.get("name"))

    @property
    def is_runtime_known(self) -> bool:
        """Whether its runtime is one of which it is known that it mounts nothing."""
        return self.runtime[1] in _BARE_RUNTIMES

    @property
    def environment(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """The environment variables: path, name, entry."""
        for index, entry in enumerate(mappings(self.trainer.get("env"))):
            yield self.at("spec", "trainer", "env", index), text(entry.get("name")), entry

    @cached_property
    def variables(self) -> dict[str, str]:
        """The variables whose values stand here."""
        return {name: text(entry.get("value")) for _, name, entry in self.environment if "valueFrom" not in entry}

    @property
    def is_ours(self) -> bool:
        """Whether it runs the training step: by its command, or by the image's own with the step's arguments."""
        command = self.trainer.get("command")
        return COMMAND[-1] in command if isinstance(command, list) else {"dataset", "model"} <= self.options.keys()

    @cached_property
    def options(self) -> dict[str, tuple[str, str]]:
        """The step's options by name, each with its path and value as the process gets it; the last of a name."""
        found: dict[str, tuple[str, str]] = {}
        for name, *given in self._arguments:
            found[name] = (given[0], given[1])
        return found

    @property
    def changes(self) -> list[str]:
        """What ``--set`` changes of the params."""
        return [value for name, _, value in self._arguments if name == "set"]

    @cached_property
    def _arguments(self) -> list[tuple[str, str, str]]:
        """Name, path and value of each option: ``--name=VALUE``, ``--name VALUE``, ``--name``."""
        lists = [(self.at("spec", "trainer", key), self.trainer.get(key)) for key in ("command", "args")]
        parts = [
            (child(where, index), text(part))
            for where, given in lists
            for index, part in enumerate(given if isinstance(given, list) else [])
        ]
        found = []
        for (where, part), (_, after) in zip(parts, [*parts[1:], ("", "--")], strict=False):
            if match := re.fullmatch(r"--([a-z][a-z-]*)(?:=(.*))?", part, re.DOTALL):
                value = match[2] if match[2] is not None else "" if after.startswith("-") else after
                found.append((match[1], where, self.filled(value)))
        return found

    def filled(self, value: str) -> str:
        """A text of the command with what Kubernetes puts in: values that stand here, one dollar for two."""
        return re.sub(
            r"\$\$|\$\(([^)]*)\)",
            lambda found: "$" if found[0] == "$$" else self.variables.get(found[1], found[0]),
            value,
        )

    @cached_property
    def pods(self) -> list[tuple[str, dict[str, Any]]]:
        """What the patches say of the pods that train, each with its path."""
        found = []
        for index, patch in enumerate(mappings(self.spec.get("runtimePatches"))):
            spec = mapping(mapping(mapping(patch.get("trainingRuntimeSpec")).get("template")).get("spec"))
            for number, job in enumerate(mappings(spec.get("replicatedJobs"))):
                template = mapping(mapping(mapping(job.get("template")).get("spec")).get("template"))
                if job.get("name") == NODE:
                    where = self.at("spec", "runtimePatches", index, "trainingRuntimeSpec", "template", "spec")
                    where = f"{where}.replicatedJobs[{number}].template.spec.template.spec"
                    found.append((where, mapping(template.get("spec"))))
        return found

    @cached_property
    def containers(self) -> list[tuple[str, dict[str, Any]]]:
        """What the patches say of the container that trains, each with its path."""
        return [
            (f"{where}.containers[{index}]", container)
            for where, pod in self.pods
            for index, container in enumerate(mappings(pod.get("containers")))
            if container.get("name") == NODE
        ]

    @cached_property
    def mounts(self) -> list[Mount]:
        """What is mounted in the container that trains."""
        volumes = {volume.get("name"): volume for _, pod in self.pods for volume in mappings(pod.get("volumes"))}
        return [
            Mount(f"{where}.volumeMounts[{index}]", text(mount.get("mountPath")), volumes.get(mount.get("name")))
            for where, container in self.containers
            for index, mount in enumerate(mappings(container.get("volumeMounts")))
        ]

    def mount_of(self, path: str) -> Mount | None:
        """The innermost mount that a path is in; None: nothing here mounts it."""
        holding = [each for each in self.mounts if each.path and PurePosixPath(path).is_relative_to(each.path)]
        return max(holding, key=lambda each: len(each.path), default=None)

    @property
    def devices(self) -> dict[str, int]:
        """What device plugins give each node, such as nvidia.com/gpu or nvidia.com/mig-1g.10gb, and how many."""
        resources = mapping(self.trainer.get("resourcesPerNode"))
        asked = {**mapping(resources.get("limits")), **mapping(resources.get("requests"))}
        return {name: int(str(count)) for name, count in asked.items() if "/" in name and str(count).isdecimal()}

    @property
    def gpus(self) -> int:
        """Accelerators a node, by what Trainer takes for one: a resource with gpu in its name."""
        return max((count for name, count in self.devices.items() if "gpu" in name.lower()), default=0)


class TrainJobFile:
    """A file with TrainJobs, perhaps among other manifests.

    Attributes:
        documents: All of it, each with its path; of a file of one document that is empty.
        jobs: The TrainJobs.
    """

    def __init__(self, text: str) -> None:
        """Read a file's text, as kubectl does by YAML 1.1; DocumentError if it cannot be read, or has no TrainJob."""
        read = [document for document in parse_yaml(text, _MOST_VALUES, core=False) if document]
        several = len(read) > 1
        self.documents = [(f"documents[{index}]" if several else "", document) for index, document in enumerate(read)]
        self.jobs = [TrainJob(where, document) for where, document in self.documents if _is_train_job(document)]
        if not self.jobs:
            raise DocumentError("has no TrainJob")

    @property
    def arguments(self) -> Iterator[tuple[str, Any]]:
        """Commands and arguments, each with its path."""
        for job in self.jobs:
            for key in ("command", "args"):
                yield job.at("spec", "trainer", key), job.trainer.get(key)


def read_train_jobs(file: Path) -> TrainJobFile:
    """A file's TrainJobs; InputError if it cannot be read, or has none."""
    try:
        return TrainJobFile(read_text(file, LARGEST))
    except DocumentError as error:
        raise InputError(f"{file}: {error}; `shutterline compile --target trainjob` writes a TrainJob") from error


def _is_train_job(document: Any) -> bool:
    return mapping(document).get("kind") == KIND and text(mapping(document).get("apiVersion")).startswith(f"{GROUP}/")
