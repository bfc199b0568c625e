"""One pod's log, line by line: whatever breaks in between, none is lost and none comes twice.

Each line has the time at which it was written. Where the connection was lost, the log is asked for from the last second
on, and what came before is left out by time and text together, as two streams of a container need not be in order.
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from queue import SimpleQueue
from typing import NamedTuple

from components.shared.errors import RetryableError
from components.shared.kubeflow.train_job import NODE
from components.train_job.api import Api, ApiError

_LINE = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d+)?(Z|[+-]\d\d:\d\d) ?(.*)", re.DOTALL)
_LONGEST = 1024 * 1024  # bytes of one line, beyond which it is passed on in pieces


class Line(NamedTuple):
    """A line of a log without its end, and the second in which it was written (RFC 3339); empty: not known."""

    time: str
    text: str


class PodLog:
    """Follows the log of a pod's container from its beginning, on a thread of its own, into a queue.

    None in the queue: the connection ended, so there may be news of the pod.
    """

    def __init__(self, api: Api, pod: str, lines: SimpleQueue[Line | None]) -> None:
        self._api = api
        self._path = api.path("v1", "pods", pod, "log")
        self._lines = lines
        self._pause_s = api.pace.poll_s
        self._restarts = 0
        self._is_over = False
        self._changed = threading.Event()
        self._since = ""
        self._seen: Counter[bytes] = Counter()  # lines of the last second
        self._thread = threading.Thread(target=self._run, name=f"log of {pod}", daemon=True)
        self._thread.start()

    def note(self, restarts: int, *, is_over: bool) -> None:
        """Learn how often the container was started again, and whether it has ended for good."""
        if (restarts, is_over) != (self._restarts, self._is_over):
            self._restarts, self._is_over = restarts, is_over
            self._changed.set()

    def finish(self) -> None:
        """Learn that the container has ended for good, or that nobody waits for it any more."""
        self.note(self._restarts, is_over=True)

    @property
    def is_read(self) -> bool:
        """Whether all of it has come."""
        return not self._thread.is_alive()

    def _run(self) -> None:
        restarts_read = 0
        while True:
            self._changed.clear()
            restarts, is_over = self._restarts, self._is_over
            try:
                if restarts > restarts_read:  # what the connection to the start before did not bring
                    self._read_previous()
                    restarts_read = restarts
                self._read({"follow": "false" if is_over else "true"})
                if is_over:
                    return
                self._lines.put(None)
            except ApiError as error:
                if error.status == 404 or (is_over and error.status == 400):
                    return  # the pod is gone, or its container was never started
            except RetryableError:
                pass  # which is reported where the job is looked at
            self._changed.wait(self._pause_s)

    def _read_previous(self) -> None:
        try:
            self._read({"previous": "true"})
        except ApiError as error:
            if error.status != 400:  # it is not kept any more
                raise

    def _read(self, query: dict[str, str]) -> None:
        query = {"container": NODE, "timestamps": "true"} | query
        if self._since:
            query["sinceTime"] = self._since
        before, rest = self._seen.copy(), b""
        for piece in self._api.stream(self._path, query):
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                self._take(line, before)
            if len(rest) > _LONGEST:
                self._take(rest, before)
                rest = b""
        if rest and query.get("follow") != "true":  # else the rest of this line may still be written
            self._take(rest, before)

    def _take(self, line: bytes, before: Counter[bytes]) -> None:
        if before[line]:
            before[line] -= 1
            return
        found = _LINE.fullmatch(line)
        if found is None:
            self._lines.put(Line("", line.decode("utf-8", "backslashreplace")))
            return
        second, zone, text = found.groups()
        if (since := (second + zone).decode()) > self._since:
            self._since = since
            self._seen.clear()
        self._seen[line] += 1
        self._lines.put(Line(since, text.removesuffix(b"\r").decode("utf-8", "backslashreplace")))
