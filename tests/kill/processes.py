"""A training as a process, or a tree of them, that is killed at a moment."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from tests.kill.moments import TRACES, Moment, Places

_LOOK = 0.0005


class Attempt:
    """One process of a training; what it says goes to a file."""

    def __init__(self, command: Sequence[str | Path], log: Path, environment: Mapping[str, str] | None = None) -> None:
        variables = os.environ | {"OMP_NUM_THREADS": "1"} | dict(environment or {})
        self.log = log
        self._stream = log.open("w")
        self.process = subprocess.Popen(
            command, env=variables, stdout=subprocess.DEVNULL, stderr=self._stream, start_new_session=True
        )

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def end(self) -> int:
        code = self.process.wait()
        self._stream.close()
        return code

    def killed_at(self, moment: Moment, places: Places) -> bool:
        if not self.reaches(moment, places):
            self.end()
            return False
        self.kill()
        return True

    def reaches(self, moment: Moment, places: Places) -> bool:
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(moment.after)
        has_trace = TRACES[moment.inside]
        while self.process.poll() is None:
            if has_trace(places):
                self._signal(signal.SIGSTOP)
                if has_trace(places):
                    return True
                self.go_on()
            time.sleep(_LOOK)
        return False

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)
        self.end()

    def _signal(self, number: signal.Signals) -> None:
        for pid in [self.process.pid, *descendants_of(self.process.pid)]:
            with suppress(ProcessLookupError):
                os.kill(pid, number)


def descendants_of(pid: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [pid]
    for each in found:
        found += parents.get(each, [])
    return found[1:]
