"""What each shutterline command does, once its options are parsed."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from components.shared.again import is_interrupted, last_lines
from components.shared.command import print_json, tell
from components.shared.data_folder import FOLLOW_LINKS_VARIABLE, lies_within
from components.shared.errors import EXIT_BAD_INPUT, EXIT_OK, InputError
from components.shared.params.params import Params
from components.shared.params.schema import json_schema
from components.shared.storage.location import AnyPath, place
from pipelines.compiled import parse_compiled
from pipelines.compiled_yaml import Dumper
from pipelines.params_files import (
    EXAMPLE_DATA,
    Checked,
    CheckElsewhere,
    load_checked,
    params_or_example,
    require_weights,
)
from pipelines.run_options import DockerOptions, docker_options, images_named_by
from pipelines.targets.steps import RunPlace, Target
from pipelines.watching import is_live

if TYPE_CHECKING:
    from pipelines.settings.read import AnySettings
    from pipelines.targets.local import Lines


def _say(line: str = "") -> None:
    sys.stdout.write(f"{line}\n")


def _show(line: str) -> None:
    """Show a line beside the result, such as the steps' log."""
    with suppress(OSError):  # of a terminal that was closed
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


class _PlainLines:
    """The lines that a run's steps log, one after the other."""

    def __call__(self, line: str) -> None:
        _show(line)

    def running(self, place: RunPlace) -> AbstractContextManager[None]:
        return nullcontext()


def _lines() -> Lines:
    """Where the steps' lines go: on a terminal above a live view of the steps, unless plain text is asked for."""
    if not is_live(sys.stderr) or os.environ.get("NO_COLOR"):
        return _PlainLines()
    from pipelines.run_view import LiveLines

    return LiveLines(sys.stderr)


def _warn(checked: Checked) -> None:
    for warning in checked.warnings:
        tell(f"warning: {warning}")


def run(options: argparse.Namespace) -> int:
    """``shutterline run``."""
    in_containers, data = docker_options(options), place(options.data or str(EXAMPLE_DATA))
    _check_places(options, data, in_containers)
    source = params_or_example(options.params, options.data)
    check = CheckElsewhere(source, options.overrides)
    from pipelines.targets.local import load_kfp, run_local

    load_kfp()  # most of a second, in which the check goes on
    checked = check.result()
    _warn(checked)
    params = checked.params
    require_weights(params, source)
    if in_containers:
        from pipelines.targets.docker_environment import with_absolute_paths

        params = with_absolute_paths(params)
    show = _lines()
    target = _target(in_containers, params, data, show)
    out = options.out or _new_directory()
    with _following_links(follow=options.follow_links):
        done = run_local(params, data, out, show, target, start_over=options.start_over)
    if options.json:
        print_json(done.document)
    elif done.document["error"]:
        error = done.document["error"]
        how = "was cancelled" if done.document["status"] == "cancelled" else "failed"
        why = ", for the reason above" if done.is_reported else f": {error['message']}"
        tell(f"error: {error['step'] or 'pipeline'} {how}{why}; log: {out / 'kfp.log'}")
        if done.kept:
            tell(f"{out}: {', '.join(done.kept)} stay, of an earlier run; {out / 'result.json'} is of this one")
        if is_interrupted(done.exit_code):
            where = () if options.out else ("--out", str(out))
            tell(*last_lines(done.exit_code, error.get("saved", ""), "shutterline", None, *where))
    else:
        for line in result_table(done.document, out):
            _say(line)
    return done.exit_code


def _check_places(options: argparse.Namespace, data: AnyPath, in_containers: DockerOptions | None) -> None:
    """Hold the run's directory against the data before anything is written.

    Raises:
        InputError: One lies in the other, or links shall be followed where they lead nowhere.
    """
    from pipelines.targets.result import LINKS

    out = options.out or Path("runs")
    if lies_within(out, data):
        raise InputError(
            f"--out {out}: lies in the data, {data}, where the next run would read it; name another directory"
        )
    for name in (*LINKS, "checkpoints", "events", "kfp", "steps"):
        if isinstance(data, Path) and lies_within(data, out / name) and not (out / name).is_symlink():
            raise InputError(
                f"--data {data}: lies in {out / name}, which the run writes; name another directory by --out"
            )
    if options.follow_links and in_containers:
        raise InputError(
            "--follow-links: a container sees the data folder alone, where links that leave it lead nowhere; copy what "
            "they lead to, or leave --runner docker out"
        )


@contextmanager
def _following_links(*, follow: bool) -> Iterator[None]:
    """Tell data prep whether links may lead out of the data folder; the params of a run do not say it."""
    if not follow:
        yield
        return
    before = os.environ.get(FOLLOW_LINKS_VARIABLE)
    os.environ[FOLLOW_LINKS_VARIABLE] = "1"
    try:
        yield
    finally:
        del os.environ[FOLLOW_LINKS_VARIABLE]
        if before is not None:
            os.environ[FOLLOW_LINKS_VARIABLE] = before


def _target(in_containers: DockerOptions | None, params: Params, data: AnyPath, show: Callable[[str], None]) -> Target:
    """What starts the steps; a Docker engine is asked whether it can."""
    if in_containers is None:
        from pipelines.targets.subprocess_steps import SubprocessTarget

        return SubprocessTarget()
    from pipelines.targets.docker_steps import DockerTarget

    return DockerTarget(in_containers, params, data, show)


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
            raise InputError(f"{out}: cannot be written: {error.strerror}; name another place by --out") from error
        else:
            return out


