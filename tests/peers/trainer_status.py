"""Kubeflow Trainer's server of status, as pkg/statusserver of v2.3.0 answers (server.go, middleware.go, auth.go).

A report is held to what the CRD of a TrainJob says of trainerStatus (manifests/base/crds, v2.3.0), which the API
server checks there.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.peers.http_server import BrokenError, Handler, RequestBody, Server
from tests.peers.ports import HOST
from tests.peers.tls import Certificates
from tests.peers.trainer.admission import check_trainer_status
from tests.peers.trainer.refusals import Refused

_LARGEST_BODY = 1 << 16


class TrainerStatusServer:
    """One TrainJob's; use as a context manager.

    Attributes:
        reports: Every trainerStatus that was taken.
        answers: The status of every answer.
        status: The job's, as `kubectl get trainjob` shows it.
        faults: What is answered to the next requests instead: a status with headers, or None: nothing ever.
        environment: What Trainer sets in the job's pods.
        token_file: Holds the token that is wanted, until a test writes another one to it.
    """

    def __init__(self, folder: Path, *, token: str = "eyJ.a.token", name: str = "train-1") -> None:  # noqa: S107 - of no real server
        self.reports: list[dict[str, Any]] = []
        self.answers: list[int] = []
        self.faults: deque[tuple[int, dict[str, str]] | None] = deque()
        self.token_file = folder / "token"
        self.authorized = {token}
        self._path = f"/apis/trainer.kubeflow.org/v1alpha1/namespaces/team/trainjobs/{name}/status"
        self._changed = threading.Condition()
        self._is_over = threading.Event()
        certificates = Certificates(folder)
        self.token_file.write_text(f"{token}\n", "ascii")
        self._server = Server(0, self._serve)
        self._server.socket = certificates.server_context().wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self.port = self._server.server_address[1]
        self.environment = {
            "KUBEFLOW_TRAINER_SERVER_URL": f"https://{HOST}:{self.port}{self._path}",
            "KUBEFLOW_TRAINER_SERVER_CA_CERT": str(certificates.ca_file),
            "KUBEFLOW_TRAINER_SERVER_TOKEN": str(self.token_file),
        }

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over.set()
        self._server.shutdown()
        self._server.end_connections()
        self._server.server_close()

    @property
    def status(self) -> dict[str, Any] | None:
        return self.reports[-1] if self.reports else None

    def wait(self, answers: int, within_s: float = 20.0) -> None:
        """Wait until so many requests were answered, or left without."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.answers) >= answers, within_s), self.answers

    def _serve(self, handler: Handler) -> None:
        body = RequestBody(handler)
        data = body.read(body.length)
        fault = self.faults.popleft() if self.faults else (0, {})
        if fault is None:
            self._count(0)
            self._is_over.wait()
            raise BrokenError
        status, headers = fault
        answer: Any = {"status": "Failure", "message": "broken for a test", "code": status}
        if not status:
            status, answer = self._answer(handler, data)
        text = json.dumps(answer).encode()
        self._count(status)  # before the client, which reads no more than the status, can go on
        handler.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(text)), **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(text)

    def _count(self, status: int) -> None:
        with self._changed:
            self.answers.append(status)
            self._changed.notify_all()

    def _answer(self, handler: Handler, data: bytes) -> tuple[int, Any]:
        def refused(status: int, message: str) -> tuple[int, Any]:
            return status, {"status": "Failure", "message": message, "code": status}

        if len(data) > _LARGEST_BODY:
            return refused(413, "Payload too large")
        if (handler.command, handler.path) != ("POST", self._path):
            return refused(403 if handler.path.endswith("/status") else 404, "Forbidden")  # a token is for one job
        scheme, _, token = handler.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or token.strip() not in self.authorized:
            return refused(403, "Forbidden")
        try:
            request = json.loads(data)
            status = request.get("trainerStatus")
        except (ValueError, AttributeError):
            return refused(422, "Invalid payload")
        if status is not None:
            try:
                check_trainer_status("train-1", status)
            except Refused as wrong:
                return refused(wrong.code, str(wrong))
            self.reports.append(status)
        return 200, request
