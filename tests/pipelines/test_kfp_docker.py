"""kfp's DockerRunner is as known: how it names a step, and how it runs a container."""

from __future__ import annotations

import inspect

from kfp.local import docker_task_handler
from kfp.local.config import DockerRunner

from pipelines.image_classifier import image_classifier


def test_kfp_runs_containers_by_the_function_that_is_replaced() -> None:
    parameters = list(inspect.signature(docker_task_handler.run_docker_container).parameters)
    assert parameters == ["client", "image", "command", "volumes", "container_run_args"]
    assert "run_docker_container" in docker_task_handler.DockerTaskHandler.run.__code__.co_names
    labels = {"a": "b"}
    assert DockerRunner(labels=labels).container_run_args["labels"] is labels


def test_a_steps_command_has_what_is_changed_in_it() -> None:
    for executor in image_classifier.pipeline_spec.deployment_spec["executors"].values():
        container = executor["container"]
        assert any("_KFP_RUNTIME=true python3 -m" in part for part in container["command"])
        assert "--function_to_execute" in list(container["args"])
