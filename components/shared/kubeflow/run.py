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
from datetime import UTC, datetime
from typing import Any, TypeVar

from components.shared.kubeflow.report import (
    ENDED,
    BodyState,
    PodAttempt,
    PodState,
    RunReport,
    RunState,
    TaskReport,
    TaskState,
)

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
# Of nodes: Argo's phases, and the states of Kubeflow's list.
_STATES: dict[str, TaskState] = {
    "": "waiting",
    "Pending": "waiting",
    "PENDING": "waiting",
    "Running": "running",
    "RUNNING": "running",
    "CANCELING": "running",
    "Succeeded": "succeeded",
    "SUCCEEDED": "succeeded",
    "Failed": "failed",
    "Error": "failed",
    "FAILED": "failed",
    "CANCELED": "cancelled",
    "Omitted": "skipped",
    "Skipped": "skipped",
    "SKIPPED": "skipped",
}
_POD_STATES: dict[TaskState, PodState] = {
    "waiting": "waiting",
    "running": "running",
    "succeeded": "succeeded",
    "failed": "failed",
}
_BODY_STATES: dict[TaskState, BodyState] = {
    "waiting": "running",
    "running": "running",
    "succeeded": "succeeded",
    "failed": "failed",
    "cancelled": "cancelled",
}
_FINAL = frozenset({"SUCCEEDED", "FAILED", "CANCELED"})
_KILLED = re.compile(r"\(exit code 1(?:43|37)\)")
_HANDLER = re.compile(r"exit-handler-\d+")
_ON_EXIT = ".onExit"
# What every pod goes through.
_PASSING = frozenset({"", "PodInitializing", "ContainerCreating"})
# Argo's suffix of a node that is an attempt of another; an iteration's is (0:0).
_ATTEMPT = re.compile(r"\(\d+\)(?=\.|$)")
# Argo 4.0, workflow/util/pod_name.go: a name of Kubernetes has 253 characters, the hash and its dash 11 of them.
_LONGEST_PREFIX = 242
_POD_NAMES = "workflows.argoproj.io/pod-name-format"
# What the list holds beside the tasks: the root, executors, attempts, iterations, and what kfp makes of control flow.
_NOT_TASKS = re.compile(
    r"|root|executor|.*\(.*|.*\.onExit|.*-driver|(?:exit-handler|for-loop|condition|condition-branches)-\d+"
    r"|iteration-iterations"
)
_AT_ONCE_S = 2.0  # in which a task of the cache ends: no pod is started for it

T = TypeVar("T")
_History = list[tuple[str, datetime | None]]  # states that a run or task went through, each with its time


def read_run(run: Mapping[str, Any], workflow: Mapping[str, Any] | None = None) -> RunReport:
    """How a run is doing. What is missing or of another type is passed over: an odd answer reads as ``unknown``.

    Args:
        run: JSON of ``GET /apis/v2beta1/runs/ID``.
        workflow: JSON of ``GET /apis/v1beta1/runs/ID``, which holds Argo's workflow as a text of JSON in
            ``pipeline_runtime.workflow_manifest``; None where there is no such answer: then pods and messages are not
            known.
    """
    states = _history(run)
    ends = [index for index, (state, _) in enumerate(states) if state in _FINAL]
    restarts = [index for index, (state, _) in enumerate(states) if state == "RUNNING" and ends and index > ends[0]]
    stops = [when for state, when in states[restarts[-1] if restarts else 0 :] if state in ("CANCELING", "CANCELED")]
    state = _RUN_STATES.get(_get(run, str, "state"), "unknown")
    if stops and state == "failed":
        state = "cancelled"
    stop = _Stop(bool(stops) or state == "cancelled", next((when for when in stops if when is not None), None))

    listed = [_Node.listed(detail) for detail in _get(run, list, "run_details", "task_details")]
    manifest = _manifest(workflow)
    nodes = list(_workflow_nodes(manifest))
    tasks: dict[str, TaskReport] = {}
    for task in _tasks_of_nodes(nodes, listed, stop) if nodes else _tasks_of_list(listed, stop):
        if restarts and state not in ENDED and task.state == "skipped":
            continue  # by the attempt before, which the list remembers
        name, number = task.name, 2
        while name in tasks:
            name, number = f"{task.name} {number}", number + 1
        tasks[name] = replace(task, name=name, state=_at_the_end(task.state, state))
    body = _body(nodes or listed)
    return RunReport(
        state=state,
        tasks=tasks,
        retried=bool(restarts),
        body="cancelled" if body == "failed" and stop.asked else body,
        message=_get(run, str, "error", "message") or _get(manifest, str, "status", "message"),
    )


def _at_the_end(task: TaskState, run: RunState) -> TaskState:
    """A task's state where the run has ended: the list of nodes may be older than the run's state."""
    if run not in ENDED or task not in ("waiting", "running"):
        return task
    return "cancelled" if run == "cancelled" else "unknown"


