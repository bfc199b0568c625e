"""ONNX Runtime's wheel reports telemetry unless that is switched off before its import: every entry point does.

It writes a device id below the home directory while it is imported, by the same code that would look up its vendor's
host; so an empty home afterwards shows that this code did not run. Of lookups the audit hook sees Python's alone, and
strace, where it is installed and allowed, those of every library.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.evaluate.conftest import parts_in

HOOK = """
import os, sys

def note(event, arguments):
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.connect", "socket.sendto"):
        with open(os.environ["LOOKUPS"], "a") as file:
            print(event, arguments, file=file)

sys.addaudithook(note)
"""
MODULE = [sys.executable, "-m"]


@cache
def tracing() -> tuple[str, ...]:
    """What notes every call of the network, where there is such a thing."""
    command = ("strace", "-f", "-qq", "-e", "trace=connect,sendto,sendmsg,sendmmsg")
    can = shutil.which("strace") and subprocess.run([*command, "-o", os.devnull, "true"], check=False).returncode == 0
    return command if can else ()


class EmptyHome:
    """Runs commands in an empty home, and keeps what they did outside their own folders."""

    def __init__(self, folder: Path) -> None:
        self.home, self._calls, self._lookups = folder / "home", folder / "calls", folder / "lookups"
        hook = folder / "hook"
        for made in (self.home, hook):
            made.mkdir()
        (hook / "sitecustomize.py").write_text(HOOK)
        root = Path(__file__).parents[3]
        # Nothing else: some libraries report nothing where they take an environment for CI or a test.
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "LOOKUPS": str(self._lookups),
            "PYTHONPATH": os.pathsep.join((str(hook), str(root))),
        }

    def run(self, *command: str) -> None:
        traced = [*tracing(), "-o", str(self._calls)] if tracing() else []
        done = subprocess.run(
            [*traced, *command],
            env=self._environment,
            cwd=self.home.parent,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr

    def written(self) -> list[str]:
        return sorted(str(path.relative_to(self.home)) for path in self.home.rglob("*"))

    def network(self) -> list[str]:
        """Lookups and connections, but for sockets of this machine's own file system."""
        found = [
            line for file in (self._lookups, self._calls) if file.exists() for line in file.read_text().splitlines()
        ]
        return [line for line in found if "AF_UNIX" not in line and ("sa_family" in line or "socket." in line)]


@pytest.fixture
def empty_home(tmp_path: Path) -> EmptyHome:
    return EmptyHome(tmp_path)


def evaluate(folder: Path) -> list[str]:
    return [*MODULE, "components.evaluate", *parts_in(folder).command()]


def images(folder: Path) -> list[str]:
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(folder / "some.png")
    return [str(folder / "some.png")]


def predict(folder: Path) -> list[str]:
    return [*MODULE, "components.predict", "--model", str(parts_in(folder).model), "--images", *images(folder)]


def predict_by_the_command(folder: Path) -> list[str]:
    return [*MODULE, "pipelines.cli", "predict", str(parts_in(folder).model), *images(folder)]


def whole_run(folder: Path) -> list[str]:
    example = Path(__file__).parents[3] / "pipelines/examples"
    given = ["--params", str(example / "digits.json"), "--data", str(example / "digits"), "--out", str(folder / "run")]
    return [*MODULE, "pipelines.cli", "run", *given, "--set", "num_epochs=1"]


@pytest.mark.parametrize(
    "command",
    [
        evaluate,
        predict,
        predict_by_the_command,
        pytest.param(whole_run, marks=pytest.mark.slow),
    ],
)
def test_nothing_is_written_or_looked_up(
    empty_home: EmptyHome, tmp_path: Path, command: Callable[[Path], list[str]]
) -> None:
    folder = tmp_path / "work"
    folder.mkdir()

    empty_home.run(*command(folder))

    assert (empty_home.written(), empty_home.network()) == ([], [])


def test_without_its_switch_it_would_be_noticed(empty_home: EmptyHome) -> None:
    empty_home.run(sys.executable, "-c", "import onnxruntime")

    assert any(path.endswith("deviceid") for path in empty_home.written())
