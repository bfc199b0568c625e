"""The command line that every component shares: ``--params``, ``--set``, ``--json``, and how it ends."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from components.shared.errors import EXIT_BAD_INPUT, EXIT_OK, InputError
from components.shared.logs import log_to_stderr, step_logger
from components.shared.params import Params, ParamsWarning
from components.shared.step import Reported, StepFailed, StepName, run_step
from components.shared.version import __version__

EXIT_CODES = """\
exit codes:
  0    done
  2    bad input: params, data or paths cannot be used; one message says where and why
  130  interrupted
  1    anything else
"""


class CommandParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line and exit code 2."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            formatter_class=argparse.RawDescriptionHelpFormatter, epilog=EXIT_CODES, allow_abbrev=False, **options
        )

    def error(self, message: str) -> NoReturn:
        """End with one line."""
        self.exit(EXIT_BAD_INPUT, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def add_params_options(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """Add ``--params`` and ``--set``; without `default`, ``--params`` is required."""
    parser.add_argument(
        "--params",
        metavar="FILE",
        required=default is None,
        default=default,
        help="params as .json or .yaml, or a JSON text" + ("" if default is None else "; default: the example's"),
    )
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        dest="overrides",
        action="append",
        default=[],
        help="change one of the params, such as num_epochs=5 or net_arch[0].kwargs.out_channels=64; repeatable",
    )


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--json``."""
    parser.add_argument("--json", action="store_true", help="print one JSON document to standard output")


def print_json(document: object) -> None:
    """Print one JSON document to standard output, and nothing else."""
    sys.stdout.write(json.dumps(document, indent=2, allow_nan=False) + "\n")


def step_command(
    step: StepName,
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    work: Callable[[argparse.Namespace, Params], Reported],
) -> int:
    """Run one component from its command line.

    Args:
        step: The step's name.
        parser: Knows the component's own options; the shared ones are added here.
        argv: Arguments, or None for the process's own.
        work: From parsed options and checked params to the result.

    Returns:
        The exit code.
    """
    add_params_options(parser)
    add_json_option(parser)
    parser.add_argument("--version", action="version", version=f"shutterline {__version__}")
    options = parser.parse_args(argv)
    log_to_stderr()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ParamsWarning)
            params = Params.load(options.params, options.overrides)
    except InputError as error:
        step_logger(step).error("failed: %s", error)
        if options.json:
            print_json({"step": step, "status": "failed", "error": error_document(error)})
        return EXIT_BAD_INPUT
    for warning in caught:
        step_logger(step).warning("%s", warning.message)
    try:
        _, record = run_step(step, params, lambda checked: work(options, checked))
    except StepFailed as failed:
        if options.json:
            print_json(failed.record.model_dump(mode="json"))
        return int(failed.code or EXIT_OK)
    if options.json:
        print_json(record.model_dump(mode="json"))
    return EXIT_OK


def error_document(error: BaseException) -> dict[str, Any]:
    """An error as JSON data; of params, with every problem by itself."""
    document: dict[str, Any] = {"type": type(error).__name__, "message": str(error)}
    problems = getattr(error, "problems", None)
    if problems is not None:
        document["source"] = getattr(error, "source", None)
        document["problems"] = [{"path": problem.path, "message": problem.message} for problem in problems]
    return document
