"""An HTTP relay in front of an object store, which breaks what a test asks it to break, and counts it."""

from __future__ import annotations

import http.client
import re
import ssl
import threading
import time
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import unquote

from tests.peers.http_server import BrokenError, Handler, RequestBody, Server
from tests.peers.peer import Peer
from tests.peers.ports import HOST, claim_port

# What a request asks, whichever store it is. "begin" opens a resumable or multipart upload, "write" carries bytes of an
# object, "complete" ends a multipart upload, "ask" is the question how far an upload has come.
Operation = Literal["read", "stat", "list", "write", "begin", "complete", "ask", "delete", "other"]

_BEGINNING = 4096
_PIECE = 64 * 1024
_NOT_PASSED_ON = {"connection", "keep-alive", "transfer-encoding", "content-length", "expect"}


@dataclass(frozen=True)
class Request:
    """One request: the target as it was sent, headers in their order, the body whole."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes = b""

    @property
    def path(self) -> str:
        return unquote(self.target.partition("?")[0])

    @property
    def query(self) -> dict[str, str]:
        pairs = (pair.partition("=") for pair in self.target.partition("?")[2].split("&") if pair)
        return {unquote(name): unquote(value.replace("+", " ")) for name, _, value in pairs}

    def header(self, name: str) -> str:
        """A header's value, or no characters."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), "")


@dataclass(frozen=True)
class Answer:
    """One response, the body whole."""

    status: int
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""


@dataclass(frozen=True)
class CutRequest:
    """Break the connection after so many bytes of the request's body; bodies that are not longer pass."""

    after: int


@dataclass(frozen=True)
class CutAnswer:
    """Break the connection after so many bytes of the answer's body; bodies that are not longer pass."""

    after: int


@dataclass(frozen=True)
class LoseAnswer:
    """Let the server do the work, and break the connection in the place of its answer."""


@dataclass(frozen=True)
class Refuse:
    """Answer with an error in the server's place, ``Retry-After`` in seconds with it where there is one."""

    status: int
    retry_after: int | None = None


@dataclass(frozen=True)
class FlipRequestByte:
    """Change one byte of the request's body, counted from its end where negative."""

    at: int


@dataclass(frozen=True)
class FlipAnswerByte:
    """Change one byte of a successful answer's body."""

    at: int


@dataclass(frozen=True)
class Slow:
    """Wait so many seconds before the server hears of the request."""

    seconds: float


@dataclass(frozen=True)
class Hold:
    """Keep the request from the server, or its answer from the client, until ``release``; ``reached`` tells of it."""

    answer: bool = False
    reached: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)

    def wait(self) -> None:
        """Tell that it is there, and wait for the release."""
        self.reached.set()
        self.release.wait()


Effect = CutRequest | CutAnswer | LoseAnswer | Refuse | FlipRequestByte | FlipAnswerByte | Slow | Hold


class Fault:
    """One thing that goes wrong with some requests."""

    def __init__(self, effect: Effect, operation: Operation | None, name: str, skip: int, times: int | None) -> None:
        self.effect = effect
        self.happened = 0
        self._operation = operation
        self._name = re.compile(name)
        self._skip = skip
        self._left = float("inf") if times is None else times

    def takes(self, operation: Operation, name: str, length: int) -> bool:
        """Whether this request is to suffer; one fewer is left then."""
        if self._operation not in (None, operation) or not self._name.search(name) or self._left <= 0:
            return False
        if isinstance(self.effect, CutRequest) and length <= self.effect.after:
            return False
        if self._skip > 0:
            self._skip -= 1
            return False
        self._left -= 1
        self.happened += 1
        return True

    def spares(self) -> None:
        """The request it was to happen to gave no cause."""
        self._left += 1
        self.happened -= 1


@dataclass
class Exchange:
    """What went over the wire for one request: bytes of bodies; status 0 where no answer was begun."""

    operation: Operation
    name: str
    status: int
    bytes_in: int
    bytes_out: int = 0


