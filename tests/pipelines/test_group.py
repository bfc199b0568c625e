"""The pipeline's training step on a node of several GPUs, with processes on the CPU in their place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from components.shared.events.spool import events_in
from components.shared.step import StepFailed
from components.train.in_pipeline import PROCESSES_VARIABLE, PipelineTraining
from pipelines.cli import main
from tests.examples import SMALL, write_digits, write_params


def test_the_training_step_is_done_by_a_group_and_ends_as_one_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(PROCESSES_VARIABLE, "2")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    out = tmp_path / "out"

    code = main(["run", "--params", str(write_params(tmp_path / "params.json")), "--out", str(out), "--json"])

    document, told = json.loads(capsys.readouterr().out), None
    assert (code, told) == (0, None)
    assert document["steps"] == dict.fromkeys(["data-prep", "train", "evaluate", "exit"], "succeeded")
    checkpoints = [json.loads(file.read_text()) for file in out.rglob("epoch-*.json")]
    assert checkpoints
    assert {one["processes"] for one in checkpoints} == {2}
    states = [event.state for event in events_in(out / "events") if event.step == "train"]
    assert (states[0], states[-1]) == ("started", "succeeded")
    assert states.count("started") == 1
    metrics = json.loads(next(out.rglob("train/metrics")).read_text()) if list(out.rglob("train/metrics")) else None
    assert metrics is None or set(metrics) == {"loss", "accuracy"}


def test_a_group_that_fails_fails_the_step_with_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(PROCESSES_VARIABLE, "2")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    dataset = write_digits(tmp_path / "dataset")
    model = tmp_path / "run-1" / "train" / "model"
    step = PipelineTraining(
        json.dumps(SMALL), str(dataset), str(model), f"{tmp_path}/run-1/train/model", dataset_sha256="0" * 64
    )

    with pytest.raises(StepFailed) as failed:
        step.run()

    assert failed.value.code == failed.value.record.exit_code == 2
    assert failed.value.record.error is not None
    assert failed.value.record.error.type == "ArtifactError"
    assert capfd.readouterr().err.count("failed: ") == 1
    (event,) = [event for event in events_in(model.parent / "events") if event.is_terminal]
    assert (event.state, event.run) == ("failed", "run-1")
