"""Runs as processes, and whether all that one has started has ended."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pipelines.params_files import EXAMPLE_DATA

ROOT = Path(__file__).parents[2]
# In the environment of all that a run starts: its directory.
TOKEN = "SHUTTERLINE_TEST_RUN"  # noqa: S105 - no secret
# Generous: what is waited for takes some seconds.
WAIT_S = 120.0


@dataclass(frozen=True)
class Run:
    """A run as a process in a session of its own."""

    out: Path
    process: subprocess.Popen[bytes]

    @property
    def log(self) -> str:
        """Its standard error so far."""
        return self.out.with_name(f"{self.out.name}.log").read_text(encoding="utf-8")

    @property
    def printed(self) -> str:
        """Its standard output so far."""
        return self.out.with_name(f"{self.out.name}.json").read_text(encoding="utf-8")

    def until(self, text: str) -> None:
        """Wait until its log has some text."""
        while text not in self.log:
            assert self.process.poll() is None, self.log
            time.sleep(0.05)


def run_command(out: Path, params: Path, *options: str) -> list[str]:
    words = [sys.executable, "-m", "pipelines.cli", "run", "--out", out, "--params", params, "--data", EXAMPLE_DATA]
    return [*map(str, words), *options]


@contextmanager
def running(out: Path, command: Sequence[str]) -> Iterator[Run]:
    """A run in a directory; killed with all it has started when the block is left."""
    with out.with_name(f"{out.name}.log").open("wb") as log, out.with_name(f"{out.name}.json").open("wb") as printed:
        process = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | {TOKEN: str(out)}, stdout=printed, stderr=log, start_new_session=True
        )
    try:
        yield Run(out, process)
    finally:
        process.kill()
        process.wait()
        for pid in left_of(out):
            with suppress(ProcessLookupError):
                os.kill(pid, 9)


def left_of(out: Path) -> list[int]:
    """The processes that a run in a directory has started, itself among them."""
    return list(_processes(out))


def commands_of(out: Path) -> list[bytes]:
    """Their command lines."""
    return list(_processes(out).values())


def _processes(out: Path) -> dict[int, bytes]:
    found, token = {}, f"{TOKEN}={out}".encode()
    for entry in Path("/proc").iterdir():
        with suppress(OSError):  # of one that has ended meanwhile
            if entry.name.isdigit() and token in (entry / "environ").read_bytes().split(b"\0"):
                found[int(entry.name)] = (entry / "cmdline").read_bytes()
    return found


def end_of_all(out: Path) -> None:
    """Wait for the end of all that a run has started."""
    until = time.monotonic() + WAIT_S
    while left := left_of(out):
        assert time.monotonic() < until, f"processes {left} outlive their run"
        time.sleep(0.05)
