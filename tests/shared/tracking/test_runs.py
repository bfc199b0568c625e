"""Which MLflow run a step goes on in, and who ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from components.shared.events.data import Checkpoint, Emit, EventData, GateOutcome, PipelineEnded, Succeeded
from components.shared.events.spool import events_in
from components.shared.params.params import Params
from components.shared.run import step_run
from components.shared.step import StepFailed, StepName, run_step
from components.shared.storage.location import parse_location
from components.train.step import train_step
from tests.examples import write_digits, write_params
from tests.peers.object_store import Bucket
from tests.shared.tracking.steps import curve, files_of, only_run, small_params, three_epochs, train_recorded


@dataclass(frozen=True)
class Ending:
    """A result whose last event is known."""

    last: EventData

    def report(self) -> dict[str, Any]:
        return {"steps": {}}

    def event(self, seconds: float) -> EventData:
        return self.last


def in_pipeline(step: StepName, last: EventData) -> None:
    run_step(step, small_params(), lambda params, emit: Ending(last), lambda: step_run(in_pipeline=True))


def status_of(store: Any) -> str:
    status: str = only_run(store).info.status
    return status


@pytest.mark.parametrize(("publishes", "status"), [(True, "RUNNING"), (False, "FINISHED"), (None, "FINISHED")])
def test_a_pipelines_run_goes_on_until_its_last_step(store: Any, publishes: bool | None, status: str) -> None:
    in_pipeline("train", Succeeded(1.0))
    assert status_of(store) == "RUNNING"
    in_pipeline("evaluate", Succeeded(1.0, gate=GateOutcome(True, []), publishes=publishes))
    run = only_run(store)
    assert (run.info.status, run.data.tags["shutterline.gate"]) == (status, "passed")
    assert run.data.tags["shutterline.pipeline"] == "shutterline-image-classifier"


def test_a_published_model_is_the_end(store: Any) -> None:
    in_pipeline("evaluate", Succeeded(1.0, gate=GateOutcome(True, []), publishes=True))
    in_pipeline("publish", Succeeded(1.0, artifacts={"published": "gs://models/7"}))
    run = only_run(store)
    assert (run.info.status, run.data.tags["shutterline.published"]) == ("FINISHED", "gs://models/7")


@pytest.mark.parametrize(
    ("outcome", "status"),
    [("failed", "FAILED"), ("cancelled", "KILLED"), ("succeeded", "FINISHED"), ("unknown", "RUNNING")],
)
def test_the_exit_step_ends_the_run_of_a_step_that_was_killed(
    store: Any, outcome: Literal["succeeded", "failed", "cancelled", "unknown"], status: str
) -> None:
    in_pipeline("train", Succeeded(1.0))
    in_pipeline("exit", PipelineEnded("p", outcome, "", "", []))
    assert status_of(store) == status


def test_the_exit_step_makes_no_run(store: Any, capsys: pytest.CaptureFixture[str]) -> None:
    in_pipeline("exit", PipelineEnded("p", "failed", "", "", []))
    assert [each.name for each in store.search_experiments()] == ["Default"]
    assert "MLflow" not in capsys.readouterr().err


def test_data_prep_is_not_recorded(store: Any) -> None:
    run_step("data-prep", small_params(), three_epochs)
    assert [each.name for each in store.search_experiments()] == ["Default"]


def test_a_run_that_the_environment_names_is_gone_on_in(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    own = store.create_run(store.create_experiment("mine"))
    monkeypatch.setenv("MLFLOW_RUN_ID", own.info.run_id)
    run_step("train", small_params(), three_epochs)
    assert store.get_run(own.info.run_id).info.status == "FINISHED"
    assert [step for step, _ in curve(store, own.info.run_id, "train/loss")] == [1, 2, 3]
    assert [each.name for each in store.search_experiments()] == ["mine", "Default"]


def test_an_experiment_that_the_environment_names_is_taken(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = store.create_experiment("mine")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    run_step("train", small_params(), three_epochs)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", mine)
    run_step("evaluate", small_params(), three_epochs)
    (run,) = store.search_runs([mine])
    assert run.data.tags["shutterline.end.evaluate"] == "succeeded"


def test_what_the_environment_names_and_is_not_there_is_said_once(
    store: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    _, record = run_step("train", small_params(), three_epochs)
    assert record.status == "succeeded"
    assert capsys.readouterr().err.count(f"Run '{'0' * 32}' not found") == 1
    assert [each.name for each in store.search_experiments()] == ["Default"]


def test_kubeflow_pipelines_run_of_the_pipeline_has_what_its_steps_record(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """KFP 2.17 makes a run for the pipeline and one below it for each task, names the task's, and ends both."""
    experiment = store.create_experiment("KFP-Default")
    pipeline = store.create_run(experiment, tags={"kfp.pipeline_run_id": "7d"}, run_name="digits 7d")
    for step in ("train", "evaluate"):
        task = store.create_run(experiment, tags={"mlflow.parentRunId": pipeline.info.run_id}, run_name=step)
        monkeypatch.setenv("MLFLOW_RUN_ID", task.info.run_id)
        run_step("train", small_params(), three_epochs, lambda: step_run(in_pipeline=True))
        assert store.get_run(task.info.run_id).data.metrics == {}
    found = store.get_run(pipeline.info.run_id)
    assert (found.info.run_name, found.info.status) == ("digits 7d", "RUNNING")
    assert found.data.metrics["train/loss"] == pytest.approx(1 / 3)
    assert found.data.tags["shutterline.run_id"] == "run-1"


