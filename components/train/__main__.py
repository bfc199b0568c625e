"""``python -m components.train``: the command line of the training container."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from components.shared.command import CommandParser, add_place, step_command
from components.shared.events.data import Emit
from components.shared.params import Params
from components.shared.step import Reported

DOCKER = """\
docker run --rm --gpus all --user "$(id -u):$(id -g)" -v "$PWD/runs:/runs" IMAGE
    --dataset /runs/dataset --model /runs/model --params "$(cat params.json)"
"""


def _work(options: argparse.Namespace, params: Params, emit: Emit) -> Reported:
    from components.train.staged import train_staged  # torch takes seconds, and --help should not

    return train_staged(
        dataset=options.dataset,
        model=options.model,
        params=params,
        checkpoints=options.checkpoints,
        start_over=options.start_over,
        emit=emit,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = CommandParser(prog="python -m components.train", description="Train a classifier on a dataset directory.")
    add_place(parser, "--dataset", help="dataset directory from data prep")
    add_place(parser, "--model", help="model directory to make; an earlier one goes")
    add_place(
        parser,
        "--checkpoints",
        required=False,
        help="where checkpoints are kept, the same for every attempt: one that was interrupted goes on; default: "
        "beside the model, or on this machine if that is in a bucket",
    )
    parser.add_argument(
        "--start-over", action="store_true", help="remove the checkpoints that are there, and begin anew"
    )
    return step_command("train", parser, argv, _work, output="model", docker=DOCKER)


if __name__ == "__main__":
    sys.exit(main())
