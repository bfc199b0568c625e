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
from typing import Any

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
_LISTED_STATES: dict[str, TaskState] = {
    "PENDING": "waiting",
    "RUNNING": "running",
    "SUCCEEDED": "succeeded",
    "FAILED": "failed",
    "CANCELING": "running",
    "CANCELED": "cancelled",
    "SKIPPED": "skipped",
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
_POD_STATES: dict[TaskState, PodState] = {
    "waiting": "waiting",
    "running": "running",
    "succeeded": "succeeded",
    "failed": "failed",
}
_FINAL = frozenset({"SUCCEEDED", "FAILED", "CANCELED"})
_GOING_ON = frozenset({"PENDING", "RUNNING"})

# What every pod goes through.
_PASSING = frozenset({"", "PodInitializing", "ContainerCreating"})
# Argo's suffix of a node that is an attempt of another; an iteration's is (0:0).
_ATTEMPT = re.compile(r"\(\d+\)(?=\.|$)")
_KILLED = re.compile(r"\(exit code 1(?:43|37)\)")
_HANDLER = re.compile(r"exit-handler-\d+")
_ON_EXIT = ".onExit"
# What the list holds beside the tasks: the root, executors, attempts, iterations, and what kfp makes of control flow.
_NOT_TASKS = re.compile(
    r"root|executor|.*\(.*|.*\.onExit|(?:exit-handler|for-loop|condition|condition-branches)-\d+|iteration-iterations"
)
# Argo 4.0, workflow/util/pod_name.go: a name of Kubernetes has 253 characters, the hash and its dash 11 of them.
_LONGEST_PREFIX = 242
_POD_NAMES = "workflows.argoproj.io/pod-name-format"
_AT_ONCE_S = 2.0  # in which a task of the cache ends: no pod is started for it


def read_run(run: Mapping[str, Any], workflow: Mapping[str, Any] | None = None) -> RunReport:
    """How a run is doing. What is missing or of another type is passed over: an odd answer reads as ``unknown``.

    Args:
        run: JSON of ``GET /apis/v2beta1/runs/ID``.
        workflow: JSON of ``GET /apis/v1beta1/runs/ID``, which holds Argo's workflow as a text of JSON in
            ``pipeline_runtime.workflow_manifest``; None where there is no such answer: then pods and messages are not
            known.
    """
    answer = _mapping(run)
    history = _history(answer)
    ends = [place for place, (state, _) in enumerate(history) if state in _FINAL]
    restarts = [place for place, (state, _) in enumerate(history) if state == "RUNNING" and ends and place > ends[0]]
    newest = history[restarts[-1] :] if restarts else history
    stops = [when for state, when in newest if state in ("CANCELING", "CANCELED")]
    state = _RUN_STATES.get(_text(answer.get("state")), "unknown")
    if stops and state == "failed":
        state = "cancelled"
    stop = _Stop(bool(stops) or state == "cancelled", next((when for when in stops if when is not None), None))

    details = list(map(_mapping, _items(_mapping(answer.get("run_details")).get("task_details"))))
    manifest = _manifest(workflow)
    nodes = list(_nodes(manifest))
    found = _tasks_of_nodes(nodes, _lives(details), stop) if nodes else _tasks_of_list(details, stop)
    tasks: dict[str, TaskReport] = {}
    for task in found:
        if restarts and state not in ENDED and task.state == "skipped":
            continue  # by the attempt before, which the list remembers
        name, number = task.name, 2
        while name in tasks:
            name, number = f"{task.name} {number}", number + 1
        tasks[name] = replace(task, name=name, state=_at_the_end(task.state, state))
    body = _body_of_nodes(nodes) if nodes else _body_of_list(details)
    return RunReport(
        state=state,
        tasks=tasks,
        retried=bool(restarts),
        body="cancelled" if body == "failed" and stop.asked else body,
        message=_text(_mapping(answer.get("error")).get("message"))
        or _text(_mapping(manifest.get("status")).get("message")),
    )


def _at_the_end(task: TaskState, run: RunState) -> TaskState:
    """A task's state where the run has ended: the list of nodes may be older than the run's state."""
    if run not in ENDED or task not in ("waiting", "running"):
        return task
    return "cancelled" if run == "cancelled" else "unknown"


# With Argo's workflow.


@dataclass(frozen=True)
class _Stop:
    """Whether somebody terminated the run, and when, where that is known."""

    asked: bool
    when: datetime | None

    def ended(self, pod: PodAttempt | None) -> bool:
        """Whether it is what ended a pod that failed; None: a task without a pod."""
        if not self.asked:
            return False
        if pod is None or self.when is None or pod.finished is None:
            return True
        return pod.finished >= self.when or _KILLED.search(pod.message) is not None


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
        state = _POD_STATES.get(self.state, "waiting")
        return PodAttempt(number, self.pod, state, self.message, self.started, self.finished)


def _nodes(manifest: Mapping[str, Any]) -> Iterator[_Node]:
    metadata = _mapping(manifest.get("metadata"))
    workflow = _text(metadata.get("name"))
    by_template = _text(_mapping(metadata.get("annotations")).get(_POD_NAMES)) == "v2"
    for key, value in _mapping(_mapping(manifest.get("status")).get("nodes")).items():
        node = _mapping(value)
        name, kind = _text(node.get("name")), _text(node.get("type"))
        template = _text(_mapping(node.get("templateRef")).get("template")) or _text(node.get("templateName"))
        identity = _text(node.get("id")) or str(key)
        pod = identity if kind == "Pod" else ""
        if pod and by_template and pod != workflow:
            pod = f"{f'{workflow}-{template}'[:_LONGEST_PREFIX]}-{identity.rpartition('-')[2]}"
        yield _Node(
            _ATTEMPT.sub("", name),
            kind,
            _text(node.get("phase")),
            template,
            _text(node.get("message")),
            pod,
            name,
            _time(node.get("startedAt")),
            _time(node.get("finishedAt")),
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
    nodes: Iterable[_Node], lives: Mapping[str, list[tuple[str, datetime | None]]], stop: _Stop
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
            exit_task = _ON_EXIT in path
            found.append((exit_task, first, replace(report, exit_task=exit_task)))
    return [report for *_, report in sorted(found, key=lambda each: each[:2])]


def _chosen(one: _Node | None, other: _Node) -> _Node:
    """Of a node and its attempts the node, which knows whether there will be another."""
    return other if one is None or _ATTEMPT.search(one.name.rpartition(".")[2]) else one


def _task_of_nodes(name: str, parts: _Parts, life: list[tuple[str, datetime | None]], stop: _Stop) -> TaskReport | None:
    own, driver = parts.own, parts.driver
    is_task = bool(parts.pods or parts.executor) or (own is not None and own.template.endswith("container-executor"))
    begins = own is None or own.state == "skipped"
    if driver is not None and begins and driver.state != "skipped":
        return _task_of_driver(name, parts, driver, stop, is_task)
    if not is_task:
        return None
    earlier = _earlier(life)
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


def _body_of_nodes(nodes: Iterable[_Node]) -> BodyState:
    handler: _Node | None = None
    for node in nodes:
        if _HANDLER.fullmatch(node.path.rpartition(".")[2]):
            handler = _chosen(handler, node)
    return _as_body(handler.state) if handler is not None else "unknown"


# Without it.


def _tasks_of_list(details: list[Mapping[str, Any]], stop: _Stop) -> list[TaskReport]:
    entries = [_Entry.of(detail) for detail in details]
    names = {entry.name for entry in entries}
    exits = [entry for entry in entries if entry.name.endswith(_ON_EXIT)]
    executors = [entry for entry in entries if entry.name.startswith("executor")]
    tasks = []
    for entry in entries:
        driver = entry.name.endswith("-driver") and f"{entry.name}-driver" not in names
        if not entry.name or _NOT_TASKS.fullmatch(entry.name) or driver or entry.is_workflow:
            continue
        exit_task = any(each.spans(entry) for each in exits)
        tasks.append((exit_task, entry.order, entry))
    running = [entry for *_, entry in tasks if entry.state == "running"]
    found = []
    for exit_task, _, entry in sorted(tasks, key=lambda each: each[:2]):
        state = entry.state
        if state == "succeeded" and any(each.skipped_for(entry) for each in executors):
            state = "cached"
        elif state == "running" and running == [entry]:
            pods = [each for each in executors if each.order[:2] >= entry.order[:2]]
            state = "waiting" if pods and max(pods, key=lambda each: each.order).state == "waiting" else state
        attempts = earlier = _earlier(entry.life)
        if (pod := _POD_STATES.get(state)) is not None:
            attempts += (PodAttempt(len(earlier), "", pod, "", entry.started, entry.finished),)
        if state == "failed" and stop.ended(attempts[-1]):
            state = "cancelled"
        found.append(TaskReport(entry.name, state, attempts, entry.error, bool(earlier), exit_task))
    return found


@dataclass(frozen=True)
class _Entry:
    """An entry of the list of a run's nodes."""

    name: str
    state: TaskState
    error: str
    started: datetime | None
    finished: datetime | None
    life: list[tuple[str, datetime | None]]
    is_workflow: bool

    @classmethod
    def of(cls, detail: Mapping[str, Any]) -> _Entry:
        name, finished = _text(detail.get("display_name")), _time(detail.get("end_time"))
        children = (_text(_mapping(child).get("pod_name")) for child in _items(detail.get("child_tasks")))
        # A node that was omitted has a time, and no state.
        state = _LISTED_STATES.get(_text(detail.get("state")), "skipped" if finished else "unknown")
        return cls(
            name=name,
            state=state,
            error=_text(_mapping(detail.get("error")).get("message")),
            started=_time(detail.get("start_time")),
            finished=finished,
            life=_history(detail),
            is_workflow=any(child.rpartition("-")[0] == name for child in children),
        )

    @property
    def order(self) -> tuple[bool, float, str]:
        return self.started is None, self.started.timestamp() if self.started else 0.0, self.name

    def spans(self, other: _Entry) -> bool:
        """Whether another began after this and while it went on."""
        if self.started is None or other.started is None or other.started <= self.started:
            return False
        return self.finished is None or other.started <= self.finished

    def skipped_for(self, task: _Entry) -> bool:
        """Whether this is the executor of a task that was not needed: both ended as soon as they began."""
        if self.state != "skipped" or None in (self.started, task.started, task.finished):
            return False
        ends = (self.started, task.started, task.finished)
        seconds = [end.timestamp() for end in ends if end is not None]
        return max(seconds) - min(seconds) <= _AT_ONCE_S


def _body_of_list(details: Iterable[Mapping[str, Any]]) -> BodyState:
    for detail in details:
        if _HANDLER.fullmatch(_text(detail.get("display_name"))):
            return _as_body(_LISTED_STATES.get(_text(detail.get("state")), "unknown"))
    return "unknown"


# Of both.


def _as_body(state: TaskState) -> BodyState:
    if state in ("succeeded", "failed", "running", "cancelled"):
        return state
    return "running" if state == "waiting" else "unknown"


def _lives(details: Iterable[Mapping[str, Any]]) -> dict[str, list[tuple[str, datetime | None]]]:
    """The history of each task whose name is its alone."""
    lives: dict[str, list[tuple[str, datetime | None]]] = {}
    twice = set()
    for detail in details:
        name = _text(detail.get("display_name"))
        if name in lives:
            twice.add(name)
        lives[name] = _history(detail)
    return {name: life for name, life in lives.items() if name not in twice}


def _earlier(life: list[tuple[str, datetime | None]]) -> tuple[PodAttempt, ...]:
    """What a task did before a Retry of the run, whose pods, times and messages are gone."""
    found: list[PodAttempt] = []
    end = ""
    for state, _ in life:
        if state in _FINAL:
            end = state
        elif state in _GOING_ON and end:
            found.append(PodAttempt(len(found), "", "succeeded" if end == "SUCCEEDED" else "failed"))
            end = ""
    return tuple(found)


def _history(thing: Mapping[str, Any]) -> list[tuple[str, datetime | None]]:
    entries = map(_mapping, _items(thing.get("state_history")))
    return [(_text(entry.get("state")), _time(entry.get("update_time"))) for entry in entries]


def _manifest(workflow: Mapping[str, Any] | None) -> Mapping[str, Any]:
    text = _mapping(_mapping(workflow).get("pipeline_runtime")).get("workflow_manifest")
    try:
        return _mapping(json.loads(text)) if isinstance(text, str) else _mapping(text)
    except (ValueError, RecursionError):
        return {}


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _items(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _time(value: object) -> datetime | None:
    """A time of the API; Go's and Unix' zero mean that there is none."""
    try:
        moment = datetime.fromisoformat(_text(value))
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return moment.astimezone(UTC) if moment.year > 1970 else None
    except (ValueError, OverflowError):
        return None
