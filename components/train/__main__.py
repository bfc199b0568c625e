"""``python -m components.train``: the command line of the training container."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from components.shared.command import CommandParser, add_path_option, step_command
from components.shared.errors import EXIT_OK
from components.shared.events.data import Emit
from components.shared.params.params import Params
from components.shared.process_group import Outcome, is_one_of_nodes, is_started_by_elastic
from components.shared.run import step_run
from components.shared.step import Reported
from components.train.garbage import collect_rarely
from components.train.launch import IN_PIPELINE, RESTARTS, Launch, begin_member

DOCKER = """\
docker run --rm --gpus all --user "$(id -u):$(id -g)" -v "$PWD/runs:/runs" IMAGE
    --dataset /runs/dataset --model /runs/model --params "$(cat params.json)"
"""

# What is tried without training: nothing is kept.
TRIALS = ("--find-learning-rate", "--smoke")


def _work(options: argparse.Namespace, params: Params, emit: Emit) -> Reported:
    from components.train.step import train_step, trial_step  # numpy and torch take seconds, and --help should not

    if options.trial is not None:
        from components.train import trials

        trial = trials.smoke if options.trial == "--smoke" else trials.find_learning_rate
        return trial_step(dataset=options.dataset, params=params, trial=trial, emit=emit)
    return train_step(
        dataset=options.dataset,
        model=options.model,
        params=params,
        checkpoints=options.checkpoints,
        start_over=options.start_over,
        emit=emit,
    )


def _misuse(options: argparse.Namespace) -> str | None:
    """A trial keeps nothing, so it takes no option of what is kept."""
    given = {
        "--checkpoints": options.checkpoints is not None,
        "--start-over": options.start_over,
        "--processes": options.processes != "1",
    }
    wrong = [name for name, is_given in given.items() if is_given and options.trial is not None]
    return f"argument {wrong[0]}: not allowed with argument {options.trial}" if wrong else None


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"must be a number from 0, got {text!r}")
    return int(text)


def _parser(*, is_trial: bool) -> CommandParser:
    parser = CommandParser(prog="python -m components.train", description="Train a classifier on a dataset directory.")
    add_path_option(parser, "--dataset", help="dataset directory from data prep")
    add_path_option(
        parser,
        "--model",
        required=not is_trial,
        help="model directory to make; an earlier one goes. A trial makes none and needs none",
    )
    add_path_option(
        parser,
        "--checkpoints",
        required=False,
        help="where checkpoints are kept, the same for every attempt: one that was interrupted goes on; default: "
        "beside the model, in its bucket, too",
    )
    parser.add_argument(
        "--start-over", action="store_true", help="remove the checkpoints that are there, and begin anew"
    )
    trials = parser.add_mutually_exclusive_group()
    for name, what in (
        ("--find-learning-rate", "try learning rates from low to high for a moment, and suggest one"),
        ("--smoke", "see whether the network can learn one batch by heart; exit code 1 if it cannot"),
    ):
        trials.add_argument(name, dest="trial", action="store_const", const=name, help=f"train nothing: {what}")
    parser.add_argument(
        "--processes",
        metavar="N",
        default="1",
        help="processes that train together on this node, one a GPU; auto: as many as it has GPUs; default: 1. "
        "A process that torchrun has started joins the others as it is",
    )
    parser.add_argument(
        "--restarts",
        metavar="N",
        type=_count,
        default=RESTARTS,
        help=f"how often they are started again, from the last checkpoint, where one is lost; default: {RESTARTS}",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    collect_rarely()
    if not begin_member():
        return EXIT_OK
    if arguments[:1] == [IN_PIPELINE]:
        from components.train.step import run_member

        return run_member(arguments[1:])
    launch = Launch(arguments)

    def elsewhere(options: argparse.Namespace) -> Outcome | None:
        launch.restarts = options.restarts
        return launch.outcome(
            options.processes,
            lambda: Params.load(options.params, options.overrides),
            lambda: step_run(options.model).run,
        )

    is_trial = any(name in arguments for name in TRIALS)
    return step_command(
        "train",
        _parser(is_trial=is_trial),
        argv,
        launch.unless_failed(_work),
        output=None if is_trial else "model",
        docker=DOCKER,
        misuse=_misuse,
        elsewhere=elsewhere,
        run_id=lambda: launch.run,
        is_recorded=not is_trial,
    )


if __name__ == "__main__":
    code = main()
    if is_one_of_nodes() and not is_started_by_elastic():
        # torch's teardown takes a second: a node that is killed in it would be started again, and wait for the others,
        # which have left.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
