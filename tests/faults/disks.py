"""File systems that are soon full."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
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


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Within, no file of this process grows beyond so many bytes, as with ``ulimit -f``."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    wrote_bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # importlib would keep a file that was cut
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        sys.dont_write_bytecode = wrote_bytecode
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
