"""``shutterline run``: the whole pipeline on this machine."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from components.shared.artifacts.gate import GateResult
from components.shared.command import is_interrupted, last_lines, print_json, print_message
from components.shared.container_images import images_named_by
from components.shared.errors import InputError
from components.shared.extras import require_extras
from components.shared.params.params import Params
from components.shared.signals import Terminated
from components.shared.storage.location import AnyPath, lies_within, parse_location
from pipelines.init_command import params_for
from pipelines.options import IMAGES, JSON, SET, flag, option, options, params_file, path, text
from pipelines.params_files import (
    EXAMPLE_DATA,
    is_own,
    load_checked,
    locations_of,
    params_or_example,
    require_destination,
    require_inputs,
)
from pipelines.watch_command import is_live

# The run succeeded, and its model is not good enough; asked for by --require-gate.
EXIT_NOT_PASSED = 3

if TYPE_CHECKING:
    from pipelines.targets.local import Lines
    from pipelines.targets.steps import Target


def _size(value: str) -> str:
    if not re.fullmatch(r"[1-9][0-9]*[bkmgBKMG]?", value):
        raise click.BadParameter(f"must be a size such as 512m or 8g, got {value!r}")
    return value


@click.command()
@params_file("those that init writes for the data")
@SET
@options(
    option("--data", metavar="DIR", type=text, help="Images and their labels, here or in a bucket (gs://…, s3://…); "
           "default: the example's digits."),
    option("--out", metavar="DIR", type=path, help="Directory of the run; one that was interrupted goes on; default: "
           "runs/TIME."),
    flag("--start-over", "Train anew, whatever run and checkpoints are in DIR."),
    flag("--follow-links", "Read what links in the data lead to outside of it."),
    flag("--require-gate", "Exit with 3 where the model does not pass the gate of the params."),
    option("--runner", type=click.Choice(["subprocess", "docker"]), default="subprocess", show_default=True,
           help="Steps as processes of this installation, or as containers, to which the options below belong."),
    IMAGES,
    option("--network", metavar="NAME", type=text, help="Network of the containers, such as host, none or a compose "
           "file's; default: Docker's."),
    option("--gpus", type=click.Choice(["none", "all", "auto"]), help="GPUs for training and evaluation; default: "
           "auto, all of them if Docker offers any and the device of the params is not cpu."),
    option("--shm-size", metavar="SIZE", type=_size, help="Size of /dev/shm, such as 512m; default: 1g."),
    option("--memory", metavar="SIZE", type=_size, help="Most memory of a step, such as 8g; default: no limit."),
    option("--cpus", metavar="N", type=click.FloatRange(0.01, 65536), help="Most processors of a step, such as 1.5; "
           "default: no limit."),
)  # fmt: skip
@JSON
def run(
    *,
    params: str | None,
    overrides: tuple[str, ...],
    data: str | None,
    out: Path | None,
    start_over: bool,
    follow_links: bool,
    require_gate: bool,
    runner: str,
    images: Path | None,
    as_json: bool,
    **containers: Any,
) -> int:
    """Run the whole pipeline on this machine.

    Data prep, training, evaluation and the exit step run with kfp's local runners: in processes of this installation,
    or by --runner docker each in its container, which `make images` builds. Without options it trains a digit
    classifier on the embedded example.

    A model that passes the gate of the params is published to their publish_uri. One that does not is no error: the
    exit code is 0, or with --require-gate 3.

    Containers run as you, on a read-only file system and without any capability. They see the run's directory and,
    read only, the data and the files that settings name; of the environment SHUTTERLINE_*, KAFKA_*, AWS_*, GOOGLE_* and
    the emulators' variables. They are labelled by the run: docker ps --filter label=shutterline.run
    """
    in_containers = runner == "docker"
    given = {"images": images} | containers
    if not in_containers and (name := next((name for name, value in given.items() if value is not None), None)):
        raise InputError(f"--{name.replace('_', '-')} belongs to --runner docker, which was not asked for")
    require_extras("shutterline run", "pipelines", *(() if in_containers else ("data-prep", "train", "evaluate")))
    location, of_steps = parse_location(data or str(EXAMPLE_DATA)), images_named_by(images)
    _check_paths(out or Path("runs"), location)
    if follow_links and in_containers:
        raise InputError(
            "--follow-links: a container sees the data folder alone, where links that leave it lead nowhere; copy what "
            "they lead to, or leave --runner docker out"
        )
    if params is None and data is not None and is_own(data):
        require_extras("shutterline run without --params", "data-prep")
        source = params_for(data, overrides, follow_links=follow_links)
    else:
        source = params_or_example(params)
    from pipelines.targets.local import run_local

    def target(params: Params, log: Callable[[str], object]) -> tuple[AbstractContextManager[Target], Params]:
        """What starts the steps, and the params as these read them."""
        if in_containers:
            from pipelines.targets.docker_environment import with_absolute_paths
            from pipelines.targets.docker_steps import docker_target

            params = with_absolute_paths(params)
            return docker_target(params, location, log, of_steps, **containers), params
        from pipelines.targets.subprocess_steps import subprocess_steps

        return nullcontext(subprocess_steps), params

    try:
        checked = load_checked(source, overrides)
        for warning in checked.warnings:
            print_message(f"warning: {warning}")
        if params is not None and data is None:
            print_message("warning: without --data these params get the example's digits")
        require_inputs(checked.params, source)
        _check_destination(checked.params, out)
        require_destination(checked.params, location)
        if require_gate and checked.params.gate is None:
            raise InputError("--require-gate: the params have no gate; add one, such as --set gate.accuracy.min=0.97")
        lines = _lines()
        opened, ready = target(checked.params, lines)
        with opened as start:
            directory = out or _new_directory()
            done = run_local(
                ready, location, directory, lines, start,
                start_over=start_over, follow_links=follow_links, is_mounted=in_containers,
            )  # fmt: skip
    except (KeyboardInterrupt, Terminated) as stopped:  # outside of the steps
        from pipelines.targets.run_directory import saved_in

        if out and (saved := saved_in(out)):
            stopped.add_note(saved)
        raise
    document, error = done.document, done.document["error"]
    if as_json:
        print_json(document)
    elif error:
        how = "was cancelled" if document["status"] == "cancelled" else "failed"
        why = ", for the reason above" if done.is_reported else f": {error['message']}"
        print_message(f"error: {error['step'] or 'pipeline'} {how}{why}; log: {directory / 'kfp.log'}")
        if done.kept:
            kept = ", ".join(done.kept)
            print_message(f"{directory}: {kept} stay, of an earlier run; {directory / 'result.json'} is of this one")
        if is_interrupted(done.exit_code):
            where = () if out else ("--out", str(directory))
            print_message(*last_lines(done.exit_code, error.get("saved", ""), "shutterline", None, *where))
    else:
        sys.stdout.write("\n".join(_result_table(document, directory)) + "\n")
    gate = document["gate"]
    return EXIT_NOT_PASSED if require_gate and not error and gate and not gate["passed"] else done.exit_code


def _lines() -> Lines:
    """Where the steps' lines go: on a terminal above a live view of the steps, unless plain text is asked for."""
    if is_live(sys.stderr) and not os.environ.get("NO_COLOR"):
        from pipelines.run_view import LiveLines

        return LiveLines(sys.stderr)
    from pipelines.targets.local import Lines

    return Lines()


