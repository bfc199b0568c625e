"""The images as commands: help, refusals, GPUs that are not there, and kfp's executor."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.shared.container_images import IMAGE_STEPS, ImageStep
from tests.containers.conftest import Images
from tests.containers.engine import HARDENED, Docker, flags_of
from tests.examples import write_digits, write_params

pytestmark = pytest.mark.containers

STEPS = pytest.mark.parametrize("step", IMAGE_STEPS)
# The pipeline alone starts the step that has several nodes train.
COMMANDS = pytest.mark.parametrize("step", [step for step in IMAGE_STEPS if step != "train-job"])
OPTIONS = {
    "data-prep": ["--data", "/data", "--dataset", "/runs/dataset"],
    "train": ["--dataset", "/dataset", "--model", "/runs/model"],
    "evaluate": ["--model", "/runs/model", "--dataset", "/dataset", "--evaluation", "/runs/evaluation"],
    "predict": ["--model", "/runs/model", "--images", "/images"],
}


@COMMANDS
def test_help_tells_mounts_environment_and_exit_codes(docker_engine: Docker, images: Images, step: ImageStep) -> None:
    ended = docker_engine.run(images[step], "--help")

    assert (ended.code, ended.err) == (0, "")
    assert [option for option in OPTIONS[step] if option.startswith("--") and option not in ended.out] == []
    for text in ("docker run --rm", "Mounts:", "--tmpfs /tmp", "environment:", "SHUTTERLINE_SCRATCH", "exit codes:"):
        assert text in ended.out
    assert ("--gpus all" in ended.out) is (step == "train")


@COMMANDS
def test_what_is_missing_or_wrong_is_one_line(
    docker_engine: Docker, images: Images, step: ImageStep, tmp_path: Path
) -> None:
    params = write_params(tmp_path / "params.json", n_classes=1)
    flags = [*HARDENED, *flags_of(mounts={params: "/params.json:ro"})]

    missing = docker_engine.run(images[step])
    wrong = docker_engine.run(images[step], *OPTIONS[step], "--params", "/params.json", flags=flags)

    assert (missing.code, missing.out, missing.err.count("\n")) == (2, "", 1)
    assert OPTIONS[step][0] in missing.err
    assert "--help" in missing.err
    assert wrong.code == 2
    (line,) = wrong.err.strip().splitlines()
    assert "params.json: n_classes: must be at least 2, got 1" in line


def test_a_place_that_the_user_may_not_write(docker_engine: Docker, images: Images, tmp_path: Path) -> None:
    params, dataset = write_params(tmp_path / "params.json"), write_digits(tmp_path / "dataset")

    flags = [*HARDENED, *flags_of(mounts={params: "/params.json:ro", dataset: "/dataset:ro"})]
    ended = docker_engine.run(images["train"], *OPTIONS["train"], "--params", "/params.json", flags=flags)

    assert ended.code != 0
    assert "/runs" in ended.err
    assert "Traceback" not in ended.err


def test_a_gpu_that_is_not_there(docker_engine: Docker, images: Images, runs: Path, tmp_path: Path) -> None:
    params, dataset = write_params(tmp_path / "params.json"), write_digits(tmp_path / "dataset")
    mounts = {params: "/params.json:ro", dataset: "/dataset:ro", runs: "/runs"}
    flags = [*HARDENED, *flags_of(mounts=mounts, environment={"OMP_NUM_THREADS": "1"})]

    asked = docker_engine.run(
        images["train"], *OPTIONS["train"], "--params", "/params.json", "--set", "device=cuda", flags=flags
    )
    trained = docker_engine.run(images["train"], *OPTIONS["train"], "--params", "/params.json", flags=flags)
    evaluated = docker_engine.run(
        images["evaluate"], *OPTIONS["evaluate"], "--params", "/params.json", "--set", "device=cuda", flags=flags
    )

    assert asked.code == 2
    assert 'device: "cuda" was asked for, and no NVIDIA driver is visible' in asked.err
    assert "--gpus all" in asked.err
    assert "Traceback" not in asked.err
    assert trained.code == 0, trained.err
    assert evaluated.code == 0, evaluated.err
    assert (runs / "evaluation" / "report.html").exists()


@STEPS
def test_kfps_executor_starts(docker_engine: Docker, images: Images, step: ImageStep) -> None:
    # As a compiled component starts it: a shell, and what PATH names python3.
    command = "_KFP_RUNTIME=true python3 -m kfp.dsl.executor_main --help"
    ended = docker_engine.run(images[step], "-c", command, flags=[*HARDENED, "--entrypoint=sh"])

    assert ended.code == 0, ended.err
    assert "--function_to_execute" in ended.out


def test_a_pipelines_components_import_in_their_images(docker_engine: Docker, images: Images) -> None:
    modules = {
        "data-prep": "components.data_prep.step, components.exit_step.step, components.shared.storage.fetch",
        "train": "components.train.step, components.shared.storage.fetch, torch.utils.tensorboard",
        "train-job": "components.train_job.step, components.shared.storage.fetch, kubernetes.client",
        "evaluate": "components.evaluate.step, components.shared.storage.fetch",
        "predict": "components.predict.step, components.shared.storage.fetch",
    }
    for step in IMAGE_STEPS:
        docker_engine.python(images[step], f"import {modules[step]}, components.shared.storage.gcs, kafka, boto3")
