"""``python -m components.evaluate``: the command line of the evaluation container."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from components.shared.command import CommandParser, step_command
from components.shared.events.data import Emit
from components.shared.params import Params
from components.shared.step import Reported


def _work(options: argparse.Namespace, params: Params, emit: Emit) -> Reported:
    from components.evaluate.evaluate import evaluate  # torch takes seconds, and --help should not

    return evaluate(
        model=options.model, dataset=options.dataset, evaluation=options.evaluation, params=params, emit=emit
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = CommandParser(
        prog="python -m components.evaluate",
        description="Evaluate a model directory on the test split of a dataset directory.",
    )
    parser.add_argument("--model", metavar="DIR", type=Path, required=True, help="model directory from training")
    parser.add_argument("--dataset", metavar="DIR", type=Path, required=True, help="dataset directory from data prep")
    parser.add_argument(
        "--evaluation", metavar="DIR", type=Path, required=True, help="evaluation directory to make, with report.html"
    )
    return step_command("evaluate", parser, argv, _work, output="evaluation")


if __name__ == "__main__":
    sys.exit(main())
