from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import components, local

from components.shared.artifacts.model import open_model
from components.shared.images import IMAGE_STEPS
from components.shared.params.params import Params
from components.shared.version import __version__
from pipelines.cli import main
from pipelines.params_files import EXAMPLE_PARAMS
from tests.examples import DIGITS, SMALL, write_params
from tests.pipelines.conftest import Capsys, Environment

SEED = 2**62 + 1


def compiled(tmp_path: Path, **changes: Any) -> Path:
    write_params(tmp_path / "params.json", **changes)
    file = tmp_path / "pipeline.yaml"
    assert main(["compile", "--params", str(tmp_path / "params.json"), "-o", str(file)]) == 0
    return file


def test_the_compiled_pipeline_carries_params_without_loss(tmp_path: Path) -> None:
    file = compiled(tmp_path, manual_seed=SEED, learning_rate=0.1 + 0.2, KAFKA_HOST="k", KAFKA_TOPIC="t")

    default = yaml.safe_load(file.read_text())["root"]["inputDefinitions"]["parameters"]["params"]["defaultValue"]

    assert isinstance(default, str)
    carried = Params.load(default)
    assert carried == Params.load(tmp_path / "params.json")
    assert carried.manual_seed == SEED
    assert carried.learning_rate == 0.1 + 0.2


@pytest.mark.slow
def test_the_compiled_pipeline_runs_as_the_python_one(tmp_path: Path, capfd: Capsys, monkeypatch: Environment) -> None:
    file = compiled(tmp_path, num_epochs=1, manual_seed=SEED)
    assert main(["run", "--params", str(tmp_path / "params.json"), "--out", str(tmp_path / "python")]) == 0
    monkeypatch.chdir(tmp_path)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # kfp doubts images whose name does not say "python"
        local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=str(tmp_path / "yaml"))
        components.load_component_from_file(str(file))(data=str(DIGITS))
    capfd.readouterr()

    (model,) = (tmp_path / "yaml").glob("*/train/model")
    assert open_model(model).manifest.provenance.params["manual_seed"] == SEED
    expected = tmp_path / "python" / "model" / "model.safetensors"
    assert (model / "model.safetensors").read_bytes() == expected.read_bytes()


def test_placeholders_in_params_stay_text(tmp_path: Path) -> None:
    # kfp would take {{$.inputs}} for one of its own and fail on it.
    raw = SMALL | {"learning_rate_schedule": [
        {"name": "{{$.inputs}}", "class": "torch.optim.lr_scheduler.ExponentialLR", "kwargs": {"gamma": 1}}
    ]}  # fmt: skip

    text = Params.from_dict(raw).to_json()

    assert "{{" not in text
    assert Params.load(text).learning_rate_schedule[0].name == "{{$.inputs}}"


def test_the_exit_step_is_an_exit_handler_and_steps_name_our_images(tmp_path: Path) -> None:
    document = yaml.safe_load(compiled(tmp_path).read_text())

    tasks = document["root"]["dag"]["tasks"]
    assert tasks["exit-step"]["triggerPolicy"] == {"strategy": "ALL_UPSTREAM_TASKS_COMPLETED"}
    images = {
        name: executor["container"]["image"].split(":")[0]
        for name, executor in document["deploymentSpec"]["executors"].items()
    }
    assert images == {
        "exec-data-prep": "shutterline/data-prep",
        "exec-train": "shutterline/train",
        "exec-evaluate": "shutterline/evaluate",
        "exec-exit-step": "shutterline/data-prep",
    }
    for executor in document["deploymentSpec"]["executors"].values():
        assert "pip install" not in json.dumps(executor)


def test_a_secret_of_this_environment_is_in_no_compiled_file(
    tmp_path: Path, capsys: Capsys, monkeypatch: Environment
) -> None:
    secret, file = "correct-horse-battery", tmp_path / "pipeline.yaml"
    monkeypatch.setenv("KAFKA_SASL_PASSWORD", secret)
    for way in (
        ["--data", f"gs://bucket/{secret}"],
        ["--set", f"KAFKA_HOST={secret}.example.com", "--set", "KAFKA_TOPIC=t"],
    ):
        assert main(["compile", "--params", str(EXAMPLE_PARAMS), "-o", str(file), *way]) == 2
        out, err = capsys.readouterr()
        assert "the secret that KAFKA_SASL_PASSWORD has here" in err
        assert secret not in out + err
        assert not file.exists()

    assert main(["compile", "-o", str(file)]) == 0
    assert secret not in file.read_text()


def test_compile_tells_what_would_go_wrong_on_the_platform(tmp_path: Path, capsys: Capsys) -> None:
    kubeflow = ["compile", "--target", "kubeflow", "--params", str(EXAMPLE_PARAMS)]
    sound = [*kubeflow, "--data", "gs://bucket/photos", "-o", str(tmp_path / "sound.yaml")]
    assert main(sound) == 0
    assert "warnings; `shutterline validate" in capsys.readouterr().out

    wrong = [*kubeflow, "--data", "/home/me/photos", "-o", str(tmp_path / "wrong.yaml")]
    assert main([*wrong, "--json"]) == 2
    document = json.loads(capsys.readouterr().out)
    assert document["status"] == "failed"
    (error,) = [finding for finding in document["findings"] if finding["severity"] == "error"]
    assert (error["rule"], error["where"]) == ("data-location", ["root.inputDefinitions.parameters.data.defaultValue"])
    assert main(wrong) == 2
    assert "/home/me/photos is not there in the step that reads it" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["pipeline.txt", "file/pipeline.yaml"])
def test_an_output_that_cannot_be_written(tmp_path: Path, capsys: Capsys, name: str) -> None:
    (tmp_path / "file").write_text("")

    assert main(["compile", "-o", str(tmp_path / name), "--json"]) == 2

    assert "--output" in json.loads(capsys.readouterr().out)["error"]["message"]
    assert not (tmp_path / name).exists()


def test_a_link_stays_one_to_the_file_that_is_written(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    link = tmp_path / "pipeline.yaml"
    link.symlink_to(tmp_path / "kept" / "real.yaml")

    assert main(["compile", "-o", str(link)]) == 0

    assert link.is_symlink()
    assert yaml.safe_load((tmp_path / "kept" / "real.yaml").read_text())["pipelineInfo"]


@pytest.mark.parametrize("option", ["--data", "--checkpoints"])
def test_what_kfp_would_fill_in_is_no_place(tmp_path: Path, capsys: Capsys, option: str) -> None:
    file = tmp_path / "pipeline.yaml"

    assert (
        main(
            ["compile", "--params", str(EXAMPLE_PARAMS), "-o", str(file), option, "gs://bucket/{{$.pipeline_job_name}}"]
        )
        == 2
    )

    assert f"{option.removeprefix('--')} gs://bucket/" in capsys.readouterr().err
    assert not file.exists()


@pytest.mark.parametrize(
    "reference", ["user:hunter2!@registry.example/x:1", "https://u:hunter2!@registry.example/x", "{{$.image}}", "a b"]
)
def test_images_are_named_by_nothing_else(tmp_path: Path, capsys: Capsys, reference: str) -> None:
    images = {step: {"reference": reference, "id": f"sha256:{'1' * 64}"} for step in IMAGE_STEPS}
    file = tmp_path / "images.json"
    file.write_text(json.dumps({"schema_version": 1, "version": __version__, "images": images}))

    assert main(["compile", "--images", str(file), "-o", str(tmp_path / "pipeline.yaml")]) == 2

    err = capsys.readouterr().err
    assert "images.data-prep must be" in err
    assert "hunter2!" not in err
