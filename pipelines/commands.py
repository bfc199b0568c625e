"""The work of run, validate, compile, settings and params, once the command line is parsed."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from components.shared.command import is_interrupted, last_lines, print_json, print_message
from components.shared.errors import EXIT_BAD_INPUT, EXIT_OK, InputError
from components.shared.images import images_named_by
from components.shared.params.params import Params, json_schema
from components.shared.signals import Terminated
from components.shared.storage.location import FOLLOW_LINKS_VARIABLE, AnyPath, lies_within, parse_location
from components.shared.strict_yaml import Dumper
from pipelines.compiled import PlatformName, parse_compiled
from pipelines.params_files import (
    EXAMPLE_DATA,
    Checked,
    CheckElsewhere,
    load_checked,
    params_or_example,
    require_weights,
)
from pipelines.targets.steps import DockerOptions, LocalRunPaths, Target, docker_options
from pipelines.watching import is_live

if TYPE_CHECKING:
    from pipelines.settings.read import AnySettings
    from pipelines.targets.local import Lines


def _print(line: str = "") -> None:
    sys.stdout.write(f"{line}\n")


def _log(line: str) -> None:
    with suppress(OSError):  # of a terminal that was closed
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


class _PlainLines:
    """The lines that a run's steps log, one after the other."""

    def __call__(self, line: str) -> None:
        _log(line)

    def running(self, paths: LocalRunPaths) -> AbstractContextManager[None]:
        return nullcontext()


def _lines() -> Lines:
    """Where the steps' lines go: on a terminal above a live view of the steps, unless plain text is asked for."""
    if not is_live(sys.stderr) or os.environ.get("NO_COLOR"):
        return _PlainLines()
    from pipelines.run_view import LiveLines

    return LiveLines(sys.stderr)


def _warn(warnings: Sequence[str]) -> None:
    for warning in warnings:
        print_message(f"warning: {warning}")


def run(
    *,
    params: str | None,
    overrides: Sequence[str],
    data: str | None,
    out: Path | None,
    start_over: bool,
    follow_links: bool,
    runner: str,
    as_json: bool,
    **docker: Any,
) -> int:
    """``shutterline run``; `docker` holds the options of :func:`docker_options`."""
    images_location = parse_location(data or str(EXAMPLE_DATA))
    in_containers = docker_options(runner == "docker", **docker)
    _check_paths(out or Path("runs"), images_location, in_containers, follow_links=follow_links)
    source = params_or_example(params, data)
    check = CheckElsewhere(source, overrides)
    from pipelines.targets.kfp_import import import_kfp
    from pipelines.targets.local import run_local

    try:
        import_kfp("kfp.local", "pipelines.image_classifier")  # while the check goes on
        checked = check.result()
        _warn(checked.warnings)
        require_weights(checked.params, source)
        lines = _lines()
        target, ready = _target(in_containers, checked.params, images_location, lines)
        directory = out or _new_directory()
        with _following_links(follow=follow_links):
            done = run_local(ready, images_location, directory, lines, target, start_over=start_over)
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
        for line in result_table(document, directory):
            _print(line)
    return done.exit_code


def _check_paths(out: Path, data: AnyPath, in_containers: DockerOptions | None, *, follow_links: bool) -> None:
    """Hold the run's directory against the data before anything is written.

    Raises:
        InputError: One is in the other, or links shall be followed where they lead nowhere.
    """
    from pipelines.targets.run_directory import LINKS

    if lies_within(out, data):
        raise InputError(
            f"--out {out}: is in the data, {data}, where the next run would read it; name another directory"
        )
    for name in (*LINKS, "checkpoints", "events", "kfp", "steps"):
        if isinstance(data, Path) and lies_within(data, out / name) and not (out / name).is_symlink():
            raise InputError(
                f"--data {data}: is in {out / name}, which the run writes; name another directory by --out"
            )
    if follow_links and in_containers:
        raise InputError(
            "--follow-links: a container sees the data folder alone, where links that leave it lead nowhere; copy what "
            "they lead to, or leave --runner docker out"
        )


@contextmanager
def _following_links(*, follow: bool) -> Iterator[None]:
    """Within, data prep's environment allows links to lead out of the data folder; params do not say it."""
    before = os.environ.get(FOLLOW_LINKS_VARIABLE)
    if follow:
        os.environ[FOLLOW_LINKS_VARIABLE] = "1"
    try:
        yield
    finally:
        if follow and before is None:
            del os.environ[FOLLOW_LINKS_VARIABLE]
        elif before is not None:
            os.environ[FOLLOW_LINKS_VARIABLE] = before


def _target(
    in_containers: DockerOptions | None, params: Params, data: AnyPath, log: Callable[[str], None]
) -> tuple[Target, Params]:
    """What starts the steps, and the params as these read them; a Docker engine is asked whether it can."""
    if in_containers is None:
        from pipelines.targets.subprocess_steps import SubprocessTarget

        return SubprocessTarget(), params
    from pipelines.targets.docker_environment import with_absolute_paths
    from pipelines.targets.docker_steps import DockerTarget

    params = with_absolute_paths(params)
    return DockerTarget(in_containers, params, data, log), params


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


