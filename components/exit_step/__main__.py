"""``python -m components.exit_step``: the exit step from a command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from components.exit_step.step import report_end
from components.shared.command import CommandParser, step_command
from components.shared.events.data import Emit
from components.shared.params.params import Params
from components.shared.run import step_run
from components.shared.step import Reported

DESCRIPTION = """\
Report how a pipeline ended, and deliver the status events that its steps could not.

SHUTTERLINE_RUN_ID names the run, SHUTTERLINE_EVENTS the directory that its steps kept their events in.
"""

DOCKER = """\
docker run --rm --user "$(id -u):$(id -g)" -v "$PWD/runs:/runs" -e SHUTTERLINE_RUN_ID=ID
    -e SHUTTERLINE_EVENTS=/runs/events --entrypoint python IMAGE
    -m components.exit_step --state SUCCEEDED --params "$(cat params.json)"
"""


def _work(options: argparse.Namespace, params: Params, emit: Emit) -> Reported:
    return report_end(
        state=options.state,
        run=step_run(in_pipeline=True),
        message=options.message,
        targets=params.status_targets,
        credentials=params.GOOGLE_APPLICATION_CREDENTIALS,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = CommandParser(prog="python -m components.exit_step", description=DESCRIPTION)
    parser.add_argument("--state", required=True, help="the platform's final state, such as SUCCEEDED or FAILED")
    parser.add_argument("--message", default="", help="the platform's error message")
    return step_command("exit", parser, argv, _work, in_pipeline=True, docker=DOCKER)


if __name__ == "__main__":
    sys.exit(main())
