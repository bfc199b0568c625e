"""``python -m components.evaluate``: the command line of the evaluation container."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from components.shared.command import CommandParser, add_path_option, step_command
from components.shared.events.data import Emit
from components.shared.params.params import Params
from components.shared.step import Reported

DOCKER = """\
docker run --rm --user "$(id -u):$(id -g)" -v "$PWD/runs:/runs" IMAGE
    --model /runs/model --dataset /runs/dataset --evaluation /runs/evaluation --params "$(cat params.json)"
"""


def _work(options: argparse.Namespace, params: Params, emit: Emit) -> Reported:
    from components.evaluate.step import evaluate_staged  # which loads ONNX Runtime; --help should not

    return evaluate_staged(
        model=options.model, dataset=options.dataset, evaluation=options.evaluation, params=params, emit=emit
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = CommandParser(
        prog="python -m components.evaluate",
        description="Evaluate a model directory on the test split of a dataset directory.",
    )
    add_path_option(parser, "--model", help="model directory from training")
    add_path_option(parser, "--dataset", help="dataset directory from data prep")
    add_path_option(parser, "--evaluation", help="evaluation directory to make, with report.html; an earlier one goes")
    return step_command("evaluate", parser, argv, _work, output="evaluation", docker=DOCKER)


if __name__ == "__main__":
    sys.exit(main())
