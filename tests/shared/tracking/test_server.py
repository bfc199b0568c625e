"""A real MLflow server: healthy, gone or silent in the middle, back again; and what its tools make of a model."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.shared.events.data import Emit, Succeeded
from components.shared.events.spool import events_in
from components.shared.inference.classifier import OnnxClassifier
from components.shared.params.params import Params
from components.shared.step import run_step
from pipelines.params_files import EXAMPLE_DATA
from tests.examples import digits, write_params
from tests.peers.server_process import ServerProcess
from tests.peers.tcp import Relay
from tests.shared.tracking.steps import (
    EPOCHS,
    Result,
    curve,
    epoch_of,
    files_of,
    small_params,
    three_epochs,
)

pytestmark = pytest.mark.slow  # the server takes eleven seconds to start


class MlflowServer(ServerProcess):
    """`mlflow server` with one worker, its records in SQLite and its files in its folder."""

    ready_path = "/health"

    def command(self) -> Sequence[str | Path]:
        options = ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        options += ["--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db"]
        settings = ["MLFLOW_DISABLE_TELEMETRY=true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false"]
        mlflow = Path(sys.executable).parent / "mlflow"
        return [
            "setsid",
            "env",
            *settings,
            mlflow,
            "server",
            *options,
            "--artifacts-destination",
            self.folder / "files",
        ]

    def close(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)  # its workers too
        super().close()


@pytest.fixture(scope="session")
def server() -> Iterator[MlflowServer]:
    with MlflowServer() as running:
        yield running


@pytest.fixture
def relay(server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Relay]:
    """What stands before the server, and is the one that the environment names."""
    with Relay(server.port) as running:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{running.address}")
        monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        yield running


@pytest.fixture
def client(server: MlflowServer, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Any:
    """MLflow's client, which sees the runs of an experiment that is this test's."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(server.url)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", request.node.name)
    return client


def run_of(client: Any, name: str) -> Any:
    experiment = client.get_experiment_by_name(name)
    (run,) = client.search_runs([experiment.experiment_id])
    return run


@pytest.mark.filterwarnings("ignore:.*type hint is inferred as AnyType")  # importing mlflow.pyfunc
def test_a_pipeline_is_one_run_whose_model_mlflow_serves(
    server: MlflowServer, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    for name in ("SHUTTERLINE_RUN_ID", "SHUTTERLINE_EVENTS"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    params = write_params(tmp_path / "params.json", validation_fraction=0.1, TIMEOUT=60)
    out = tmp_path / "run"
    command: list[str | Path] = [sys.executable, "-m", "pipelines.cli", "run", "--data", EXAMPLE_DATA]
    command += ["--params", params, "--out", out]
    subprocess.run(command, check=True, capture_output=True)

    run = run_of(client, request.node.name)
    identity = run.info.run_id
    assert run.info.status == "FINISHED"
    assert files_of(client, identity) == [
        "learning-curves.html",
        *(f"model/{name}" for name in ("MLmodel", "model.onnx", "python_env.yaml", "requirements.txt")),
        "params.json",
        "report.html",
    ]
    report = client.download_artifacts(identity, "report.html", str(tmp_path))
    assert Path(report).read_bytes() == (out / "report.html").read_bytes()
    assert run.data.metrics["accuracy"] > 0.5
    assert {"f1_macro", "log_loss", "recall/3", "validation/accuracy", "train/loss"} <= run.data.metrics.keys()
    events = [event for file in (out / "events").glob("*.jsonl") for event in events_in(file.parent)]
    assert {event.step for event in events if getattr(event.data, "mlflow_run", "") == identity} == {
        "train",
        "evaluate",
    }

    import mlflow

    mlflow.set_tracking_uri(server.url)
    images = digits()[0][:5]
    expected = OnnxClassifier.from_file(out / "model" / "model.onnx")(images)
    served = mlflow.pyfunc.load_model(f"runs:/{identity}/model")
    assert served.metadata.metadata["shutterline.classes"] == [str(digit) for digit in range(10)]
    np.testing.assert_allclose(served.predict(images)["probabilities"], expected, atol=1e-6)
    assert mlflow.onnx.load_model(f"runs:/{identity}/model").graph.input[0].name == "images"
    version = mlflow.register_model(f"runs:/{identity}/model", "digits")
    registered = mlflow.pyfunc.load_model(f"models:/digits/{version.version}")
    np.testing.assert_allclose(registered.predict(images)["probabilities"], expected, atol=1e-6)


def meanwhile(client: Any, experiment: str, change: Callable[[], None]) -> Callable[[Params, Emit], Result]:
    """A step's work: three epochs, and after the first, once it is recorded, something happens to the server."""

    def is_recorded() -> bool:
        found = client.get_experiment_by_name(experiment)
        return any(run.data.metrics for run in client.search_runs([found.experiment_id])) if found else False

    def work(params: Params, emit: Emit) -> Result:
        emit(epoch_of(1))
        while not is_recorded():
            time.sleep(0.05)
        change()
        for number in range(2, EPOCHS + 1):
            emit(epoch_of(number))
        return Result()

    return work


@pytest.mark.parametrize("fault", ["refuse", "black_hole"])
def test_a_server_that_goes_away_in_the_middle_changes_nothing(
    relay: Relay,
    client: Any,
    events: Path,
    capsys: pytest.CaptureFixture[str],
    fault: str,
    request: pytest.FixtureRequest,
) -> None:
    work = meanwhile(client, request.node.name, getattr(relay, fault))
    result, record = run_step("train", small_params(TIMEOUT=1.0), work)
    assert (result, record.status) == (Result(), "succeeded")
    _, *progress, last = (event.data for event in events_in(events))
    assert [data.epoch for data in progress] == [1, 2, 3]
    run = run_of(client, request.node.name)
    assert last == Succeeded(last.seconds, {"accuracy": 0.5}, mlflow_run=run.info.run_id)
    # The answer that the first epoch is stored may be lost with the server.
    lacking = (
        rf"MLflow run {run.info.run_id} at http://{relay.address} lacks [23] epochs; final figures and tags; its end"
    )
    assert len(re.findall(lacking, capsys.readouterr().err)) == 1


def test_a_server_that_comes_back_gets_all_of_it(
    relay: Relay, client: Any, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    relay.refuse()

    def work(params: Params, emit: Emit) -> Result:
        result = three_epochs(params, emit)
        while "it is tried again" not in capsys.readouterr().err:
            time.sleep(0.05)
        relay.pass_through()
        return result

    run_step("train", small_params(), work)
    run = run_of(client, request.node.name)
    assert run.info.status == "FINISHED"
    assert curve(client, run.info.run_id, "train/loss") == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]


def test_params_of_any_length_are_whole(
    relay: Relay, client: Any, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    layers = [{"class": "torch.nn.ReLU", "kwargs": {}} for _ in range(400)]
    params = small_params(net_arch=layers)
    run_step("evaluate", params, three_epochs)
    run = run_of(client, request.node.name)
    assert "net_arch" not in run.data.params
    assert run.data.params["batch_size"] == "32"
    whole = client.download_artifacts(run.info.run_id, "params.json", str(tmp_path))
    assert Params.load(Path(whole)) == params
