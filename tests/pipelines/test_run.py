"""``shutterline run``: the whole pipeline, in real processes, through kfp's local runner."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from components.shared.artifacts.dataset import open_dataset
from components.shared.artifacts.evaluation import open_evaluation
from components.shared.artifacts.model import open_model
from components.shared.errors import ArtifactError
from components.shared.events.data import Cancelled
from components.shared.events.runs import fold
from components.shared.events.spool import events_in
from components.shared.logs import LINE
from components.shared.params.params import Params
from components.train.train import train
from pipelines.params_files import EXAMPLE_PARAMS
from tests.examples import SMALL, write_params
from tests.pipelines.conftest import OUT, SEED, Environment, FinishedRun, Refused, Shutterline
from tests.pipelines.runs_ended import run_command, running

ALL_SUCCEEDED = dict.fromkeys(["data-prep", "train", "evaluate", "exit"], "succeeded")


def test_a_run_leaves_everything_where_it_says(finished: FinishedRun) -> None:
    out, document = finished.out, finished.done.document
    assert document == json.loads((out / "result.json").read_text())
    assert (document["status"], document["error"], document["steps"]) == ("succeeded", None, ALL_SUCCEEDED)
    assert set(document["seconds"]) == {*ALL_SUCCEEDED, "total"}
    assert sum(document["seconds"][step] for step in document["steps"]) <= document["seconds"]["total"]
    assert open_model(out / "model").manifest.provenance.params["manual_seed"] == SEED
    assert open_dataset(Path(document["artifacts"]["dataset"])).manifest.manual_seed == SEED
    assert open_evaluation(out / "evaluation").manifest.metrics["accuracy"] == document["metrics"]["accuracy"]
    assert (out / "model").samefile(document["artifacts"]["model"])
    for page, name in (
        ("report.html", "report"),
        ("learning-curves.html", "learning_curves"),
        ("quality.html", "quality"),
    ):
        assert (out / page).read_text().startswith("<!DOCTYPE html>")
        assert (out / page).samefile(document["artifacts"][name])
    assert list((out / "checkpoints").glob("*/epoch-00004-batch-000000.json"))
    # Each step's lines come through, and nothing of what kfp prints around them.
    assert "epoch 3/3" in finished.done.err
    assert "pipeline succeeded" in finished.done.err
    assert "KFP" not in finished.done.err
    assert "executor_input" in (out / "kfp.log").read_text()
    # Nothing went anywhere else.
    assert {path.name for path in finished.folder.iterdir() if path.suffix != ".py"} == {"params.json", OUT, "tmp"}
    assert [path for path in (finished.folder / "tmp").iterdir() if "torchinductor" not in path.name] == []


def test_options_change_params(finished: FinishedRun) -> None:
    given = json.loads((finished.folder / "params.json").read_text())
    given["learning_rate_schedule"][0]["kwargs"]["step_size"] = 2
    assert finished.params == Params.from_dict({**given, "manual_seed": SEED}).to_dict()


def test_kfp_sees_its_own_kinds_of_artifacts(here: Path, finished: FinishedRun, shutterline: Shutterline) -> None:
    document = finished.done.document
    task = Path(document["artifacts"]["model"]).parents[1]
    metadata = {}
    for step in ("data-prep", "train", "evaluate", "exit-step"):
        output = json.loads((task / step / "executor_output.json").read_text())
        for name, listed in output["artifacts"].items():
            metadata[f"{step}/{name}"] = listed["artifacts"][0]["metadata"]
    assert shutterline("compile").code == 0
    kinds = {
        f"{component.removeprefix('comp-')}/{name}": definition["artifactType"]["schemaTitle"]
        for component, declared in yaml.safe_load(Path("pipeline.yaml").read_text())["components"].items()
        for name, definition in declared.get("outputDefinitions", {}).get("artifacts", {}).items()
    }
    assert kinds == {
        "data-prep/dataset": "system.Dataset",
        "data-prep/report": "system.HTML",
        "train/model": "system.Model",
        "train/metrics": "system.Metrics",
        "train/learning_curves": "system.HTML",
        "evaluate/evaluation": "system.Artifact",
        "evaluate/metrics": "system.Metrics",
        "evaluate/confusion": "system.ClassificationMetrics",
        "evaluate/roc": "system.ClassificationMetrics",
        "evaluate/report": "system.HTML",
        "evaluate/summary": "system.Markdown",
        "evaluate/predictions": "system.Artifact",
        "publish/model_card": "system.Markdown",
        "exit-step/end": "system.Artifact",
    }
    assert metadata.keys() == kinds.keys() - {"publish/model_card"}  # nothing was to be published
    assert metadata["evaluate/metrics"].items() >= document["metrics"].items()
    rows = metadata["evaluate/confusion"]["confusionMatrix"]["rows"]
    confusion = np.array([row["row"] for row in rows])
    assert confusion.trace() / confusion.sum() == document["metrics"]["accuracy"]
    for output, shown in (("evaluate/report", "report.html"), ("train/learning_curves", "learning-curves.html")):
        assert (task / output).read_bytes() == (finished.out / shown).read_bytes()


def test_dict_json_and_yaml_are_the_same_params(here: Path, shutterline: Shutterline) -> None:
    raw = SMALL | {"num_epochs": 1, "manual_seed": SEED, "learning_rate": 0.1 + 0.2}
    source = repr(raw)
    for name in ("Conv2d", "BatchNorm2d", "ReLU"):
        source = source.replace(f"'torch.nn.{name}'", f"torch.nn.{name}")
    assert "'torch" not in source
    Path("params.py").write_text(f"import torch\nparams = {source}\n")
    Path("params.json").write_text(json.dumps(raw))
    Path("params.yaml").write_text(yaml.safe_dump(raw))

    read = [shutterline("params", f"params.{kind}").document for kind in ("py", "json", "yaml")]

    assert read[0] == read[1] == read[2] == Params.from_dict(raw).to_dict()


def test_plain_functions_train_the_same_model(tmp_path: Path, finished: FinishedRun) -> None:
    dataset = Path(finished.done.document["artifacts"]["dataset"])

    train(dataset=dataset, model=tmp_path / "model", params=Params.from_dict(finished.params))

    made = (tmp_path / "model" / "model.safetensors").read_bytes()
    assert made == (finished.out / "model" / "model.safetensors").read_bytes()


def assert_once(err: str, message: str, step: str, log: str) -> None:
    """The message is there once, in the step's line, and the last line says what failed without it."""
    assert err.count(message) == 1, err
    (line,) = [line for line in err.splitlines() if message in line]
    found = LINE.fullmatch(line)
    assert found is not None
    assert (found["step"], found["level"]) == (step, "ERROR")
    assert err.splitlines()[-1] == f"error: {step} failed, for the reason above; log: {log}"
    assert err.count("ERROR") == 1, err
    assert "Traceback" not in err


