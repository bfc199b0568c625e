"""What every peer is: something that is started, used and closed."""

from __future__ import annotations

from types import TracebackType
from typing import Self


class Peer:
    """A peer as a context manager."""

    def start(self) -> None:
        """Return once it can be used."""
        raise NotImplementedError

    def close(self) -> None:
        """End it, whatever state it is in."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
