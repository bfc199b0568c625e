"""The rules about what a step asks for: accelerators, processors, memory, the machine that has them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pipelines.compiled import PLACEHOLDER, PLATFORM_TITLES, PLATFORMS, TARGET_VARIABLE, PlatformName
from pipelines.lint.finding import Note, error, warning
from pipelines.lint.images import DRIVER_OPERATIONS
from pipelines.lint.quantities import asked, unit_problem
from pipelines.lint.view import Executor, View, mapping
from pipelines.vertex_limits import ACCELERATORS, machine_problem

_RESOURCE = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
# Vertex AI has them too; which machines they come in is not checked.
_TPU = re.compile(r"TPU_V[0-9]+[A-Z_]*")
_GKE_ACCELERATOR = "cloud.google.com/gke-accelerator"


def _type_where(executor: Executor) -> str:
    given = mapping(executor.resources.get("accelerator"))
    return f"{executor.container_where}.resources.accelerator.{'type' if given.get('type') else 'resourceType'}"


def _accelerated(view: View) -> Iterator[tuple[Executor, str]]:
    """Executors and the type of the accelerators that each names."""
    for executor in view.containers:
        kind, _ = executor.accelerator
        if kind and not PLACEHOLDER.search(kind):
            yield executor, kind


def _platform_of(kind: str) -> PlatformName | None:
    """Whose name for an accelerator it is."""
    if _RESOURCE.fullmatch(kind):
        return "kubeflow"
    return "vertex" if kind in ACCELERATORS or _TPU.fullmatch(kind) else None


def platform_of_accelerators(view: View) -> PlatformName | None:
    """The platform whose names a file has for all its accelerators; None: it has none, or they differ."""
    found = {_platform_of(kind) for _, kind in _accelerated(view)}
    return found.pop() if len(found) == 1 else None


def foreign_accelerator(view: View) -> Iterator[Note]:
    """Accelerators by a name that the platform does not know.

    Kubernetes knows resources of device plugins such as ``nvidia.com/gpu``, Vertex AI the types of Google's machines
    such as ``NVIDIA_L4``.
    """
    for executor, kind in _accelerated(view):
        where = _type_where(executor)
        of_kubernetes, of_vertex = _platform_of(kind) == "kubeflow", _platform_of(kind) == "vertex"
        if view.target == "vertex" and not of_vertex:
            what = (
                "is a resource of Kubernetes" if of_kubernetes else "is no accelerator that Vertex AI is known to have"
            )
            yield error(where, f"{kind} {what}", f"Vertex AI has {', '.join(ACCELERATORS)}")
        elif view.target == "kubeflow" and not of_kubernetes:
            what = "is a name of Vertex AI" if of_vertex else "is no resource of a Kubernetes node"
            advice = "ask for nvidia.com/gpu, or what the device plugin calls it; choose the model by a node selector"
            yield error(where, f"{kind} {what}", advice)
        elif not of_kubernetes and not of_vertex:
            advice = f"Kubeflow takes nvidia.com/gpu and the like, Vertex AI {', '.join(ACCELERATORS)}"
            yield error(where, f"{kind} is an accelerator of neither platform", advice)
    if view.target is None and len({_platform_of(kind) for _, kind in _accelerated(view)} - {None}) > 1:
        yield error(
            "deploymentSpec.executors",
            "some steps name accelerators as Kubernetes does, others as Vertex AI does, so no platform runs them all",
            "compile one file for each platform: `shutterline compile --target …`",
        )
    if view.target == "vertex":
        for executor in view.containers:
            selector = mapping(mapping(executor.kubernetes.get("nodeSelector")).get("labels"))
            if _GKE_ACCELERATOR in selector:
                where = f'{executor.kubernetes_where}.nodeSelector.labels["{_GKE_ACCELERATOR}"]'
                advice = "name the accelerator's type and count instead"
                yield error(where, "Vertex AI has no nodes to select", advice)


def vertex_machine(view: View) -> Iterator[Note]:
    """What no machine of Vertex AI has: a count the accelerator does not come in, too much beside it."""
    if view.target != "vertex":
        return
    for executor in view.containers:
        kind, count = executor.accelerator
        accelerated = kind in ACCELERATORS and count.isdigit() and int(count) > 0
        if kind and not accelerated:
            continue
        cpu, memory = asked(executor, "cpu", "Limit"), asked(executor, "memory", "Limit")
        problem = machine_problem(
            None if cpu.amount is None else cpu.written,
            None if memory.amount is None else memory.written,
            kind if accelerated else None,
            int(count) if accelerated else 0,
        )
        if problem:
            where = f"{executor.container_where}.resources"
            yield error(where, problem, "ask for what one machine has; Vertex AI takes the smallest that has it all")


def limits(view: View) -> Iterator[Note]:
    """Steps without limits (warning), an accelerator without count or type, requests above limits (errors).

    Without a limit of memory a step that grows takes its node down, and others with it; Vertex AI takes a machine of
    its own choice.
    """
    for executor in view.containers:
        if executor.image in DRIVER_OPERATIONS:
            continue
        for resource in ("cpu", "memory"):
            yield from _limits_of(view, executor, resource)
        kind, count = executor.accelerator
        where = f"{executor.container_where}.resources.accelerator"
        if kind and not PLACEHOLDER.search(kind) and not count:
            yield error(where, f"{kind} without a count, so the step gets none", "say how many")
        elif count and not kind:
            yield error(where, "a count of accelerators without their type, so the step gets none", "say which")
        elif count and not PLACEHOLDER.search(count) and not count.isdigit():
            yield error(where, f"{count} is no count of accelerators", "say how many, in digits")
        selector = mapping(mapping(executor.kubernetes.get("nodeSelector")).get("labels"))
        if view.target != "vertex" and _GKE_ACCELERATOR in selector and not executor.accelerates:
            place = f"{executor.kubernetes_where}.nodeSelector"
            message = "the step is placed on a node with accelerators and asks for none, so it cannot use them"
            yield warning(place, message, "ask for nvidia.com/gpu as well, or leave the node selector out")


def _limits_of(view: View, executor: Executor, resource: str) -> Iterator[Note]:
    title = "processors" if resource == "cpu" else "memory"
    limit, request = asked(executor, resource, "Limit"), asked(executor, resource, "Request")
    for quantity in (limit, request):
        if quantity.unreadable:
            example = "4, 0.5 or 500m" if resource == "cpu" else "16Gi, 512Mi or 64G"
            yield error(quantity.where, f"{quantity.written} is no amount of {title}", f"write it such as {example}")
        elif problem := unit_problem(quantity.written, view.target):
            yield error(quantity.where, problem, "write it with Ki or M")
    if not limit.written and not limit.later:
        advice = f"set one: {resource} in the settings, or set_{resource}_limit of the task"
        yield warning(f"{executor.container_where}.resources", f"the step has no limit of {title}", advice)
    if limit.amount is not None and request.amount is not None and request.amount > limit.amount:
        message = f"asks for {request.written} of {title}, above the limit of {limit.written}; Kubernetes refuses it"
        yield error(request.where, message, "raise the limit or lower the request")


def foreign_platform(view: View) -> Iterator[Note]:
    """A file, or a part of it, for another platform than the one it shall run on."""
    for executor in view.containers:
        for where, name, value in executor.environment:
            if name != TARGET_VARIABLE or view.target is None:
                continue
            for other in PLATFORMS:
                if value == other != view.target:
                    advice = f"compile it with `shutterline compile --target {view.target}`"
                    yield error(f"{where}.value", f"the step was compiled for {PLATFORM_TITLES[other]}", advice)
    if view.target != "vertex":
        return
    if view.pipeline.documents > 1:
        yield error(
            "platforms",
            "the file has a second document, of Kubernetes' settings, which Vertex AI's client cannot read",
            "compile it with `shutterline compile --target vertex`",
        )
    for executor in view.containers:
        if executor.image in DRIVER_OPERATIONS:
            where = f"{executor.container_where}.image"
            yield error(where, "a step that makes or deletes a claim on Kubernetes", "use gs:// or /gcs/ on Vertex AI")
