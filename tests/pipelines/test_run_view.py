"""`shutterline run` on a terminal: its steps in one place with bars, below the lines that they log; elsewhere lines."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from components.shared.events.data import Cancelled, Error, Failed, State, Succeeded
from components.shared.step import StepRecord
from pipelines.run_view import LiveLines
from pipelines.targets.steps import LocalRunPaths
from tests.examples import DIGITS, write_params
from tests.pipelines.conftest import Environment
from tests.pipelines.runs_ended import run_command
from tests.pipelines.terminal import OnTerminal, Screen
from tests.pipelines.watchers import LONG_S
from tests.shared.events.sample_events import EventSequence, a_pipeline, progress

RUN = "run-1"


class Stream(io.StringIO):
    """A terminal of some width, that somebody draws on."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True

    @property
    def screen(self) -> str:
        screen = Screen()
        screen.feed(re.sub(r"\x1b\[[0-9;]*m", "", self.getvalue()))
        return screen.text


class OnScreen:
    """A run that is shown: its events go into its spools, as its steps' processes write them."""

    def __init__(self, out: Path, lines: LiveLines, stream: Stream) -> None:
        self._out = out
        self.lines = lines
        self._stream = stream

    def tell(self, *bodies: bytes, step: str = "train") -> None:
        (self._out / "events").mkdir(exist_ok=True)
        with (self._out / "events" / f"{RUN}.{step}.0.jsonl").open("ab") as spool:
            spool.write(b"".join(body + b"\n" for body in bodies))

    def record(self, step: str, status: str) -> None:
        (self._out / "steps").mkdir(exist_ok=True)
        record = StepRecord.model_validate({"step": step, "status": status, "seconds": 1.0})
        (self._out / "steps" / f"{step}.json").write_text(record.model_dump_json())

    def shows(self, text: str) -> None:
        """Wait until it does."""
        end = time.monotonic() + LONG_S
        while text not in self.flat and time.monotonic() < end:
            time.sleep(0.01)
        assert text in self.flat

    @property
    def raw(self) -> str:
        """All that was written."""
        return self._stream.getvalue()

    @property
    def lines_of_screen(self) -> list[str]:
        """What is to be read, line by line."""
        return self._stream.screen.rstrip().split("\n")

    @property
    def flat(self) -> str:
        """What is to be read, without bars and in single blanks."""
        return " ".join(re.sub("[━╸╺]", "", self._stream.screen).split())


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


def row(flat: str, step: str) -> str:
    """What stands beside a step, to the next one's symbol."""
    return re.split("[▶▷·✔✘■]", flat.rpartition(f" {step} ")[2])[0].strip()


def test_a_run_from_its_first_step_to_its_last(showing: Showing) -> None:
    train = EventSequence(RUN, "train")
    bodies = a_pipeline(RUN)

    with showing() as on:
        on.shows("▷ starting data-prep · waiting train · waiting evaluate · waiting exit")
        on.lines("12:00:00 data-prep started")
        on.shows("▶ running data-prep for ")
        on.tell(*bodies[1:6], step="data-prep")
        on.shows("✔ succeeded data-prep in 12 s, accuracy 0.98 ▷ starting train")
        on.lines("12:00:01 train     epoch 1/3  loss 0.5000  accuracy 0.5000  lr 0.001  51,234 images/s")
        on.tell(train.next("progress", progress(1, 3)))
        on.shows("▶ running train epoch 1/3, 2 s left")
        on.tell(train.next("progress", progress(2, 3)), train.next("succeeded", Succeeded(3.0, {"accuracy": 0.98})))
        on.shows("✔ succeeded train in 3 s, accuracy 0.98 ▷ starting evaluate")
        for step in ("data-prep", "train", "evaluate", "exit"):
            on.record(step, "succeeded")

    lines = on.lines_of_screen
    assert lines[0] == "12:00:00 data-prep started"
    assert lines[1] == "12:00:01 train     epoch 1/3  loss 0.5000  accuracy 0.5000  lr 0.001"
    assert lines[2] == "    51,234 images/s", "broken between two figures"
    assert lines[3].startswith(f"{RUN}  ")
    assert [line.split()[:3] for line in lines[4:8]] == [
        ["✔", "succeeded", step] for step in ("data-prep", "train", "evaluate", "exit")
    ]
    assert len(lines) == 8, "drawn in one place"
    assert on.flat.count("epoch 1/3") == 1
    assert "\x1b[?25h" in on.raw, "the cursor is back"


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_nothing_is_wider_than_the_terminal_and_no_figure_is_cut(showing: Showing, width: int) -> None:
    voice = EventSequence(RUN, "train")
    with showing(width) as on:
        on.tell(voice.next("progress", replace(progress(123, 10_000), eta_seconds=3_725.0)))
        on.lines(f"12:00:01 train     WARNING {'a word and ' * 30}")
        on.shows("epoch 123/10,000")
        told = row(on.flat, "train").split(", ")
        assert told == ["epoch 123/10,000", "1 h 02 min left", "51,234 images/s"][: len(told)]
        assert len(told) == 3 or width < 200

    assert max(map(len, on.lines_of_screen)) <= width
    assert " ".join(("a word and " * 30).split()) in on.flat


