"""``shutterline``: run, validate, compile. Heavy packages are imported by the command that needs them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from components.shared.again import last_lines
from components.shared.command import (
    CommandParser,
    add_json_option,
    add_params_options,
    error_document,
    not_empty,
    print_json,
    tell,
    with_output,
)
from components.shared.errors import EXIT_FAILURE, ShutterlineError
from components.shared.extras import extras_named, require_extras
from components.shared.files import disk_message
from components.shared.signals import EXIT_INTERRUPTED, EXIT_TERMINATED, Terminated, sigterm_raises
from components.shared.version import __version__
from pipelines.compiled import PLATFORMS
from pipelines.events_command import add_events_parser
from pipelines.run_options import add_images_option, add_runner_options, add_target_options
from pipelines.submit.options import add_submit_parser, add_upload_parser
from pipelines.watching import add_watch_parser, watch


def build_parser() -> CommandParser:
    """The parser of the whole command."""
    parser = CommandParser(prog="shutterline", description="Train image classifiers as a pipeline of containers.")
    parser.add_argument("--version", action="version", version=f"shutterline {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=CommandParser)

    run = commands.add_parser("run", help="run the whole pipeline on this machine", description=_RUN)
    add_params_options(run, default="the example's, which are for its digits alone")
    run.add_argument("--data", metavar="DIR", type=not_empty, help="images or IDX files, here or in a bucket (gs://…, "
                     "s3://…), with --params for them; default: the example's digits")  # fmt: skip
    run.add_argument("--out", metavar="DIR", type=_path, help="directory of the run; one that was interrupted goes on; "
                     "default: runs/TIME")  # fmt: skip
    run.add_argument("--start-over", action="store_true", help="train anew, whatever run and checkpoints are in DIR")
    run.add_argument("--follow-links", action="store_true", help="read what links in the data lead to outside of it")
    add_runner_options(run)
    add_json_option(run)

    validate = commands.add_parser("validate", help="check params, or a compiled pipeline", description=_VALIDATE)
    validate.add_argument("params", metavar="FILE", help="params as .json, .yaml or .py, or a compiled pipeline")
    validate.add_argument(
        "--target", choices=PLATFORMS, help="the platform a pipeline shall run on; default: as it says"
    )
    validate.add_argument("--elsewhere", action="store_true", help="let initial_weights be a path on the machine that "
                          "trains, which this is not")  # fmt: skip
    validate.add_argument("--strict", action="store_true", help="let a pipeline's warnings fail too")
    _add_overrides(validate)
    add_json_option(validate)

    compile_ = commands.add_parser("compile", help="write the pipeline as KFP YAML", description=_COMPILE)
    add_params_options(compile_, default="the example's, which are for its digits alone")
    compile_.add_argument("-o", "--output", metavar="FILE", type=_path, default=Path("pipeline.yaml"),
                          help="YAML file to write; default: pipeline.yaml")  # fmt: skip
    add_target_options(compile_)
    compile_.add_argument("--data", metavar="PLACE", type=not_empty, help="default of the pipeline's input data: "
                          "gs://… or s3://…, with --params for them")  # fmt: skip
    compile_.add_argument("--checkpoints", metavar="PLACE", help="default of its input checkpoints; default: as the "
                          "settings say")  # fmt: skip
    compile_.add_argument("--cache", action="store_true", help="with --target: serve data prep from the cache too, and "
                          "with it the steps behind it: for data that never change below one name")  # fmt: skip
    add_images_option(compile_)
    compile_.add_argument(
        "--unchecked", action="store_true", help="write the file although `shutterline validate` finds errors in it"
    )
    add_json_option(compile_)

    settings = commands.add_parser("settings", help="print what every step gets of a platform", description=_SETTINGS)
    add_params_options(settings, default="the example's")
    add_target_options(settings, required=True)
    settings.add_argument("--schema", action="store_true", help="print the JSON Schema of settings instead")
    add_json_option(settings)

    add_upload_parser(commands)

    add_submit_parser(commands)

    add_watch_parser(commands)

    add_events_parser(commands)

    params = commands.add_parser("params", help="print params with every default, or their JSON Schema")
    params.add_argument("params", metavar="FILE", nargs="?", help="params file; default: the example's")
    params.add_argument("--schema", action="store_true", help="print the JSON Schema of params instead")
    params.add_argument("--format", choices=["json", "yaml"], default="json", help="default: json")
    _add_overrides(params)
    add_json_option(params)
    return parser


_RUN = """\
Run data prep, training, evaluation and the exit step with kfp's local runners: in processes of this installation, or
by --runner docker each in its container, which `make images` builds. Without options it trains a digit classifier on
the embedded example.