def test_a_step_that_fails_is_reported_and_leaves_nothing_that_opens(here: Path, shutterline: Shutterline) -> None:
    params = write_params(Path("params.json"), optim_class="torch.optim.SGD", learning_rate=1e30)

    code, _, err = shutterline("run", "--params", params, "--out", "out")

    document = json.loads(Path("out/result.json").read_text())
    assert (code, document["status"]) == (1, "failed")
    assert "warning: without --data these params get the example's digits\n" in err
    assert (document["error"]["step"], document["error"]["type"]) == ("train", "DivergedError")
    assert document["steps"] == {"data-prep": "succeeded", "train": "failed", "exit": "succeeded"}
    assert_once(err, "the training loss became", "train", "out/kfp.log")
    assert "pipeline failed: train failed" in err
    assert set(document["artifacts"]) == {"dataset", "quality"}
    (model,) = Path("out/kfp").glob("*/train/model")
    with pytest.raises(ArtifactError, match="not a complete model"):
        open_model(model)


def test_bad_data_ends_with_exit_code_2_and_its_name(here: Path, shutterline: Shutterline) -> None:
    data = here / "python3 images"
    data.mkdir()

    done = shutterline("run", "--params", EXAMPLE_PARAMS, "--data", data, "--out", "out")

    assert done.code == 2
    error = json.loads(Path("out/result.json").read_text())["error"]
    assert (error["step"], error["type"]) == ("data-prep", "DataError")
    assert error["message"].startswith(f"{data}: ")
    assert_once(done.err, f"failed: {data}: ", "data-prep", "out/kfp.log")