@pytest.mark.parametrize(
    ("status", "end", "symbol"),
    [
        ("failed", Failed(3.0, Error("DataError", "images/cat.png: is not an image"), 2), "✘ failed"),
        ("cancelled", Cancelled(3.0, "SIGTERM", 143), "■ cancelled"),
    ],
)
def test_what_comes_after_a_step_that_did_not_succeed(
    showing: Showing, status: State, end: Cancelled | Failed, symbol: str
) -> None:
    with showing() as on:
        on.tell(EventSequence(RUN, "data-prep").next("succeeded", Succeeded(1.0)), step="data-prep")
        on.tell(EventSequence(RUN, "train").next(status, end))
        on.shows(f"{symbol} train after 3 s · waiting evaluate · waiting exit")
        on.lines("12:00:01 exit      started")
        on.shows("▶ running exit")
        for step, ended in (("data-prep", "succeeded"), ("train", status), ("exit", "succeeded")):
            on.record(step, ended)

    assert f"{symbol} train after 3 s · not started evaluate ✔ succeeded exit" in on.flat
    assert "is not an image" not in on.flat, "which the log above says"


def test_a_step_that_left_nothing_was_killed(showing: Showing) -> None:
    with suppress(KeyboardInterrupt), showing() as on:
        on.tell(EventSequence(RUN, "train").next("progress", progress(1, 3)))
        on.record("data-prep", "succeeded")
        on.shows("epoch 1/3")
        raise KeyboardInterrupt

    assert "✔ succeeded data-prep ✘ killed train · not started evaluate" in on.flat
    assert "\x1b[?25h" in on.raw, "the cursor is back"


def test_events_of_an_earlier_run_are_not_shown(showing: Showing, tmp_path: Path) -> None:
    (tmp_path / "events").mkdir()
    for name in (f"{RUN}.train.0.jsonl", "run-0.train.0.jsonl"):
        body = EventSequence(name.partition(".")[0], "train").next("progress", progress(3, 3))
        (tmp_path / "events" / name).write_bytes(body + b"\n")

    with showing() as on:
        again = EventSequence(RUN, "train", 1).next("progress", progress(1, 3))
        (tmp_path / "events" / f"{RUN}.train.1.jsonl").write_bytes(b"noise\n" + again + b"\n" + again[:30])
        on.shows("epoch 1/3")

    assert "epoch 3/3" not in on.flat


def test_what_a_terminal_would_obey_is_not_written(showing: Showing) -> None:
    with showing() as on:
        on.lines("12:00:01 data-prep WARNING cat\x1b[2J\x1b]0;owned\x07.png: is set aside")

    assert "WARNING cat.png: is set aside" in on.flat
    assert "owned" not in on.raw


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
    for step in ("data-prep", "train", "evaluate", "exit"):
        assert len(re.findall(rf"^  ✔ succeeded +{step} ", text, re.MULTILINE)) == 1, text
    for shown in ("▷ starting", "▶ running", "\x1b[?25h"):  # the last brings the cursor back
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
    for line in ("■ cancelled +train .*after .*", "· not started +evaluate", "✔ succeeded +exit .*"):
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
