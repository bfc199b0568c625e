"""Ports for peers that must come back on the same one: claimed, so that no two test processes choose alike."""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path

HOST = "127.0.0.1"

# Below the range from which Linux gives out source ports (32768 and up): no outgoing connection takes a port while
# its peer is down for a restart.
_RANGE = range(20000, 32000)

_choose = random.Random(os.urandom(8))  # noqa: S311 # spreads test processes apart, protects nothing
_claimed: set[int] = set()
_lock_file: int | None = None


def claim_port() -> int:
    """A free port that no other test process takes while this one lives."""
    for _ in range(1000):
        port = _choose.choice(_RANGE)
        if port not in _claimed and _lock(port) and _is_free(port):
            _claimed.add(port)
            return port
    raise RuntimeError(f"no free port in {_RANGE.start}-{_RANGE.stop - 1}")


def _lock(port: int) -> bool:
    """Lock the port's byte of one file all test processes share; the system unlocks it when the process ends."""
    global _lock_file
    if _lock_file is None:
        path = Path(tempfile.gettempdir()) / f"shutterline-test-ports-{os.getuid()}"
        _lock_file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.lockf(_lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except OSError:
        return False
    return True


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
