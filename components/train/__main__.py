"""``python -m components.train``: the command line of the training container."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from components.shared.artifacts.artifact import sha256_of
from components.shared.command import CommandParser, add_place, step_command
from components.shared.errors import EXIT_OK, ShutterlineError
from components.shared.events.data import Emit
from components.shared.extras import extras_named
from components.shared.params.params import Params, ParamsWarning
from components.shared.process_group import Outcome
from components.shared.run import step_run
from components.shared.signals import Terminated, sigterm_raises
from components.shared.step import Reported
from components.train.checkpoints.directory import Checkpoints
from components.train.checkpoints.resume import saved_text, telling_what_is_saved
from components.train.launch import RESTARTS, begin_member, has_nodes, is_launcher, is_member, launched, processes_for

DOCKER = """\
docker run --rm --gpus all --user "$(id -u):$(id -g)" -v "$PWD/runs:/runs" IMAGE
    --dataset /runs/dataset --model /runs/model --params "$(cat params.json)"
"""

# What is tried without training: nothing is kept.
TRIALS = ("--find-learning-rate", "--smoke")


def _work(options: argparse.Namespace, params: Params, emit: Emit) -> Reported:
    with telling_what_is_saved(lambda: _saved(options, params)):
        return _trained(options, params, emit)


def _saved(options: argparse.Namespace, params: Params) -> str:
    """How far a training that goes on is saved; of what lies in a bucket the training itself knows."""
    if options.model is None:  # of a trial
        return ""
    kept = options.checkpoints or options.model
    if not isinstance(options.dataset, Path) or not isinstance(kept, Path):
        return ""
    from components.shared.artifacts.dataset import DATASET  # numpy takes a moment, and --help should not

    kept = options.checkpoints or Checkpoints().beside(kept)
    return saved_text(kept, str(kept), params, sha256_of(options.dataset / DATASET.manifest_file), lambda path: True)


def _trained(options: argparse.Namespace, params: Params, emit: Emit) -> Reported:
    from components.train.step import train_staged, trial_staged  # torch takes seconds, and --help should not

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
    for name, given in (
        ("--checkpoints", options.checkpoints is not None),
        ("--start-over", options.start_over),
        ("--processes", options.processes != "1"),
    ):
        if given:
            return f"argument {name}: not allowed with argument {asked[0]}"
    return None


class _Command:
    """The work of the command line, by this process or by a group that it starts.

    Args:
        arguments: The command line's, which each process of the group gets as well.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self._arguments = arguments
        self._failure: BaseException | None = None
        self._run = ""

    def elsewhere(self, options: argparse.Namespace) -> Outcome | None:
        """Start a group if there is to be one; what keeps it from its work is raised in :meth:`work`."""
        if is_member() or (options.processes == "1" and not has_nodes()):
            return None
        try:
            with sigterm_raises(), extras_named("the step train", "train"):
                params = _params(options)
                processes = processes_for(options.processes, params.device)
                if not is_launcher(processes):
                    return None
                from components.classifier.check import check

                check(params)
                self._run = step_run(options.model).run
                return launched(
                    "components.train",
                    self._arguments,
                    processes=processes,
                    restarts=options.restarts,
                    run=self._run,
                )
        except (ShutterlineError, OSError, Terminated, KeyboardInterrupt) as error:
            self._failure = error
            return None

    def run_id(self) -> str:
        """The id that a group was started with; empty if none was."""
        return self._run

    def work(self, options: argparse.Namespace, params: Params, emit: Emit) -> Reported:
        """Train in this process."""
        if self._failure is not None:
            raise self._failure
        return _work(options, params, emit)


def _params(options: argparse.Namespace) -> Params:
    """The params; what they warn of is told where the step begins."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParamsWarning)
        return Params.load(options.params, options.overrides)


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"must be a number from 0, got {text!r}")
    return int(text)


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
        "beside the model, in its bucket, too",
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
    if not begin_member():
        return EXIT_OK
    command = _Command(sys.argv[1:] if argv is None else argv)
    return step_command(
        "train",
        parser,
        argv,
        command.work,
        output=None if is_trial else "model",
        docker=DOCKER,
        misuse=_misuse,
        elsewhere=command.elsewhere,
        run_id=command.run_id,
    )


if __name__ == "__main__":
    sys.exit(main())
