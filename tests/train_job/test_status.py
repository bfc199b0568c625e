"""What a TrainJob and its pods do, read from recorded shapes: Trainer 2.3.0, JobSet 0.12.0, Kubernetes 1.34."""

from __future__ import annotations

from typing import Any

import pytest

from components.shared.events.data import Progress
from components.train_job.status import (
    Ending,
    Loss,
    ReportingPod,
    ending_of,
    exit_code_of,
    failure_message,
    losses_of,
    progress_of,
    reporting_pod,
    state_of,
    summary_of,
)

Document = dict[str, Any]

RUNNING = [{"active": 1, "failed": 0, "name": "node", "ready": 1, "succeeded": 0, "suspended": 0}]
TRAINER_STATUS = {
    "estimatedRemainingSeconds": 12,
    "lastUpdatedTime": "2026-11-28T07:02:41Z",
    "metrics": [{"name": "loss", "value": "0.0342"}],
    "progressPercentage": 40,
}


def condition(kind: str, reason: str = "", message: str = "", status: str = "True") -> Document:
    return {"type": kind, "status": status, "reason": reason, "message": message}


def job(*conditions: Document, jobs: list[Document] | None = None, **more: Any) -> Document:
    status = {"conditions": list(conditions)} if conditions else {}
    return {"status": status | ({"jobsStatus": jobs} if jobs else {}) | more}


def pod(name: str, *, index: int = 0, phase: str = "Running", created: str = "07:00:00", **status: Any) -> Document:
    return {
        "metadata": {
            "name": name,
            "uid": f"uid of {name}",
            "creationTimestamp": f"2026-11-28T{created}Z",
            "labels": {
                "jobset.sigs.k8s.io/replicatedjob-name": "node",
                "batch.kubernetes.io/job-completion-index": str(index),
            },
        },
        "status": {"phase": phase, **status},
    }


def container(state: Document, *, restarts: int = 0, last: Document | None = None) -> Document:
    return {
        "containerStatuses": [
            {"name": "node", "restartCount": restarts, "state": state, "lastState": last or {}, "image": "train:1"}
        ]
    }


def terminated(code: int, reason: str = "Error", at: str = "07:01:00", message: str = "") -> Document:
    return {"terminated": {"exitCode": code, "reason": reason, "finishedAt": at, "message": message}}


@pytest.mark.parametrize(
    ("document", "ending"),
    [
        (job(), None),
        (job(jobs=RUNNING), None),
        (job(condition("Suspended", "Suspended", "TrainJob is suspended")), None),
        (job(condition("Failed", status="False")), None),
        (
            job(condition("Complete", "AllJobsCompleted", "jobset completed successfully")),
            Ending("succeeded", "AllJobsCompleted", "jobset completed successfully"),
        ),
        (
            job(condition("Suspended", "Resumed", status="False"), condition("Failed", "FailedJobs", "jobset failed")),
            Ending("failed", "FailedJobs", "jobset failed"),
        ),
        ({"status": {"conditions": [None, "text", {"type": 1}]}}, None),
    ],
)
def test_a_job_has_ended_where_a_condition_says_so(document: Document, ending: Ending | None) -> None:
    assert ending_of(document) == ending


UNSCHEDULABLE: Document = {
    "phase": "Pending",
    "conditions": [
        condition("PodScheduled", "Unschedulable", "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.", "False")
    ],
}


@pytest.mark.parametrize(
    ("document", "pods", "state"),
    [
        (job(), [], "waits for Kubeflow Trainer to take it up"),
        (job(jobs=RUNNING), [], "waits for its pods"),
        (job(jobs=RUNNING), None, "runs"),
        (job(), None, "waits for its pods"),
        (
            {"spec": {"suspend": True}},
            [],
            "is suspended: waits to be resumed, such as by Kueue once there is quota",
        ),
        (
            job(condition("Suspended", "Suspended", "TrainJob is suspended")),
            None,
            "is suspended: waits to be resumed, such as by Kueue once there is quota",
        ),
        (
            job(jobs=RUNNING),
            [pod("a", **UNSCHEDULABLE), pod("b", index=1, **UNSCHEDULABLE)],
            "2 of 2 pods wait: Unschedulable: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
        ),
        (
            job(jobs=RUNNING),
            [
                pod("a", **container({"running": {}})),
                pod(
                    "b",
                    index=1,
                    phase="Pending",
                    **container({"waiting": {"reason": "ErrImagePull", "message": "not found"}}),
                ),
            ],
            "1 of 2 pods wait: ErrImagePull: not found",
        ),
        (
            job(jobs=RUNNING),
            [pod("a", phase="Pending", **container({"waiting": {"reason": "ImagePullBackOff", "message": "20 s"}}))],
            "1 of 2 pods wait: ImagePullBackOff (train:1)",
        ),
        (job(), [pod("a", phase="Pending", **container({"waiting": {"reason": "ContainerCreating"}}))], ""),
        (job(), [pod("a"), pod("b", index=1)], "2 of 2 pods run"),
    ],
)
def test_what_a_job_waits_for_is_one_line(document: Document, pods: list[Document] | None, state: str) -> None:
    assert state_of(document, pods, 2) == state


