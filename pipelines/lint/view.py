"""A compiled pipeline as rules look at it: every part with its place in the file, nothing taken for granted.

Foreign files may hold anything that YAML can say. What is not of the kind that is looked for reads as empty here; that
it is not is said by the rule ``ir-schema``, which asks the official parser.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from pipelines.compiled import CompiledPipeline, PlatformName

# A pipeline of more is none that a person wrote: it is the work of references that multiply.
_MOST_STEPS = 10_000
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+")
# Steps of ours say so in their source.
_OURS = re.compile(r"\bfrom components\.([a-z_]+)\.")


def mapping(value: Any) -> dict[str, Any]:
    """A mapping with texts for keys; empty if it is none."""
    return {str(key): item for key, item in value.items()} if isinstance(value, dict) else {}


def listing(value: Any) -> list[Any]:
    """A list; empty if it is none."""
    return value if isinstance(value, list) else []


def text(value: Any) -> str:
    """A text; empty if it is none."""
    return value if isinstance(value, str) else ""


def child(where: str, key: str | int) -> str:
    """The place of what a mapping or list holds."""
    if isinstance(key, int):
        return f"{where}[{key}]"
    return f"{where}.{key}" if _PLAIN_KEY.fullmatch(key) else f'{where}["{key}"]'


def walk(value: Any, where: str) -> Iterator[tuple[str, str, Any]]:
    """Everything a value holds that is neither mapping nor list: its place, the nearest key, itself."""
    stack = [(where, where.rpartition(".")[2], value)]
    while stack:
        place, key, item = stack.pop()
        if isinstance(item, dict):
            stack += reversed([(child(place, str(name)), str(name), inner) for name, inner in item.items()])
        elif isinstance(item, list):
            stack += reversed([(child(place, index), key, inner) for index, inner in enumerate(item)])
        else:
            yield place, key, item


@dataclass(frozen=True)
class Executor:
    """What runs a step.

    Attributes:
        label: Its name.
        where: Its place.
        container: Its container; empty for one without, such as an importer.
        kubernetes: What the platforms' document says of it.
        kubernetes_where: The place of that.
    """

    label: str
    where: str
    container: dict[str, Any]
    kubernetes: dict[str, Any]
    kubernetes_where: str

    @property
    def container_where(self) -> str:
        """The container's place."""
        return f"{self.where}.container"

    @property
    def resources(self) -> dict[str, Any]:
        """What it asks for."""
        return mapping(self.container.get("resources"))

    @property
    def image(self) -> str:
        """Its image."""
        return text(self.container.get("image"))

    @property
    def words(self) -> list[str]:
        """Command and arguments."""
        return [text(word) for part in ("command", "args") for word in listing(self.container.get(part))]

    @property
    def environment(self) -> list[tuple[str, str, str]]:
        """The environment variables: place, name, value."""
        entries = enumerate(map(mapping, listing(self.container.get("env"))))
        return [
            (f"{self.container_where}.env[{index}]", text(entry.get("name")), written(entry.get("value")))
            for index, entry in entries
        ]

    @property
    def accelerator(self) -> tuple[str, str]:
        """Type and count of its accelerators as they are written; either may be empty."""
        asked = mapping(self.resources.get("accelerator"))
        kind = written(asked.get("resourceType")) or written(asked.get("type"))
        return kind, written(asked.get("resourceCount")) or written(asked.get("count"))

    @property
    def accelerates(self) -> bool:
        """Whether it gets any."""
        kind, count = self.accelerator
        return bool(kind) and count not in ("", "0")

    @property
    def mounts(self) -> list[tuple[str, str]]:
        """What is mounted: the field of the Kubernetes configuration, and the path."""
        return [
            (kind, path)
            for kind in MOUNTS
            for entry in map(mapping, listing(self.kubernetes.get(kind)))
            if (path := text(entry.get("mountPath")))
        ]

    def mounted(self, path: str, *kinds: str) -> bool:
        """Whether a path lies in a mount of one of these kinds."""
        return any(kind in kinds and PurePosixPath(path).is_relative_to(mount) for kind, mount in self.mounts)

    @property
    def ours(self) -> str:
        """Which of our components it runs, such as ``train``; empty: none."""
        named = [name for word in self.words for name in _OURS.findall(word)]
        return next((name for name in named if name in ("data_prep", "train", "evaluate", "exit_step")), "")


MOUNTS = ("secretAsVolume", "configMapAsVolume", "pvcMount", "genericEphemeralVolume", "emptyDirMounts")


def written(value: Any) -> str:
    """A scalar as text."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Value:
    """A literal that an input has: in a task, or by the default of the pipeline's input it comes from."""

    where: str
    value: Any


