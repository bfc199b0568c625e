"""What both stores do alike with what a server answers, or does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from components.shared.storage.content import PIECE
from components.shared.storage.objects import Changed, StoredObject, Transient


def pieces_of_body(readinto: Callable[[memoryview], int], expected: int) -> Iterator[memoryview]:
    """A body of so many bytes as it comes, in pieces that are valid until the next one is asked for.

    Args:
        readinto: Fills a buffer as far as bytes are there, at least one, and returns how many; 0 at the body's end.
        expected: The body's bytes.

    Raises:
        Transient: It ended early.
    """
    buffer = memoryview(bytearray(min(PIECE, max(expected, 1))))
    left = expected
    while left > 0:
        count = readinto(buffer[: min(left, len(buffer))])
        if not count:
            raise Transient("the connection ended early")
        left -= count
        yield buffer[:count]


def knowing_its_own(
    attempt: Callable[[], StoredObject], look: Callable[[], StoredObject | None], ours: Callable[[StoredObject], bool]
) -> Callable[[], StoredObject]:
    """Attempts at a write on a condition, which know the work of one whose answer was lost.

    Such an attempt may have been the one that changed the object, so that the next one fails its condition.

    Args:
        attempt: Makes one.
        look: Says what lies there.
        ours: Whether that is what was to be written.
    """
    uncertain = False

    def next_attempt() -> StoredObject:
        nonlocal uncertain
        try:
            return attempt()
        except Transient:
            uncertain = True
            raise
        except Changed:
            found = look() if uncertain else None
            if found is None or not ours(found):
                raise
            return found

    return next_attempt


def patience_asked(retry_after: str) -> float | None:
    """The seconds of a Retry-After header; None where it names a date, is no number, or is not there."""
    # isdigit alone takes "²", of which float makes no number.
    return float(retry_after) if retry_after.isascii() and retry_after.isdigit() else None
