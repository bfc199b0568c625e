"""``shutterline`` validate, compile, settings, params and events."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import yaml

from components.shared.command import print_json, print_message
from components.shared.container_images import NODES_IMAGES, PIPELINE_IMAGES, images_named_by
from components.shared.errors import EXIT_FAILURE, EXIT_OK, InputError
from components.shared.params.params import Params
from components.shared.params.recipes import describe_recipe
from components.shared.params.schema import json_schema
from components.shared.storage.location import parse_location
from components.shared.strict_yaml import Dumper
from pipelines.compiled import TRAIN_JOB, CompileTarget, PlatformName, parse_compiled
from pipelines.options import (
    EXAMPLES_OWN,
    IMAGES,
    JSON,
    SET,
    SETTINGS,
    UNCHECKED,
    argument,
    flag,
    option,
    params_file,
    path,
    platform,
    seconds,
    text,
)
from pipelines.params_files import load_checked, params_or_example, require_inputs

if TYPE_CHECKING:
    from pipelines.settings.read import AnySettings


def _print(*lines: str) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))


def _print_yaml(document: dict[str, Any]) -> None:
    """Print YAML that YAML 1.1 and 1.2 readers understand alike."""
    sys.stdout.write(str(yaml.dump(document, Dumper=Dumper, sort_keys=False, width=110, default_flow_style=None)))


def _warn(warnings: Sequence[str]) -> None:
    for warning in warnings:
        print_message(f"warning: {warning}")


@click.command()
@argument("file", metavar="FILE", type=text)
@platform("The platform a pipeline shall run on; default: as it says.")
@flag("--elsewhere", "Let initial_weights be a path on the machine that trains, which this is not.")
@flag("--strict", "Let warnings of a pipeline or a TrainJob fail too.")
@SET
@JSON
def validate(
    *,
    file: str,
    target: PlatformName | None,
    elsewhere: bool,
    strict: bool,
    overrides: Sequence[str],
    as_json: bool,
) -> int:
    """Check params, a compiled pipeline, or a TrainJob.

    Of params (.json, .yaml or .py) everything is checked, the network is built on torch's meta device, and the shape
    and cost of every layer are printed. A network that does not fit is refused with the first layer that does not.

    Of a compiled pipeline, or a TrainJob of Kubeflow Trainer, it reports where it would fail, waste money or expose a
    secret, and what to do; no platform is asked. Errors end with exit code 2.
    """
    from pipelines.lint.report import kind_of, validate_pipeline, validate_train_jobs

    if (kind := kind_of(file)) == "pipeline":
        if overrides:
            raise InputError(f"{file}: is a compiled pipeline, and --set changes params; compile it anew")
        return validate_pipeline(Path(file), target, strict=strict, as_json=as_json)
    if kind == "settings":
        raise InputError(
            f"{file}: is a settings file; `shutterline settings --target kubeflow|vertex --settings {file}` checks it, "
            "and prints what each step gets"
        )
    if kind:
        if overrides or target or elsewhere:
            raise InputError(f"{file}: is a TrainJob, and --set, --target and --elsewhere are not for it")
        return validate_train_jobs(Path(file), strict=strict, as_json=as_json)
    if target or strict:
        raise InputError(f"{file}: --target is for compiled pipelines, --strict for TrainJobs too, and this is neither")
    checked = load_checked(file, overrides)
    if not elsewhere:
        require_inputs(checked.params, file)
    table, targets = checked.table, checked.params.status_targets.describe()
    recipe = describe_recipe(checked.params.to_dict())
    if as_json:
        print_json(
            {
                "status": "valid",
                "warnings": checked.warnings,
                "layers": [vars(row) | {"output_shape": list(row.output_shape)} for row in table.rows] if table else [],
                "parameters": table.parameters if table else None,
                "trainable_parameters": table.trainable if table else None,
                "multiply_adds": table.multiply_adds if table else None,
                "status_targets": targets,
                "recipe": recipe,
                "params": checked.params.to_dict(),
            }
        )
    else:
        _warn(checked.warnings)
        _print(*(table.lines() if table else ["torch is not installed here, so the network was not built"]), "")
        _print(*([recipe] if recipe else []), f"status goes to: {targets}", f"{file}: these params are sound")
    return EXIT_OK


@click.command()
@params_file(EXAMPLES_OWN)
@SET
@option("-o", "--output", metavar="FILE", type=path, help="File to write; default: pipeline.yaml, or train-job.yaml.")
@platform("The platform; trainjob: training alone, as a TrainJob of Kubeflow Trainer.", also=(TRAIN_JOB,))
@SETTINGS
@option("--data", metavar="LOCATION", type=text, help="Default of the pipeline's input data, gs://… or s3://…, with "
        "--params for them.")  # fmt: skip
@option("--checkpoints", metavar="LOCATION", help="Default of its input checkpoints, or where a TrainJob's are; "
        "default: the settings'.")  # fmt: skip
@option("--dataset", metavar="LOCATION", type=text, help="Of a TrainJob: where data prep's dataset is.")
@option("--model", metavar="LOCATION", type=text, help="Of a TrainJob: where the model is published; {run} in "
        "it is the run's id.")  # fmt: skip
@flag("--cache", "With --target: serve data prep from the cache too, and the steps behind it: for data that never "
      "change below one name.")  # fmt: skip
@IMAGES
@UNCHECKED
@JSON
def compile(
    *,
    params: str | None,
    overrides: Sequence[str],
    output: Path | None,
    target: CompileTarget | None,
    settings: Path | None,
    data: str | None,
    checkpoints: str | None,
    dataset: str | None,
    model: str | None,
    cache: bool,
    images: Path | None,
    unchecked: bool,
    as_json: bool,
) -> int:
    """Write the pipeline as KFP YAML, or training alone as a TrainJob.

    The params become the default of the pipeline's params input, which every run may replace. With --target the steps
    also ask the platform for processors, memory, accelerators, secrets, volumes, retries: as --settings say, or else as
    much as the example needs. Without it nothing is asked of any platform.

    A TrainJob is for `kubectl create`. Its nodes get what settings for Kubeflow have train get.
    """
    output = output or Path("train-job.yaml" if target == TRAIN_JOB else "pipeline.yaml")
    of_pipelines: dict[str, object] = {"data": data, "cache": cache}
    of_jobs: dict[str, object] = {"dataset": dataset, "model": model}
    for name, given in (of_pipelines if target == TRAIN_JOB else of_jobs).items():
        if given:
            raise InputError(f"--{name} is {'not ' if name in of_pipelines else ''}for --target {TRAIN_JOB}")
    own, option = (dataset, "--dataset") if target == TRAIN_JOB else (data, "--data")
    checked = load_checked(params_or_example(params, own, option), overrides)
    _warn(checked.warnings)
    if target == TRAIN_JOB:
        from pipelines.train_job_command import compile_train_job

        return compile_train_job(
            checked.params, output, settings, images, dataset, model, checkpoints, unchecked=unchecked, as_json=as_json
        )
    from pipelines.checked_output import write_checked
    from pipelines.lint.rules import lint
    from pipelines.targets.compiling import check_output, compiled_pipeline, nodes_of

    check_output(output)
    if target is None and (settings or cache):
        raise InputError(f"--{'settings' if settings else 'cache'} needs --target, kubeflow or vertex")
    asked = _settings(settings, target, checked.params) if target else None
    of_steps = images_named_by(images, NODES_IMAGES if nodes_of(asked) else PIPELINE_IMAGES)
    if asked and cache:
        asked = asked.with_cached_data()
    compiled = compiled_pipeline(checked.params, of_steps, asked, data=data, checkpoints=checkpoints)
    findings = lint(parse_compiled(compiled, output), target)
    document = {
        "pipeline": str(output),
        "target": target,
        "params": checked.params.to_dict(),
        "images": {step: image.reference for step, image in of_steps.items()},
    }
    return write_checked(
        output, compiled, findings, document, unchecked=unchecked, as_json=as_json, warns=target is not None
    )


def _settings(file: Path | None, target: PlatformName, params: Params) -> AnySettings:
    from pipelines.settings.read import read_settings, settings_warnings

    settings = read_settings(file, target, params)
    _warn(settings_warnings(settings, params))
    return settings


@click.command()
@params_file("the example's")
@SET
@platform("The platform.", required=True)
@SETTINGS
@flag("--schema", "Print the JSON Schema of settings instead.")
@JSON
def settings(
    *,
    params: str | None,
    overrides: Sequence[str],
    target: PlatformName,
    settings: Path | None,
    schema: bool,
    as_json: bool,
) -> int:
    """Print what every step gets of a platform.

    These are the settings as compile uses them: defaults, what the file says of every step, what it says of each.
    """
    from pipelines.settings.read import SETTINGS

    if schema:
        print_json(SETTINGS[target].model_json_schema(by_alias=True))
        return EXIT_OK
    checked = load_checked(params_or_example(params), overrides)
    document = _settings(settings, target, checked.params).document()
    (print_json if as_json else _print_yaml)(document)
    return EXIT_OK


@click.command()
@argument("file", metavar="[FILE]", required=False, type=text)
@flag("--schema", "Print the JSON Schema of params instead.")
@option("--format", type=click.Choice(["json", "yaml"]), default="json", show_default=True, help="How to print them.")
@SET
@JSON
def params(*, file: str | None, schema: bool, format: str, overrides: Sequence[str], as_json: bool) -> int:
    """Print params with every default, or their JSON Schema; without FILE the example's."""
    if schema:
        print_json(json_schema())
        return EXIT_OK
    document = load_checked(params_or_example(file), overrides).params.to_dict()
    (_print_yaml if format == "yaml" and not as_json else print_json)(document)
    return EXIT_OK