@dataclass(frozen=True)
class _Stop:
    asked: bool
    when: datetime | None

    def ended(self, pod: PodAttempt | None) -> bool:
        if not self.asked:
            return False
        if pod is None or self.when is None or pod.finished is None:
            return True
        return pod.finished >= self.when or _KILLED.search(pod.message) is not None


@dataclass(frozen=True)
class _Node:
    """A node of Argo's workflow, or an entry of Kubeflow's list."""

    name: str
    state: TaskState
    message: str
    started: datetime | None
    finished: datetime | None
    template: str = ""
    pod: str = ""
    history: _History | None = None  # in the list
    is_workflow: bool = False  # there

    @classmethod
    def listed(cls, detail: object) -> _Node:
        name, finished = _get(detail, str, "display_name"), _moment(_get(detail, str, "end_time"))
        children = (_get(child, str, "pod_name") for child in _get(detail, list, "child_tasks"))
        return cls(
            name=name,
            # A node that was omitted has a time, and no state.
            state=_STATES.get(_get(detail, str, "state") or "?", "skipped" if finished else "unknown"),
            message=_get(detail, str, "error", "message"),
            started=_moment(_get(detail, str, "start_time")),
            finished=finished,
            history=_history(detail),
            is_workflow=any(child.rpartition("-")[0] == name for child in children),
        )

    @property
    def path(self) -> str:
        """The name without the suffixes of attempts: ``workflow.root.exit-handler-1.train.executor``."""
        return _ATTEMPT.sub("", self.name)

    @property
    def order(self) -> tuple[bool, float, str]:
        return self.started is None, self.started.timestamp() if self.started else 0.0, self.name

    def attempt(self, number: int) -> PodAttempt:
        state = _POD_STATES.get(self.state, "waiting")
        return PodAttempt(number, self.pod, state, self.message, self.started, self.finished)

    def spans(self, other: _Node) -> bool:
        """Whether another began after this and while it went on."""
        if self.started is None or other.started is None or other.started <= self.started:
            return False
        return self.finished is None or other.started <= self.finished

    def skipped_for(self, task: _Node) -> bool:
        """Whether this is the executor of a task that was not needed: both ended as soon as they began."""
        if self.state != "skipped" or self.started is None or task.started is None or task.finished is None:
            return False
        seconds = [each.timestamp() for each in (self.started, task.started, task.finished)]
        return max(seconds) - min(seconds) <= _AT_ONCE_S


def _tasks_of_list(nodes: list[_Node], stop: _Stop) -> list[TaskReport]:
    exits = [node for node in nodes if node.name.endswith(_ON_EXIT)]
    executors = [node for node in nodes if node.name.startswith("executor")]
    tasks = [
        (any(each.spans(node) for each in exits), node.order, node)
        for node in nodes
        if not _NOT_TASKS.fullmatch(node.name) and not node.is_workflow
    ]
    running = [node for *_, node in tasks if node.state == "running"]
    found = []
    for is_exit, order, node in sorted(tasks, key=lambda each: each[:2]):
        state = node.state
        if state == "succeeded" and any(each.skipped_for(node) for each in executors):
            state = "cached"
        elif running == [node]:
            newest = max(
                (each for each in executors if each.order[:2] >= order[:2]), key=lambda each: each.order, default=node
            )
            state = "waiting" if newest.state == "waiting" else state
        attempts = earlier = _earlier_attempts(node.history or [])
        if (pod := _POD_STATES.get(state)) is not None:
            attempts += (PodAttempt(len(earlier), "", pod, "", node.started, node.finished),)
        if state == "failed" and stop.ended(attempts[-1]):
            state = "cancelled"
        found.append(TaskReport(node.name, state, attempts, node.message, bool(earlier), is_exit))
    return found


def _workflow_nodes(manifest: object) -> Iterator[_Node]:
    workflow = _get(manifest, str, "metadata", "name")
    by_template = _get(manifest, str, "metadata", "annotations", _POD_NAMES) == "v2"
    for key, node in _get(manifest, dict, "status", "nodes").items():
        template = _get(node, str, "templateRef", "template") or _get(node, str, "templateName")
        identity = _get(node, str, "id") or str(key)
        pod = identity if _get(node, str, "type") == "Pod" else ""
        if pod and by_template and pod != workflow:
            pod = f"{f'{workflow}-{template}'[:_LONGEST_PREFIX]}-{identity.rpartition('-')[2]}"
        yield _Node(
            _get(node, str, "name"),
            _STATES.get(_get(node, str, "phase"), "unknown"),
            _get(node, str, "message"),
            _moment(_get(node, str, "startedAt")),
            _moment(_get(node, str, "finishedAt")),
            template,
            pod,
        )


@dataclass
class _Parts:
    own: _Node | None = None
    executor: _Node | None = None
    driver: _Node | None = None
    pods: tuple[_Node, ...] = ()
    driver_pods: tuple[_Node, ...] = ()


