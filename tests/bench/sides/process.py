"""The sides of a comparison, each a process of its own that stays from one request to the next."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]


class FailedError(Exception):
    """A side gave no figure; the message says why."""


class Side:
    """One process; use as a context manager. What it writes to stderr is in the file `log`."""

    def __init__(self, module: str, log: Path, folder: Path = ROOT, before: Sequence[str] = ()) -> None:
        self._command, self._folder, self._log = [*before, sys.executable, "-m", module], folder, log
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *error: object) -> None:
        self.end()

    def end(self) -> None:
        """End the process; the next request starts another."""
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # its workers, too
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()
        self._process = None

    def ask(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """The answer to a request; a process that gives none in time is ended."""
        if self._process is None:
            self._process = self._started()
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            line = _line(process.stdout.fileno(), time.monotonic() + timeout_s)
        except TimeoutError:
            self.end()
            raise FailedError(f"no figure within {timeout_s:.0f} s") from None
        except OSError:
            line = b""
        if not line:
            code = process.wait()
            self.end()
            last = self._log.read_text(errors="replace").strip().splitlines()[-1:] or ["nothing was logged"]
            raise FailedError(f"its process ended with {code}: {last[0]}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise FailedError(answer["error"])
        return answer

    def _started(self) -> subprocess.Popen[bytes]:
        # The folder it starts in comes first on Python's path; `tests` is always this version's.
        paths = [str(self._folder), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        with self._log.open("a") as log:
            return subprocess.Popen(
                self._command,
                cwd=self._folder,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )


def _line(descriptor: int, until: float) -> bytes:
    """A line, or nothing at the end of the stream."""
    line = b""
    while not line.endswith(b"\n"):
        if not select.select([descriptor], [], [], max(0.0, until - time.monotonic()))[0]:
            raise TimeoutError
        if not (part := os.read(descriptor, 65536)):
            return b""
        line += part
    return line
