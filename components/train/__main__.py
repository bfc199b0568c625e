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

# What is tried without training: nothing is kept.
TRIALS = ("--find-learning-rate", "--smoke")


def _work(options: argparse.Namespace, params: Params, emit: Emit) -> Reported:
    from components.train.staged import train_staged, trial_staged  # torch takes seconds, and --help should not

    if options.find_learning_rate:
        from components.train.learning_rate import find_learning_rate

        return trial_staged(dataset=options.dataset, params=params, trial=find_learning_rate, emit=emit)
    if options.smoke:
        from components.train.smoke import smoke

        return trial_staged(dataset=options.dataset, params=params, trial=smoke, emit=emit)
    return train_staged(
        dataset=options.dataset,
        model=options.model,
        params=params,
        checkpoints=options.checkpoints,
        start_over=options.start_over,
        emit=emit,
    )


def _misuse(options: argparse.Namespace) -> str | None:
    """A trial keeps nothing, so it takes no option of what is kept."""
    asked = [name for name in TRIALS if getattr(options, name[2:].replace("-", "_"))]
    if not asked:
        return None
    for name, given in (("--checkpoints", options.checkpoints is not None), ("--start-over", options.start_over)):
        if given:
            return f"argument {name}: not allowed with argument {asked[0]}"
    return None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    words = sys.argv[1:] if argv is None else argv
    is_trial = any(name in words for name in TRIALS)
    parser = CommandParser(prog="python -m components.train", description="Train a classifier on a dataset directory.")
    add_place(parser, "--dataset", help="dataset directory from data prep")
    add_place(
        parser,
        "--model",
        required=not is_trial,
        help="model directory to make; an earlier one goes. A trial makes none and needs none",
    )
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
    trials = parser.add_mutually_exclusive_group()
    trials.add_argument(
        "--find-learning-rate",
        action="store_true",
        help="train nothing: try learning rates from low to high for a moment, and suggest one",
    )
    trials.add_argument(
        "--smoke",
        action="store_true",
        help="train nothing: see whether the network can learn one batch by heart; exit code 1 if it cannot",
    )
    return step_command(
        "train", parser, argv, _work, output=None if is_trial else "model", docker=DOCKER, misuse=_misuse
    )


if __name__ == "__main__":
    sys.exit(main())
