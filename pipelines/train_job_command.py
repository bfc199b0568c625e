"""``shutterline compile --target trainjob``."""

from __future__ import annotations

from pathlib import Path

from components.shared.command import print_message
from components.shared.container_images import images_named_by
from components.shared.errors import InputError, Problem, SettingsError
from components.shared.params.params import Params
from pipelines.checked_output import write_checked
from pipelines.compiled import TRAIN_JOB
from pipelines.lint.train_job_rules import lint_train_jobs
from pipelines.lint.train_job_view import TrainJobFile
from pipelines.settings.kubeflow import KubeflowSettings
from pipelines.settings.read import read_settings
from pipelines.targets.compiling import check_output
from pipelines.targets.train_job import train_job_manifest, train_job_text, train_job_warnings


def compile_train_job(
    params: Params,
    output: Path,
    settings_file: Path | None,
    images: Path | None,
    dataset: str | None,
    model: str | None,
    checkpoints: str | None,
    *,
    unchecked: bool,
    as_json: bool,
) -> int:
    """Write a TrainJob of checked params; returns the exit code.

    Raises:
        InputError: Something is missing or cannot be used.
    """
    check_output(output)
    if dataset is None or model is None:
        raise InputError(
            f"--target {TRAIN_JOB} needs --dataset, where data prep's dataset is, and --model, where the model goes: "
            "gs://…, s3://… or a path in a volume"
        )
    settings = read_settings(settings_file, "kubeflow", params)
    assert isinstance(settings, KubeflowSettings)  # noqa: S101 - for the type checker
    if settings.train and (problems := settings.train.trainers_problems()):
        raise SettingsError([Problem(f"train.{each.path}", each.message) for each in problems], str(settings_file))
    for warning in train_job_warnings(settings, params):
        print_message(f"warning: {warning}")
    image = images_named_by(images, ("train",))["train"].reference
    job = train_job_manifest(params, image, settings, dataset=dataset, model=model, checkpoints=checkpoints)
    text = train_job_text(job, settings, output)
    document = {"train_job": str(output), "target": TRAIN_JOB, "params": params.to_dict(), "images": {"train": image}}
    return write_checked(
        output, text, lint_train_jobs(TrainJobFile(text)), document, unchecked=unchecked, as_json=as_json
    )
