"""The command line of data prep, with its own ``--help``."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from components.shared.command import CommandParser, add_path_option, path_option, step_command
from components.shared.events.data import Emit
from components.shared.params.params import Params
from components.shared.step import Reported
from components.shared.storage.location import overlap_problem
from components.shared.text import shortened

DESCRIPTION = """\
Read images and labels, and write them as one dataset directory.

DATA is a folder, an archive (.tar, .tar.gz, .tgz, .tar.bz2 or .zip, which is read and not unpacked) or a file of one
of these layouts, on this machine or in a bucket (gs:// or s3://). The log says which one it was taken for, and why:
  folders     <class>/*.png, or train/<class>/*.png and optionally test/<class>/*.png, val/<class>/*.png
  info-csv    train/info.csv with the columns files and type; optionally test/info.csv, val/info.csv
  idx         train-images-idx3-ubyte and train-labels-idx1-ubyte, plain or .gz; optionally t10k-…
  webdataset  *.tar shards of 1.png and 1.cls or 1.json, or train/*.tar and optionally test/*.tar, val/*.tar
  parquet     train-00000-of-00003.parquet with the columns image and label; optionally test-…, validation-…
  manifest    .csv or .jsonl with the columns file_name and label, such as metadata.csv; files may be URIs

Folders of splits may be written in any case, and as training, testing, valid, validation, dev, eval, train_set, …
A folder may hold archives of splits, train.tar and test.tar.
Without a test split in the data, test_fraction of every class is held out.
"""

DOCKER = """\
docker run --rm --user "$(id -u):$(id -g)" -v "$PWD/photos:/photos:ro" -v "$PWD/runs:/runs" IMAGE
    --data /photos --dataset /runs/dataset --params "$(cat params.json)"
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run data prep and return the exit code: 0 done, 2 bad input, 130 interrupted, 1 anything else."""
    parser = CommandParser(prog="python -m components.data_prep", description=DESCRIPTION)
    add_path_option(parser, "--data", required=False, help="folder, archive or file with images and labels")
    add_path_option(parser, "--dataset", help="dataset directory to write; an earlier one goes")
    parser.add_argument(
        "--reuse",
        metavar="PLACE",
        type=path_option,
        help="an earlier dataset, from which images that have not changed are copied; default: the one that goes",
    )
    parser.add_argument(
        "--shard",
        metavar="I/N",
        type=_shard,
        help="decode the I-th of N parts of the images, from 0, and write that as a part instead of a dataset",
    )
    parser.add_argument(
        "--merge",
        metavar="PLACE",
        nargs="+",
        type=path_option,
        help="join all parts, or those right below a place, to the dataset that one run makes; without --data",
    )
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
    return step_command(
        "data-prep", parser, argv, _work, output="dataset", docker=DOCKER, misuse=_misuse, part=lambda made: made.shard
    )


def _shard(text: str) -> tuple[int, int]:
    match = re.fullmatch("([0-9]{1,6})/([0-9]{1,6})", text)
    if match is None or int(match[1]) >= int(match[2]):
        raise argparse.ArgumentTypeError(f"must be I/N with I from 0 and below N, such as 0/4, got {shortened(text)}")
    return int(match[1]), int(match[2])


def _misuse(options: argparse.Namespace) -> str | None:
    if options.merge:
        given = {"--data": options.data, "--layout": options.layout, "--reuse": options.reuse, "--shard": options.shard}
        others = [name for name, value in given.items() if value is not None]
        return f"--merge joins parts that are made; leave out {' and '.join(others)}" if others else None
    if options.shard and options.reuse:
        return "--reuse is of whole datasets; leave out --shard"
    if options.data is None:
        return "the following arguments are required: --data"
    problem = overlap_problem(options.data, options.dataset)
    return f"--dataset {problem}" if problem else None


def _work(options: argparse.Namespace, params: Params, emit: Emit) -> Reported:
    # NumPy and Pillow load here, so that --help and a wrong config need not wait for them.
    from components.data_prep.step import merge_staged, prepare_part_staged, prepare_staged

    if options.merge:
        return merge_staged(parts=options.merge, dataset=options.dataset, params=params, emit=emit)
    if options.shard:
        return prepare_part_staged(
            data=options.data,
            part=options.dataset,
            shard=options.shard,
            params=params,
            emit=emit,
            layout=options.layout,
            follow_links=options.follow_links,
        )
    return prepare_staged(
        data=options.data,
        dataset=options.dataset,
        params=params,
        emit=emit,
        layout=options.layout,
        follow_links=options.follow_links,
        reuse=options.reuse,
        stamp=isinstance(options.dataset, Path),
    )


if __name__ == "__main__":
    sys.exit(main())
