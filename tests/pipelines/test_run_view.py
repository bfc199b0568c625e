"""`shutterline run` on a terminal: its steps in one place with bars, below the lines that they log; elsewhere lines."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from components.shared.events.data import Succeeded
from components.shared.events.event import PIPELINE
from pipelines.run_view import LiveLines
from pipelines.targets.steps import LocalRunPaths
from tests.examples import DIGITS, write_params
from tests.pipelines.conftest import Environment
from tests.pipelines.runs_ended import run_command
from tests.pipelines.terminal import OnTerminal, Screen
from tests.pipelines.watchers import LONG_S
from tests.shared.events.sample_events import A_SECOND, START, EventSequence, a_pipeline, progress

RUN = "run-1"


class Stream(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@dataclass
class OnScreen:
    """A run that is shown: its events go into its spools, as its steps' processes write them."""

    out: Path
    lines: LiveLines
    stream: Stream

    def publish(self, *bodies: bytes, step: str = "train") -> None:
        (self.out / "events").mkdir(exist_ok=True)
        with (self.out / "events" / f"{RUN}.{step}.0.jsonl").open("ab") as spool:
            spool.write(b"".join(body + b"\n" for body in bodies))

    def until(self, text: str) -> None:
        end = time.monotonic() + LONG_S
        while text not in self.flat and time.monotonic() < end:
            time.sleep(0.01)
        assert text in self.flat

    @property
    def screen(self) -> list[str]:
        screen = Screen()
        screen.feed(re.sub(r"\x1b\[[0-9;]*m", "", self.stream.getvalue()))
        return screen.text.rstrip().split("\n")

    @property
    def flat(self) -> str:
        """What is to be read, without bars and in single blanks."""
        return " ".join(re.sub("[━╸╺]", "", "\n".join(self.screen)).split())


Showing = Callable[..., AbstractContextManager[OnScreen]]


@pytest.fixture
def showing(tmp_path: Path, monkeypatch: Environment) -> Showing:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("LINES", "24")

    @contextmanager
    def running(width: int = 80) -> Iterator[OnScreen]:
        monkeypatch.setenv("COLUMNS", str(width))
        stream = Stream()
        lines = LiveLines(stream, frame_s=0.01)
        with lines.running(LocalRunPaths(RUN, tmp_path, tmp_path)):
            yield OnScreen(tmp_path, lines, stream)

    return running


def test_a_run_from_its_first_step_to_its_last(showing: Showing) -> None:
    train = EventSequence(RUN, "train")
    bodies = a_pipeline(RUN)

    with showing() as shown:
        shown.until("· waiting data-prep · waiting train · waiting evaluate waiting for data-prep to start")
        shown.lines("12:00:00 data-prep started")
        shown.publish(*bodies[1:6], step="data-prep")
        shown.until("✔ succeeded data-prep in 12 s, accuracy 0.98 · waiting train")
        shown.lines("12:00:01 train     epoch 1/3  loss 0.5000  accuracy 0.5000  lr 0.001  51,234 images/s")
        shown.publish(train.next("progress", progress(1, 3)))
        shown.until("▶ running train epoch 1/3, 100/300 batches,")
        shown.publish(train.next("succeeded", Succeeded(3.0, {"accuracy": 0.98})))
        shown.publish(EventSequence(RUN, "evaluate").next("succeeded", Succeeded(1.0)), step="evaluate")
        shown.publish(bodies[-1], step=PIPELINE)

    lines = shown.screen
    assert lines[:3] == [
        "12:00:00 data-prep started",
        "12:00:01 train     epoch 1/3  loss 0.5000  accuracy 0.5000  lr 0.001",
        "    51,234 images/s",
    ], "broken between two figures"
    assert lines[3].startswith(f"{RUN}  ✔ succeeded  ")
    assert [line.split()[:3] for line in lines[4:]] == [
        ["✔", "succeeded", step] for step in ("data-prep", "train", "evaluate")
    ], "drawn in one place"
    assert "\x1b[?25h" in shown.stream.getvalue(), "the cursor is back"


@pytest.mark.parametrize("width", [60, 200])
def test_lines_are_as_wide_as_the_terminal_and_nothing_that_it_would_obey_is_written(
    showing: Showing, width: int
) -> None:
    with showing(width) as shown:
        shown.lines(f"12:00:01 train     WARNING {'a word and ' * 30}")
        shown.lines("12:00:01 data-prep WARNING cat\x1b[2J\x1b]0;owned\x07.png: is set aside")

    assert max(map(len, shown.screen)) <= width
    assert " ".join(("a word and " * 30).split()) in shown.flat
    assert "WARNING cat.png: is set aside" in shown.flat
    assert "owned" not in shown.stream.getvalue()