class HttpFaults(Peer):
    """Relays whole requests and answers. The Host header stays the client's, which is what signatures cover."""

    def __init__(self, target: tuple[str, int], tls: ssl.SSLContext | None = None) -> None:
        self.target = target
        self._tls = tls
        self.port = claim_port()
        self.exchanges: list[Exchange] = []
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._under_way = 0
        self._server: Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def start(self) -> None:
        self._server = Server(self.port, self.serve)
        if self._tls is not None:
            # The handshake is made by the connection's own thread, at the first byte that is read.
            self._server.socket = self._tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name=f"http-{self.port}")
        self._thread.start()

    def close(self) -> None:
        self.clear()
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._server.end_connections()
            self._server.server_close()
            self._server = None

    def inject(
        self,
        effect: Effect,
        operation: Operation | None = None,
        name: str = "",
        *,
        skip: int = 0,
        times: int | None = 1,
    ) -> Fault:
        """Let something go wrong."""
        fault = Fault(effect, operation, name, skip, times)
        with self._lock:
            self._faults.append(fault)
        return fault

    def clear(self) -> None:
        """Nothing goes wrong from here on; what was held goes on, and counting starts again."""
        with self._lock:
            for fault in self._faults:
                if isinstance(fault.effect, Hold):
                    fault.effect.release.set()
            self._faults, self.exchanges = [], []

    def settle(self, timeout: float = 300.0) -> None:
        """Wait until nothing is under way any more, such as what was held and whose client is dead."""
        deadline = time.monotonic() + timeout
        while self._under_way:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self._under_way} requests are still under way")
            time.sleep(0.005)

    def count(self, operation: Operation, name: str = "") -> int:
        """How many such requests there were."""
        return sum(1 for each in self.exchanges if each.operation == operation and re.search(name, each.name))

    def bytes_read(self, name: str = "") -> int:
        """How many bytes of objects clients were sent."""
        return sum(each.bytes_out for each in self.exchanges if each.operation == "read" and re.search(name, each.name))

    # What the relay of a store knows of its protocol.

    def meaning(self, request: Request) -> tuple[Operation, str]:
        """What a request asks, and of which object; of its body the beginning is there."""
        return "other", request.path

    def refusal(self, status: int) -> Answer:
        """An error as this store words it."""
        return Answer(status, [("Content-Type", "text/plain")], b"refused")

    def cut_off(self, request: Request) -> None:
        """A request's body has ended early; a server forgets it."""

    def answer(self, request: Request) -> Answer:
        """The server's answer."""
        return self.forward(request)

    def forward(self, request: Request) -> Answer:
        """Ask the server."""
        connection = http.client.HTTPConnection(*self.target, timeout=60)
        try:
            connection.putrequest(request.method, request.target, skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers:
                if name.lower() not in _NOT_PASSED_ON:
                    connection.putheader(name, value)
            if not request.header("Host"):
                connection.putheader("Host", f"{self.target[0]}:{self.target[1]}")
            if request.body or request.method in ("PUT", "POST"):
                connection.putheader("Content-Length", str(len(request.body)))
            connection.endheaders(request.body or None)
            response = connection.getresponse()
            kept = _NOT_PASSED_ON - ({"content-length"} if request.method == "HEAD" else set())
            headers = [(name, value) for name, value in response.getheaders() if name.lower() not in kept]
            return Answer(response.status, headers, response.read())
        finally:
            connection.close()

    # One exchange.

    def serve(self, handler: Handler) -> None:
        """Read a request, do to it what is asked, answer it."""
        with self._lock:
            self._under_way += 1
        try:
            self._serve(handler)
        finally:
            with self._lock:
                self._under_way -= 1

    def _serve(self, handler: Handler) -> None:
        body = RequestBody(handler)
        head = Request(handler.command, handler.path, list(handler.headers.items()))
        request = Request(head.method, head.target, head.headers, body.read(_BEGINNING))
        operation, name = self.meaning(request)
        with self._lock:
            fault = next((each for each in self._faults if each.takes(operation, name, body.length)), None)
        effect = fault.effect if fault is not None else None

        limit = effect.after if isinstance(effect, CutRequest) else body.length
        received = (request.body + body.read(limit - _BEGINNING))[:limit]
        request = Request(head.method, head.target, head.headers, received)
        if len(received) < body.length:
            self.cut_off(request)
            self._note(Exchange(operation, name, 0, len(received)))
            raise BrokenError
        if isinstance(effect, FlipRequestByte):
            request = Request(head.method, head.target, head.headers, _flipped(received, effect.at))
        if isinstance(effect, Slow):
            time.sleep(effect.seconds)
        if isinstance(effect, Hold) and not effect.answer:
            effect.wait()

        answer = self._refused(effect) if isinstance(effect, Refuse) else self.answer(request)
        if isinstance(effect, Hold) and effect.answer:
            effect.wait()
        sent = answer.body
        if isinstance(effect, LoseAnswer):
            self._note(Exchange(operation, name, 0, len(received)))
            raise BrokenError
        if fault is not None and isinstance(effect, FlipAnswerByte):
            if answer.status < 300 and -len(sent) <= effect.at < len(sent):
                sent = _flipped(sent, effect.at)
            else:
                fault.spares()
        if fault is not None and isinstance(effect, CutAnswer):
            if answer.status < 300 and len(sent) > effect.after:
                sent = sent[: effect.after]
            else:
                fault.spares()
        exchange = self._note(Exchange(operation, name, answer.status, len(received)))
        self._send(handler, answer, sent, exchange)
        if len(sent) < len(answer.body):
            raise BrokenError

    def _refused(self, effect: Refuse) -> Answer:
        answer = self.refusal(effect.status)
        if effect.retry_after is not None:
            answer.headers.append(("Retry-After", str(effect.retry_after)))
        return answer

    def _send(self, handler: Handler, answer: Answer, sent: bytes, exchange: Exchange) -> None:
        handler.send_response_only(answer.status)
        for name, value in answer.headers:
            handler.send_header(name, value)
        if handler.command != "HEAD" and answer.status not in (204, 304):
            handler.send_header("Content-Length", str(len(answer.body)))
        handler.end_headers()
        # In pieces, so that a client that goes away has had what is counted, give or take one.
        for start in range(0, len(sent) if handler.command != "HEAD" else 0, _PIECE):
            piece = sent[start : start + _PIECE]
            exchange.bytes_out += len(piece)
            handler.wfile.write(piece)

    def _note(self, exchange: Exchange) -> Exchange:
        with self._lock:
            self.exchanges.append(exchange)
        return exchange


def _flipped(data: bytes, at: int) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 0x20
    return bytes(changed)
