"""Runs as processes, and whether all that one has started has ended."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from pipelines.params_files import EXAMPLE_DATA

ROOT = Path(__file__).parents[2]
# In the environment of all that a run starts: its directory.
TOKEN = "SHUTTERLINE_TEST_RUN"  # noqa: S105 - no secret
# Generous: what is waited for takes some seconds.
PATIENCE_S = 120.0


class Run:
    """A run as a process in a session of its own; killed with all it has started when the block is left.

    Args:
        out: Its directory.
        params: The params' file.
        prefix: What starts it, such as nohup.
        command: Another command than the usual one.
    """

    def __init__(self, out: Path, params: Path, *prefix: str, command: Sequence[str] = ()) -> None:
        self.out = out
        self.params = params
        self._log = out.with_name(f"{out.name}.log")
        self._stream = self._log.open("wb")
        words = [sys.executable, "-m", "pipelines.cli", "run", "--out", str(out), "--params", str(params)]
        self.process = subprocess.Popen(
            command or [*prefix, *words, "--data", str(EXAMPLE_DATA)],
            cwd=ROOT,
            env=os.environ | {TOKEN: str(out)},
            stdout=subprocess.DEVNULL,
            stderr=self._stream,
            start_new_session=True,
        )

    def again(self, command: str) -> Run:
        """A run in the same directory, by a command as a shell takes it."""
        return Run(self.out, self.params, command=["sh", "-c", f"exec {command}"])

    def __enter__(self) -> Self:
        return self

    @property
    def said(self) -> str:
        """What it has said so far."""
        return self._log.read_text(encoding="utf-8")

    def until(self, words: str) -> None:
        """Wait until it says some words."""
        while words not in self.said:
            assert self.process.poll() is None, self.said
            time.sleep(0.05)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        self._stream.close()
        for pid in left_of(self.out):
            with suppress(ProcessLookupError):
                os.kill(pid, 9)


def left_of(out: Path) -> list[int]:
    """The processes that a run in a directory has started, itself among them."""
    found, token = [], f"{TOKEN}={out}".encode()
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and token in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found


def end_of_all(out: Path) -> None:
    """Wait for the end of all that a run has started."""
    until = time.monotonic() + PATIENCE_S
    while left := left_of(out):
        if time.monotonic() > until:
            raise AssertionError(f"processes {left} outlive their run")
        time.sleep(0.05)