def result_table(document: dict[str, Any], out: Path) -> list[str]:
    """The lines a successful run ends with."""
    metrics, seconds = document["metrics"], document["seconds"]
    names = {"accuracy": "accuracy", "precision": "macro precision", "recall": "macro recall", "f1": "macro F1"}
    rows = [
        (names.get(name, name), f"{metrics[name]:.4f}") for name in ("accuracy", "precision", "recall", "f1", "loss")
    ]
    rows += [(f"seconds {step}", f"{value:.1f}") for step, value in seconds.items()]
    width = max(len(name) for name, _ in rows)
    rule = "-" * (width + 10)
    lines = [rule, *(f"{name:<{width}}  {value:>8}" for name, value in rows), rule]
    places = {"model": "model", "result": "result.json", "curves": "learning-curves.html", "report": "report.html"}
    return [*lines, *(f"{name:<8} {out / file}" for name, file in places.items())]


def validate(options: argparse.Namespace) -> int:
    """``shutterline validate``."""
    from pipelines.lint.report import is_pipeline_file, validate_pipeline

    if is_pipeline_file(options.params):
        if options.overrides:
            raise InputError(f"{options.params}: is a compiled pipeline, and --set changes params; compile it anew")
        return validate_pipeline(Path(options.params), options.target, strict=options.strict, as_json=options.json)
    if options.target or options.strict:
        raise InputError(f"{options.params}: --target and --strict are for compiled pipelines, and this is none")
    checked = load_checked(options.params, options.overrides)
    if not options.elsewhere:
        require_weights(checked.params, options.params)
    table, targets = checked.table, checked.params.status_targets.describe()
    if options.json:
        layers = [] if table is None else [vars(row) | {"output_shape": list(row.output_shape)} for row in table.rows]
        print_json(
            {
                "status": "valid",
                "warnings": checked.warnings,
                "layers": layers,
                "parameters": table.parameters if table else None,
                "trainable_parameters": table.trainable if table else None,
                "multiply_adds": table.multiply_adds if table else None,
                "status_targets": targets,
                "params": checked.params.to_dict(),
            }
        )
        return EXIT_OK
    _warn(checked)
    for line in table.lines() if table else ["torch is not installed here, so the network was not built"]:
        _say(line)
    _say()
    _say(f"status goes to: {targets}")
    _say(f"{options.params}: these params are sound")
    return EXIT_OK


def compile_pipeline(options: argparse.Namespace) -> int:
    """``shutterline compile``; what lint finds errors in is not written, unless it shall be all the same."""
    images = images_named_by(options.images)
    check = CheckElsewhere(params_or_example(options.params, options.data), options.overrides)
    from pipelines.lint.report import lines_of
    from pipelines.lint.rules import lint
    from pipelines.targets.kfp_yaml import Defaults, check_output, compiled_pipeline, load_kfp, write_pipeline

    load_kfp()  # most of a second, in which the check goes on
    checked = check.result()
    _warn(checked)
    check_output(options.output)
    settings = _settings(options, checked.params)
    text = compiled_pipeline(Defaults(checked.params, options.data, options.checkpoints), images, settings)
    findings = lint(parse_compiled(text, options.output), options.target)
    errors = [finding for finding in findings if finding.severity == "error"]
    written = not errors or options.unchecked
    if written:
        write_pipeline(options.output, text)
    if options.json:
        document = {
            "status": "compiled" if written else "failed",
            "pipeline": str(options.output) if written else None,
            "target": options.target,
            "params": checked.params.to_dict(),
            "images": {step: image.reference for step, image in images.items()},
            "findings": [asdict(finding) for finding in findings],
        }
        print_json(document)
    for finding in errors:
        _show("\n".join(lines_of(finding)))
    if not written:
        _show(f"error: {options.output}: not written (--unchecked writes it all the same)")
    elif not options.json:
        _say(f"wrote {options.output}")
        if options.target and len(findings) > len(errors):
            _say(f"{len(findings) - len(errors)} warnings; `shutterline validate {options.output}` tells them")
    return EXIT_OK if written else EXIT_BAD_INPUT


def _settings(options: argparse.Namespace, params: Params) -> AnySettings | None:
    """The settings of the platform asked for; None: no platform was."""
    if options.target is None:
        for name in ("settings", "cache"):
            if getattr(options, name):
                raise InputError(f"--{name} needs --target, kubeflow or vertex")
        return None
    from pipelines.settings.read import read_settings, settings_warnings

    settings = read_settings(options.settings, options.target, params)
    for warning in settings_warnings(settings, params):
        _show(f"warning: {warning}")
    return settings.with_cached_data() if options.cache else settings


def show_settings(options: argparse.Namespace) -> int:
    """``shutterline settings``."""
    from pipelines.settings.read import SETTINGS, read_settings, settings_warnings

    if options.schema:
        print_json(SETTINGS[options.target].model_json_schema(by_alias=True))
        return EXIT_OK
    params = load_checked(params_or_example(options.params), options.overrides).params
    settings = read_settings(options.settings, options.target, params)
    for warning in settings_warnings(settings, params):
        _show(f"warning: {warning}")
    document = settings.document()
    if options.json:
        print_json(document)
    else:
        sys.stdout.write(_yaml(document))
    return EXIT_OK


def show_params(options: argparse.Namespace) -> int:
    """``shutterline params``."""
    if options.schema:
        print_json(json_schema())
        return EXIT_OK
    params = load_checked(params_or_example(options.params), options.overrides).params
    if options.format == "yaml" and not options.json:
        sys.stdout.write(_as_yaml(params))
    else:
        print_json(params.to_dict())
    return EXIT_OK


def _as_yaml(params: Params) -> str:
    """Params as YAML that YAML 1.1 and 1.2 readers understand alike."""
    return _yaml(params.to_dict())


def _yaml(document: dict[str, Any]) -> str:
    return str(yaml.dump(document, Dumper=Dumper, sort_keys=False, width=110, default_flow_style=None))
