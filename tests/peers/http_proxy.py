"""A proxy that plain HTTP goes through."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import urlsplit

from tests.peers.http_faults import Answer, HttpFaults, Request
from tests.peers.ports import HOST


class HttpProxy(HttpFaults):
    """Hands every request to one port of this machine, whatever host it is for."""

    def __init__(self, target: int) -> None:
        super().__init__((HOST, target))
        self.signing_in = ""
        self.targets: list[str] = []

    def answer(self, request: Request) -> Answer:
        if request.header("Proxy-Authorization") != self.signing_in:
            return Answer(407, [("Content-Type", "text/html")], b"<html>Proxy Authentication Required</html>")
        asked = urlsplit(request.target)
        self.targets.append(asked.netloc)
        headers = [each for each in request.headers if each[0].lower() != "proxy-authorization"]
        return self.forward(replace(request, target=f"{asked.path}?{asked.query}".rstrip("?"), headers=headers))
