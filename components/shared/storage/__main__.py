"""``python -m components.shared.storage``: an artifact from a bucket to a directory, or the other way."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from components.shared.artifacts.artifact import ArtifactKind
from components.shared.command import CommandParser, place_option, tell
from components.shared.errors import EXIT_OK, InputError, ShutterlineError
from components.shared.extras import extras_named
from components.shared.storage.fetch import fetch_artifact, fetch_tree
from components.shared.storage.location import Location
from components.shared.storage.publish import Publication


def _kinds() -> list[ArtifactKind]:
    from components.shared.artifacts.dataset import DATASET  # NumPy, for which an error in the arguments need not wait
    from components.shared.artifacts.evaluation import EVALUATION
    from components.shared.artifacts.model import MODEL

    return [DATASET, MODEL, EVALUATION]


def publish(directory: Path, location: Location) -> None:
    """Publish an artifact directory.

    Raises:
        InputError: It is no artifact, or the place may not be used.
        StorageUnavailableError: The storage does not answer.
    """
    for kind in _kinds():
        if (directory / kind.manifest_file).is_file():
            with Publication(location, kind) as publication:
                publication.publish(directory)
            return
    names = ", ".join(kind.manifest_file for kind in _kinds())
    raise InputError(f"{directory}: is no artifact: it has none of {names}")


def fetch(location: Location, directory: Path, kind: str) -> None:
    """Fetch an artifact of a kind, or ``files``: any objects below a prefix.

    Raises:
        InputError: It is not there or may not be read.
        StorageUnavailableError: The storage does not answer.
    """
    if kind == "files":
        fetch_tree(location, directory)
        return
    fetch_artifact(location, next(known for known in _kinds() if known.name == kind), directory)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = CommandParser(prog="python -m components.shared.storage", description=__doc__.partition(": ")[2])
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="publish | fetch")
    up = verbs.add_parser("publish", help="a dataset, model or evaluation directory to a bucket, whole or not at all")
    up.add_argument("directory", metavar="DIR", type=Path)
    up.add_argument("location", metavar="URI", type=place_option, help="gs://bucket/key or s3://bucket/key")
    down = verbs.add_parser("fetch", help="an artifact, or any files, from a bucket, verified")
    down.add_argument("location", metavar="URI", type=place_option, help="gs://bucket/key or s3://bucket/key")
    down.add_argument("directory", metavar="DIR", type=Path, help="made if it is not there; goes on where it broke off")
    down.add_argument("--kind", choices=["dataset", "model", "evaluation", "files"], required=True)
    options = parser.parse_args(argv)
    try:
        with extras_named(f"to {options.verb} an artifact", "storage", "data-prep"):
            return _run(options)
    except ShutterlineError as error:
        tell(f"error: {error}")
        return error.exit_code


def _run(options: argparse.Namespace) -> int:
    if not isinstance(options.location, Location):
        raise InputError(f"{options.location}: is a path, and must be gs://bucket/key or s3://bucket/key")
    if options.verb == "publish":
        publish(options.directory, options.location)
    else:
        fetch(options.location, options.directory, options.kind)
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
