"""``python -m components.train``: the command line of the training container."""

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
    from components.train.train import train  # torch takes seconds, and --help should not

    return train(
        dataset=options.dataset, model=options.model, params=params, checkpoints=options.checkpoints, emit=emit
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = CommandParser(prog="python -m components.train", description="Train a classifier on a dataset directory.")
    parser.add_argument("--dataset", metavar="DIR", type=Path, required=True, help="dataset directory from data prep")
    parser.add_argument("--model", metavar="DIR", type=Path, required=True, help="model directory to make")
    parser.add_argument(
        "--checkpoints", metavar="DIR", type=Path, help="where checkpoints are kept; default: beside the model"
    )
    return step_command("train", parser, argv, _work, output="model")


if __name__ == "__main__":
    sys.exit(main())
