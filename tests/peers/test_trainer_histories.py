"""How the histories of a TrainJob end, as the official client sees it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped] # publishes no types
import pytest
from kubernetes import client, watch

from components.shared.events.data import Cancelled, Progress, StepStarted, Succeeded
from components.shared.events.status_lines import event_of_line
from tests.peers.trainer import histories
from tests.peers.trainer.api import TrainerApi
from tests.peers.trainer.clients import GROUP, Clients, train_job
from tests.peers.trainer.plays import History
from tests.peers.trainer.shapes import distinct, shape

RECORDED = Path(__file__).parents[1] / "cases" / "trainer" / "succeeded.status.txt"
FIRST = "batch.kubernetes.io/job-completion-index=0"


@pytest.fixture
def clients(trainer_api: TrainerApi) -> Iterator[Clients]:
    with Clients(trainer_api) as found:
        yield found


def until(condition: Callable[[], Any], timeout: float = 300.0) -> Any:
    """What a condition gives once it holds."""
    deadline = time.monotonic() + timeout
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def _end(clients: Clients) -> Any:
    """The condition that ended the TrainJob."""

    def ended() -> Any:
        conditions = clients.get("train-1").get("status", {}).get("conditions", [])
        return next((each for each in conditions if each["type"] in ("Complete", "Failed")), None)

    return until(ended)


def _codes(pods: Any) -> list[tuple[str, int | None, int | None, int]]:
    """Of pods: the phase, the exit code of now and of before, and how often the container was started again."""
    found = []
    for pod in pods.items:
        (status,) = pod.status.container_statuses or [None]
        now, last = (getattr(state, "terminated", None) for state in (status.state, status.last_state))
        codes = [each.exit_code if each else None for each in (now, last)]
        found.append((pod.status.phase, *codes, status.restart_count))
    return found


@pytest.mark.parametrize(
    ("history", "end", "pods", "job"),
    [
        (
            histories.SUCCESS,
            ("AllJobsCompleted", "jobset completed successfully"),
            [("Succeeded", 0, None, 0)] * 2,
            ("CompletionsReached", "Reached expected number of succeeded pods"),
        ),
        (
            histories.EXIT_2_STOCK,
            ("FailedJobs", "jobset failed due to one or more job failures (first failed job: train-1-node-0)"),
            [],
            ("BackoffLimitExceeded", "Job has reached the specified backoff limit"),
        ),
        (
            histories.EXIT_2,
            (
                "FailJobSetFailurePolicyAction",
                "applying FailJobSet failure policy action (first failed job: train-1-node-0)",
            ),
            [("Failed", 2, None, 0)] * 2,
            ("PodFailurePolicy", "failed with exit code 2 matching FailJob rule at index 0"),
        ),
        (histories.OOM_ONCE, ("AllJobsCompleted", ""), [("Succeeded", 0, None, 0), ("Succeeded", 0, 137, 1)], None),
        (histories.OOM, ("ReachedMaxRestarts", ""), [("Failed", 137, None, 0)], None),
        (histories.POD_DELETED, ("AllJobsCompleted", ""), [("Succeeded", 0, 143, 1), ("Succeeded", 0, None, 0)], None),
        (
            histories.SPEAKER_DELETED,
            ("AllJobsCompleted", ""),
            [("Succeeded", 0, None, 0), ("Succeeded", 0, 143, 1)],
            None,
        ),
        (histories.SET_RESTARTED, ("AllJobsCompleted", ""), [("Succeeded", 0, None, 0)] * 2, None),
        (histories.ENDED_BY_DEADLINE, ("DeadlineExceeded", "TrainJob exceeded its active deadline"), [], None),
        (histories.SUSPENDED, ("AllJobsCompleted", ""), [("Succeeded", 0, None, 0)] * 2, None),
    ],
)
def test_a_history_ends_as_a_cluster_would_show_it(
    trainer_api: TrainerApi, clients: Clients, history: History, end: Any, pods: Any, job: Any
) -> None:
    trainer_api.play(history, scale=0.002)
    clients.create(train_job())
    found = _end(clients)
    assert (found["reason"], end[1] in found["message"]) == (end[0], True), found
    until(lambda: _codes(clients.core.list_namespaced_pod("team-a")) == pods)
    for item in trainer_api.store.select("pods") + trainer_api.store.select("jobs"):
        kubernetes_validate.validate(item, "1.34", strict=True)
    if job is not None:
        (condition,) = clients.batch.read_namespaced_job("train-1-node-0", "team-a").status.conditions
        assert (condition.reason, job[1] in condition.message) == (job[0], True)


def test_success_has_the_shapes_of_the_recorded_one(trainer_api: TrainerApi, clients: Clients) -> None:
    """One after the other, as a watch sees them."""
    made = clients.create(train_job())
    trainer_api.play(histories.SUCCESS, scale=0.002)
    trainer_api.on_create(made)
    _end(clients)
    events = watch.Watch().stream(
        clients.custom.list_namespaced_custom_object, *GROUP, "team-a", "trainjobs",
        resource_version=made["metadata"]["resourceVersion"], timeout_seconds=1,
    )  # fmt: skip
    recorded = [json.loads(line.partition(" ")[2]) for line in RECORDED.read_text("utf-8").splitlines()]
    assert distinct(shape(each["raw_object"]["status"]) for each in events) == distinct(map(shape, recorded))


def test_a_pod_that_no_node_takes_or_has_no_image_says_why(trainer_api: TrainerApi, clients: Clients) -> None:
    trainer_api.play(histories.NEVER_SCHEDULED)
    clients.create(train_job())
    listed = until(lambda: clients.core.list_namespaced_event("team-a").items)
    assert [(each.reason, each.message) for each in listed] == [("FailedScheduling", histories.UNSCHEDULABLE)]
    (first, _) = clients.core.list_namespaced_pod(
        "team-a", label_selector="jobset.sigs.k8s.io/jobset-name=train-1"
    ).items
    condition = first.status.conditions[0]
    assert (condition.type, condition.status, condition.reason) == ("PodScheduled", "False", "Unschedulable")
    assert clients.core.read_namespaced_pod_log(first.metadata.name, "team-a") == ""
    clients.delete("train-1")
    until(lambda: not clients.core.list_namespaced_pod("team-a").items)
    trainer_api.play(histories.NO_SUCH_IMAGE, scale=0.002)
    clients.create(train_job())

    def reasons() -> list[str]:
        pods = clients.core.list_namespaced_pod("team-a").items
        states = [each.status.container_statuses for each in pods]
        return [each[0].state.waiting.reason for each in states if each]

    until(lambda: reasons() == ["ImagePullBackOff"] * 2)
    name = clients.core.list_namespaced_pod("team-a").items[0].metadata.name
    with pytest.raises(client.ApiException, match="is trying and failing to pull image"):
        clients.core.read_namespaced_pod_log(name, "team-a")


def test_the_log_of_the_pod_that_reports_has_its_events(trainer_api: TrainerApi, clients: Clients) -> None:
    trainer_api.play(histories.SUCCESS, scale=0.002)
    clients.create(train_job())
    _end(clients)
    name = clients.core.list_namespaced_pod("team-a", label_selector=FIRST)
    log = clients.core.read_namespaced_pod_log(name.items[0].metadata.name, "team-a")
    events = [event for line in log.splitlines() if (event := event_of_line(line))]
    assert [type(each) for each in events if isinstance(each, StepStarted | Progress | Succeeded)] == [
        StepStarted, *[Progress] * histories.EPOCHS, Succeeded,
    ]  # fmt: skip


def test_a_train_job_that_is_deleted_saves_and_leaves_nothing(trainer_api: TrainerApi, clients: Clients) -> None:
    trainer_api.play(histories.SUCCESS, scale=0.02)
    clients.create(train_job())
    pods = until(lambda: clients.core.list_namespaced_pod("team-a", label_selector=FIRST).items)
    name = pods[0].metadata.name
    until(lambda: trainer_api.logs.text("team-a", name))
    log = watch.Watch().stream(clients.core.read_namespaced_pod_log, name, "team-a")
    assert isinstance(event_of_line([*islice(log, 2)][1]), StepStarted)
    clients.delete("train-1")
    assert isinstance(event_of_line([*log][-1]), Cancelled)
    until(lambda: not trainer_api.store.select("pods") + trainer_api.store.select("jobs"))


def test_somebody_deletes_it_and_the_server_goes_away(trainer_api: TrainerApi, clients: Clients) -> None:
    trainer_api.play(histories.GONE, scale=0.002)
    clients.create(train_job())
    until(lambda: not trainer_api.store.select("trainjobs"))
    until(lambda: not trainer_api.store.select("pods"))
    trainer_api.play(histories.away(503), scale=0.002)
    clients.create(train_job())
    until(lambda: trainer_api.store.select("trainjobs")[0].get("status", {}).get("conditions"))
