"""``python -m components.predict``: the command line of the prediction container."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from components.shared.command import CommandParser, add_path_option, path_option, step_command
from components.shared.events.data import Emit, ignore_events
from components.shared.params.params import Params
from components.shared.step import Reported

DESCRIPTION = """\
Predict the classes of image files: decoded, brought upright and resized as in training.

A folder is read with all that is below it, and so is a location in a bucket, whose images are fetched while others are
predicted. Files that cannot be read are listed with the reason; if none can be, the exit code is 2.
"""

DOCKER = """\
docker run --rm --network none -v "$PWD/runs:/runs:ro" -v "$PWD/photos:/photos:ro" IMAGE
    --model /runs/model --images /photos
"""


def _work(options: argparse.Namespace, params: Params | None, emit: Emit = ignore_events) -> Reported:
    # ONNX Runtime, NumPy and Pillow load here, so that --help need not wait for them.
    from components.predict.step import predict_staged

    return predict_staged(
        model=options.model,
        images=options.images,
        output=options.output,
        form=options.format,
        top_k=options.top_k,
        device=options.device,
        follow_links=options.follow_links,
        params=params,
        emit=emit,
    )


def _misuse(options: argparse.Namespace) -> str | None:
    if options.json and options.output is None:
        return "--json prints one document to standard output; name a file for the predictions by --output"
    return None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = CommandParser(prog="python -m components.predict", description=DESCRIPTION)
    add_path_option(parser, "--model", help="model directory from training, a run's directory, or a model.onnx alone")
    parser.add_argument(
        "--images", metavar="PLACE", type=path_option, nargs="+", required=True,
        help="image files, or folders of them; - for a list, one a line, on standard input",
    )  # fmt: skip
    add_path_option(
        parser, "--output", required=False, help="file to write, whole or not at all; default: standard output"
    )
    parser.add_argument(
        "--format", choices=("csv", "jsonl", "table"),
        help="form of the rows; default: of a file by its ending (.csv, .jsonl), on a terminal a table, else CSV",
    )  # fmt: skip
    parser.add_argument(
        "--top-k", metavar="N", type=int, default=3, help="classes of each image, the most probable first; default: 3"
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:N or auto; default: that of the params, or auto")
    parser.add_argument("--follow-links", action="store_true", help="read what links lead to outside of a folder, too")
    return step_command(
        "predict", parser, argv, _work, output="output", docker=DOCKER, misuse=_misuse,
        without_params=lambda options: _work(options, None),
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
