"""``python -m components.exit_step``: the exit step from a command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from components.exit_step.report import report_end
from components.shared.command import CommandParser, step_command
from components.shared.params import Params
from components.shared.step import Reported


def _work(options: argparse.Namespace, params: Params) -> Reported:
    return report_end(state=options.state, message=options.message, records=options.records)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = CommandParser(prog="python -m components.exit_step", description="Report how a pipeline ended.")
    parser.add_argument("--state", required=True, help="the platform's final state, such as SUCCEEDED or FAILED")
    parser.add_argument("--message", default="", help="the platform's error message")
    parser.add_argument("--records", metavar="DIR", type=Path, help="directory of the steps' records")
    return step_command("exit", parser, argv, _work)


if __name__ == "__main__":
    sys.exit(main())