def test_a_failed_run_shows_how_each_step_ended(showing: Showing) -> None:
    with showing() as shown:
        shown.publish(*a_pipeline(RUN, "failed"))

    assert "✘ failed train after 3 s · not started evaluate" in shown.flat
    assert "is not an image" not in shown.flat, "which the log above says"


def test_events_of_an_earlier_run_are_not_shown(showing: Showing, tmp_path: Path) -> None:
    (tmp_path / "events").mkdir()
    for name in (f"{RUN}.train.0.jsonl", "run-0.train.0.jsonl"):
        body = EventSequence(name.partition(".")[0], "train").next("progress", progress(3, 3))
        (tmp_path / "events" / name).write_bytes(body + b"\n")

    with showing() as shown:
        again = EventSequence(RUN, "train", 1, START + A_SECOND).next("progress", progress(1, 3))
        (tmp_path / "events" / f"{RUN}.train.1.jsonl").write_bytes(b"noise\n" + again + b"\n" + again[:30])
        shown.until("epoch 1/3")

    assert "epoch 3/3" not in shown.flat


def on_terminal(
    out: Path, *options: str, data: Path = DIGITS, epochs: int = 5, environment: dict[str, str] | None = None
) -> OnTerminal:
    """A run of the small network."""
    params = write_params(out.with_name("params.json"), num_epochs=epochs)
    command = run_command(out, params, "--data", str(data), *options)
    if "--json" in options:
        command = ["/bin/sh", "-c", f'exec "$@" >{out}.json', "sh", *command]
    return OnTerminal(command, {"PYTHONIOENCODING": "utf-8", "TZ": "UTC"} | (environment or {}), size=(80, 24))


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """Data with which a run ends with its first step."""
    (tmp_path / "empty").mkdir()
    return tmp_path / "empty"


@pytest.mark.slow
def test_a_real_run_has_one_view_of_its_steps(tmp_path: Path) -> None:
    with on_terminal(tmp_path / "out") as on:
        assert on.ended(LONG_S) == 0, on.screen.text

    text = on.screen.text
    assert [epoch for epoch in range(1, 6) if f"epoch {epoch}/5  loss " in text] == [1, 2, 3, 4, 5]
    for step in ("data-prep", "train", "evaluate"):
        assert len(re.findall(rf"^  ✔ succeeded +{step} ", text, re.MULTILINE)) == 1, text
    for shown in ("▶ running", "\x1b[?25h"):  # the last brings the cursor back
        assert shown in on.raw
    assert "accuracy             " in text
    assert max(len(line) for line in on.screen.lines if str(tmp_path) not in line) <= 80
    assert "KFP" not in text


@pytest.mark.slow
@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_plain_lines_where_they_are_asked_for(tmp_path: Path, empty: Path, environment: dict[str, str]) -> None:
    with on_terminal(tmp_path / "out", data=empty, environment=environment) as on:
        assert on.ended(LONG_S) == 2, on.screen.text

    assert "\x1b" not in on.raw
    assert "ERROR failed: " in on.screen.text


@pytest.mark.slow
def test_ctrl_c_leaves_the_terminal_as_it_was(tmp_path: Path) -> None:
    with on_terminal(tmp_path / "out", epochs=100_000) as on:
        on.until("epoch 3/", LONG_S)
        os.killpg(on.process.pid, signal.SIGINT)
        assert on.ended(LONG_S) == 130, on.screen.text

    text = on.screen.text
    for line in ("■ cancelled +train .*after .*", "· not started +evaluate"):
        assert re.search(rf"^  {line}$", text, re.MULTILINE), text
    assert "Traceback" not in on.raw
    assert on.raw.rindex("\x1b[?25h") > on.raw.rindex("\x1b[?25l"), "the cursor is back"
    assert json.loads((tmp_path / "out" / "result.json").read_text())["status"] == "cancelled"


@pytest.mark.slow
def test_the_document_is_all_of_standard_output(tmp_path: Path, empty: Path) -> None:
    with on_terminal(tmp_path / "out", "--json", data=empty) as on:
        assert on.ended(LONG_S) == 2, on.screen.text

    document = json.loads((tmp_path / "out.json").read_text())
    assert document == json.loads((tmp_path / "out" / "result.json").read_text())
    assert "✘ failed      data-prep" in on.screen.text
