"""``shutterline run``: the whole pipeline, in real processes, through kfp's local runner."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from components.shared.artifacts.dataset import open_dataset
from components.shared.artifacts.evaluation import open_evaluation
from components.shared.artifacts.model import open_model
from components.shared.errors import ArtifactError
from components.shared.events.data import Cancelled
from components.shared.events.runs import fold
from components.shared.events.spool import events_in
from components.train.train import train
from pipelines.cli import main
from pipelines.params_files import EXAMPLE_DATA
from tests.examples import SMALL, small, write_params
from tests.pipelines.conftest import Capsys, Command, Environment

SEED = 2**62 + 1


def run_here(out: Path, capsys: Capsys, *options: str) -> tuple[int, dict[str, Any], str]:
    """Run in this process, the steps in theirs: exit code, the JSON document, standard error."""
    code = main(["run", "--out", str(out), "--json", *options])
    told = capsys.readouterr()
    return code, json.loads(told.out), told.err


def test_a_run_leaves_everything_where_it_says(tmp_path: Path, command: Command) -> None:
    params = write_params(tmp_path / "params.json", num_epochs=3, validation_fraction=0.1, manual_seed=SEED)

    done = command("-m", "pipelines.cli", "run", "--params", params, "--out", "out", "--json")

    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document == json.loads((tmp_path / "out" / "result.json").read_text())
    assert document["status"] == "succeeded"
    assert document["error"] is None
    assert document["steps"] == dict.fromkeys(["data-prep", "train", "evaluate", "exit"], "succeeded")
    assert set(document["seconds"]) == {"data-prep", "train", "evaluate", "exit", "total"}
    assert sum(document["seconds"][step] for step in document["steps"]) <= document["seconds"]["total"]
    model = open_model(Path(document["artifacts"]["model"]))
    assert model.manifest.provenance.params["manual_seed"] == SEED
    assert open_dataset(Path(document["artifacts"]["dataset"])).manifest.manual_seed == SEED
    evaluation = open_evaluation(tmp_path / "out" / "evaluation")
    assert evaluation.manifest.metrics.accuracy == document["metrics"]["accuracy"]
    for page, name in (("report.html", "report"), ("learning-curves.html", "learning_curves")):
        assert (tmp_path / "out" / page).read_text().startswith("<!DOCTYPE html>")
        assert (tmp_path / "out" / page).samefile(document["artifacts"][name])
    assert list((tmp_path / "out" / "checkpoints").glob("*/epoch-00004-batch-000000.json"))
    # Each step's lines come through, and nothing of what kfp prints around them.
    assert "epoch 3/3" in done.stderr
    assert "pipeline succeeded" in done.stderr
    assert "KFP" not in done.stderr
    assert "executor_input" in (tmp_path / "out" / "kfp.log").read_text()


@pytest.mark.slow
def test_kfp_sees_its_own_kinds_of_artifacts(tmp_path: Path, capsys: Capsys) -> None:
    write_params(tmp_path / "params.json")

    code, document, told = run_here(tmp_path / "out", capsys, "--params", str(tmp_path / "params.json"))

    assert code == 0, told
    task = Path(document["artifacts"]["model"]).parents[1]
    metadata = {}
    for step in ("data-prep", "train", "evaluate", "exit-step"):
        output = json.loads((task / step / "executor_output.json").read_text())
        for name, listed in output["artifacts"].items():
            metadata[f"{step}/{name}"] = listed["artifacts"][0]["metadata"]
    assert main(["compile", "-o", str(tmp_path / "pipeline.yaml")]) == 0
    kinds = {
        f"{component.removeprefix('comp-')}/{name}": definition["artifactType"]["schemaTitle"]
        for component, declared in yaml.safe_load((tmp_path / "pipeline.yaml").read_text())["components"].items()
        for name, definition in declared.get("outputDefinitions", {}).get("artifacts", {}).items()
    }
    assert kinds == {
        "data-prep/dataset": "system.Dataset",
        "train/model": "system.Model",
        "train/metrics": "system.Metrics",
        "train/learning_curves": "system.HTML",
        "evaluate/evaluation": "system.Artifact",
        "evaluate/metrics": "system.Metrics",
        "evaluate/confusion": "system.ClassificationMetrics",
        "evaluate/report": "system.HTML",
        "exit-step/end": "system.Artifact",
    }
    assert metadata.keys() == kinds.keys()
    assert metadata["evaluate/metrics"] == document["metrics"]
    rows = metadata["evaluate/confusion"]["confusionMatrix"]["rows"]
    confusion = np.array([row["row"] for row in rows])
    assert confusion.trace() / confusion.sum() == document["metrics"]["accuracy"]
    for output, shown in (("evaluate/report", "report.html"), ("train/learning_curves", "learning-curves.html")):
        assert (task / output).read_bytes() == (tmp_path / "out" / shown).read_bytes()


def as_classes(raw: dict[str, Any]) -> str:
    """The params as the source of a Python file, classes as classes."""
    source = repr(raw)
    for name in ("Conv2d", "BatchNorm2d", "ReLU"):
        source = source.replace(f"'torch.nn.{name}'", f"torch.nn.{name}")
    assert "'torch" not in source
    return f"import torch\nparams = {source}\n"


@pytest.mark.slow
def test_dict_json_and_yaml_are_the_same_run(tmp_path: Path, capsys: Capsys) -> None:
    raw = SMALL | {"num_epochs": 1, "manual_seed": SEED, "learning_rate": 0.1 + 0.2}
    (tmp_path / "params.py").write_text(as_classes(raw))
    (tmp_path / "params.json").write_text(json.dumps(raw))
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(raw))

    files = []
    for name in ("params.py", "params.json", "params.yaml"):
        code, document, told = run_here(tmp_path / name[7:], capsys, "--params", str(tmp_path / name))
        assert code == 0, told
        files.append((Path(document["artifacts"]["model"]) / "model.safetensors").read_bytes())

    assert files[0] == files[1] == files[2]
    # And the same again without kfp between: plain functions in this process.
    train(dataset=tmp_path / "py" / "dataset", model=tmp_path / "model", params=small(**raw))
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == files[0]


def test_options_change_params(tmp_path: Path, capsys: Capsys) -> None:
    write_params(tmp_path / "params.json")
    changes = ["--set", "num_epochs=1", "--set", "net_arch[0].kwargs.out_channels=8", "--set", f"manual_seed={SEED}"]

    code, document, told = run_here(tmp_path / "out", capsys, "--params", str(tmp_path / "params.json"), *changes)

    assert code == 0, told
    kept = json.loads((tmp_path / "out" / "params.json").read_text())
    assert (kept["num_epochs"], kept["manual_seed"]) == (1, SEED)
    assert document["training"]["epochs"] == 1


def test_a_step_that_fails_is_told_and_leaves_nothing_that_opens(tmp_path: Path, capsys: Capsys) -> None:
    write_params(tmp_path / "params.json", optim_class="torch.optim.SGD", learning_rate=1e30)

    code, document, told = run_here(tmp_path / "out", capsys, "--params", str(tmp_path / "params.json"))

    assert code == 1
    assert document["status"] == "failed"
    assert document["error"]["step"] == "train"
    assert document["error"]["type"] == "DivergedError"
    assert document["steps"] == {"data-prep": "succeeded", "train": "failed", "exit": "succeeded"}
    assert "train     ERROR failed: the training loss became" in told
    assert "pipeline failed: train failed" in told
    assert "Traceback" not in told
    assert set(document["artifacts"]) == {"dataset"}
    (model,) = (tmp_path / "out" / "kfp").glob("*/train/model")
    with pytest.raises(ArtifactError, match="not a complete model"):
        open_model(model)


def test_bad_data_ends_with_exit_code_2(tmp_path: Path, capsys: Capsys) -> None:
    write_params(tmp_path / "params.json")
    (tmp_path / "empty").mkdir()

    code, document, told = run_here(
        tmp_path / "out", capsys, "--params", str(tmp_path / "params.json"), "--data", str(tmp_path / "empty")
    )

    assert code == 2
    assert document["error"]["step"] == "data-prep"
    assert document["error"]["type"] == "DataError"
    assert "Traceback" not in told


def test_a_failed_run_leaves_the_earlier_model_and_report(tmp_path: Path, capsys: Capsys) -> None:
    write_params(tmp_path / "params.json", num_epochs=1)
    data = shutil.copytree(EXAMPLE_DATA, tmp_path / "digits")
    options = ["--params", str(tmp_path / "params.json"), "--data", str(data)]
    assert run_here(tmp_path / "out", capsys, *options)[0] == 0

    data.rename(tmp_path / "elsewhere")
    code, document, _ = run_here(tmp_path / "out", capsys, *options)

    assert code == 2
    assert document["status"] == "failed"
    assert document["artifacts"].keys() <= {"checkpoints"}
    assert (tmp_path / "out" / "report.html").is_file()
    open_model(tmp_path / "out" / "model")

    assert main(["run", "--out", str(tmp_path / "out"), *options]) == 2
    assert (
        "dataset, model, learning-curves.html, evaluation, report.html stay, of an earlier" in capsys.readouterr().err
    )

    assert main(["run", "--out", str(tmp_path / "out"), "--start-over", *options]) == 2
    assert not list((tmp_path / "out").glob("*.html"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a python3 run", "ünï 'quoted' $HOME"])
def test_paths_that_are_awkward_for_a_shell(tmp_path: Path, capsys: Capsys, name: str) -> None:
    write_params(tmp_path / "params.json", num_epochs=1)

    code, document, told = run_here(tmp_path / name, capsys, "--params", str(tmp_path / "params.json"))

    assert code == 0, told
    open_model(Path(document["artifacts"]["model"]))
    open_model(tmp_path / name / "model")
    assert list((tmp_path / name / "checkpoints").glob("*/epoch-00002-batch-000000.json"))
    # Nothing went anywhere else.
    assert {path.name for path in tmp_path.iterdir()} == {"params.json", name}


def test_data_of_an_awkward_name_is_told_by_that_name(tmp_path: Path, capsys: Capsys) -> None:
    write_params(tmp_path / "params.json")
    data = tmp_path / "python3 images"
    data.mkdir()

    code, document, told = run_here(
        tmp_path / "out", capsys, "--params", str(tmp_path / "params.json"), "--data", str(data)
    )

    assert code == 2
    assert document["error"]["message"].startswith(f"{data}: ")
    assert f"failed: {data}: " in told


def test_data_in_a_bucket_is_passed_on_as_it_was_written(
    tmp_path: Path, capsys: Capsys, monkeypatch: Environment
) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:1")  # nobody listens there
    monkeypatch.setenv("SHUTTERLINE_STORAGE_TIMEOUT", "0.1")
    options = ["--params", str(write_params(tmp_path / "params.json")), "--data", "gs://bucket/python3/digits"]

    code, document, _ = run_here(tmp_path / "out", capsys, *options)

    assert code != 0
    assert document["error"]["step"] == "data-prep"
    assert '"data": "gs://bucket/python3/digits"' in (tmp_path / "out" / "kfp.log").read_text()


@pytest.mark.slow
def test_files_of_the_users_do_not_stand_in_for_packages(tmp_path: Path, command: Command) -> None:
    params = write_params(tmp_path / "params.json", num_epochs=1)
    for name in ("torch.py", "numpy.py", "json.py"):
        (tmp_path / name).write_text("raise RuntimeError('not this one')")

    done = command("-P", "-m", "pipelines.cli", "run", "--params", params, "--out", "out")

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("number", "whole_group", "code", "reason"),
    [
        (signal.SIGINT, True, 130, "interrupted from the keyboard"),  # as a terminal does
        (signal.SIGINT, False, 130, "SIGTERM"),  # which is what the step then gets
        (signal.SIGTERM, False, 143, "SIGTERM"),
        (signal.SIGHUP, False, 143, "SIGHUP"),
    ],
    ids=["Ctrl-C", "SIGINT to the command alone", "SIGTERM", "SIGHUP"],
)
def test_a_run_that_is_told_to_stop_ends_in_good_order(
    tmp_path: Path, number: signal.Signals, whole_group: bool, code: int, reason: str
) -> None:
    params = write_params(tmp_path / "params.json", num_epochs=100_000)
    run = subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli", "run", "--params", str(params), "--out", "out", "--json"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert run.stderr is not None
    for line in run.stderr:
        if "epoch 3/" in line:
            break

    (os.killpg if whole_group else os.kill)(run.pid, number)
    printed, told = run.communicate(timeout=60)

    assert run.returncode == code, told
    document = json.loads(printed)
    assert document["status"] == "cancelled"
    assert document["steps"] == {"data-prep": "succeeded", "train": "cancelled", "exit": "succeeded"}
    assert document == json.loads((tmp_path / "out" / "result.json").read_text())
    assert "Traceback" not in told
    (model,) = (tmp_path / "out" / "kfp").glob("*/train/model")
    with pytest.raises(ArtifactError, match="not a complete model"):
        open_model(model)
    view = fold(document["run"], events_in(tmp_path / "out" / "events"))
    assert view.state == "cancelled"
    assert view.ended is not None
    assert [step.outcome for step in view.ended.steps] == ["succeeded", "cancelled", "not started"]
    assert isinstance(view.steps["train"].end, Cancelled)
    assert (view.steps["train"].end.reason, view.steps["train"].end.exit_code) == (reason, code if whole_group else 143)


@pytest.mark.slow
def test_temporary_files_are_cleared_away(tmp_path: Path, command: Command) -> None:
    params = write_params(tmp_path / "params.json", num_epochs=1)
    (tmp_path / "tmp").mkdir()

    done = command("-m", "pipelines.cli", "run", "--params", params, "--out", "out", TMPDIR=str(tmp_path / "tmp"))

    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "tmp").iterdir()) == []


def test_bad_params_are_refused_before_anything_starts(tmp_path: Path, capsys: Capsys) -> None:
    write_params(tmp_path / "params.json", batch_size=0, momentum=1)

    code, document, told = run_here(tmp_path / "out", capsys, "--params", str(tmp_path / "params.json"))

    assert code == 2
    assert [problem["path"] for problem in document["error"]["problems"]] == ["momentum", "batch_size"]
    assert told.count("\n") == 3
    assert not (tmp_path / "out").exists()


def test_an_output_directory_that_cannot_be_written(tmp_path: Path, capsys: Capsys) -> None:
    (tmp_path / "file").write_text("")

    code, document, _ = run_here(tmp_path / "file" / "out", capsys, "--set", "num_epochs=1")

    assert code == 2
    assert "cannot be written" in document["error"]["message"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="shows what happens without a GPU")
def test_a_gpu_that_is_not_there_is_an_error_and_never_a_run_on_the_cpu(tmp_path: Path, capsys: Capsys) -> None:
    code, document, _ = run_here(tmp_path / "out", capsys, "--set", "device=cuda", "--set", "num_epochs=1")

    assert code == 2
    assert document["error"]["type"] == "DeviceError"
