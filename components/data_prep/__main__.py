"""The command line of data prep; ``--help`` tells its use."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from components.shared.command import CommandParser, add_place, step_command
from components.shared.events.data import Emit
from components.shared.params import Params
from components.shared.step import Reported

DESCRIPTION = """\
Read images and labels, and write them as one dataset directory.

DATA holds one of:
  IDX files         train-images-idx3-ubyte and train-labels-idx1-ubyte, plain or .gz; optionally t10k-…
  a folder a class  <class>/*.png, or train/<class>/*.png and optionally test/<class>/*.png
  info.csv          train/info.csv with the columns files and type; optionally test/info.csv

Without a test split in the data, test_fraction of every class is held out.
"""

DOCKER = """\
docker run --rm --user "$(id -u):$(id -g)" -v "$PWD/photos:/photos:ro" -v "$PWD/runs:/runs" IMAGE
    --data /photos --dataset /runs/dataset --params "$(cat params.json)"
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run data prep.

    Args:
        argv: Arguments; None for the process's own.

    Returns:
        The exit code: 0 done, 2 bad input, 130 interrupted, 1 anything else.
    """
    parser = CommandParser(prog="python -m components.data_prep", description=DESCRIPTION)
    add_place(parser, "--data", help="folder with images and labels")
    add_place(parser, "--dataset", help="dataset directory to write; an earlier one goes")
    return step_command("data-prep", parser, argv, _work, output="dataset", docker=DOCKER)


def _work(options: argparse.Namespace, params: Params, emit: Emit) -> Reported:
    # NumPy and Pillow load here, so that --help and a wrong config need not wait for them.
    from components.data_prep.staged import prepare_staged

    return prepare_staged(data=options.data, dataset=options.dataset, params=params, emit=emit)


if __name__ == "__main__":
    sys.exit(main())
