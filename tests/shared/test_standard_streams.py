"""Standard error that is closed, full, or read by nobody breaks nothing: the work is done, its exit code stands."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import pytest

from components.shared.command import print_message
from tests.examples import DIGITS, write_params

Stream = Callable[[], AbstractContextManager[str]]
ROOT = Path(__file__).parents[2]


@contextmanager
def closed() -> Iterator[str]:
    yield "2>&-"


@contextmanager
def closed_too() -> Iterator[str]:
    """With standard input, so that the first file that is opened would be standard error."""
    yield "<&- 2>&-"


@contextmanager
def full() -> Iterator[str]:
    yield "2>/dev/full"


@contextmanager
def unread() -> Iterator[str]:
    """A pipe whose reader has gone, as `head`'s."""
    reader, writer = os.pipe()
    os.close(reader)
    os.set_inheritable(writer, True)
    yield f"2>&{writer}"
    os.close(writer)


STREAMS = pytest.mark.parametrize("stream", [closed, closed_too, full, unread], ids=lambda stream: stream.__name__)


def shell(words: list[str], redirection: str) -> subprocess.CompletedProcess[str]:
    line = f'"$@" {redirection}'
    command = ["bash", "-c", line, "bash", sys.executable, "-P", "-m", *words]
    return subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        close_fds=False,
    )


@pytest.fixture(scope="module")
def params(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_params(tmp_path_factory.mktemp("params") / "params.json", num_epochs=1)


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.slow
def test_every_step_does_the_same_without_standard_error(params: Path, tmp_path: Path) -> None:
    made: list[tuple[str, str]] = []
    for stream in (nullcontext(""), closed_too()):
        out = tmp_path / str(len(made))
        data, model = ["--dataset", str(out / "dataset")], ["--model", str(out / "model")]
        with stream as redirection:
            for words in (
                ["components.data_prep", "--data", str(DIGITS), *data],
                ["components.train", *data, *model],
                ["components.evaluate", *data, *model, "--evaluation", str(out / "evaluation")],
                ["components.exit_step", "--state", "SUCCEEDED"],
            ):
                done = shell([*words, "--params", str(params), "--json"], redirection)
                assert done.returncode == 0
                assert json.loads(done.stdout)["status"] == "succeeded"
        made.append((digest(out / "model/model.safetensors"), digest(out / "evaluation/predictions.csv")))
    assert len(set(made)) == 1


@STREAMS
def test_the_shutterline_command_has_its_exit_code(stream: Stream, params: Path, tmp_path: Path) -> None:
    with stream() as redirection:
        shown = shell(["pipelines.cli", "events", "schema"], redirection)
        wrong = shell(["pipelines.cli", "validate", str(tmp_path / "nowhere.json"), "--json"], redirection)
        misused = shell(["pipelines.cli", "validate", "--no-such-option"], redirection)
    assert [done.returncode for done in (shown, wrong, misused)] == [0, 2, 2]
    assert json.loads(shown.stdout)["$schema"]
    assert "there is no such file" in json.loads(wrong.stdout)["error"]["message"]


@pytest.mark.slow
def test_a_whole_run_is_done_too(params: Path, tmp_path: Path) -> None:
    words = ["--params", str(params), "--data", str(DIGITS), "--out", str(tmp_path / "run"), "--json"]
    with unread() as redirection:
        done = shell(["pipelines.cli", "run", *words], redirection)
    assert done.returncode == 0
    assert json.loads(done.stdout)["status"] == "succeeded"
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "succeeded"


def test_a_command_is_never_broken_by_the_width_of_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    master, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 40))
    command = "shutterline run --out runs/a --params params.json --set num_epochs=40 --data digits"
    with open(terminal, "w") as stream:  # noqa: PTH123 - a descriptor
        monkeypatch.setattr(sys, "stderr", stream)
        print_message("interrupted; epoch 3, batch 17 is saved in runs/a/checkpoints/0123; go on by:", command)
        print_message("two warnings in this file; `shutterline validate pipeline.yaml --strict` reports them")
        monkeypatch.undo()
        lines = ""
        while "them" not in lines:  # a terminal gives what it has so far
            lines += os.read(master, 4096).decode().replace("\r\n", "\n")
    os.close(master)

    assert f"by:\n{command}\n" in lines
    assert "`shutterline validate pipeline.yaml --strict`" in lines
    assert "interrupted; epoch 3, batch 17 is saved\n" in lines
