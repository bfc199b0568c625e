"""Uploads to Google Cloud Storage: small objects in one request, large ones in one that is resumed where it broke."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Protocol
from urllib.parse import urlencode
from uuid import uuid4

from components.shared.storage.content import Content
from components.shared.storage.objects import StoredObject, Transient

# Up to here an object goes in one request, which begins anew if it breaks. The bound of Google's own client.
_ONE_REQUEST = 8 << 20


class Sender(Protocol):
    """What an upload asks of its bucket's store, one attempt each; all raise what the store's requests raise."""

    @property
    def upload_path(self) -> str:
        """Where uploads begin."""
        ...

    def send(self, method: str, path: str, uri: str, headers: dict[str, str], body: Any) -> Any:
        """One request with a body, answered."""
        ...

    def written(self, response: Any, uri: str) -> StoredObject:
        """What the answer to an upload says is stored."""
        ...

    def path_of(self, url: str) -> str:
        """The part of an upload session's address that is sent to the same server."""
        ...

    def moved(self, count: int) -> None:
        """So many bytes have been sent."""
        ...


class Upload:
    """One object's upload, over as many attempts as it takes."""

    def __init__(
        self, store: Sender, uri: str, content: Content, metadata: dict[str, str], query: dict[str, str]
    ) -> None:
        self._store = store
        self._uri = uri
        self._content = content
        self._metadata = metadata
        self._query = query
        self._session: str | None = None
        self._furthest = 0

    def attempt(self) -> StoredObject:
        """Try once.

        Raises:
            Transient: Not now; the next attempt goes on where the store says this one came to.
            Changed: Another version lies there.
        """
        if self._content.bytes <= _ONE_REQUEST:
            return self._in_one()
        start = 0
        if self._session is None:
            self._session = self._begin()
        else:
            # How far it has come; or it is whole, and the answer was lost.
            size = self._content.bytes
            response = self._send(self._session, {"Content-Range": f"bytes */{size}", "Content-Length": "0"}, b"")
            if response.status != 308:
                return self._end(response)
            if reached := response.headers.get("Range"):
                start = int(reached.rpartition("-")[2]) + 1
        size = self._content.bytes
        headers = {"Content-Length": str(size - start), "Content-Range": f"bytes {start}-{size - 1}/{size}"}
        response = self._send(self._session, headers, self._body(start))
        if response.status == 308:
            raise Transient("the store has not kept all bytes yet")
        return self._end(response)

    def _in_one(self) -> StoredObject:
        fence = uuid4().hex
        head = (
            f"--{fence}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n{json.dumps(self._metadata)}\r\n"
            f"--{fence}\r\nContent-Type: {self._content.type}\r\n\r\n"
        ).encode()
        body = b"".join([head, *map(bytes, self._content.pieces()), f"\r\n--{fence}--\r\n".encode()])
        headers = {"Content-Type": f'multipart/related; boundary="{fence}"'}
        path = f"{self._store.upload_path}?{urlencode({'uploadType': 'multipart', **self._query})}"
        stored = self._store.written(self._store.send("POST", path, self._uri, headers, body), self._uri)
        self._store.moved(self._content.bytes)
        return stored

    def _begin(self) -> str:
        path = f"{self._store.upload_path}?{urlencode({'uploadType': 'resumable', **self._query})}"
        headers = {
            "Content-Type": "application/json; charset=UTF-8",
            "X-Upload-Content-Type": self._content.type,
            "X-Upload-Content-Length": str(self._content.bytes),
        }
        response = self._store.send("POST", path, self._uri, headers, json.dumps(self._metadata).encode())
        if response.status != 200 or "Location" not in response.headers:
            self._store.written(response, self._uri)
            raise Transient("the store began no upload")
        return self._store.path_of(response.headers["Location"])

    def _send(self, session: str, headers: dict[str, str], body: Any) -> Any:
        response = self._store.send("PUT", session, self._uri, headers, body)
        if response.status in (404, 410):
            self._session = None  # the next attempt begins anew
            raise Transient("the store has forgotten the upload")
        return response

    def _body(self, start: int) -> Iterator[memoryview]:
        position = start
        for piece in self._content.pieces(start):
            yield piece
            position += len(piece)
            # What is sent again is no progress.
            self._store.moved(max(0, position - self._furthest))
            self._furthest = max(self._furthest, position)

    def _end(self, response: Any) -> StoredObject:
        self._session = None  # whatever it says, this upload is at its end
        return self._store.written(response, self._uri)
