"""The command line of data prep, with its own ``--help``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import get_args

from components.shared.command import CommandParser, add_path_option, step_command
from components.shared.events.data import Emit
from components.shared.params.params import Params
from components.shared.step import Reported
from components.shared.storage.location import overlap_problem

DESCRIPTION = """\
Read images and labels, and write them as one dataset directory.

DATA holds one of:
  IDX files         train-images-idx3-ubyte and train-labels-idx1-ubyte, plain or .gz; optionally t10k-…
  a folder a class  <class>/*.png, or train/<class>/*.png and optionally test/<class>/*.png, val/<class>/*.png
  info.csv          train/info.csv with the columns files and type; optionally test/info.csv, val/info.csv

Folders of splits may be written in any case, and as training, testing, valid, validation, dev, eval, train_set, …
Without a test split in the data, test_fraction of every class is held out.
"""

DOCKER = """\
docker run --rm --user "$(id -u):$(id -g)" -v "$PWD/photos:/photos:ro" -v "$PWD/runs:/runs" IMAGE
    --data /photos --dataset /runs/dataset --params "$(cat params.json)"
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run data prep and return the exit code: 0 done, 2 bad input, 130 interrupted, 1 anything else."""
    parser = CommandParser(prog="python -m components.data_prep", description=DESCRIPTION)
    add_path_option(parser, "--data", help="folder with images and labels")
    add_path_option(parser, "--dataset", help="dataset directory to write; an earlier one goes")
    parser.add_argument(
        "--layout",
        choices=get_args(Params.model_fields["data_layout"].annotation),
        help="the layout that DATA has, whatever else it looks like; has precedence over data_layout",
    )
    parser.add_argument(
        "--follow-links",
        action="store_true",
        help="read what links lead to outside of DATA, too; in a container it must be mounted at its own path",
    )
    return step_command("data-prep", parser, argv, _work, output="dataset", docker=DOCKER, misuse=_misuse)


def _misuse(options: argparse.Namespace) -> str | None:
    problem = overlap_problem(options.data, options.dataset)
    return f"--dataset {problem}" if problem else None


def _work(options: argparse.Namespace, params: Params, emit: Emit) -> Reported:
    # NumPy and Pillow load here, so that --help and a wrong config need not wait for them.
    from components.data_prep.step import prepare_staged

    return prepare_staged(
        data=options.data,
        dataset=options.dataset,
        params=params,
        emit=emit,
        layout=options.layout,
        follow_links=options.follow_links,
    )


if __name__ == "__main__":
    sys.exit(main())
