"""kfp's DockerRunner while runs of ours go on: ours are waited for, everybody else's are kfp's own business."""

from __future__ import annotations

from typing import Any

import pytest
from kfp.local import docker_task_handler
from kfp.local.config import DockerRunner

from pipelines.image_classifier import image_classifier
from pipelines.targets.containers import StepLabels, kfp_waits_for_containers
from tests.pipelines.conftest import Environment


@pytest.fixture
def kfps_own(monkeypatch: Environment) -> list[dict[str, Any]]:
    """What the function in kfp's place was called with."""
    calls: list[dict[str, Any]] = []

    def run_docker_container(
        client: Any, image: str, command: list[str], volumes: dict[str, Any], **container_run_args: Any
    ) -> int:
        calls.append({"image": image, "command": command, "volumes": volumes, **container_run_args})
        return 7

    monkeypatch.setattr(docker_task_handler, "run_docker_container", run_docker_container)
    return calls


def call(**arguments: Any) -> int:
    """As kfp's handler calls it."""
    code: int = docker_task_handler.run_docker_container(
        client=None, image="i", command=["c"], volumes={"/v": {}}, **arguments
    )
    return code


def test_only_marked_containers_are_ours(kfps_own: list[dict[str, Any]]) -> None:
    ours: list[Any] = []
    before = docker_task_handler.run_docker_container

    def run_step(*given: Any) -> int:
        ours.append(given)
        return 3

    labels = StepLabels({"a": "b"}, run_step)
    with kfp_waits_for_containers() as waits:
        assert waits
        assert call(user="1:1", labels=labels) == 3
        assert call(user="2:2", labels={"a": "b"}) == 7
        assert call() == 7

    assert ours == [(None, "i", ["c"], {"user": "1:1"})]
    theirs = {"image": "i", "command": ["c"], "volumes": {"/v": {}}}
    assert kfps_own == [theirs | {"user": "2:2", "labels": {"a": "b"}}, theirs]
    assert docker_task_handler.run_docker_container is before


def test_runs_that_overlap_leave_kfp_as_it_was(kfps_own: list[dict[str, Any]]) -> None:
    before = docker_task_handler.run_docker_container
    first, second = kfp_waits_for_containers(), kfp_waits_for_containers()
    labels = StepLabels({}, lambda *given: 3)

    assert first.__enter__()
    assert second.__enter__()
    first.__exit__(None, None, None)
    assert call(labels=labels) == 3, "the second run goes on"
    second.__exit__(None, None, None)

    assert docker_task_handler.run_docker_container is before
    assert call() == 7


def test_what_somebody_else_put_there_meanwhile_stays(kfps_own: list[dict[str, Any]], monkeypatch: Environment) -> None:
    def somebody_elses(*given: Any, **arguments: Any) -> int:
        return 5

    with kfp_waits_for_containers():
        docker_task_handler.run_docker_container = somebody_elses

    assert docker_task_handler.run_docker_container is somebody_elses


@pytest.mark.parametrize("unknown", [lambda client, image: 0, None])
def test_a_kfp_that_is_not_as_known_is_left_alone(monkeypatch: Environment, unknown: Any) -> None:
    monkeypatch.setattr(docker_task_handler, "run_docker_container", unknown)

    with kfp_waits_for_containers() as waits:
        assert not waits
        assert docker_task_handler.run_docker_container is unknown


def test_this_kfp_is_as_known() -> None:
    with kfp_waits_for_containers() as waits:
        assert waits
    # The mark and the place of what we change in a command are where they are looked for.
    labels = StepLabels({}, lambda *given: 0)
    assert DockerRunner(labels=labels).container_run_args["labels"] is labels
    for executor in image_classifier.pipeline_spec.deployment_spec["executors"].values():
        container = executor["container"]
        assert any("_KFP_RUNTIME=true python3 -m" in part for part in container["command"])
        assert "--function_to_execute" in list(container["args"])