def test_a_run_below_another_of_the_users_is_the_users_choice(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = store.create_experiment("sweep")
    sweep = store.create_run(experiment)
    trial = store.create_run(experiment, tags={"mlflow.parentRunId": sweep.info.run_id})
    monkeypatch.setenv("MLFLOW_RUN_ID", trial.info.run_id)
    run_step("train", small_params(), three_epochs)
    assert store.get_run(sweep.info.run_id).data.metrics == {}
    assert store.get_run(trial.info.run_id).data.metrics["train/loss"] == pytest.approx(1 / 3)


@pytest.mark.slow
def test_a_model_in_a_bucket_is_recorded_and_nothing_stays_here(
    store: Any, gcs_bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", None)
    dataset, model = write_digits(tmp_path / "dataset"), parse_location(f"{gcs_bucket.uri}/model")

    def work(params: Params, emit: Emit) -> Any:
        return train_step(dataset=dataset, model=model, params=params, emit=emit)

    record = run_step("train", small_params(num_epochs=1), work, lambda: step_run(model))[1]
    assert record.report["model"] == f"{gcs_bucket.uri}/model"
    assert "model/model.onnx" in files_of(store, only_run(store).info.run_id)
    assert not list((tmp_path / "tmp").glob("shutterline-*/*/model"))


@pytest.mark.slow
def test_a_terminated_training_is_killed_in_mlflow_too(store: Any, events: Path, tmp_path: Path) -> None:
    params = write_params(tmp_path / "params.json", num_epochs=100_000, TIMEOUT=60)
    command = [sys.executable, "-m", "components.train", "--params", str(params), "--model", str(tmp_path / "model")]
    command += ["--dataset", str(write_digits(tmp_path / "dataset"))]
    with subprocess.Popen(command, env=os.environ, stderr=subprocess.PIPE, text=True) as step:
        assert step.stderr is not None
        next(line for line in step.stderr if "MLflow run" in line)
        next(line for line in step.stderr if " epoch " in line)
        step.send_signal(signal.SIGTERM)
        step.stderr.read()
        step.wait()
    run = only_run(store)
    assert (step.returncode, run.info.status) == (143, "KILLED")
    assert run.data.tags["shutterline.end.train"] == "cancelled: SIGTERM"
    *_, last = (event.data for event in events_in(events))
    assert (last.reason, last.mlflow_run) == ("SIGTERM", run.info.run_id)


@pytest.mark.slow
@pytest.mark.parametrize("second", ["run-1", "run-2"])
def test_an_interrupted_training_that_goes_on_has_the_whole_curve(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, second: str
) -> None:
    dataset, params = write_digits(tmp_path / "dataset"), small_params(save_freq=1)

    def interrupted(params: Params, emit: Emit) -> Any:
        def emit_until_second(data: EventData) -> None:
            emit(data)
            if isinstance(data, Checkpoint) and data.epoch == 2:
                raise KeyboardInterrupt

        return train_step(dataset=dataset, model=tmp_path / "model", params=params, emit=emit_until_second)

    with pytest.raises(StepFailed):
        run_step("train", params, interrupted, lambda: step_run(tmp_path / "model"))
    monkeypatch.setenv("SHUTTERLINE_RUN_ID", second)
    record = train_recorded(dataset, tmp_path / "model", params)

    assert record.report["resumed_from"] is not None
    experiment = store.get_experiment_by_name("shutterline").experiment_id
    runs = {run.info.run_name: run for run in store.search_runs([experiment])}
    assert runs.keys() == {"run-1", second}
    assert [step for step, _ in curve(store, runs[second].info.run_id, "train/loss")] == [1, 2, 3]
    assert runs["run-1"].info.status == ("FINISHED" if second == "run-1" else "KILLED")
