"""What the pipeline's training step leaves beside the model is a part of the step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from components.shared.artifacts.model import open_model
from components.shared.events.spool import events_in
from components.shared.step import StepFailed
from components.train.step import PipelineStep
from tests.examples import SMALL


def step(dataset: Path, folder: Path, **outputs: str) -> PipelineStep:
    model = folder / "run-1" / "train" / "model"
    files = {name: str(folder / name) for name in ("metrics", "learning_curves", "model_sha256")}
    params = json.dumps({**SMALL, "num_epochs": 1})
    return PipelineStep(params, str(dataset), str(model), str(model), **files | outputs)


def test_metrics_learning_curves_and_digest_are_those_of_the_model(dataset: Path, tmp_path: Path) -> None:
    record = step(dataset, tmp_path).run()

    model = open_model(tmp_path / "run-1" / "train" / "model")
    assert json.loads((tmp_path / "metrics").read_text()) == record.report["metrics"]
    assert (tmp_path / "model_sha256").read_text() == model.manifest.weights.sha256
    assert (tmp_path / "learning_curves").read_bytes() == (model.path / "learning-curves.html").read_bytes()


def test_a_disk_that_is_full_when_they_are_written_fails_the_step(
    dataset: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(StepFailed) as failed:
        step(dataset, tmp_path, learning_curves="/dev/full").run()

    assert failed.value.code == 1
    log = capfd.readouterr().err
    assert "No space left on device" in log or "full" in log
    assert "Traceback" not in log
    ends = [event.state for event in events_in(tmp_path / "run-1" / "train" / "events") if event.is_terminal]
    assert ends == ["failed"]
