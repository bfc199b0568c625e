"""Google's Secret Manager as its REST description has it, for reading; and the server that gives tokens for it.

What a client asks otherwise than described is answered as Google does, and kept in `odd`: a test ends with none.
"""

from __future__ import annotations

import base64
import json
import re
import ssl
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import parse_qs

import google_crc32c

from tests.peers.http_server import BrokenError, Handler, RequestBody, Server
from tests.peers.peer import Peer
from tests.peers.ports import HOST

PROJECT_NUMBER = "123456789012"
_NAME = re.compile(r"/v1/projects/([a-z0-9.:-]+)/secrets/([A-Za-z0-9_-]{1,255})/versions/([A-Za-z0-9_-]+):access")
_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"

State = Literal["ENABLED", "DISABLED", "DESTROYED"]
# What goes wrong with one reading: a status, no answer until the peer closes, an end of the connection, another payload
# than its checksum's, an answer that is not this service's.
Fault = int | Literal["silence", "cut", "flipped", "foreign", "redirect", "not enabled"]


@dataclass
class Version:
    """One version of a secret."""

    data: bytes
    state: State = "ENABLED"
    has_checksum: bool = True


@dataclass
class Secret:
    """A secret: its versions in their order, and which of them has another name."""

    versions: list[Version] = field(default_factory=list)
    aliases: dict[str, int] = field(default_factory=dict)


