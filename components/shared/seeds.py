"""Seeds: everything random in a run follows from ``manual_seed``, each use with a stream of its own."""

from __future__ import annotations

import hashlib


def derived_seed(manual_seed: int, stream: str) -> int:
    """A 63-bit seed for one named use, from all bits of the run's seed: torch's CPU generator keeps the low 32."""
    digest = hashlib.sha256(f"{manual_seed}/{stream}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
