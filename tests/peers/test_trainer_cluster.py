"""TrainJobs whose pods are processes: what Trainer, JobSet and Kubernetes make of them, and a training to its end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import watch
from kubernetes.client.exceptions import ApiException

from components.shared.artifacts.model import open_model
from tests.examples import write_digits
from tests.peers.test_trainer_histories import FIRST, RECORDED, until
from tests.peers.trainer.api import TrainerApi
from tests.peers.trainer.clients import GROUP, Clients, train_job
from tests.peers.trainer.cluster import Cluster
from tests.peers.trainer.shapes import distinct, shape

EXAMPLES = Path(__file__).parents[2] / "pipelines" / "examples" / "trainer"
STOCK = {"name": "torch-distributed", "kind": "ClusterTrainingRuntime"}


@pytest.fixture
def clients(trainer_api: TrainerApi) -> Iterator[Clients]:
    with Clients(trainer_api) as found:
        yield found


@pytest.fixture
def cluster(trainer_api: TrainerApi, tmp_path: Path) -> Iterator[Cluster]:
    secrets = {"s3": {"id": "the id", "key": "the key"}}
    with Cluster(trainer_api, tmp_path / "pods", secrets=secrets, back_off_s=0.01, replace_s=0.01) as found:
        yield found


def program(code: str, *arguments: str, **spec: Any) -> dict[str, Any]:
    """A TrainJob whose nodes run a line of Python."""
    trainer = {"image": "a", "numNodes": 2, "command": ["python", "-c", code], "args": [*arguments]}
    return train_job(trainer=trainer | spec.pop("trainer", {}), **spec)


def ended(clients: Clients) -> tuple[str, str]:
    def reason() -> Any:
        conditions = clients.get("train-1").get("status", {}).get("conditions", [])
        return [(each["type"], each["reason"]) for each in conditions if each["type"] in ("Complete", "Failed")]

    found: tuple[str, str] = until(reason, 600.0)[0]
    return found


def pods_of(clients: Clients) -> list[Any]:
    found: list[Any] = clients.core.list_namespaced_pod("team-a").items
    return found


def logs_of(clients: Clients) -> list[str]:
    logs = []
    for each in pods_of(clients):
        try:
            logs.append(clients.core.read_namespaced_pod_log(each.metadata.name, "team-a"))
        except ApiException as error:
            if error.status != 404:  # it has been deleted meanwhile
                raise
    return logs


PRINTS = "import os, sys; print(*[os.environ.get(name) for name in sys.argv[1:]], flush=True)"


def test_a_nodes_environment_is_what_trainer_sets_and_the_manifest_refers_to(
    cluster: Cluster, clients: Clients
) -> None:
    env = [
        {"name": "ID", "valueFrom": {"secretKeyRef": {"name": "s3", "key": "id"}}},
        {"name": "NONE", "valueFrom": {"secretKeyRef": {"name": "none", "key": "id", "optional": True}}},
        {"name": "RUN", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['jobset.sigs.k8s.io/jobset-name']"}}},
        {"name": "BOTH", "value": "$(RUN) $$(RUN) $(OTHER)"},
    ]
    trainer = {"env": env, "resourcesPerNode": {"limits": {"cpu": "1500m"}}}
    names = ("PET_NNODES", "PET_NPROC_PER_NODE", "PET_NODE_RANK", "PET_MASTER_ADDR", "RANK", "ID", "NONE", "BOTH")
    clients.create(program(PRINTS, *names, "$(RUN)", trainer=trainer))
    assert ended(clients) == ("Complete", "AllJobsCompleted")
    logs = logs_of(clients)
    assert logs == [f"2 2 {rank} 127.0.0.1 None the id None train-1 $(RUN) $(OTHER) None\n" for rank in (0, 1)]
    clients.delete("train-1")
    until(lambda: not pods_of(clients))


@pytest.mark.parametrize(
    ("trainer", "processes"),
    [
        ({"resourcesPerNode": {"limits": {"nvidia.com/gpu": 4, "cpu": 8}}}, "auto"),
        ({"resourcesPerNode": {"requests": {"cpu": "500m"}, "limits": {"cpu": 2}}}, "1"),
        ({}, "1"),
        ({"numProcPerNode": 3, "resourcesPerNode": {"limits": {"cpu": 2}}}, "3"),
    ],
)
def test_processes_of_a_node(cluster: Cluster, clients: Clients, trainer: dict[str, Any], processes: str) -> None:
    clients.create(program(PRINTS, "PET_NPROC_PER_NODE", "RANK", trainer=trainer))
    assert ended(clients) == ("Complete", "AllJobsCompleted")
    assert logs_of(clients) == [f"{processes} None\n"] * 2


def test_bad_input_is_tried_again_by_the_stock_runtime_alone(cluster: Cluster, clients: Clients) -> None:
    code = "print('refused', flush=True); raise SystemExit(2)"
    clients.create(program(code, runtimeRef=STOCK))
    assert ended(clients) == ("Failed", "FailedJobs")
    until(lambda: not pods_of(clients))
    (job,) = clients.batch.list_namespaced_job("team-a").items
    assert [each.reason for each in job.status.conditions] == ["BackoffLimitExceeded"]
    clients.delete("train-1")
    clients.create(program(code))
    assert ended(clients) == ("Failed", "FailJobSetFailurePolicyAction")
    (job,) = clients.batch.list_namespaced_job("team-a").items
    assert "failed with exit code 2 matching FailJob rule" in job.status.conditions[0].message
    assert "refused\n" in logs_of(clients)


WAITS = "import time; print('waits', flush=True); time.sleep(600)"
LEAVES = (
    "import os, signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(143));\n"
    "print('waits', flush=True)\n"
    "while not os.path.exists(sys.argv[1]): time.sleep(0.02)"
)


def test_containers_pods_and_the_whole_set_are_started_again(
    cluster: Cluster, clients: Clients, tmp_path: Path
) -> None:
    def wait_for_both() -> list[Any]:
        until(lambda: [each.status.phase for each in pods_of(clients)] == ["Running"] * 2)
        until(lambda: logs_of(clients) == ["waits\n"] * 2)
        return pods_of(clients)

    clients.create(program(LEAVES, str(tmp_path / "end"), runtimeRef=STOCK))
    before = wait_for_both()
    cluster.jobs["train-1"].kill(1, out_of_memory=True)
    until(lambda: pods_of(clients)[1].status.container_statuses[0].restart_count == 1)
    status = wait_for_both()[1].status.container_statuses[0]
    assert (status.last_state.terminated.exit_code, status.last_state.terminated.reason) == (137, "OOMKilled")
    clients.core.delete_namespaced_pod(before[0].metadata.name, "team-a")
    until(lambda: before[0].metadata.name not in [each.metadata.name for each in pods_of(clients)])
    after = wait_for_both()
    assert after[1].metadata.name == before[1].metadata.name
    clients.patch("train-1", {"suspend": True})
    until(lambda: not pods_of(clients))
    clients.patch("train-1", {"suspend": False})
    wait_for_both()
    (tmp_path / "end").touch()
    assert ended(clients) == ("Complete", "AllJobsCompleted")
    clients.delete("train-1")
    until(lambda: not pods_of(clients))
    (tmp_path / "end").unlink()
    clients.create(program(LEAVES, str(tmp_path / "end")))
    first = wait_for_both()
    clients.core.delete_namespaced_pod(first[1].metadata.name, "team-a")
    until(lambda: {each.metadata.name for each in first}.isdisjoint(each.metadata.name for each in pods_of(clients)))
    assert {each.metadata.labels["jobset.sigs.k8s.io/restart-attempt"] for each in wait_for_both()} == {"1"}


def test_a_secret_that_is_not_there_and_a_deadline(cluster: Cluster, clients: Clients) -> None:
    env = [{"name": "ID", "valueFrom": {"secretKeyRef": {"name": "none", "key": "id"}}}]
    clients.create(program(WAITS, trainer={"env": env}, activeDeadlineSeconds=1))

    def reasons() -> list[str]:
        states = [each.status.container_statuses for each in pods_of(clients)]
        return [each[0].state.waiting.reason for each in states if each]

    until(lambda: reasons() == ["CreateContainerConfigError"] * 2)
    assert ended(clients) == ("Failed", "DeadlineExceeded")
    until(lambda: not pods_of(clients))


@pytest.mark.slow
def test_the_example_trains_on_two_nodes_with_the_status_of_the_recorded_one(
    cluster: Cluster, clients: Clients, tmp_path: Path
) -> None:
    job = yaml.safe_load((EXAMPLES / "trainjob-cpu.yaml").read_text("utf-8"))
    write_digits(tmp_path / "dataset", 300)
    trainer = job["spec"]["trainer"]
    ours = {"s3://my-bucket/digits/dataset": str(tmp_path / "dataset"), "s3://my-bucket": str(tmp_path)}
    for theirs, mine in ours.items():
        trainer["args"] = [each.replace(theirs, mine) for each in trainer["args"]]
    trainer["args"].append("--set=num_epochs=2")
    job["metadata"] = {"name": "train-1"}
    made = clients.create(job, field_validation="Strict")

    assert ended(clients) == ("Complete", "AllJobsCompleted"), logs_of(clients)
    open_model(tmp_path / "digits" / "train-1" / "model")
    events = watch.Watch().stream(
        clients.custom.list_namespaced_custom_object, *GROUP, "team-a", "trainjobs",
        resource_version=made["metadata"]["resourceVersion"], timeout_seconds=1,
    )  # fmt: skip
    seen = [event["raw_object"]["status"] for event in events]
    assert seen[-1]["trainerStatus"]["progressPercentage"] == 100
    recorded = [json.loads(line.partition(" ")[2]) for line in RECORDED.read_text("utf-8").splitlines()]
    shapes = distinct(shape(each) for each in seen)
    # Which of them come depends on how fast pods are; the first, with progress, and the last always do.
    expected = distinct(shape(each) for each in recorded)
    assert (shapes[0], shapes[-1]) == (expected[0], expected[-1])
    assert expected[2] in shapes
    second = clients.core.list_namespaced_pod("team-a", label_selector=FIRST.replace("=0", "=1")).items[0]
    assert clients.core.read_namespaced_pod_log(second.metadata.name, "team-a") == ""