def _check_paths(out: Path, data: AnyPath) -> None:
    """Refuse a run's directory in the data, and data in what the run writes, before anything is written."""
    from pipelines.targets.run_directory import DIRECTORIES, LINKS

    if lies_within(out, data):
        raise InputError(
            f"--out {out}: is in the data, {data}, where the next run would read it; name another directory"
        )
    for name in (*LINKS, *DIRECTORIES):
        if isinstance(data, Path) and lies_within(data, out / name) and not (out / name).is_symlink():
            raise InputError(
                f"--data {data}: is in {out / name}, which the run writes; name another directory by --out"
            )


def _check_destination(params: Params, out: Path | None) -> None:
    """Refuse to publish where the run itself writes, and a later run in its directory removes."""
    from pipelines.targets.run_directory import DIRECTORIES, LINKS

    where = locations_of(params).get("publish_uri")
    if out is None or not isinstance(where, Path):
        return
    for name in (*LINKS, *DIRECTORIES):
        if lies_within(where, out / name):
            raise InputError(f"publish_uri {where}: is in {out / name}, which the run writes; name another directory")


def _new_directory() -> Path:
    """A directory named by the time that no other run has taken."""
    base = out = Path("runs") / time.strftime("%Y-%m-%dT%H-%M-%S")
    number = 1
    while True:
        try:
            out.mkdir(parents=True)
        except FileExistsError:
            number += 1
            out = base.with_name(f"{base.name}-{number}")
        except OSError as error:
            raise InputError(f"{out}: cannot be written: {error.strerror}; name a directory by --out") from error
        else:
            return out


def _result_table(document: dict[str, Any], out: Path) -> list[str]:
    names = {
        "accuracy": "accuracy",
        "precision_macro": "macro precision",
        "recall_macro": "macro recall",
        "f1_macro": "macro F1",
        "log_loss": "log loss",
    }
    rows = [(name, f"{document['metrics'][key]:.4f}") for key, name in names.items()]
    rows += [(f"seconds {step}", f"{value:.1f}") for step, value in document["seconds"].items()]
    width = max(len(name) for name, _ in rows)
    rule = "-" * (width + 10)
    files = {
        "model": "model",
        "result": "result.json",
        "data": "quality.html",
        "curves": "learning-curves.html",
        "report": "report.html",
    }
    paths = {name: str(out / file) for name, file in files.items()}
    paths |= {"published": document["published"]} if document["published"] else {}
    return [
        rule,
        *(f"{name:<{width}}  {value:>8}" for name, value in rows),
        rule,
        *_gate_lines(document["gate"]),
        *(f"{name:<{max(8, *map(len, paths))}} {made}" for name, made in paths.items()),
    ]


def _gate_lines(document: dict[str, Any] | None) -> list[str]:
    if document is None:
        return []
    gate = GateResult.model_validate(document)
    return [str(gate), *(f"  {threshold}" for threshold in gate.failed)]
