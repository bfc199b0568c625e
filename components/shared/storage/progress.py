"""How far a transfer is, as its caller sees it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class TransferProgress:
    """One look at a transfer.

    Attributes:
        what: The URI that is fetched or written.
        direction: ``down`` is from storage to here.
        done: Bytes transferred so far, or found to be there already.
        total: Bytes in all.
        files_done: Files that are whole and verified.
        files: Files in all.
        bytes_per_second: Of the transfer so far, without what was there already.
    """

    what: str
    direction: Literal["down", "up"]
    done: int
    total: int
    files_done: int
    files: int
    bytes_per_second: float


# Called at most about twice a second, by whichever thread has something to tell but never by two at once, and once at
# the end.
OnProgress = Callable[[TransferProgress], None]