def test_the_pod_of_index_0_reports_and_an_older_one_as_long_as_it_runs() -> None:
    running, ended = {"running": {"startedAt": "07:00:10"}}, terminated(143)
    old, new = "07:00:00", "07:05:00"

    def reports(*pods: Document) -> ReportingPod | None:
        return reporting_pod(pods)

    assert reports() is None
    assert reports(pod("b", index=1, **container(running)), pod("a", phase="Pending")) is None
    assert reports(pod("a", **container(running, restarts=2))) == ReportingPod("a", "uid of a", 2, is_over=False)
    both = [pod("a", created=old, **container(running)), pod("c", created=new, **container(running))]
    assert reports(*both) == reports(both[0])
    both[0] = pod("a", created=old, phase="Failed", **container(ended))
    assert reports(*both) == reports(both[1])
    both[1] = pod("c", created=new, phase="Pending", **container({"waiting": {"reason": "ContainerCreating"}}))
    assert reports(*both) == reports(both[1])
    assert reports(both[0]) == ReportingPod("a", "uid of a", 0, is_over=True)
    prepares = pod("data", **container(running))
    prepares["metadata"]["labels"]["jobset.sigs.k8s.io/replicatedjob-name"] = "dataset-initializer"
    assert reports(prepares) is None


def test_what_ended_badly_is_named_once_with_its_reason() -> None:
    killed, failed = terminated(137, "OOMKilled"), terminated(2)
    evicted = {"reason": "Evicted", "message": "The node was low on resource: memory."}
    taken = [condition("DisruptionTarget", "EvictionByEvictionAPI", "Eviction API: evicting")]
    pods = [
        pod("a", **container({"running": {}}, restarts=1, last=killed)),
        pod("b", index=1, phase="Failed", **container(failed)),
        pod("c", index=2, phase="Failed", **evicted, conditions=taken),
        pod("d", index=3, conditions=taken),
        pod("e", index=4, phase="Succeeded", **container(terminated(0, "Completed"))),
        pod("f", index=5, phase="Failed", **container(failed)),
    ]

    losses = list(losses_of(pods))

    assert losses == [
        Loss(("uid of a", "node 0"), "a", "OOMKilled (exit code 137); it needs more memory", 137),
        Loss(("uid of b", "node 0"), "b", "exit code 2", 2),
        Loss(("uid of c", "pod"), "c", "Evicted: The node was low on resource: memory."),
        Loss(("uid of d", "disrupted"), "d", "taken away: EvictionByEvictionAPI: Eviction API: evicting"),
        Loss(("uid of f", "node 0"), "f", "exit code 2", 2),
    ]
    assert summary_of([losses[1], losses[4], losses[2]]) == (
        "2 pods, such as b: exit code 2; pod c: Evicted: The node was low on resource: memory."
    )
    again = pod("a", **container(killed, restarts=0))
    assert next(losses_of([again])).key == losses[0].key


def test_a_jobs_own_message_names_the_exit_code() -> None:
    message = "Container node for pod ns/rd1-node-0-0-x failed with exit code 2 matching FailJob rule at index 0"
    assert failure_message(job(condition("Failed", "PodFailurePolicy", message))) == f"PodFailurePolicy: {message}"
    assert failure_message(job(condition("Complete"))) == ""
    assert (exit_code_of(message), exit_code_of("Job has reached the specified backoff limit")) == (2, None)


def test_progress_is_read_from_what_the_nodes_report_to_trainer() -> None:
    assert progress_of(job(trainerStatus=TRAINER_STATUS)) == Progress(
        40, 100, "batches", metrics={"loss": 0.0342}, eta_seconds=12.0
    )
    figures = {"epoch": "3", "train_loss": "0.5", "samples_per_second": "812.5", "learning_rate": "x"}
    metrics = [{"name": name, "value": value} for name, value in figures.items()]
    assert progress_of(job(trainerStatus={"progressPercentage": 100, "metrics": metrics})) == Progress(
        100, 100, "batches", epoch=3, samples_per_second=812.5, losses={"train": 0.5}
    )
    for status in ({}, {"progressPercentage": 140}, {"progressPercentage": "x"}, None):
        assert progress_of(job(trainerStatus=status)) is None
