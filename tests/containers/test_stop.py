"""``docker stop``: the step says so to its broker, and ends before the engine loses patience."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from components.shared.events.data import Cancelled, Progress
from components.shared.events.event import StepEvent
from components.shared.events.spool import events_in
from components.shared.run import EVENTS_VARIABLE, RUN_VARIABLE
from pipelines.cli import main
from pipelines.compiled import PLATFORMS, PlatformName, read_compiled
from tests.containers.conftest import Images
from tests.containers.engine import HARDENED, Docker, flags_of
from tests.examples import write_digits, write_params
from tests.peers.noida import KafkaBroker

pytestmark = pytest.mark.containers


def events_at(broker: KafkaBroker, topic: str) -> list[StepEvent]:
    return [StepEvent.from_bytes(record.value) for record in broker.records(topic)]


def test_cancelled_is_at_the_broker_and_the_step_ends_by_itself(
    docker_engine: Docker, images: Images, runs: Path, tmp_path: Path, topic: str
) -> None:
    dataset = write_digits(tmp_path / "dataset")
    with KafkaBroker() as broker:
        broker.create_topic(topic)
        params = write_params(
            tmp_path / "params.json", num_epochs=1_000_000, KAFKA_HOST=broker.bootstrap, KAFKA_TOPIC=topic
        )
        mounts = {dataset: "/dataset:ro", params: "/params.json:ro", runs: "/runs"}
        environment = {RUN_VARIABLE: "run-1", EVENTS_VARIABLE: "/runs/events", "OMP_NUM_THREADS": "1"}
        options = ["--dataset", "/dataset", "--model", "/runs/model", "--params", "/params.json"]
        flags = [*HARDENED, *flags_of(mounts=mounts, environment=environment)]

        with docker_engine.running(images["train"], *options, flags=flags, network="host") as container:
            while not any(isinstance(event.data, Progress) for event in events_at(broker, topic)):
                assert docker_engine.state(container)["Running"], docker_engine.logs(container)
                time.sleep(0.2)
            # What is still running after that many seconds is killed, and its exit code is 137.
            docker_engine.output("stop", "--time=10", container)
            code, log = docker_engine.state(container)["ExitCode"], docker_engine.logs(container)

        events = events_at(broker, topic)
    assert code == 143, log
    assert "Traceback" not in log
    assert [event.state for event in events if event.is_terminal] == ["cancelled"]
    assert isinstance(events[-1].data, Cancelled)
    assert (events[-1].data.reason, events[-1].data.exit_code) == ("SIGTERM", 143)
    assert not (runs / "model" / "model.json").exists(), "nothing half-written looks whole"


def executor_input(params: Path) -> dict[str, Any]:
    """What a platform hands the training step of a compiled pipeline, artifacts by their places."""

    def artifact(path: str) -> dict[str, Any]:
        return {"artifacts": [{"name": path, "uri": path, "metadata": {}}]}

    return {
        "inputs": {
            "parameterValues": {"params": params.read_text(), "dataset_sha256": "", "checkpoints": ""},
            "artifacts": {"dataset": artifact("/dataset")},
        },
        "outputs": {
            "parameters": {"model_sha256": {"outputFile": "/runs/model_sha256"}},
            "artifacts": {name: artifact(f"/runs/{name}") for name in ("model", "metrics", "learning_curves")},
            "outputFile": "/runs/executor_output.json",
        },
    }


@pytest.mark.parametrize("target", PLATFORMS)
def test_a_step_of_a_compiled_pipeline_hears_it_too(
    docker_engine: Docker, images: Images, runs: Path, tmp_path: Path, target: PlatformName
) -> None:
    dataset = write_digits(tmp_path / "dataset")
    params = write_params(tmp_path / "params.json", num_epochs=1_000_000)
    file = tmp_path / "pipeline.yaml"
    assert main(["compile", "--target", target, "--params", str(params), "-o", str(file)]) == 0
    container = read_compiled(file).container("exec-train")
    told = json.dumps(executor_input(params))
    # A platform puts the command in the entrypoint's place.
    shell, *words = [told if word == "{{$}}" else word for word in [*container["command"], *container["args"]]]
    environment = {EVENTS_VARIABLE: "/runs/events", RUN_VARIABLE: "run-1", "OMP_NUM_THREADS": "1"}
    flags = [*HARDENED, *flags_of(mounts={dataset: "/dataset:ro", runs: "/runs"}, environment=environment)]

    with docker_engine.running(images["train"], *words, flags=[*flags, f"--entrypoint={shell}"]) as name:
        while "epoch 2/" not in docker_engine.logs(name):
            assert docker_engine.state(name)["Running"], docker_engine.logs(name)
            time.sleep(0.2)
        docker_engine.output("stop", "--time=10", name)
        code, log = docker_engine.state(name)["ExitCode"], docker_engine.logs(name)

    assert code == 143, log
    (end,) = [event for event in events_in(runs / "events") if event.is_terminal]
    assert (end.step, end.state) == ("train", "cancelled")
    assert not (runs / "model" / "model.json").exists()
