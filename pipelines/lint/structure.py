"""The rules about the file itself: what refers to nothing, what the official parser does not take."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pipelines.lint.finding import Note, error, warning
from pipelines.lint.view import View, child, listing, mapping, text

# What protobuf's JSON parser raises beside its own error where a value is of no kind that JSON has.
_REFUSALS = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


def dangling_reference(view: View) -> Iterator[Note]:
    """References to components, executors, tasks, inputs and outputs that are not there; what nothing refers to."""
    dangling = [*_dangling(view)]
    yield from dangling
    if not dangling:  # else what nothing refers to is the other half of a reference that is wrong
        yield from _unused(view)


def _dangling(view: View) -> Iterator[Note]:
    for where, component, tasks in view.dags:
        parameters = _declared(component, "inputDefinitions", "parameters")
        artifacts = _declared(component, "inputDefinitions", "artifacts")
        for name, task in tasks.items():
            place = child(f"{where}.dag.tasks", name)
            called = _called(task)
            if called not in view.components:
                advice = f"components are {_names(view.components)}"
                yield error(f"{place}.componentRef.name", f"there is no component {called or '(none)'}", advice)
            else:
                yield from _missing_inputs(place, task, view.components[called])
            yield from _inputs(view, place, task, tasks, parameters, artifacts)
            for index, other in enumerate(listing(task.get("dependentTasks"))):
                if text(other) not in tasks:
                    yield _no_task(f"{place}.dependentTasks[{index}]", text(other) or "(none)", tasks)
    for name, component in view.components.items():
        label = text(component.get("executorLabel"))
        if not mapping(component.get("dag")) and label not in view.executors:
            advice = f"executors are {_names(view.executors)}"
            where = f"{child('components', name)}.executorLabel"
            yield error(where, f"there is no executor {label or '(none)'}", advice)
    yield from _endless(view)
    for label in view.kubernetes:
        if label not in view.executors:
            where = child("platforms.kubernetes.deploymentSpec.executors", label)
            yield error(where, "settings of an executor that is not there have no effect", "remove or rename them")


def _endless(view: View) -> Iterator[Note]:
    """Components that are made of themselves, directly or by others between."""
    parts = {where: {child("components", _called(task)) for task in tasks.values()} for where, _, tasks in view.dags}
    for where in parts:
        reached: set[str] = set()
        ahead = [where]
        while ahead:
            new = parts.get(ahead.pop(), set()) - reached
            reached |= new
            ahead += new
        if where in reached:
            yield error(where, "the component is made of itself, so it has no end", "take the task that leads back out")


def _unused(view: View) -> Iterator[Note]:
    components = {_called(task) for _, _, tasks in view.dags for task in tasks.values()}
    executors = {text(component.get("executorLabel")) for component in view.components.values()}
    for name in view.components:
        if name not in components:
            yield warning(child("components", name), "no task refers to the component", "remove it")
    for label, executor in view.executors.items():
        if label not in executors:
            yield warning(executor.where, "no component refers to the executor", "remove it")


def _called(task: Mapping[str, Any]) -> str:
    return text(mapping(task.get("componentRef")).get("name"))


def _declared(component: Mapping[str, Any], part: str, kind: str) -> dict[str, Any]:
    return mapping(mapping(component.get(part)).get(kind))


def _names(named: Mapping[str, object]) -> str:
    return ", ".join(sorted(named)) or "none"


def _no_task(where: str, name: str, tasks: Mapping[str, object]) -> Note:
    return error(where, f"there is no task {name} beside this one", f"tasks here are {_names(tasks)}")


def _missing_inputs(place: str, task: Mapping[str, Any], component: Mapping[str, Any]) -> Iterator[Note]:
    iterators = (mapping(task.get(f"{kind}Iterator")) for kind in ("parameter", "artifact"))
    from_loop = {text(iterator.get("itemInput")) for iterator in iterators}
    for kind in ("parameters", "artifacts"):
        given = mapping(mapping(task.get("inputs")).get(kind))
        for name, definition in _declared(component, "inputDefinitions", kind).items():
            wanted = mapping(definition)
            optional = wanted.get("isOptional") is True or "defaultValue" in wanted
            if name not in given and name not in from_loop and not optional:
                yield error(f"{place}.inputs.{kind}", f"the input {name} is not given", "give it, or a default")


def _inputs(
    view: View,
    place: str,
    task: Mapping[str, Any],
    tasks: Mapping[str, dict[str, Any]],
    parameters: Mapping[str, Any],
    artifacts: Mapping[str, Any],
) -> Iterator[Note]:
    kinds = (("parameters", "Parameter", parameters), ("artifacts", "Artifact", artifacts))
    for kind, title, declared in kinds:
        for name, item in mapping(mapping(task.get("inputs")).get(kind)).items():
            source, where = mapping(item), child(f"{place}.inputs.{kind}", name)
            outer = text(source.get(f"componentInput{title}"))
            if outer and outer not in declared:
                advice = f"inputs around it are {_names(declared)}"
                yield error(f"{where}.componentInput{title}", f"there is no input {outer}", advice)
            for field in (f"taskOutput{title}", "taskFinalStatus"):
                producer = mapping(source.get(field))
                called = text(producer.get("producerTask"))
                if not producer:
                    continue
                if called not in tasks:
                    yield _no_task(f"{where}.{field}.producerTask", called or "(none)", tasks)
                elif field != "taskFinalStatus":
                    made_by = _called(tasks[called])
                    made = _declared(view.components.get(made_by, {}), "outputDefinitions", kind)
                    output = text(producer.get(f"output{title}Key"))
                    if made_by in view.components and output not in made:
                        advice = f"outputs of {called} are {_names(made)}"
                        yield error(f"{where}.{field}.output{title}Key", f"there is no output {output}", advice)


def ir_schema(view: View) -> Iterator[Note]:
    """What the official protobuf of KFP does not take: unknown fields, values of another kind."""
    from google.protobuf import json_format  # type: ignore[import-untyped] # publishes no types
    from kfp.kubernetes import kubernetes_executor_config_pb2
    from kfp.pipeline_spec import pipeline_spec_pb2

    refusals = (json_format.Error, *_REFUSALS)

    def parsed(where: str, value: Any, message: Callable[[], Any]) -> Iterator[Note]:
        try:
            json_format.ParseDict(value, message())
        except refusals as problem:
            words = " ".join(str(problem).split()) or type(problem).__name__
            yield error(where, f"KFP's own parser says: {words}", "compile the pipeline anew, or correct the field")

    # The deployment's own message is looked at below: inside the pipeline it is any mapping.
    yield from parsed("pipelineInfo", view.pipeline.spec, pipeline_spec_pb2.PipelineSpec)
    for label, executor in mapping(mapping(view.spec.get("deploymentSpec")).get("executors")).items():
        where = child("deploymentSpec.executors", label)
        yield from parsed(where, executor, pipeline_spec_pb2.PipelineDeploymentConfig.ExecutorSpec)
    if not view.pipeline.platforms:
        return
    yield from parsed("platforms", {"platforms": view.pipeline.platforms}, pipeline_spec_pb2.PlatformSpec)
    for label, settings in view.kubernetes.items():
        where = child("platforms.kubernetes.deploymentSpec.executors", label)
        yield from parsed(where, settings, kubernetes_executor_config_pb2.KubernetesExecutorConfig)
    for name in mapping(view.pipeline.platforms):
        if name != "kubernetes":
            yield warning(child("platforms", name), f"Kubeflow Pipelines knows no platform {name}", "remove it")