def test_data_in_a_bucket_is_passed_on_as_it_was_written(
    here: Path, shutterline: Shutterline, monkeypatch: Environment
) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:1")  # nobody listens there
    monkeypatch.setenv("SHUTTERLINE_STORAGE_TIMEOUT", "0.1")
    data = "gs://bucket/python3/digits"

    done = shutterline("run", "--params", EXAMPLE_PARAMS, "--data", data, "--out", "out", "--json")

    assert done.code != 0
    assert done.document["error"]["step"] == "data-prep"
    assert f'"data": "{data}"' in Path("out/kfp.log").read_text()


@pytest.mark.parametrize(
    ("number", "whole_group", "code", "reason"),
    [
        pytest.param(signal.SIGINT, True, 130, "interrupted from the keyboard", id="Ctrl-C"),  # as a terminal does
        pytest.param(signal.SIGTERM, False, 143, "SIGTERM", marks=pytest.mark.slow, id="SIGTERM"),
        # Which is what the step then gets.
        pytest.param(signal.SIGINT, False, 130, "SIGTERM", marks=pytest.mark.slow, id="SIGINT to the command alone"),
    ],
)
def test_a_run_that_is_asked_to_stop_ends_in_good_order(
    tmp_path: Path, number: signal.Signals, whole_group: bool, code: int, reason: str
) -> None:
    out, params = tmp_path / "out", write_params(tmp_path / "params.json", num_epochs=100_000)
    with running(out, run_command(out, params, "--json")) as run:
        run.until("epoch 3/")
        (os.killpg if whole_group else os.kill)(run.process.pid, number)
        assert run.process.wait(60) == code, run.log

    document: dict[str, Any] = json.loads(run.printed)
    assert document["status"] == "cancelled"
    assert document["steps"] == {"data-prep": "succeeded", "train": "cancelled", "exit": "succeeded"}
    assert document == json.loads((out / "result.json").read_text())
    assert "Traceback" not in run.log
    (model,) = (out / "kfp").glob("*/train/model")
    with pytest.raises(ArtifactError, match="not a complete model"):
        open_model(model)
    view = fold(document["run"], events_in(out / "events"))
    assert view.state == "cancelled"
    assert view.ended is not None
    assert [step.outcome for step in view.ended.steps] == ["succeeded", "cancelled", "not started"]
    end = view.steps["train"].end
    assert isinstance(end, Cancelled)
    assert (end.reason, end.exit_code) == (reason, code if whole_group else 143)


def test_bad_params_are_refused_before_anything_starts(here: Path, shutterline: Shutterline) -> None:
    params = write_params(Path("params.json"), batch_size=0, momentum=1)

    done = shutterline("run", "--params", params, "--out", "out", "--json")

    assert done.code == 2
    assert [problem["path"] for problem in done.document["error"]["problems"]] == ["momentum", "batch_size"]
    assert done.err.count("\n") == 3
    assert not Path("out").exists()


def test_an_output_directory_that_cannot_be_written(here: Path, refused: Refused) -> None:
    Path("file").touch()
    assert "cannot be written" in refused("run", "--out", "file/out")
