"""Seeds: everything random in a run follows from ``manual_seed``, each use with a stream of its own."""

from __future__ import annotations

import hashlib


def derived_seed(manual_seed: int, stream: str) -> int:
    """A 63-bit seed for one named use, from all bits of the run's seed.

    The run's seed is hashed because torch's CPU generator keeps only the low 32 bits of what it is given: 1 and
    2^62 + 1 would otherwise be the same run.
    """
    digest = hashlib.sha256(f"{manual_seed}/{stream}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
