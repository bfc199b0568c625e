"""The pipeline's training step on a node of several GPUs, with processes on the CPU in their place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from components.shared.events.spool import events_in
from components.shared.process_group import PROCESSES_VARIABLE
from components.shared.step import StepFailed
from components.train.__main__ import main as train
from components.train.step import PipelineStep
from tests.examples import SMALL, write_digits, write_params
from tests.peers.gcs import GcsBucket
from tests.pipelines.conftest import Environment, Shutterline

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _two_processes(monkeypatch: Environment) -> None:
    monkeypatch.setenv(PROCESSES_VARIABLE, "2")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_the_training_step_is_done_by_a_group_and_ends_as_one_step(here: Path, shutterline: Shutterline) -> None:
    done = shutterline("run", "--params", write_params(Path("params.json")), "--out", "out", "--json")

    out = Path("out")
    assert done.code == 0
    assert done.document["steps"] == dict.fromkeys(["data-prep", "train", "evaluate", "exit"], "succeeded")
    assert {json.loads(file.read_text())["processes"] for file in out.rglob("epoch-*.json")} == {2}
    states = [event.state for event in events_in(out / "events") if event.step == "train"]
    assert (states[0], states[-1], states.count("started")) == ("started", "succeeded", 1)
    assert json.loads((out / "model" / "model.json").read_text())["selection"]["accuracy"] > 0.1


def test_a_node_fetches_its_data_once_and_publishes_once(
    tmp_path: Path, gcs_bucket: GcsBucket, monkeypatch: Environment, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(PROCESSES_VARIABLE)
    dataset = write_digits(tmp_path / "dataset")
    for file in dataset.rglob("*"):
        if file.is_file():
            gcs_bucket.write(f"dataset/{file.relative_to(dataset).as_posix()}", file.read_bytes())
    gcs_bucket.faults.clear()
    params = str(write_params(tmp_path / "params.json", save_freq=1))
    paths = {name: f"{gcs_bucket.uri}/{name}" for name in ("dataset", "model", "checkpoints")}
    options = [word for name, uri in paths.items() for word in (f"--{name}", uri)]

    assert train([*options, "--params", params, "--processes", "2", "--json"]) == 0

    out, err = capfd.readouterr()
    assert json.loads(out)["report"]["model"] == paths["model"]
    assert err.count(f"fetched {paths['dataset']}") == 1
    for file in dataset.rglob("*train*.npy"):
        assert gcs_bucket.faults.bytes_read(f"dataset/{file.relative_to(dataset).as_posix()}") == file.stat().st_size
    assert "model/model.json" in gcs_bucket.names("model/")
    assert len([name for name in gcs_bucket.names("checkpoints/") if name.endswith(".json")]) == 2
    assert gcs_bucket.faults.count("write", "model.safetensors") == 1


def test_a_group_that_fails_fails_the_step_with_one_message(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    dataset, model = write_digits(tmp_path / "dataset"), tmp_path / "run-1" / "train" / "model"
    step = PipelineStep(json.dumps(SMALL), str(dataset), str(model), str(model), dataset_sha256="0" * 64)

    with pytest.raises(StepFailed) as failed:
        step.run()

    record = failed.value.record
    assert failed.value.code == record.exit_code == 2
    assert record.error is not None
    assert record.error.type == "ArtifactError"
    assert capfd.readouterr().err.count("failed: ") == 1
    (event,) = [event for event in events_in(model.parent / "events") if event.is_terminal]
    assert (event.state, event.run) == ("failed", "run-1")
