"""What a person sees of a training on a terminal: every epoch's line stays, a bar below it, nothing wrapped or cut."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from components.shared.logs import fitted
from tests.examples import small, write_digits
from tests.pipelines.terminal import OnTerminal

TRAINING = """
import sys
import time
from components.shared.logs import log_to_stderr, step_logger
from components.shared.artifacts.model import EpochRecord
from components.shared.events.data import ignore_events
from components.train.progress import TrainingProgress
from tests.examples import small

log_to_stderr()
log = step_logger("train")
progress = TrainingProgress(
    small(num_epochs=10), ignore_events, log, batches=100, images=1000, split="test", device="cpu", done=150
)
with progress:
    for batches in range(152, 1001, 2):
        progress.step((batches - 1) // 100 + 1, (batches - 1) % 100 + 1, lambda: 0.0)
        if batches == 500:
            log.warning("Kafka localhost:9092 topic status: does not answer; events wait in the spool %s", "x" * 30)
        if batches % 100 == 0:
            progress.epoch(EpochRecord(
                epoch=batches // 100, learning_rate=0.00123, train_loss=0.51234, train_accuracy=0.87654, loss=0.56789,
                accuracy=0.81234, images_per_second=12345.6,
            ))
        if batches in (402, 998):
            time.sleep(0.2)  # a bar is drawn every tenth of a second
            progress.step((batches - 1) // 100 + 1, (batches - 1) % 100 + 1, lambda: 0.0)
            sys.stderr.flush()
"""
EPOCH = "epoch {}/10 loss 0.5123 accuracy 0.8765 held-out loss 0.5679 accuracy 0.8123 lr 0.00123 12,346 images/s"


def lines_of(terminal: OnTerminal) -> list[str]:
    return [line.rstrip() for line in terminal.screen.lines]


@pytest.mark.parametrize("columns", [60, 120])
def test_every_epoch_stays_on_the_screen_and_nothing_wraps(columns: int) -> None:
    terminal = OnTerminal([sys.executable, "-c", TRAINING], {"TZ": "UTC"}, size=(columns, 24))
    assert terminal.ended(60) == 0, terminal.screen.text

    lines = lines_of(terminal)
    assert max(map(len, lines)) <= columns
    text = " ".join(" ".join(lines).split())
    for epoch in range(2, 11):
        assert EPOCH.format(epoch) in text
    assert f"topic status: does not answer; events wait in the spool {'x' * 30}" in text
    bars = [part for part in re.split(r"[\r\n]|\x1b\[A", terminal.raw) if "%|" in part]
    assert max(map(len, bars)) <= columns
    assert any(re.fullmatch(r"epoch 10/10: 100%\|.*\| 998/1000 \[\d\d:\d\d<\d\d:\d\d\]", bar) for bar in bars), bars[-1]
    assert not any("%|" in line for line in lines), "the bar is gone at the end"


def test_a_narrow_terminal_has_a_shorter_bar() -> None:
    terminal = OnTerminal([sys.executable, "-c", TRAINING], {}, size=(40, 24))
    assert terminal.ended(60) == 0

    assert max(map(len, lines_of(terminal))) <= 40 + len("x" * 30)
    bars = [part for part in re.split(r"[\r\n]|\x1b\[A", terminal.raw) if "%|" in part]
    assert any(re.fullmatch(r"epoch 10/10: 100%\|.*\|", bar) for bar in bars)


def test_a_script_that_shows_no_log_shows_its_epochs() -> None:
    script = TRAINING.replace("log_to_stderr()\n", "")
    terminal = OnTerminal([sys.executable, "-c", script], {}, size=(120, 24))
    assert terminal.ended(60) == 0

    assert sum("accuracy 0.8123" in line for line in lines_of(terminal)) == 9


@pytest.mark.slow
@pytest.mark.parametrize("size", [(80, 24), (0, 0)])
def test_a_real_training_leaves_loss_and_accuracy_of_every_epoch(tmp_path: Path, size: tuple[int, int]) -> None:
    data = write_digits(tmp_path / "dataset")
    params = small(num_epochs=4, gradient_accumulation_steps=3).to_json()
    command = [sys.executable, "-m", "components.train", "--dataset", str(data), "--model", str(tmp_path / "model")]
    terminal = OnTerminal([*command, "--params", params], {}, size=size)
    assert terminal.ended(120) == 0, terminal.screen.text

    history = json.loads((tmp_path / "model" / "model.json").read_text())["history"]
    assert max(map(len, lines_of(terminal))) <= 80 or size == (0, 0), "of a terminal without a size nothing is known"
    text = " ".join(terminal.screen.text.split())
    for record in history:
        line = f"epoch {record['epoch']}/4 loss {record['train_loss']:.4f} accuracy {record['train_accuracy']:.4f}"
        assert line in text
        assert f"{record['images_per_second']:,.0f} images/s" in text
    assert "not measured with less than 30 s of steps and evaluations" in text
    assert "succeeded in" in text
    counts = [int(count) for count in re.findall(r"\| (\d+)/28 ", terminal.raw)]
    assert counts
    assert max(counts) <= 28


def test_a_line_is_broken_between_its_parts_or_else_its_words() -> None:
    epoch = "12:34:56 train     epoch 3/30  loss 0.1234  accuracy 0.9876  held-out loss 0.1234  accuracy 0.9876"
    prose = "12:34:56 evaluate  " + "a word and another " * 9
    path = "12:34:56 train     in " + "/a" * 60

    assert fitted(epoch, 200) == epoch
    assert fitted(epoch, 80).split("\n") == [
        "12:34:56 train     epoch 3/30  loss 0.1234  accuracy 0.9876",
        "    held-out loss 0.1234  accuracy 0.9876",
    ]
    assert fitted(prose, 80).split("\n")[0].startswith("12:34:56 evaluate  a word")
    assert all(len(line) <= 80 for line in fitted(prose, 80).split("\n"))
    assert "/a" * 60 in fitted(path, 80), "what somebody copies stays whole"
    for text in (epoch, prose, path):
        assert fitted(text, 80).split() == text.split()
