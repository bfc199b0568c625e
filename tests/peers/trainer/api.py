"""The Kubernetes API of a cluster with Kubeflow Trainer, for tests: what training on several nodes asks of it.

Use the fixture `trainer_api`:

    def test_something(trainer_api: TrainerApi) -> None:
        config = client.Configuration()
        kubernetes.config.load_kube_config(str(trainer_api.kubeconfig), client_configuration=config)

`namespace` is the one that there is, `store` what is in it, `logs` what its containers print. Take rights away by
`trainer_api.denied.add(("create", "trainjobs"))`, the CRD by `crd = None`, choose an older Trainer by `crd = (2, 1)`,
let requests fail by `fail(503, "get", "trainjobs", times=2)`, the whole server by `go_away("refused")` (or "hanging",
or a status), until `come_back()`. `sent` has every request.

A created TrainJob stays as it is, unless a history is played for it (tests/peers/trainer/histories.py):

    trainer_api.play(histories.SUCCESS, scale=0.02)  # a minute in 1.2 s
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import yaml

from tests.peers.http_server import BrokenError, Handler, RequestBody, Server
from tests.peers.peer import Peer
from tests.peers.ports import HOST, claim_port
from tests.peers.tls import Certificates
from tests.peers.trainer.histories import DELETED
from tests.peers.trainer.methods import Methods
from tests.peers.trainer.plays import History, Outage, Player
from tests.peers.trainer.refusals import Refused, forbidden, outage, unauthorized
from tests.peers.trainer.runtimes import OURS, STOCK
from tests.peers.trainer.store import Object, Store

Streamed = Iterator[bytes]

_PATH = re.compile(
    r"/(?:api|apis/(?P<group>[^/]+))/(?P<version>[^/]+)(?:/namespaces/(?P<namespace>[^/]+))?"
    r"/(?P<resource>[a-z]+)(?:/(?P<name>[^/]+))?(?:/(?P<subresource>[a-z]+))?"
)
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


@dataclass(frozen=True)
class Asked:
    """One request: its verb and resource as rights name them ("pods/log"), empty where it is for none."""

    method: str
    path: str
    query: dict[str, str]
    verb: str = ""
    resource: str = ""
    namespace: str = ""
    name: str = ""
    body: Any = None


@dataclass
class Failure:
    """What some requests get instead of an answer: before the work is done, or after it."""

    code: int | None
    verb: str
    resource: str
    times: int
    after_work: bool


class TrainerApi(Peer):
    """The server.

    Args:
        folder: Where the kubeconfig and what is mounted into pods are written.
        certificates: The authority that its clients trust.

    Attributes:
        token: The bearer's token it wants.
        user: Who that is.
        namespace: The one that there is.
        denied: Verbs and resources that the user has no right to.
        crd: Trainer's version, whose fields TrainJobs have; None: it is not installed.
        store: The objects.
        logs: What containers print.
        on_create, on_delete, on_change: Called with a TrainJob after that; the cluster's controllers.
        sent: Every request.
        has_been_away: Whether it ever was.
        kubeconfig: The file for clients.
        service_account: A folder as it is mounted into pods: token, ca.crt, namespace.
    """

    def __init__(self, folder: Path, certificates: Certificates) -> None:
        self.token = "token-of-a-test"  # noqa: S105 # opens nothing
        self.user = "system:serviceaccount:team-a:pipeline-runner"
        self.namespace = "team-a"
        self.denied: set[tuple[str, str]] = set()
        self.crd: tuple[int, int] | None = (2, 3)
        self.store = Store()
        self.methods = Methods(self)
        self.logs = self.methods.logs
        self.on_create: Callable[[Object], None] = lambda job: None
        self.on_delete: Callable[[Object], None] = lambda job: None
        self.on_change: Callable[[Object], None] = lambda job: None
        self.sent: list[Asked] = []
        self.has_been_away = False
        self.port = claim_port()
        self.kubeconfig = folder / "kubeconfig.yaml"
        self.service_account = folder / "serviceaccount"
        self._failures: list[Failure] = []
        self._outage: Outage | None = None
        self._is_back = threading.Event()
        self._streams_of = 0
        self._player: Player | None = None
        self._tls = certificates.server_context()
        self._ca_file = certificates.ca_file
        self._server: Server | None = None
        self._thread: threading.Thread | None = None
        self.store.create("clustertrainingruntimes", STOCK)
        ours = OURS | {"metadata": OURS["metadata"] | {"namespace": self.namespace}}
        self.store.create("trainingruntimes", ours)
        self._write_files(folder)

    @property
    def url(self) -> str:
        return f"https://{HOST}:{self.port}"

    # What a test does to it.

    def fail(
        self, code: int | None, verb: str = "", resource: str = "", *, times: int = 1, after_work: bool = False
    ) -> None:
        """Answer the next such requests with a status (None: break the connection), before the work or after it."""
        self._failures.append(Failure(code, verb, resource, times, after_work))

    def go_away(self, how: Outage = "refused") -> None:
        """Let nothing be answered: connections are refused, hang, or get a status. Streams end."""
        self._is_back.clear()
        self.has_been_away = True
        self._outage = how
        self.end_streams()
        if how == "refused":
            self._stop()

    def come_back(self) -> None:
        """End that."""
        how, self._outage = self._outage, None
        if how == "refused":
            self._listen()
        self._is_back.set()

    def end_streams(self) -> None:
        """End every watch and every log that is followed, without an error."""
        with self.store.changed:
            self._streams_of += 1
            self.store.changed.notify_all()

    def play(self, history: History, *, scale: float = 0.02, at_deletion: History | None = None) -> None:
        """Let this happen to each TrainJob that is created from now on, a second in `scale` seconds.

        With `at_deletion` this happens once it is deleted, instead of pods that save and end.
        """
        self._stop_playing()
        self._player = Player(self, history, scale, DELETED if at_deletion is None else at_deletion)

    def remove_train_job(self, name: str) -> None:
        """Delete a TrainJob, as somebody else would."""
        self.on_delete(self.store.delete("trainjobs", self.namespace, name))

    def requests(self, verb: str, resource: str) -> list[Asked]:
        """Those of a verb for a resource, as rights name them."""
        return [each for each in self.sent if (each.verb, each.resource) == (verb, resource)]

    def start(self) -> None:
        self._listen()

    def close(self) -> None:
        self._stop_playing()
        self._outage = "refused"
        self.end_streams()
        self._is_back.set()
        self._stop()

    # How it answers.

    def _stop_playing(self) -> None:
        if self._player is not None:
            self._player.close()
            self._player = None

    def _listen(self) -> None:
        self._server = Server(self.port, self._serve)
        self._server.socket = self._tls.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), name="trainer-api")
        self._thread.start()

    def _stop(self) -> None:
        server, self._server = self._server, None
        if server is not None and self._thread is not None:
            server.shutdown()
            self._thread.join()
            server.end_connections()
            server.server_close()

    def _serve(self, handler: Handler) -> None:
        body = RequestBody(handler)
        content = body.read(body.length)
        parts = urlsplit(handler.path)
        asked = _asked(handler.command, unquote(parts.path), dict(parse_qsl(parts.query)), content)
        self.sent.append(asked)
        if self._outage == "hanging":
            self._is_back.wait()
            raise BrokenError
        failure = self._failure(asked)
        try:
            if isinstance(self._outage, int):
                raise outage(self._outage)
            if failure is not None and not failure.after_work:
                _fail(failure)
            answer = self._answer(handler, asked)
            if failure is not None:
                _fail(failure)
        except Refused as refused:
            _send(handler, refused.code, refused.document, refused.headers)
            return
        if isinstance(answer, tuple):
            handler.send_response_only(answer[0])
            _finish(handler, answer[1].encode(), "text/plain; charset=utf-8")
        elif isinstance(answer, dict):
            _send(
                handler,
                201 if asked.resource in ("trainjobs", "selfsubjectaccessreviews") and asked.verb == "create" else 200,
                answer,
                [],
            )
        else:
            kind = "text/plain" if asked.resource == "pods/log" else "application/json"
            self._stream(handler, answer, kind)

    def _answer(self, handler: Handler, asked: Asked) -> Object | Streamed | tuple[int, str]:
        if self.methods.is_status_report(asked):
            return self.methods.report_status(asked, handler.headers.get("Authorization", ""))
        scheme, _, token = handler.headers.get("Authorization", "").partition(" ")
        if (scheme.lower(), token) != ("bearer", self.token):  # Kubernetes' own client writes it small in a pod
            raise unauthorized()
        if asked.verb and not self.may(asked.verb, asked.resource):
            raise forbidden(self.user, asked.verb, asked.resource, asked.namespace, asked.name)
        streams = self._streams_of
        return self.methods.answer(asked, lambda: self._outage is not None or streams != self._streams_of)

    def may(self, verb: str, resource: str) -> bool:
        """Whether the user has a right."""
        return not {(verb, resource), ("*", resource), (verb, "*")} & self.denied

    def _failure(self, asked: Asked) -> Failure | None:
        for each in self._failures:
            if each.times > 0 and each.verb in ("", asked.verb) and each.resource in ("", asked.resource):
                each.times -= 1
                return each
        return None

    def _stream(self, handler: Handler, pieces: Streamed, kind: str) -> None:
        handler.send_response_only(200)
        handler.send_header("Content-Type", kind)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for piece in pieces:
            handler.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        if self._outage is not None:
            raise BrokenError
        handler.wfile.write(b"0\r\n\r\n")

    def _write_files(self, folder: Path) -> None:
        name = "trainer"
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": name,
            "clusters": [{"name": name, "cluster": {"server": self.url, "certificate-authority": str(self._ca_file)}}],
            "users": [{"name": name, "user": {"token": self.token}}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": name, "namespace": self.namespace}}],
        }
        folder.mkdir(parents=True, exist_ok=True)
        self.kubeconfig.write_text(yaml.safe_dump(config), "utf-8")
        self.service_account.mkdir(exist_ok=True)
        for file, text in (
            ("token", self.token),
            ("ca.crt", self._ca_file.read_text("ascii")),
            ("namespace", self.namespace),
        ):
            (self.service_account / file).write_text(text, "ascii")


def _asked(method: str, path: str, query: dict[str, str], content: bytes) -> Asked:
    body = json.loads(content) if content else None
    parts = _PATH.fullmatch(path)
    if parts is None:
        return Asked(method, path, query, body=body)
    verb = _VERBS.get(method) or ("get" if parts["name"] else "list")
    if verb == "list" and query.get("watch") in ("true", "1", "True"):
        verb = "watch"
    if verb == "delete" and not parts["name"]:
        verb = "deletecollection"
    resource = "/".join(part for part in (parts["resource"], parts["subresource"]) if part)
    name = parts["name"] or ""
    return Asked(method, path, query, verb, resource, parts["namespace"] or "", name, body)


def _fail(failure: Failure) -> None:
    if failure.code is None:
        raise BrokenError
    raise outage(failure.code)


def _send(handler: Handler, code: int, document: Object, headers: list[tuple[str, str]]) -> None:
    handler.send_response_only(code)
    for name, value in headers:
        handler.send_header(name, value)
    _finish(handler, json.dumps(document).encode(), "application/json")


def _finish(handler: Handler, content: bytes, kind: str) -> None:
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)
