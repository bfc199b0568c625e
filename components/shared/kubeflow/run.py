"""How a run of Kubeflow Pipelines is doing, read from the answers of its API; nothing is asked here.

Kubeflow lists a run's nodes, not its tasks: a task ``train`` appears as ``train``, ``train(0)``, ``train-driver``,
``executor``, ``executor(0)`` and more. Argo's workflow, where the API still gives it, has the tree of these nodes with
their pods and messages; without it the names and times in the list are all there is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from components.shared.kubeflow.fields import (
    FINAL,
    HANDLER,
    ON_EXIT,
    POD_STATES,
    Stop,
    as_body,
    earlier_attempts,
    history,
    items,
    mapping,
    moment,
    text,
)
from components.shared.kubeflow.report import (
    ENDED,
    BodyState,
    PodAttempt,
    RunReport,
    RunState,
    TaskReport,
    TaskState,
)
from components.shared.kubeflow.task_list import body_of_list, tasks_of_list

_RUN_STATES: dict[str, RunState] = {
    "PENDING": "pending",
    "PAUSED": "paused",
    "RUNNING": "running",
    "SUCCEEDED": "succeeded",
    "FAILED": "failed",
    "CANCELING": "cancelling",
    "CANCELED": "cancelled",
    "SKIPPED": "cancelled",
}
_PHASES: dict[str, TaskState] = {
    "": "waiting",
    "Pending": "waiting",
    "Running": "running",
    "Succeeded": "succeeded",
    "Failed": "failed",
    "Error": "failed",
    "Omitted": "skipped",
    "Skipped": "skipped",
}

# What every pod goes through.
_PASSING = frozenset({"", "PodInitializing", "ContainerCreating"})
# Argo's suffix of a node that is an attempt of another; an iteration's is (0:0).
_ATTEMPT = re.compile(r"\(\d+\)(?=\.|$)")
# Argo 4.0, workflow/util/pod_name.go: a name of Kubernetes has 253 characters, the hash and its dash 11 of them.
_LONGEST_PREFIX = 242
_POD_NAMES = "workflows.argoproj.io/pod-name-format"


def read_run(run: Mapping[str, Any], workflow: Mapping[str, Any] | None = None) -> RunReport:
    """How a run is doing. What is missing or of another type is passed over: an odd answer reads as ``unknown``.

    Args:
        run: JSON of ``GET /apis/v2beta1/runs/ID``.
        workflow: JSON of ``GET /apis/v1beta1/runs/ID``, which holds Argo's workflow as a text of JSON in
            ``pipeline_runtime.workflow_manifest``; None where there is no such answer: then pods and messages are not
            known.
    """
    answer = mapping(run)
    states = history(answer)
    ends = [place for place, (state, _) in enumerate(states) if state in FINAL]
    restarts = [place for place, (state, _) in enumerate(states) if state == "RUNNING" and ends and place > ends[0]]
    newest = states[restarts[-1] :] if restarts else states
    stops = [when for state, when in newest if state in ("CANCELING", "CANCELED")]
    state = _RUN_STATES.get(text(answer.get("state")), "unknown")
    if stops and state == "failed":
        state = "cancelled"
    stop = Stop(bool(stops) or state == "cancelled", next((when for when in stops if when is not None), None))

    details = list(map(mapping, items(mapping(answer.get("run_details")).get("task_details"))))
    manifest = _manifest(workflow)
    nodes = list(_nodes(manifest))
    found = _tasks_of_nodes(nodes, _lives(details), stop) if nodes else tasks_of_list(details, stop)
    tasks: dict[str, TaskReport] = {}
    for task in found:
        if restarts and state not in ENDED and task.state == "skipped":
            continue  # by the attempt before, which the list remembers
        name, number = task.name, 2
        while name in tasks:
            name, number = f"{task.name} {number}", number + 1
        tasks[name] = replace(task, name=name, state=_at_the_end(task.state, state))
    body = _body_of_nodes(nodes) if nodes else body_of_list(details)
    return RunReport(
        state=state,
        tasks=tasks,
        retried=bool(restarts),
        body="cancelled" if body == "failed" and stop.asked else body,
        message=text(mapping(answer.get("error")).get("message"))
        or text(mapping(manifest.get("status")).get("message")),
    )


def _at_the_end(task: TaskState, run: RunState) -> TaskState:
    """A task's state where the run has ended: the list of nodes may be older than the run's state."""
    if run not in ENDED or task not in ("waiting", "running"):
        return task
    return "cancelled" if run == "cancelled" else "unknown"


@dataclass(frozen=True)
class _Node:
    """A node of Argo's workflow."""

    path: str  # its name without the suffixes of attempts: workflow.root.exit-handler-1.train.executor
    kind: str
    phase: str
    template: str
    message: str
    pod: str
    name: str
    started: datetime | None
    finished: datetime | None

    @property
    def state(self) -> TaskState:
        return _PHASES.get(self.phase, "unknown")

    @property
    def order(self) -> tuple[bool, float, str]:
        return self.started is None, self.started.timestamp() if self.started else 0.0, self.name

    def attempt(self, number: int) -> PodAttempt:
        state = POD_STATES.get(self.state, "waiting")
        return PodAttempt(number, self.pod, state, self.message, self.started, self.finished)


