from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.shared.kubeflow.report import RunReport
from components.shared.kubeflow.run import read_run

CASES = Path(__file__).parents[2] / "cases" / "kubeflow"
NAMES = sorted(file.name.removesuffix(".run.json") for file in CASES.glob("*.run.json"))


def recorded(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    run, workflow = (json.loads((CASES / f"{name}.{kind}.json").read_text()) for kind in ("run", "v1beta1"))
    return run, workflow


def manifest(name: str) -> dict[str, Any]:
    _, workflow = recorded(name)
    found: dict[str, Any] = json.loads(workflow["pipeline_runtime"]["workflow_manifest"])
    return found


def as_answer(manifest: dict[str, Any]) -> dict[str, Any]:
    return {"pipeline_runtime": {"workflow_manifest": json.dumps(manifest)}}


def words(report: RunReport) -> list[str]:
    lines = [f"{report.state}, body {report.body}{', retried' if report.retried else ''}"]
    for task in report.tasks.values():
        attempts = "".join(f" [{pod.number} {pod.state}]" for pod in task.attempts)
        marks = f"{', retried' if task.retried else ''}{', exit' if task.exit_task else ''}"
        lines.append(f"{task.name} {task.state}{attempts}{marks}{f': {task.message[:40]}' if task.message else ''}")
    return lines


KEPT = "data-prep succeeded [0 succeeded]"
EXIT = "exit-step succeeded [0 succeeded], exit"
EXPECTED = {
    "succeeded": [
        "succeeded, body succeeded",
        KEPT,
        "train succeeded [0 succeeded]",
        "evaluate succeeded [0 succeeded]",
        EXIT,
    ],
    "cached": [
        "succeeded, body succeeded",
        "data-prep cached",
        "train cached",
        "evaluate cached",
        "exit-step failed [0 failed], exit: main: Error (exit code 1)",
    ],
    "oom-killed": [
        "failed, body failed",
        KEPT,
        "train failed [0 failed]: main: OOMKilled (exit code 1)",
        "evaluate skipped",
        EXIT,
    ],
    "failed": [
        "failed, body failed",
        KEPT,
        "train failed [0 failed]: main: Error (exit code 1)",
        "evaluate skipped",
        EXIT,
    ],
    # Three seconds after: the controller has not looked yet.
    "pod-deleted-pending": ["running, body running", KEPT, "train running [0 running]"],
    "pod-deleted-running": ["running, body running", KEPT, "train running [0 failed] [1 running]"],
    "terminating": ["cancelling, body running", KEPT, "train running [0 failed] [1 running]"],
    "terminated": [
        "cancelled, body cancelled",
        KEPT,
        "train cancelled [0 failed] [1 failed]: main: Error (exit code 143)",
        "evaluate skipped",
        EXIT,
    ],
    "retrying": [
        "running, body running, retried",
        KEPT,
        "train waiting [0 failed] [1 waiting], retried: PodInitializing",
        EXIT,
    ],
    "retried": [
        "succeeded, body succeeded, retried",
        KEPT,
        "train succeeded [0 failed] [1 succeeded], retried",
        "evaluate succeeded [0 succeeded]",
        EXIT,
    ],
    "unschedulable": [
        "running, body running",
        KEPT,
        "train waiting [0 waiting]: Unschedulable: 0/1 nodes are available: ",
    ],
    "image-missing": [
        "running, body running",
        "data-prep waiting [0 waiting]: ErrImagePull: failed to pull and unpack ",
    ],
}


@pytest.mark.parametrize("name", NAMES)
def test_each_recorded_run_is_read_as_what_happened(name: str) -> None:
    assert words(read_run(*recorded(name))) == EXPECTED[name]


# Where the list alone cannot say it: several pods of a task are one, and Argo's messages are in the workflow.
WITHOUT_WORKFLOW = {
    "cached": [*EXPECTED["cached"][:4], "exit-step failed [0 failed], exit"],
    "pod-deleted-running": EXPECTED["pod-deleted-pending"],
    "terminating": ["cancelling, body running", KEPT, "train running [0 running]"],
    "terminated": ["cancelled, body cancelled", KEPT, "train cancelled [0 failed]", "evaluate skipped", EXIT],
    "retrying": ["running, body running, retried", KEPT, "train waiting [0 failed] [1 waiting], retried", EXIT],
}


@pytest.mark.parametrize("name", NAMES)
def test_without_argos_workflow_the_states_are_the_same(name: str) -> None:
    expected = WITHOUT_WORKFLOW.get(name) or [line.partition(": ")[0] for line in EXPECTED[name]]
    assert words(read_run(recorded(name)[0])) == expected


@pytest.mark.parametrize("name", NAMES)
def test_a_pod_is_called_as_argo_calls_it(name: str) -> None:
    found = manifest(name)
    nodes = {node["name"]: node for node in found["status"]["nodes"].values() if node["type"] == "Pod"}
    pods = {pod.pod for task in read_run(*recorded(name)).tasks.values() for pod in task.attempts if pod.pod}
    assert pods
    for pod in pods:
        prefix, _, digits = pod.rpartition("-")
        named = [node for name, node in nodes.items() if _fnv1a(name) == int(digits)]
        assert [f"{found['metadata']['name']}-{node['templateName']}" for node in named] == [prefix]


def _fnv1a(text: str) -> int:
    value = 0x811C9DC5
    for byte in text.encode():
        value = (value ^ byte) * 0x01000193 % 2**32
    return value


def test_a_long_pod_name_is_cut_before_its_hash_and_an_old_one_is_the_nodes_id() -> None:
    run, _ = recorded("succeeded")
    found = manifest("succeeded")
    for node in found["status"]["nodes"].values():
        node["templateName"] = f"{'long-' * 60}{node['templateName']}"
    pod = read_run(run, as_answer(found)).tasks["train"].attempts[0].pod
    assert len(pod) <= 253
    assert pod.endswith("-549531042")
    del found["metadata"]["annotations"]
    assert (
        read_run(run, as_answer(found)).tasks["train"].attempts[0].pod == "shutterline-image-classifier-5g87s-549531042"
    )


def _renamed(found: dict[str, Any]) -> dict[str, Any]:
    nodes = found["status"]["nodes"]
    attempts = {node["name"]: key for key, node in nodes.items() if node["name"].endswith("(0)")}
    for key in attempts.values():
        node = nodes[key]
        node["displayName"] = node["displayName"].removesuffix("(0)")
    for key in [key for key, node in nodes.items() if node["type"] == "Retry"]:
        del nodes[key]
    for node in nodes.values():
        node["name"] = node["name"].replace("(0)", "")
    return found


@pytest.mark.parametrize("name", ["succeeded", "cached", "oom-killed"])
def test_a_controller_that_retries_nothing_has_fewer_nodes_and_the_same_tasks(name: str) -> None:
    run, _ = recorded(name)
    assert words(read_run(run, as_answer(_renamed(manifest(name))))) == EXPECTED[name]


def test_iterations_nested_pipelines_importers_and_drivers_of_other_peoples_pipelines_are_read() -> None:
    def node(name: str, kind: str, template: str, phase: str, second: int, message: str = "") -> dict[str, Any]:
        return {
            "id": f"theirs-{_fnv1a(name)}", "name": name, "type": kind, "templateName": template, "phase": phase,
            "startedAt": f"2026-11-28T06:00:{second:02}Z", "finishedAt": None, "message": message,
        }  # fmt: skip

    nodes = [
        node("theirs", "DAG", "entrypoint", "Running", 0),
        node("theirs.root-driver", "Pod", "system-dag-driver", "Succeeded", 0),
        node("theirs.root", "DAG", "root", "Running", 1),
        node("theirs.root.importer", "Pod", "system-importer", "Succeeded", 2),
        node("theirs.root.for-loop-1", "DAG", "comp-for-loop-1", "Running", 3),
        *(
            each
            for item in (0, 1)
            for path in (f"theirs.root.for-loop-1.iteration-iterations({item}:{item})",)
            for each in (
                node(path, "DAG", "comp-for-loop-1-for-loop-1", "Running", 4),
                node(f"{path}.fit-driver", "Pod", "system-container-driver", "Succeeded", 5 + item),
                node(f"{path}.fit", "DAG", "system-container-executor", "Running", 7 + item),
                node(f"{path}.fit.executor", "Pod", "system-container-impl", "Running", 7 + item),
            )
        ),
        node("theirs.root.inner", "DAG", "comp-inner", "Running", 20),
        node("theirs.root.inner.deploy-driver", "Pod", "system-container-driver", "Failed", 21, "main: Error"),
        node("theirs.root.inner.deploy", "Skipped", "system-container-executor", "Omitted", 22),
        node("theirs.root.other-driver", "Pod", "system-dag-driver", "Pending", 30, "ImagePullBackOff: no image"),
        node("theirs.root.next-driver", "Pod", "system-container-driver", "Running", 40),
    ]
    found = {"metadata": {"name": "theirs"}, "status": {"nodes": {each["id"]: each for each in nodes}}}
    report = read_run({"state": "RUNNING"}, as_answer(found))
    assert words(report) == [
        "running, body unknown",
        "importer succeeded [0 succeeded]",
        "fit running [0 running]",
        "fit 2 running [0 running]",
        "deploy failed [0 failed]: driver: main: Error",
        "other-driver waiting: driver: ImagePullBackOff: no image",
        "next waiting",
    ]


@pytest.mark.parametrize("passes", [True, False])
def test_a_step_behind_a_condition_is_listed_where_it_ran(passes: bool) -> None:
    workflow = manifest("succeeded")
    name = workflow["metadata"]["name"]
    group = f"{name}(0).root(0).exit-handler-1(0).condition-2"
    nodes = [
        (f"{group}-driver", "Pod", "system-dag-driver", "Succeeded"),
        (group, *(("DAG", "comp-condition-2", "Succeeded") if passes else ("Skipped", "comp-condition-2", "Skipped"))),
    ]
    if passes:
        nodes += [
            (f"{group}(0).publish-driver", "Pod", "system-container-driver", "Succeeded"),
            (f"{group}(0).publish", "DAG", "retry-system-container-executor", "Succeeded"),
            (f"{group}(0).publish(0).executor(0)", "Pod", "retry-system-container-impl", "Succeeded"),
        ]
    run, _ = recorded("succeeded")
    for path, kind, template, phase in nodes:
        moment = "2026-11-28T06:28:32Z"
        workflow["status"]["nodes"][path] = {
            "id": path, "name": path, "type": kind, "templateName": template, "phase": phase, "startedAt": moment,
        }  # fmt: skip
        task = {"display_name": path.rpartition(".")[2], "state": phase.upper(), "start_time": moment}
        run["run_details"]["task_details"].append(task)

    expected = ["data-prep", "train", "evaluate", *(["publish"] if passes else []), "exit-step"]
    assert list(read_run(run, as_answer(workflow)).tasks) == expected
    report = read_run(run)
    assert list(report.tasks) == expected
    assert report.body == "succeeded"


def test_a_step_that_failed_before_the_run_was_terminated_has_failed() -> None:
    run, workflow = recorded("oom-killed")
    run["state_history"].insert(2, {"state": "CANCELING", "update_time": "2026-11-28T06:31:50Z"})
    report = read_run(run, workflow)
    assert (report.state, report.tasks["train"].state) == ("cancelled", "failed")


def test_a_run_that_was_terminated_and_then_retried_is_no_longer_cancelled() -> None:
    run, workflow = recorded("retried")
    run["state_history"].insert(2, {"state": "CANCELING", "update_time": "2026-11-28T06:37:00Z"})
    run |= {"state": "FAILED"}
    assert (read_run(run, workflow).state, read_run(run, workflow).retried) == ("failed", True)


ODD = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5), st.just("2026-11-28T06:31:50Z")),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.text(max_size=3), inner, max_size=2)),
    max_leaves=4,
)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), odd=ODD)
def test_an_odd_answer_is_read_without_an_error(data: st.DataObject, odd: Any) -> None:
    name = data.draw(st.sampled_from(["cached", "terminated", "retried"]))
    run, found = deepcopy(recorded(name)[0]), manifest(name)
    for _ in range(data.draw(st.integers(1, 3))):
        _spoilt(run if data.draw(st.booleans()) else found, odd, data)
    read_run(run, as_answer(found))
    read_run(run)
    read_run(odd, odd)
    read_run(run, {"pipeline_runtime": {"workflow_manifest": json.dumps(found)[: data.draw(st.integers(0, 40))]}})


def _spoilt(thing: Any, odd: Any, data: st.DataObject) -> None:
    while isinstance(thing, (dict, list)) and thing:
        keys: Any = list(thing) if isinstance(thing, dict) else range(len(thing))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(thing[key], (dict, list)) or not thing[key] or data.draw(st.integers(0, 5)) == 0:
            thing[key] = deepcopy(odd)
            return
        thing = thing[key]