@dataclass(frozen=True)
class Step:
    """A task that a container runs, as often as the pipeline has it.

    Attributes:
        where: Its place.
        task: The task.
        component: Its component.
        executor: What runs it.
        values: Its inputs, where they are known before a run.
    """

    where: str
    task: dict[str, Any]
    component: dict[str, Any]
    executor: Executor
    values: dict[str, Value]

    @property
    def cached(self) -> bool:
        """Whether an earlier result may be taken instead."""
        return mapping(self.task.get("cachingOptions")).get("enableCache") is True

    @property
    def has_outputs(self) -> bool:
        """Whether it makes anything the pipeline knows of."""
        made = mapping(self.component.get("outputDefinitions"))
        return bool(mapping(made.get("artifacts")) or mapping(made.get("parameters")))

    @property
    def at_exit(self) -> bool:
        """Whether it is an exit handler's: a task that ignores what became of others has the same trigger."""
        parameters = mapping(mapping(self.component.get("inputDefinitions")).get("parameters")).values()
        told = any(mapping(each).get("parameterType") == "TASK_FINAL_STATUS" for each in parameters)
        after = any(text(name).startswith("exit-handler-") for name in listing(self.task.get("dependentTasks")))
        at_last = mapping(self.task.get("triggerPolicy")).get("strategy") == "ALL_UPSTREAM_TASKS_COMPLETED"
        return at_last and (told or after)

    @property
    def retries(self) -> int:
        """How often it is started again."""
        count = mapping(self.task.get("retryPolicy")).get("maxRetryCount")
        return count if isinstance(count, int) else 0


@dataclass(frozen=True)
class View:
    """A compiled pipeline, and the platform it is looked at for; None: any."""

    pipeline: CompiledPipeline
    target: PlatformName | None
    spec: dict[str, Any] = field(init=False)
    components: dict[str, dict[str, Any]] = field(init=False)
    executors: dict[str, Executor] = field(init=False)
    inputs: dict[str, dict[str, Any]] = field(init=False)
    steps: tuple[Step, ...] = field(init=False)

    def __post_init__(self) -> None:
        spec = mapping(self.pipeline.spec)
        components = {name: mapping(item) for name, item in mapping(spec.get("components")).items()}
        for name, value in (
            ("spec", spec),
            ("components", components),
            ("executors", _executors(spec, self.kubernetes)),
            ("inputs", _inputs(mapping(spec.get("root")))),
        ):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "steps", tuple(self._steps()))

    @property
    def kubernetes(self) -> dict[str, Any]:
        """What the platforms' document says of the executors on Kubernetes, by label."""
        document = mapping(mapping(self.pipeline.platforms).get("kubernetes"))
        return mapping(mapping(document.get("deploymentSpec")).get("executors"))

    @property
    def containers(self) -> list[Executor]:
        """The executors that run a container."""
        return [executor for executor in self.executors.values() if executor.container]

    @property
    def dags(self) -> list[tuple[str, dict[str, Any], dict[str, dict[str, Any]]]]:
        """Each component that is made of tasks: its place, itself, its tasks."""
        found = [("root", mapping(self.spec.get("root")))]
        found += [(child("components", name), component) for name, component in self.components.items()]
        return [
            (where, component, {name: mapping(task) for name, task in mapping(dag.get("tasks")).items()})
            for where, component in found
            if (dag := mapping(component.get("dag")))
        ]

    def _steps(self) -> Iterator[Step]:
        root = mapping(self.spec.get("root"))
        defaults = {
            name: Value(f"{child('root.inputDefinitions.parameters', name)}.defaultValue", definition["defaultValue"])
            for name, definition in self.inputs.items()
            if "defaultValue" in definition
        }
        stack = [("root", root, defaults, frozenset[str]())]
        visited = 0
        while stack and visited < _MOST_STEPS:
            where, component, known, above = stack.pop()
            for name, item in mapping(mapping(component.get("dag")).get("tasks")).items():
                visited += 1
                task, place = mapping(item), child(f"{where}.dag.tasks", name)
                called = text(mapping(task.get("componentRef")).get("name"))
                inner = self.components.get(called, {})
                values = _values(task, place, inner, called, known)
                executor = self.executors.get(text(inner.get("executorLabel")))
                if executor is not None:
                    yield Step(place, task, inner, executor, values)
                elif called not in above:
                    stack.append((child("components", called), inner, values, above | {called}))


def _inputs(component: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    parameters = mapping(mapping(component.get("inputDefinitions")).get("parameters"))
    return {name: mapping(definition) for name, definition in parameters.items()}


def _executors(spec: Mapping[str, Any], kubernetes: Mapping[str, Any]) -> dict[str, Executor]:
    executors = mapping(mapping(spec.get("deploymentSpec")).get("executors"))
    return {
        label: Executor(
            label,
            child("deploymentSpec.executors", label),
            mapping(mapping(executor).get("container")),
            mapping(kubernetes.get(label)),
            child("platforms.kubernetes.deploymentSpec.executors", label),
        )
        for label, executor in executors.items()
    }


def _values(
    task: Mapping[str, Any], where: str, component: Mapping[str, Any], called: str, known: Mapping[str, Value]
) -> dict[str, Value]:
    """The inputs of a task that are known before a run: literals, and what the inputs around it are known to be."""
    found = {
        name: Value(f"{child('components', called)}.inputDefinitions.parameters.{name}.defaultValue", given)
        for name, definition in _inputs(component).items()
        if (given := definition.get("defaultValue")) is not None
    }
    for name, item in mapping(mapping(task.get("inputs")).get("parameters")).items():
        source = mapping(item)
        found.pop(name, None)
        outer = text(source.get("componentInputParameter"))
        runtime = mapping(source.get("runtimeValue"))
        if outer in known:
            found[name] = known[outer]
        elif "constant" in runtime:
            place = f"{child(f'{where}.inputs.parameters', name)}.runtimeValue.constant"
            found[name] = Value(place, runtime["constant"])
    return found