def _nodes(manifest: Mapping[str, Any]) -> Iterator[_Node]:
    metadata = mapping(manifest.get("metadata"))
    workflow = text(metadata.get("name"))
    by_template = text(mapping(metadata.get("annotations")).get(_POD_NAMES)) == "v2"
    for key, value in mapping(mapping(manifest.get("status")).get("nodes")).items():
        node = mapping(value)
        name, kind = text(node.get("name")), text(node.get("type"))
        template = text(mapping(node.get("templateRef")).get("template")) or text(node.get("templateName"))
        identity = text(node.get("id")) or str(key)
        pod = identity if kind == "Pod" else ""
        if pod and by_template and pod != workflow:
            pod = f"{f'{workflow}-{template}'[:_LONGEST_PREFIX]}-{identity.rpartition('-')[2]}"
        yield _Node(
            _ATTEMPT.sub("", name),
            kind,
            text(node.get("phase")),
            template,
            text(node.get("message")),
            pod,
            name,
            moment(node.get("startedAt")),
            moment(node.get("finishedAt")),
        )


@dataclass
class _Parts:
    """The nodes that one task consists of."""

    own: _Node | None = None
    executor: _Node | None = None
    driver: _Node | None = None
    pods: tuple[_Node, ...] = ()
    driver_pods: tuple[_Node, ...] = ()


def _tasks_of_nodes(
    nodes: Iterable[_Node], lives: Mapping[str, list[tuple[str, datetime | None]]], stop: Stop
) -> list[TaskReport]:
    parts: dict[str, _Parts] = {}
    for node in sorted(nodes, key=lambda node: node.order):
        parent, _, last = node.path.rpartition(".")
        if node.template.endswith("-driver"):
            task = parts.setdefault(node.path.removesuffix("-driver"), _Parts())
            task.driver = _chosen(task.driver, node)
            task.driver_pods += (node,) if node.kind == "Pod" else ()
        elif last == "executor":
            task = parts.setdefault(parent, _Parts())
            task.executor = _chosen(task.executor, node)
            task.pods += (node,) if node.kind == "Pod" else ()
        else:
            task = parts.setdefault(node.path, _Parts())
            task.own = _chosen(task.own, node)
            task.pods += (node,) if node.kind == "Pod" else ()  # an importer, and what was not compiled by kfp
    found = []
    for path, task in parts.items():
        name = path.rpartition(".")[2]
        report = _task_of_nodes(name, task, lives.get(name, []), stop)
        if report is not None:
            first = min(node.order for node in (task.own, task.executor, task.driver, *task.pods) if node is not None)
            if task.driver is not None and task.driver_pods:
                first = min(first, *(node.order for node in task.driver_pods))
            exit_task = ON_EXIT in path
            found.append((exit_task, first, replace(report, exit_task=exit_task)))
    return [report for *_, report in sorted(found, key=lambda each: each[:2])]


