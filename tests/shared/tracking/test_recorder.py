"""A step is recorded in MLflow as it is, and whatever MLflow does, the step is as it would be without it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.shared.artifacts.artifact import ImageShape, manifest_digest, read_manifest
from components.shared.artifacts.dataset import DATASET
from components.shared.artifacts.model import MODEL
from components.shared.events.data import Cancelled, Emit, Failed, Progress, Succeeded
from components.shared.events.spool import events_in
from components.shared.params.params import Params
from components.shared.step import StepFailed, run_step
from components.shared.tracking.model_folder import model_folder
from components.shared.version import __version__
from tests.examples import write_digits
from tests.shared.tracking.conftest import RUN
from tests.shared.tracking.steps import (
    EPOCHS,
    Result,
    curve,
    epoch_of,
    files_of,
    only_run,
    small_params,
    three_epochs,
    train_recorded,
)
from tests.train.manifests import history_of, manifest_of


def test_mlflow_has_what_images_are_resized_to_before_their_middle_is_taken() -> None:
    manifest = manifest_of(history_of(2), stored_image=ImageShape(height=12, width=11, channels=1))
    document = yaml.safe_load(model_folder(manifest, "model.onnx", "run", "3.17.2")["MLmodel"])
    assert document["metadata"]["shutterline.stored_image"] == [12, 11, 1]
    assert json.loads(document["signature"]["inputs"])[0]["tensor-spec"]["shape"] == [-1, 8, 8, 1]


def test_a_training_is_recorded_whole(store: Any, tmp_path: Path, events: Path) -> None:
    dataset, params = write_digits(tmp_path / "dataset", validation=True), small_params()
    record = train_recorded(dataset, tmp_path / "model", params)

    run, manifest = only_run(store), read_manifest(tmp_path / "model", MODEL)
    identity, history = run.info.run_id, manifest.history
    assert (record.status, run.info.run_name, run.info.status) == ("succeeded", RUN, "FINISHED")
    assert curve(store, identity, "train/loss") == [(each.epoch, each.train_loss) for each in history]
    assert curve(store, identity, "validation/accuracy") == [(each.epoch, each.accuracy) for each in history]
    assert curve(store, identity, "learning_rate") == [(each.epoch, each.learning_rate) for each in history]
    assert curve(store, identity, "selected/accuracy") == [(manifest.selection.epoch, manifest.selection.accuracy)]
    assert [step for step, _ in curve(store, identity, "images_per_second")] == [1, 2, 3]

    tags = {name: value for name, value in run.data.tags.items() if name.startswith("shutterline.")}
    assert (
        tags.items()
        >= {
            "shutterline.run_id": RUN,
            "shutterline.version": __version__,
            "shutterline.step": "train",
            "shutterline.dataset_sha256": manifest_digest(dataset, DATASET),
            "shutterline.model_sha256": manifest_digest(tmp_path / "model", MODEL),
            "shutterline.weights_sha256": manifest.weights.sha256,
            "shutterline.params_sha256": params.digest(),
            "shutterline.end.train": "succeeded",
        }.items()
    )
    assert run.data.params["num_epochs"] == "3"
    assert run.data.params["device"] == "cpu"

    made = [f"model/{name}" for name in ("MLmodel", "model.onnx", "python_env.yaml", "requirements.txt")]
    assert files_of(store, identity) == ["learning-curves.html", *made, "params.json"]
    whole = store.download_artifacts(identity, "params.json", str(tmp_path))
    assert json.loads(Path(whole).read_text()) == json.loads(params.to_json())

    first, *_, last = events_in(events)
    assert not hasattr(first.data, "mlflow_run")
    assert isinstance(last.data, Succeeded)
    assert last.data.mlflow_run == identity


def test_the_weights_are_those_of_a_training_that_is_not_recorded(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = write_digits(tmp_path / "dataset")
    train_recorded(dataset, tmp_path / "recorded", small_params(num_epochs=1))
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    train_recorded(dataset, tmp_path / "model", small_params(num_epochs=1))
    recorded, model = (read_manifest(tmp_path / name, MODEL) for name in ("recorded", "model"))
    assert recorded.weights == model.weights


def failing(params: Params, emit: Emit) -> Result:
    emit(epoch_of(1))
    raise ValueError("no luck with password=hunter2hunter2")


def interrupted(params: Params, emit: Emit) -> Result:
    emit(epoch_of(1))
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("work", "status", "end"),
    [
        (failing, "FAILED", "failed: ValueError: no luck with password=[redacted]"),
        (interrupted, "KILLED", "cancelled: interrupted from the keyboard"),
    ],
)
def test_a_bad_end_is_mlflows_too_and_a_retry_goes_on_in_the_same_run(
    store: Any, events: Path, work: Any, status: str, end: str
) -> None:
    with pytest.raises(StepFailed):
        run_step("train", small_params(), work)
    run = only_run(store)
    assert (run.info.status, run.data.tags["shutterline.end.train"]) == (status, end)
    assert curve(store, run.info.run_id, "train/loss") == [(1, 1.0)]
    last = [event.data for event in events_in(events)][-1]
    assert isinstance(last, Failed | Cancelled)
    assert last.mlflow_run == run.info.run_id

    run_step("train", small_params(num_epochs=4), three_epochs)
    again = only_run(store)
    assert (again.info.run_id, again.info.status) == (run.info.run_id, "FINISHED")
    assert again.data.tags["shutterline.end.train"] == "succeeded"
    assert again.data.params["num_epochs"] == "3", "the first value is kept, and does not keep out the others"
    whole = store.download_artifacts(run.info.run_id, "params.json")
    assert json.loads(Path(whole).read_text())["num_epochs"] == 4


@pytest.mark.parametrize(
    ("refusing", "why"),
    [
        ("dead", ": Connection refused"),
        ("silent", ": no answer in time"),
        ("busy", ": too many 503 error responses"),
        ("strange", "; the server's option --allowed-hosts must name this host, with its port"),
    ],
    indirect=["refusing"],
)
def test_a_step_is_as_without_mlflow_where_its_server_takes_nothing(
    refusing: str, why: str, events: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", refusing.replace("://", "://user:hunter2hunter2@"))
    result, record = run_step("train", small_params(TIMEOUT=2.0), three_epochs)

    assert (result, record.status, record.exit_code) == (Result(), "succeeded", 0)
    _, *progress, last = (event.data for event in events_in(events))
    assert len(progress) == 2 * EPOCHS
    assert last == Succeeded(last.seconds, {"accuracy": 0.5})
    *earlier, warning, end = capsys.readouterr().err.splitlines()
    assert "this step is not recorded in MLflow at http://[redacted]@127.0.0.1" in warning
    assert warning.endswith(why)
    assert end.endswith(f"succeeded in {record.seconds:.1f} s")
    assert not [
        line for line in (*earlier, warning) if "hunter2" in line or ("not recorded" in line and line != warning)
    ]


def test_without_the_client_one_warning_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], events: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "mlflow", None)
    _, record = run_step("train", small_params(), three_epochs)
    assert record.status == "succeeded"
    assert capsys.readouterr().err.count("pip install 'shutterline[mlflow]'") == 1
    assert os.environ.keys().isdisjoint({"MLFLOW_HTTP_REQUEST_TIMEOUT"})


def test_an_address_without_its_scheme_is_no_folder_to_record_in(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], events: Path, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "localhost:5000")
    monkeypatch.chdir(tmp_path)
    _, record = run_step("train", small_params(), three_epochs)
    assert record.status == "succeeded"
    (warning,) = [line for line in capsys.readouterr().err.splitlines() if "WARNING" in line]
    assert warning.endswith(
        "not recorded in MLflow at localhost:5000: begin MLFLOW_TRACKING_URI with http:// or https://, such as "
        "http://localhost:5000"
    )


def test_within_an_epoch_nothing_is_recorded(store: Any) -> None:
    def work(params: Params, emit: Emit) -> Result:
        emit(Progress(5, 30, "batches", 1, EPOCHS, losses={"train": 9.0}))
        emit(Progress(30, 30, "images"))
        return Result()

    run_step("train", small_params(), work)
    assert only_run(store).data.metrics == {}


def test_no_secret_is_recorded(
    store: Any, tmp_path: Path, events: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = "correct-horse-battery"  # noqa: S105 - looked for where it must not be
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", secret)

    def work(params: Params, emit: Emit) -> Result:
        raise ValueError(f"refused by {secret}")

    with pytest.raises(StepFailed):
        run_step("train", small_params(publish_uri=f"s3://bucket/{secret}/models"), work)
    assert only_run(store).data.params["publish_uri"] == "s3://bucket/[redacted]/models"
    kept = [
        path.read_text() for folder in (tmp_path / "mlflow", events) for path in folder.rglob("*") if path.is_file()
    ]
    assert any("[redacted]" in text for text in kept)
    assert not any(secret in text for text in [*kept, capsys.readouterr().err.partition("Traceback")[0]])
