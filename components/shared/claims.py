"""Directories that cannot be written, and the persistent volume claims that they are in.

A claim's fresh file system, and the directory that ``sub_path`` makes in it, belong to root with mode 0755; a step runs
as user 10001 and cannot write there until the directory is handed to that user.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from components.shared.errors import InputError
from components.shared.files import is_full

CLAIMS_VARIABLE = "SHUTTERLINE_CLAIMS"  # a JSON object, mount path to name of the claim; set in the compiled pipeline


def require_writable(what: str, directory: Path, named: Path | None = None) -> None:
    """Make a directory, if it is not there, and check that a file can be written in it.

    Args:
        what: What the directory is for, for the message: ``checkpoints``.
        directory: The directory.
        named: The path that the user gave, for the message; by default `directory`.

    Raises:
        InputError: It cannot be made or written.
        OSError: The disk is full.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(b"\0")
    except OSError as error:
        if is_full(error):
            raise
        raise unwritable(what, named or directory, error) from error


def unwritable(what: str, path: Path, error: OSError) -> InputError:
    """The error for a directory that cannot be written: the claim that it is in, if it is in one, and what to do."""
    message = f"{what} {path}: cannot be written by user {os.geteuid()} ({error.strerror or error})"
    if claim := _claim_of(path):
        return InputError(
            f'{message}; it is in the claim "{claim}", whose directory must be handed to that user once: see "Volumes" '
            "in pipelines/README.md (claim-owner.yaml)"
        )
    return InputError(f"{message}; make it writable for that user, or name another directory")


def _claim_of(path: Path) -> str:
    """The claim mounted nearest above a path; empty if there is none."""
    try:
        claims = json.loads(os.environ.get(CLAIMS_VARIABLE) or "{}")
        mounts = {Path(mount): str(name) for mount, name in claims.items()}
    except (ValueError, AttributeError):
        return ""
    return next((mounts[parent] for parent in (path, *path.parents) if parent in mounts), "")