def _chosen(one: _Node | None, other: _Node) -> _Node:
    """Of a node and its attempts the node, which knows whether there will be another."""
    return other if one is None or _ATTEMPT.search(one.name.rpartition(".")[2]) else one


def _task_of_nodes(name: str, parts: _Parts, life: list[tuple[str, datetime | None]], stop: Stop) -> TaskReport | None:
    own, driver = parts.own, parts.driver
    is_task = bool(parts.pods or parts.executor) or (own is not None and own.template.endswith("container-executor"))
    begins = own is None or own.state == "skipped"
    if driver is not None and begins and driver.state != "skipped":
        return _task_of_driver(name, parts, driver, stop, is_task)
    if not is_task:
        return None
    earlier = earlier_attempts(life)
    attempts = (*earlier, *(node.attempt(number) for number, node in enumerate(parts.pods, len(earlier))))
    last = attempts[-1] if parts.pods else None
    state: TaskState = own.state if own is not None else (last.state if last is not None else "waiting")
    message = next((each for node in (parts.executor, own) if node is not None and (each := node.message)), "")
    if state == "succeeded" and parts.executor is not None and parts.executor.state == "skipped":
        state = "cached"
    elif state == "failed" and stop.ended(last):
        state = "cancelled"
    elif state == "running" and last is None:
        state = "waiting"
    elif state == "running" and last is not None and last.state in ("waiting", "failed"):
        state = "waiting"  # a pod that failed: for the next, or for Argo to call it the last
    if state not in ("waiting", "failed", "cancelled"):
        message = ""
    elif last is not None and last.message:
        message = last.message
    return TaskReport(name, state, attempts, message, retried=bool(earlier))


def _task_of_driver(name: str, parts: _Parts, driver: _Node, stop: Stop, is_task: bool) -> TaskReport | None:
    """A task that has not begun: Kubeflow runs a pod before each that finds its inputs and asks the cache."""
    last = parts.driver_pods[-1] if parts.driver_pods else driver
    failed = driver.state == "failed"
    if not is_task and driver.template.endswith("dag-driver"):
        # Of a group of tasks: worth a line only if the run ends or stays there.
        if not failed and (last.state != "waiting" or last.message in _PASSING):
            return None
        name = f"{name}-driver"
    attempts = tuple(node.attempt(number) for number, node in enumerate(parts.driver_pods)) if failed else ()
    state: TaskState = "waiting"
    if failed:
        state = "cancelled" if stop.ended(attempts[-1] if attempts else None) else "failed"
    message = last.message or driver.message if failed or last.state == "waiting" else ""
    return TaskReport(name, state, attempts, f"driver: {message}" if message not in _PASSING else message)


def _body_of_nodes(nodes: Iterable[_Node]) -> BodyState:
    handler: _Node | None = None
    for node in nodes:
        if HANDLER.fullmatch(node.path.rpartition(".")[2]):
            handler = _chosen(handler, node)
    return as_body(handler.state) if handler is not None else "unknown"


def _lives(details: Iterable[Mapping[str, Any]]) -> dict[str, list[tuple[str, datetime | None]]]:
    """The history of each task whose name is its alone."""
    lives: dict[str, list[tuple[str, datetime | None]]] = {}
    twice = set()
    for detail in details:
        name = text(detail.get("display_name"))
        if name in lives:
            twice.add(name)
        lives[name] = history(detail)
    return {name: life for name, life in lives.items() if name not in twice}


def _manifest(workflow: Mapping[str, Any] | None) -> Mapping[str, Any]:
    given = mapping(mapping(workflow).get("pipeline_runtime")).get("workflow_manifest")
    try:
        return mapping(json.loads(given)) if isinstance(given, str) else mapping(given)
    except (ValueError, RecursionError):
        return {}