def _tasks_of_nodes(nodes: Iterable[_Node], listed: Iterable[_Node], stop: _Stop) -> list[TaskReport]:
    parts: dict[str, _Parts] = {}
    for node in sorted(nodes, key=lambda node: node.order):
        parent, _, last = node.path.rpartition(".")
        pods = (node,) if node.pod else ()
        if node.template.endswith("-driver"):
            task = parts.setdefault(node.path.removesuffix("-driver"), _Parts())
            task.driver, task.driver_pods = _chosen(task.driver, node), task.driver_pods + pods
            continue
        task = parts.setdefault(parent if last == "executor" else node.path, _Parts())
        task.pods += pods  # of an importer, and of what was not compiled by kfp, without an executor
        if last == "executor":
            task.executor = _chosen(task.executor, node)
        else:
            task.own = _chosen(task.own, node)
    names = [node.name for node in listed]
    # The history of each task whose name is its alone.
    histories = {node.name: node.history or [] for node in listed if names.count(node.name) == 1}
    found = []
    for path, task in parts.items():
        name = path.rpartition(".")[2]
        report = _task_of_nodes(name, task, _earlier_attempts(histories.get(name, [])), stop)
        if report is not None:
            of_task = (task.own, task.executor, task.driver, *task.pods, *task.driver_pods)
            first = min(node.order for node in of_task if node is not None)
            found.append((_ON_EXIT in path, first, replace(report, exit_task=_ON_EXIT in path)))
    return [report for *_, report in sorted(found, key=lambda each: each[:2])]


def _chosen(one: _Node | None, other: _Node) -> _Node:
    """Of a node and its attempts the node, which knows whether there will be another."""
    return other if one is None or _ATTEMPT.search(one.name.rpartition(".")[2]) else one


def _task_of_nodes(name: str, parts: _Parts, earlier: tuple[PodAttempt, ...], stop: _Stop) -> TaskReport | None:
    own, driver, executor = parts.own, parts.driver, parts.executor
    is_task = bool(parts.pods or executor) or (own is not None and own.template.endswith("container-executor"))
    if driver is not None and driver.state != "skipped" and (own is None or own.state == "skipped"):
        return _task_of_driver(name, parts, driver, stop, is_task)
    if not is_task:
        return None
    attempts = (*earlier, *(node.attempt(number) for number, node in enumerate(parts.pods, len(earlier))))
    last = attempts[-1] if parts.pods else None
    state: TaskState = own.state if own is not None else (last.state if last is not None else "waiting")
    if state == "succeeded" and executor is not None and executor.state == "skipped":
        state = "cached"
    elif state == "failed" and stop.ended(last):
        state = "cancelled"
    elif state == "running" and (last is None or last.state in ("waiting", "failed")):
        state = "waiting"  # for its pod; after one that failed for the next, or for Argo to call it the last
    message = ""
    if state in ("waiting", "failed", "cancelled"):
        message = next((each.message for each in (last, executor, own) if each is not None and each.message), "")
    return TaskReport(name, state, attempts, message, retried=bool(earlier))


def _task_of_driver(name: str, parts: _Parts, driver: _Node, stop: _Stop, is_task: bool) -> TaskReport | None:
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


def _body(nodes: Iterable[_Node]) -> BodyState:
    """How the tasks before an exit task are doing, by the node that holds them."""
    handler: _Node | None = None
    for node in nodes:
        if _HANDLER.fullmatch(node.path.rpartition(".")[2]):
            handler = _chosen(handler, node)
    return _BODY_STATES.get(handler.state, "unknown") if handler is not None else "unknown"


def _earlier_attempts(states: _History) -> tuple[PodAttempt, ...]:
    """What a task did before a Retry of the run, whose pods, times and messages are gone."""
    found: list[PodAttempt] = []
    end = ""
    for state, _ in states:
        if state in _FINAL:
            end = state
        elif state in ("PENDING", "RUNNING") and end:
            found.append(PodAttempt(len(found), "", "succeeded" if end == "SUCCEEDED" else "failed"))
            end = ""
    return tuple(found)


def _history(thing: object) -> _History:
    entries = _get(thing, list, "state_history")
    return [(_get(entry, str, "state"), _moment(_get(entry, str, "update_time"))) for entry in entries]


def _manifest(workflow: object) -> Any:
    given = _get(workflow, str, "pipeline_runtime", "workflow_manifest")
    try:
        return json.loads(given) if given else _get(workflow, dict, "pipeline_runtime", "workflow_manifest")
    except (ValueError, RecursionError):
        return {}


def _get(thing: object, kind: type[T], *keys: str) -> T:
    """What mappings hold below some keys if it is of a type, else that type's empty value."""
    for key in keys:
        thing = thing.get(key) if isinstance(thing, Mapping) else None
    return thing if isinstance(thing, kind) else kind()


def _moment(value: str) -> datetime | None:
    """A time of the API; Go's and Unix' zero mean that there is none."""
    try:
        when = datetime.fromisoformat(value)
        when = when if when.tzinfo else when.replace(tzinfo=UTC)
        return when.astimezone(UTC) if when.year > 1970 else None
    except (ValueError, OverflowError):
        return None