class SecretManager(Peer):
    """The service for one project.

    Args:
        project: The project's id.
        tls: What it shows; None: it speaks HTTP.

    Attributes:
        secrets: By name.
        forbidden: Names of those that may not be read.
        tokens: Which are accepted.
        faults: What happens to the next readings, one each.
        read: The names of the versions asked for, in order.
        odd: What no client that keeps to the description asks.
    """

    def __init__(self, project: str = "vision-project", tls: ssl.SSLContext | None = None) -> None:
        self.project = project
        self.secrets: dict[str, Secret] = {}
        self.forbidden: set[str] = set()
        self.tokens: set[str] = set()
        self.faults: deque[Fault] = deque()
        self.read: list[str] = []
        self.odd: list[str] = []
        self._server = Server(0, self._serve)
        self._scheme = "https" if tls else "http"
        if tls:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._closing = threading.Event()
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, name="secret manager"
        )

    @property
    def endpoint(self) -> str:
        """Its address, for ``SHUTTERLINE_SECRET_MANAGER_ENDPOINT``."""
        return f"{self._scheme}://{HOST}:{self._server.server_port}"

    @property
    def token_uri(self) -> str:
        """Where a service account's key gets a token."""
        return f"{self.endpoint}/token"

    def add(self, name: str, data: bytes | str, **version: Any) -> str:
        """Add a version to a secret, which is made if there is none, and say how it is referred to."""
        content = data.encode() if isinstance(data, str) else data
        versions = self.secrets.setdefault(name, Secret()).versions
        versions.append(Version(content, **version))
        return self.reference(name, len(versions))

    def reference(self, name: str, version: int | str) -> str:
        """How a version is referred to, whether it is there or not."""
        return f"sm://projects/{self.project}/secrets/{name}/versions/{version}"

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.end_connections()
        self._server.server_close()

    def _serve(self, handler: Handler) -> None:
        body = RequestBody(handler)
        content = body.read(body.length)
        _, target, _ = handler.requestline.split(" ")  # its path has lost a second slash
        if target == "/token":
            status, document = self._token(handler, content)
        else:
            status, document = self._access(handler, target, content)
        raw = document if isinstance(document, bytes) else json.dumps(document, indent=2).encode()
        handler.send_response(status)
        if status in (301, 302):
            handler.send_header("Location", f"{self.endpoint}/elsewhere")
        handler.send_header("Content-Type", "text/html" if isinstance(document, bytes) else "application/json")
        handler.send_header("Content-Length", str(len(raw)))
        handler.end_headers()
        handler.wfile.write(raw)

    def _token(self, handler: Handler, content: bytes) -> tuple[int, Any]:
        form = parse_qs(content.decode(), strict_parsing=True)
        if handler.command != "POST" or form.get("grant_type") != [_GRANT] or len(form.get("assertion", ())) != 1:
            self.odd.append(f"token: {handler.command} {sorted(form)}")
            return 400, {"error": "invalid_request"}
        claims = form["assertion"][0].split(".")[1]
        scope = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4))).get("scope")
        if scope != _SCOPE:
            self.odd.append(f"token: for the scope {scope}")
            return 400, {"error": "invalid_scope"}
        token = f"ya29.secret-manager-{len(self.tokens)}-token"
        self.tokens.add(token)
        return 200, {"access_token": token, "expires_in": 3599, "token_type": "Bearer"}

    def _access(self, handler: Handler, target: str, content: bytes) -> tuple[int, Any]:
        named = _NAME.fullmatch(target)
        if handler.command != "GET" or content or named is None:
            self.odd.append(f"{handler.command} {target} with {len(content)} bytes")
            return _error(400, "INVALID_ARGUMENT", "Request contains an invalid argument.")
        project, name, version = named.groups()
        self.read.append(f"{name}/{version}")
        if self.faults and (broken := self._break(self.faults.popleft())) is not None:
            return broken
        if handler.headers.get("Authorization", "").removeprefix("Bearer ") not in self.tokens:
            return _error(401, "UNAUTHENTICATED", "Request had invalid authentication credentials.")
        place = f"projects/{PROJECT_NUMBER}/secrets/{name}"
        if project not in (self.project, PROJECT_NUMBER) or name in self.forbidden:
            told = f"projects/{project}/secrets/{name}/versions/{version}"
            words = f"Permission 'secretmanager.versions.access' denied for resource '{told}' (or it may not exist)."
            return _error(403, "PERMISSION_DENIED", words)
        if name not in self.secrets:
            return _error(404, "NOT_FOUND", f"Secret [{place}] not found or has no versions.")
        secret = self.secrets[name]
        aliases = secret.aliases | {"latest": len(secret.versions)}
        number = int(version) if version.isdigit() else aliases.get(version, 0)
        if not 1 <= number <= len(secret.versions):
            return _error(404, "NOT_FOUND", f"Secret Version [{place}/versions/{version}] not found.")
        return self._answer(f"{place}/versions/{number}", secret.versions[number - 1])

    def _answer(self, place: str, version: Version) -> tuple[int, Any]:
        if version.state != "ENABLED":
            return _error(400, "FAILED_PRECONDITION", f"Secret Version [{place}] is in {version.state} state.")
        payload = {"data": base64.b64encode(version.data).decode()}
        if version.has_checksum:
            payload["dataCrc32c"] = str(google_crc32c.value(version.data))  # an int64, which JSON has as text
        return 200, {"name": place, "payload": payload}

    def _break(self, fault: Fault) -> tuple[int, Any] | None:
        """Let one reading go wrong."""
        match fault:
            case "silence":
                self._closing.wait()
                raise BrokenError
            case "cut":
                raise BrokenError
            case "flipped":
                data = base64.b64encode(b"not what was put in").decode()
                return 200, {"name": "", "payload": {"data": data, "dataCrc32c": "1"}}
            case "foreign":
                return 200, b"<html><body>Sign in to the portal: password=portal-password</body></html>"
            case "redirect":
                return 302, b""
            case "not enabled":
                detail = {
                    "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                    "reason": "SERVICE_DISABLED",
                    "domain": "googleapis.com",
                }
                words = f"Secret Manager API has not been used in project {PROJECT_NUMBER} before or it is disabled."
                return _error(403, "PERMISSION_DENIED", words, detail)
        return _error(fault, "UNAVAILABLE" if fault == 503 else "ERROR", "The service is currently unavailable.")


def _error(code: int, status: str, message: str, *details: dict[str, str]) -> tuple[int, Any]:
    """An error as Google's APIs answer with it."""
    error: dict[str, Any] = {"code": code, "message": message, "status": status}
    return code, {"error": error | ({"details": list(details)} if details else {})}
