"""A compiled pipeline as rules read it: every part with its path in the file; of what is no mapping, nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from pipelines.compiled import CompiledPipeline, PlatformName, child, custom_job_pools, mapping

# Steps of ours say so in their source.
_OURS = re.compile(r"\bfrom components\.(data_prep|train|train_job|evaluate|publish|exit_step)\.")
_OF_A_STEP = re.compile(r"\b(?:executors|tasks)\.(?:exec-)?([A-Za-z0-9_-]+)")


def mappings(value: Any) -> list[dict[str, Any]]:
    """A list of mappings; empty if it is none."""
    return [mapping(item) for item in value] if isinstance(value, list) else []


def text(value: Any) -> str:
    """A text; empty if it is none."""
    return value if isinstance(value, str) else ""


def step_of(where: str) -> str:
    """The step that a path leads into; empty: none."""
    found = _OF_A_STEP.findall(where)
    return found[-1] if found else ""


@dataclass(frozen=True)
class Step:
    """A container, what Kubeflow's document says of its pod, and the task that runs it, each with its path.

    Each worker pool of a custom job is one, in place of what has Vertex AI run the job; it has its container's keys.
    """

    where: str
    container: dict[str, Any]
    pod_where: str
    pod: dict[str, Any]
    task_where: str
    task: dict[str, Any]

    @property
    def component(self) -> str:
        """Which of our components it runs, such as ``train``; empty: none."""
        command = self.container.get("command")
        found = [name for part in command for name in _OURS.findall(str(part))] if isinstance(command, list) else []
        return found[0] if found else ""

    @property
    def image(self) -> str:
        """Its image."""
        return text(self.container.get("image"))

    @property
    def environment(self) -> Iterator[tuple[str, str, str]]:
        """The environment variables: path, name, value."""
        for index, entry in enumerate(mappings(self.container.get("env"))):
            yield f"{self.where}.env[{index}].value", text(entry.get("name")), text(entry.get("value"))

    @property
    def nodes_where(self) -> str:
        """The path of what each node gets, where the step has several nodes train."""
        return f"{self.task_where}.inputs.parameters.nodes.runtimeValue.constant"

    @property
    def nodes_text(self) -> str:
        """What each node gets then, as JSON; empty: it has none train."""
        given = mapping(mapping(mapping(self.task.get("inputs")).get("parameters")).get("nodes"))
        return text(mapping(given.get("runtimeValue")).get("constant")) if self.component == "train_job" else ""

    @property
    def nodes(self) -> dict[str, Any]:
        """As :attr:`nodes_text`, read; empty where it cannot be."""
        try:
            return mapping(json.loads(self.nodes_text))
        except (ValueError, RecursionError):
            return {}

    @property
    def reads_data(self) -> bool:
        """Whether it prepares data, and does not join what others have prepared."""
        given = mapping(mapping(self.task.get("inputs")).get("parameters"))
        return self.component == "data_prep" and "parts_sha256" not in given

    @property
    def accelerates(self) -> bool:
        """Whether it gets accelerators, or the nodes that it has train do."""
        if "gpu" in self.nodes:
            return bool(mapping(self.nodes["gpu"]).get("count", 1))
        asked = mapping(mapping(self.container.get("resources")).get("accelerator"))
        return str(asked.get("resourceCount") or asked.get("count") or "0") != "0"

    def mounted(self, path: str, *kinds: str) -> bool:
        """Whether a path is in a mount of one of these kinds."""
        mounts = [text(entry.get("mountPath")) for kind in kinds for entry in mappings(self.pod.get(kind))]
        return any(mount and PurePosixPath(path).is_relative_to(mount) for mount in mounts)


class View:
    """A compiled pipeline, and the platform it is checked for; None: any.

    Attributes:
        steps: What has a container.
        is_ours: Whether a step runs one of our components.
        params: The params by default, as far as they can be read.
    """

    def __init__(self, pipeline: CompiledPipeline, target: PlatformName | None) -> None:
        self.pipeline = pipeline
        self.target = target
        self.steps = list(self._steps())
        self.is_ours = any(step.component for step in self.steps)
        try:
            self.params = mapping(json.loads(self.default("params")))
        except (ValueError, RecursionError):
            self.params = {}

    def _steps(self) -> Iterator[Step]:
        components = mapping(self.pipeline.spec.get("components"))
        dags = {"root": self.pipeline.spec["root"]}
        dags |= {child("components", name): component for name, component in components.items()}
        tasks: dict[str, tuple[str, dict[str, Any]]] = {}
        for path, component in dags.items():
            for name, task in mapping(mapping(mapping(component).get("dag")).get("tasks")).items():
                called = mapping(components.get(text(mapping(mapping(task).get("componentRef")).get("name"))))
                tasks[text(called.get("executorLabel"))] = (child(f"{path}.dag.tasks", name), mapping(task))
        kubernetes = mapping(self.pipeline.platforms.get("kubernetes"))
        pods = mapping(mapping(kubernetes.get("deploymentSpec")).get("executors"))
        for label in self.pipeline.executors:
            if container := mapping(self.pipeline.executors[label].get("container")):
                where = child("deploymentSpec.executors", label)
                pod, inside = mapping(pods.get(label)), f"{where}.container"
                found = {f"{inside}.{at}": pool for at, pool in custom_job_pools(container).items()}
                for path, each in (found or {inside: container}).items():
                    yield Step(path, each, f"platforms.kubernetes.{where}", pod, *tasks.get(label, ("", {})))

    @property
    def documents(self) -> list[tuple[str, Any]]:
        """What the file holds, each part with its path."""
        return [("", self.pipeline.spec), ("platforms", mapping(self.pipeline.platforms))]

    @property
    def arguments(self) -> list[tuple[str, Any]]:
        """The commands' arguments, each list with its path."""
        return [
            (f"{step.where}.{part}", step.container.get(part)) for step in self.steps for part in ("command", "args")
        ]

    def default(self, name: str) -> str:
        """The default of an input of the pipeline; empty: none."""
        return text(mapping(self.pipeline.inputs.get(name)).get("defaultValue"))
