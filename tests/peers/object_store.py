"""A bucket of any store, as tests look at it: by plain requests that know nothing of what is tested."""

from __future__ import annotations

from collections.abc import Mapping

from tests.peers.http_faults import HttpFaults


class Bucket:
    """One bucket of one server."""

    def __init__(self, uri: str, faults: HttpFaults, environment: Mapping[str, str]) -> None:
        self.uri = uri
        self.name = uri.partition("://")[2]
        self.faults = faults
        self.environment = dict(environment)

    def objects(self, prefix: str = "") -> dict[str, bytes]:
        """Every object below a prefix, by name."""
        return {name: self.read(name) for name in self.names(prefix)}

    def names(self, prefix: str = "") -> list[str]:
        """The names of the objects below a prefix, sorted."""
        raise NotImplementedError

    def read(self, name: str) -> bytes:
        raise NotImplementedError

    def write(self, name: str, data: bytes, encoding: str = "") -> None:
        """Put an object there, of a Content-Encoding."""
        raise NotImplementedError

    def delete(self, name: str) -> None:
        raise NotImplementedError