@click.group(no_args_is_help=False)
def events() -> None:
    """Deliver status events later; print their JSON Schema."""


@events.command()
@argument("spools", metavar="SPOOL…", nargs=-1, required=True)
@option("--params", metavar="FILE", help="Deliver to the brokers of these params instead.")
@option("--timeout", metavar="SECONDS", type=seconds, default="30", show_default=True, help="How long to try.")
@JSON
def replay(*, spools: Sequence[str], params: str | None, timeout: float, as_json: bool) -> int:
    """Deliver what the brokers of a run do not have yet, in order, under the same ids.

    A SPOOL is a file, or a directory or bucket's prefix of such files: path, gs://… or s3://…. A spool remembers which
    brokers it was meant for and how far each has come, so repeating is harmless.
    """
    from components.shared.events.replay import find_spools
    from components.shared.events.replay import replay as deliver
    from components.shared.logs import log_to_stderr, step_logger
    from components.shared.status import transport_of

    targets = None if params is None else Params.load(params).status_targets.as_ledger()
    if targets is not None and not targets:
        raise InputError(f"--params {params}: names no broker")
    log_to_stderr()
    log = step_logger("events")
    with tempfile.TemporaryDirectory(prefix="shutterline-events-") as scratch:
        found = find_spools(map(parse_location, spools), Path(scratch), log)
        done = deliver(found, transport_of, targets=targets, timeout_s=timeout, log=log)
    left = sum(entry.undelivered for entry in done)
    if as_json:
        print_json({"status": "undelivered" if left else "delivered", "spools": [asdict(entry) for entry in done]})
    else:
        for entry in done:
            rest = f", {entry.undelivered} not: {entry.trouble}" if entry.undelivered else ""
            _print(f"{entry.spool}: {entry.delivered} events to {entry.place}{rest}")
    return EXIT_FAILURE if left else EXIT_OK


@events.command()
@JSON
def schema(**_: bool) -> int:
    """Print the JSON Schema of status events."""
    from components.shared.events.event import schema_text

    sys.stdout.write(schema_text())
    return EXIT_OK
