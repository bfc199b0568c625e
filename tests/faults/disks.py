"""File systems that are soon full."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.peers.fixtures import need


@contextmanager
def small_file_system(folder: Path, size: str) -> Iterator[Path]:
    """A folder, made here, with a file system of so many bytes of its own, such as ``24k``."""
    need(os.geteuid() == 0, "mounting a small file system needs root")
    folder.mkdir()
    mounted = subprocess.run(["/bin/mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=False)
    need(mounted.returncode == 0, "this machine lets nobody mount a file system")
    yield folder
    subprocess.run(["/bin/umount", "--lazy", folder], check=True)
