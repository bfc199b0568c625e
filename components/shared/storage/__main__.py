"""``python -m components.shared.storage``: an artifact from a bucket to a directory, or the other way."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from components.shared.command import CommandParser, path_option, print_message
from components.shared.errors import EXIT_OK, InputError, ShutterlineError
from components.shared.extras import extras_named
from components.shared.storage.fetch import fetch_artifact, fetch_tree
from components.shared.storage.location import Location
from components.shared.storage.publish import Publication


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = CommandParser(prog="python -m components.shared.storage", description=__doc__.partition(": ")[2])
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="publish | fetch")
    up = verbs.add_parser("publish", help="a dataset, model or evaluation directory to a bucket, whole or not at all")
    up.add_argument("directory", metavar="DIR", type=Path)
    up.add_argument("location", metavar="URI", type=path_option, help="gs://bucket/key or s3://bucket/key")
    down = verbs.add_parser("fetch", help="an artifact, or any files, from a bucket, verified")
    down.add_argument("location", metavar="URI", type=path_option, help="gs://bucket/key or s3://bucket/key")
    down.add_argument("directory", metavar="DIR", type=Path, help="made if it is not there; goes on where it broke off")
    down.add_argument("--kind", choices=["dataset", "model", "evaluation", "files"], required=True)
    options = parser.parse_args(argv)
    try:
        with extras_named(f"to {options.verb} an artifact", "storage", "data-prep"):
            _run(options)
    except ShutterlineError as error:
        print_message(f"error: {error}")
        return error.exit_code
    return EXIT_OK


def _run(options: argparse.Namespace) -> None:
    location, directory = options.location, options.directory
    if not isinstance(location, Location):
        raise InputError(f"{location}: is a path, and must be gs://bucket/key or s3://bucket/key")
    if options.verb == "fetch" and options.kind == "files":
        fetch_tree(location, directory)
        return
    from components.shared.artifacts.dataset import DATASET  # NumPy, which files do without
    from components.shared.artifacts.evaluation import EVALUATION
    from components.shared.artifacts.model import MODEL

    kinds = {kind.name: kind for kind in (DATASET, MODEL, EVALUATION)}
    if options.verb == "fetch":
        fetch_artifact(location, kinds[options.kind], directory)
        return
    kind = next((kind for kind in kinds.values() if (directory / kind.manifest_file).is_file()), None)
    if kind is None:
        names = ", ".join(kind.manifest_file for kind in kinds.values())
        raise InputError(f"{directory}: is no artifact: it has none of {names}")
    with Publication(location, kind) as publication:
        publication.publish(directory)


if __name__ == "__main__":
    sys.exit(main())