def result_table(document: dict[str, Any], out: Path) -> list[str]:
    """The lines a successful run ends with."""
    names = {"accuracy": "accuracy", "precision": "macro precision", "recall": "macro recall", "f1": "macro F1"}
    rows = [(names.get(key, key), f"{document['metrics'][key]:.4f}") for key in (*names, "loss")]
    rows += [(f"seconds {step}", f"{value:.1f}") for step, value in document["seconds"].items()]
    width = max(len(name) for name, _ in rows)
    rule = "-" * (width + 10)
    files = {"model": "model", "result": "result.json", "curves": "learning-curves.html", "report": "report.html"}
    return [
        rule,
        *(f"{name:<{width}}  {value:>8}" for name, value in rows),
        rule,
        *(f"{name:<8} {out / file}" for name, file in files.items()),
    ]


def validate(
    *,
    file: str,
    target: PlatformName | None,
    strict: bool,
    elsewhere: bool,
    overrides: Sequence[str],
    as_json: bool,
) -> int:
    """``shutterline validate``."""
    from pipelines.lint.report import is_pipeline_file, validate_pipeline

    if is_pipeline_file(file):
        if overrides:
            raise InputError(f"{file}: is a compiled pipeline, and --set changes params; compile it anew")
        return validate_pipeline(Path(file), target, strict=strict, as_json=as_json)
    if target or strict:
        raise InputError(f"{file}: --target and --strict are for compiled pipelines, and this is none")
    checked = load_checked(file, overrides)
    if not elsewhere:
        require_weights(checked.params, file)
    table, targets = checked.table, checked.params.status_targets.describe()
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
                "params": checked.params.to_dict(),
            }
        )
        return EXIT_OK
    _warn(checked.warnings)
    for line in table.lines() if table else ["torch is not installed here, so the network was not built"]:
        _print(line)
    _print()
    _print(f"status goes to: {targets}")
    _print(f"{file}: these params are sound")
    return EXIT_OK


def compile_pipeline(
    *,
    params: str | None,
    overrides: Sequence[str],
    output: Path,
    target: PlatformName | None,
    settings: Path | None,
    data: str | None,
    checkpoints: str | None,
    cache: bool,
    images: Path | None,
    unchecked: bool,
    as_json: bool,
) -> int:
    """``shutterline compile``; a file in which lint finds errors is not written, unless `unchecked`."""
    of_steps = images_named_by(images)
    check = CheckElsewhere(params_or_example(params, data), overrides)
    from pipelines.lint.rules import lint
    from pipelines.targets.compiling import check_output, compiled_pipeline, write_pipeline
    from pipelines.targets.kfp_import import import_kfp

    import_kfp("kfp.compiler", "pipelines.image_classifier")  # while the check goes on
    checked: Checked = check.result()
    _warn(checked.warnings)
    check_output(output)
    if target is None and (settings or cache):
        raise InputError(f"--{'settings' if settings else 'cache'} needs --target, kubeflow or vertex")
    asked = _settings(settings, target, checked.params) if target else None
    if asked and cache:
        asked = asked.with_cached_data()
    text = compiled_pipeline(checked.params, of_steps, asked, data=data, checkpoints=checkpoints)
    findings = lint(parse_compiled(text, output), target)
    errors = [finding for finding in findings if finding.severity == "error"]
    written = not errors or unchecked
    if written:
        write_pipeline(output, text)
    if as_json:
        print_json(
            {
                "status": "compiled" if written else "failed",
                "pipeline": str(output) if written else None,
                "target": target,
                "params": checked.params.to_dict(),
                "images": {step: image.reference for step, image in of_steps.items()},
                "findings": [asdict(finding) for finding in findings],
            }
        )
    for finding in errors:
        _log(str(finding))
    if not written:
        _log(f"error: {output}: not written (--unchecked writes it all the same)")
    elif not as_json:
        _print(f"wrote {output}")
        if target and len(findings) > len(errors):
            _print(f"{len(findings) - len(errors)} warnings; `shutterline validate {output}` prints them")
    return EXIT_OK if written else EXIT_BAD_INPUT


def _settings(file: Path | None, target: PlatformName, params: Params) -> AnySettings:
    from pipelines.settings.read import read_settings, settings_warnings

    settings = read_settings(file, target, params)
    _warn(settings_warnings(settings, params))
    return settings


def show_settings(
    *,
    params: str | None,
    overrides: Sequence[str],
    target: PlatformName,
    settings: Path | None,
    schema: bool,
    as_json: bool,
) -> int:
    """``shutterline settings``."""
    from pipelines.settings.read import SETTINGS

    if schema:
        print_json(SETTINGS[target].model_json_schema(by_alias=True))
        return EXIT_OK
    checked = load_checked(params_or_example(params), overrides)
    document = _settings(settings, target, checked.params).document()
    if as_json:
        print_json(document)
    else:
        sys.stdout.write(_yaml(document))
    return EXIT_OK


def show_params(*, file: str | None, schema: bool, format: str, overrides: Sequence[str], as_json: bool) -> int:
    """``shutterline params``."""
    if schema:
        print_json(json_schema())
        return EXIT_OK
    document = load_checked(params_or_example(file), overrides).params.to_dict()
    if format == "yaml" and not as_json:
        sys.stdout.write(_yaml(document))
    else:
        print_json(document)
    return EXIT_OK


def _yaml(document: dict[str, Any]) -> str:
    """YAML that YAML 1.1 and 1.2 readers understand alike."""
    return str(yaml.dump(document, Dumper=Dumper, sort_keys=False, width=110, default_flow_style=None))