Containers run as you, on a read-only file system and without any capability. They see the run's directory and, read
only, the data and the files that settings name; of the environment SHUTTERLINE_*, KAFKA_*, AWS_*, GOOGLE_* and the
emulators' variables. They are labelled by the run: docker ps --filter label=shutterline.run"""
_VALIDATE = """\
Check params completely, build the network on torch's meta device, and print the shape and cost of every layer.
A network that does not fit is refused with the first layer that does not, what it gets and what it needs.

Of a compiled pipeline, of this or any other project, say where it would fail, cost money for nothing or give a secret
away, and what to do; nothing is asked of any platform. Errors end with exit code 2."""
_COMPILE = """\
Compile the pipeline for upload. The params become the default of its params input, which every run may replace. With
--target the steps also ask the platform for processors, memory, accelerators, secrets, volumes, retries: as --settings
say, or else as much as the example needs. Without it nothing is asked of any platform."""
_SETTINGS = """\
Print the settings of a platform as compile uses them: defaults, what the file says of every step, what it says of each.
Processors, memory, accelerators, environment, cache, retries; on Kubeflow also secrets, volumes, placement."""


def _path(text: str) -> Path:
    return Path(not_empty(text))


def _add_overrides(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set", metavar="KEY=VALUE", dest="overrides", action="append", default=[], help="change one of the params"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 2 bad input, 130 or 143 interrupted, 1 anything else."""
    return with_output(lambda: _done(build_parser().parse_args(argv)))


def _done(options: argparse.Namespace) -> int:
    try:
        with sigterm_raises(), extras_named(f"shutterline {options.command}", "pipelines", "train"):
            return _COMMANDS[options.command](options)
    except ShutterlineError as error:
        tell(f"error: {error}")
        if options.json:
            print_json({"status": "failed", "error": error_document(error)})
        return error.exit_code
    except OSError as error:
        if error.filename is None or (message := disk_message(error)) is None:
            raise
        tell(f"error: {message}")
        if options.json:
            print_json({"status": "failed", "error": {"type": type(error).__name__, "message": message}})
        return EXIT_FAILURE
    except KeyboardInterrupt:
        return _interrupted(options, "interrupted", EXIT_INTERRUPTED)
    except Terminated:
        return _interrupted(options, "terminated", EXIT_TERMINATED)


def _interrupted(options: argparse.Namespace, how: str, exit_code: int) -> int:
    """A command that was told to end outside of a run's steps."""
    lines = (how, "")
    if options.command == "run":
        from pipelines.targets.result import saved_in

        lines = last_lines(exit_code, saved_in(options.out) if options.out else "", "shutterline", None)
    tell(*lines)
    if options.json:
        print_json({"status": how})
    return exit_code


def _run(options: argparse.Namespace) -> int:
    steps = () if options.runner == "docker" else ("data-prep", "train", "evaluate")
    require_extras("shutterline run", "pipelines", *steps)
    from pipelines.commands import run

    return run(options)


def _validate(options: argparse.Namespace) -> int:
    from pipelines.commands import validate

    return validate(options)


def _compile(options: argparse.Namespace) -> int:
    from pipelines.commands import compile_pipeline

    return compile_pipeline(options)


def _settings(options: argparse.Namespace) -> int:
    from pipelines.commands import show_settings

    return show_settings(options)


def _events(options: argparse.Namespace) -> int:
    from pipelines.events_command import events

    return events(options)


def _upload(options: argparse.Namespace) -> int:
    from pipelines.submit.commands import upload

    return upload(options)


def _submit(options: argparse.Namespace) -> int:
    from pipelines.submit.commands import submit

    return submit(options)


def _params(options: argparse.Namespace) -> int:
    from pipelines.commands import show_params

    return show_params(options)


_COMMANDS = {
    "run": _run,
    "validate": _validate,
    "compile": _compile,
    "events": _events,
    "params": _params,
    "settings": _settings,
    "submit": _submit,
    "upload": _upload,
    "watch": watch,
}


if __name__ == "__main__":
    sys.exit(main())
