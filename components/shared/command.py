"""The command line that every component shares: ``--params``, ``--set``, ``--json``, and how it ends."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from components.shared.errors import EXIT_BAD_INPUT, EXIT_OK, ParamsError
from components.shared.events.data import Emit
from components.shared.params import Params
from components.shared.run import step_run
from components.shared.step import Reported, StepFailed, StepName, run_step
from components.shared.version import __version__

EXIT_CODES = """\
exit codes:
  0    done
  2    bad input: params, data or paths cannot be used; one message says where and why
  130  interrupted
  143  terminated
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
    work: Callable[[argparse.Namespace, Params, Emit], Reported],
    output: str | None = None,
    *,
    in_pipeline: bool = False,
) -> int:
    """Run one component from its command line.

    Args:
        step: The step's name.
        parser: Knows the component's own options; the shared ones are added here.
        argv: Arguments, or None for the process's own.
        work: From parsed options, checked params and what takes the status to the result.
        output: The option that names what the step makes; its events are kept beside it.
        in_pipeline: Whether the step is a part of the pipeline even when it is started by hand.

    Returns:
        The exit code.
    """
    add_params_options(parser)
    add_json_option(parser)
    parser.add_argument("--version", action="version", version=f"shutterline {__version__}")
    options = parser.parse_args(argv)
    try:
        _, record = run_step(
            step,
            lambda: Params.load(options.params, options.overrides),
            lambda params, emit: work(options, params, emit),
            lambda: step_run(getattr(options, output) if output else None, in_pipeline=in_pipeline),
        )
    except StepFailed as failed:
        if options.json:
            document = failed.record.model_dump(mode="json")
            if isinstance(failed.__cause__, ParamsError):
                document["error"] = error_document(failed.__cause__)  # every problem by itself
            print_json(document)
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
