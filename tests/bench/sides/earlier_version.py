"""Where the code of an earlier version comes from, which this one is held against."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

from tests.bench.sides.process import ROOT

VERSION, COMMIT = "0.5.0", "48cbc23"


def earlier_version(given: Path | None, folder: Path) -> tuple[Path, str | None]:
    """A folder with the earlier version's ``components``, and why it has none where it has none."""
    if given is not None:
        found = given.resolve()
        return found, None if (found / "components").is_dir() else f"{found} has no components/"
    found = folder / VERSION
    found.mkdir()
    command = ["git", "-C", str(ROOT), "archive", COMMIT, "components"]
    try:
        archive = subprocess.run(command, capture_output=True, check=True).stdout
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            files.extractall(found, filter="data")
    except (OSError, subprocess.CalledProcessError):
        return folder, f"git's history here does not reach back to {VERSION}; --earlier names a folder with it"
    return found, None
