from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from components.shared.container_images import IMAGE_STEPS
from components.shared.params.params import Params
from components.shared.version import __version__
from pipelines.params_files import EXAMPLE_PARAMS
from tests.examples import SMALL, write_params
from tests.pipelines.conftest import SEED, Environment, Refused, Shutterline

FILE = Path("pipeline.yaml")
EXAMPLE = ("compile", "--params", EXAMPLE_PARAMS)
pytestmark = pytest.mark.usefixtures("here")


def test_the_compiled_pipeline_carries_params_without_loss(shutterline: Shutterline) -> None:
    changes = {"manual_seed": SEED, "learning_rate": 0.1 + 0.2, "KAFKA_HOST": "k", "KAFKA_TOPIC": "t"}
    params = write_params(Path("params.json"), **changes)
    assert shutterline("compile", "--params", params).code == 0

    default = yaml.safe_load(FILE.read_text())["root"]["inputDefinitions"]["parameters"]["params"]["defaultValue"]

    assert isinstance(default, str)
    carried = Params.load(default)
    assert carried == Params.load(params)
    assert (carried.manual_seed, carried.learning_rate) == (SEED, 0.1 + 0.2)


def test_placeholders_in_params_stay_text() -> None:
    # kfp would take {{$.inputs}} for one of its own and fail on it.
    gamma = {"class": "torch.optim.lr_scheduler.ExponentialLR", "kwargs": {"gamma": 1}}
    raw = SMALL | {"learning_rate_schedule": [{"name": "{{$.inputs}}", **gamma}]}

    text = Params.from_dict(raw).to_json()

    assert "{{" not in text
    assert Params.load(text).learning_rate_schedule[0].name == "{{$.inputs}}"


def test_the_exit_step_is_an_exit_handler_and_steps_name_our_images(shutterline: Shutterline) -> None:
    assert shutterline("compile").code == 0
    document = yaml.safe_load(FILE.read_text())

    tasks = document["root"]["dag"]["tasks"]
    assert tasks["exit-step"]["triggerPolicy"] == {"strategy": "ALL_UPSTREAM_TASKS_COMPLETED"}
    executors = document["deploymentSpec"]["executors"]
    assert {name: executor["container"]["image"].split(":")[0] for name, executor in executors.items()} == {
        "exec-data-prep": "shutterline/data-prep",
        "exec-train": "shutterline/train",
        "exec-evaluate": "shutterline/evaluate",
        "exec-publish": "shutterline/evaluate",
        "exec-exit-step": "shutterline/data-prep",
    }
    assert "pip install" not in FILE.read_text()


def test_a_secret_of_this_environment_is_in_no_compiled_file(
    shutterline: Shutterline, refused: Refused, monkeypatch: Environment
) -> None:
    secret = "correct-horse-battery"  # noqa: S105 - of nobody
    monkeypatch.setenv("KAFKA_SASL_PASSWORD", secret)
    for way in (
        ["--data", f"gs://bucket/{secret}"],
        ["--set", f"KAFKA_HOST={secret}.example.com", "--set", "KAFKA_TOPIC=t"],
    ):
        message = refused(*EXAMPLE, *way)
        assert "the secret that KAFKA_SASL_PASSWORD has here" in message
        assert secret not in message
        assert not FILE.exists()

    assert shutterline("compile").code == 0
    assert secret not in FILE.read_text()


def test_compile_tells_what_would_go_wrong_on_the_platform(shutterline: Shutterline) -> None:
    kubeflow = (*EXAMPLE, "--target", "kubeflow", "--data")
    sound = shutterline(*kubeflow, "gs://bucket/photos")
    assert (sound.code, "warnings; `shutterline validate" in sound.out) == (0, True)

    wrong = shutterline(*kubeflow, "/home/me/photos", "--json")
    assert (wrong.code, wrong.document["status"]) == (2, "failed")
    (error,) = [finding for finding in wrong.document["findings"] if finding["severity"] == "error"]
    assert (error["rule"], error["where"]) == ("data-location", ["root.inputDefinitions.parameters.data.defaultValue"])
    wrong = shutterline(*kubeflow, "/home/me/photos")
    assert (wrong.code, "/home/me/photos is not there in the step that reads it" in wrong.err) == (2, True)


@pytest.mark.parametrize("name", ["pipeline.txt", "file/pipeline.yaml"])
def test_an_output_that_cannot_be_written(refused: Refused, name: str) -> None:
    Path("file").touch()
    assert "--output" in refused("compile", "-o", name, "--json")
    assert not Path(name).exists()


def test_a_link_stays_one_to_the_file_that_is_written(shutterline: Shutterline) -> None:
    Path("kept").mkdir()
    FILE.symlink_to("kept/real.yaml")

    assert shutterline("compile").code == 0

    assert FILE.is_symlink()
    assert yaml.safe_load(Path("kept/real.yaml").read_text())["pipelineInfo"]


@pytest.mark.parametrize("option", ["--data", "--checkpoints"])
def test_what_kfp_would_fill_in_is_no_location(refused: Refused, option: str) -> None:
    message = refused(*EXAMPLE, option, "gs://bucket/{{$.pipeline_job_name}}")
    assert f"{option.removeprefix('--')} gs://bucket/" in message
    assert not FILE.exists()


@pytest.mark.parametrize(
    "reference", ["user:hunter2!@registry.example/x:1", "https://u:hunter2!@registry.example/x", "{{$.image}}", "a b"]
)
def test_images_are_named_by_nothing_else(refused: Refused, reference: str) -> None:
    images = {step: {"reference": reference, "id": f"sha256:{'1' * 64}"} for step in IMAGE_STEPS}
    Path("images.json").write_text(json.dumps({"schema_version": 1, "version": __version__, "images": images}))

    message = refused("compile", "--images", "images.json")

    assert "images.data-prep.reference: must be NAME:TAG or NAME@sha256:…, with no login before it" in message
    assert "hunter2!" not in message
