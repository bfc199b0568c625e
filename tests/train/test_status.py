"""What training tells: every epoch, every checkpoint, and something in between when an epoch is long."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import pytest

from components.shared.artifacts.model import EpochRecord, open_model
from components.shared.events.data import Checkpoint, Emit, EventData, Progress, Succeeded
from components.shared.kubeflow import trainer_status
from components.shared.step import run_step
from components.train import progress as module
from components.train.progress import TrainingProgress
from components.train.train import train
from tests.examples import small, write_digits
from tests.peers.trainer_status import TrainerStatusServer
from tests.train.checkpoints.making import manifest


class Clock:
    """The time as the status of training sees it."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def progress(emit: Emit, *, epochs: int = 1, batches: int = 10, images: int = 100, done: int = 0) -> TrainingProgress:
    params = small(num_epochs=epochs)
    return TrainingProgress(
        params, emit, logging.getLogger("test"), batches=batches, images=images, split="test", device="cpu", done=done
    )


def progress_of(events: list[EventData]) -> list[Progress]:
    return [data for data in events if isinstance(data, Progress)]


def test_every_epoch_and_every_checkpoint_of_a_real_training_is_logged(dataset: Path, tmp_path: Path) -> None:
    events: list[EventData] = []
    there: list[bool] = []

    def emit(data: EventData) -> None:
        events.append(data)
        if isinstance(data, Checkpoint):
            there.append(Path(data.uri).is_file())

    params = small(num_epochs=4, eval_freq=2, save_freq=3)
    result = train(dataset=dataset, model=tmp_path / "model", params=params, emit=emit)

    history = open_model(tmp_path / "model").manifest.history
    batches = math.ceil(200 / 32)
    evaluated: EpochRecord | None = None
    for epoch, (record, data) in enumerate(zip(history, progress_of(events), strict=True), 1):
        evaluated = record if epoch % 2 == 0 else None
        figures = {"accuracy", "precision", "recall", "f1"} if evaluated else set()
        assert (data.step, data.steps, data.unit) == (epoch * batches, 4 * batches, "batches")
        assert (data.epoch, data.epochs, data.device) == (epoch, 4, "cpu")
        assert data.losses == {"train": record.train_loss} | ({"test": record.loss} if evaluated else {})
        assert data.metrics == {"train_accuracy": record.train_accuracy} | {
            name: getattr(record, name) for name in figures
        }
        assert data.learning_rate == record.learning_rate
        assert data.samples_per_second == record.images_per_second
    kinds = [type(data).__name__ for data in events]
    assert kinds.index("Checkpoint") > 2
    assert kinds[-1] == "Checkpoint"
    checkpoints = [data for data in events if isinstance(data, Checkpoint)]
    assert [(data.epoch, data.epochs, data.batch) for data in checkpoints] == [(3, 4, 0), (4, 4, 0)]
    assert there == [True, True]
    assert {Path(data.uri).parent for data in checkpoints} == {result.checkpoints}

    done = result.event(1.5)
    assert done == Succeeded(
        1.5,
        {
            "loss": result.selection.loss,
            "accuracy": result.selection.accuracy,
            "train_loss": history[-1].train_loss,
            "images_per_second": result.images_per_second,
        },
        {"model": str(tmp_path / "model"), "checkpoints": str(result.checkpoints)},
    )


def test_figures_carry_the_name_of_the_split_that_was_held_out(tmp_path: Path) -> None:
    events: list[EventData] = []
    data = write_digits(tmp_path / "data", validation=True)
    train(dataset=data, model=tmp_path / "model", params=small(num_epochs=1), emit=events.append)
    assert [set(data.losses) for data in progress_of(events)] == [{"train", "validation"}]


RECORD = EpochRecord(
    epoch=1, learning_rate=0.1, train_loss=0.5, train_accuracy=0.75, loss=0.25, accuracy=0.5, precision=0.5,
    recall=0.5, f1=0.5,
)  # fmt: skip


def test_a_long_epoch_has_events_before_its_end(clock: Clock) -> None:
    events: list[EventData] = []
    asked: list[str] = []
    training = progress(events.append, epochs=2)

    def loss() -> float:
        asked.append("loss")
        return 2.5

    for batch in range(1, 5):
        clock.now += 1.25
        training.step(1, batch, loss)
    assert (events, asked) == ([], []), "five seconds are not enough, and nobody has waited for the device"

    clock.now += 1.0
    training.step(1, 5, loss)
    assert events == [
        Progress(
            step=5, steps=20, unit="batches", epoch=1, epochs=2, samples_per_second=50 / 6.0, eta_seconds=6.0 / 5 * 15,
            losses={"train": 2.5}, device="cpu",
        )
    ]  # fmt: skip
    assert asked == ["loss"]

    clock.now += 5.0
    training.step(1, 6, loss)
    assert len(events) == 1
    for batch in (7, 8, 9, 10):
        clock.now += 0.25
        training.step(1, batch, loss)
    assert [(data.step, data.samples_per_second) for data in progress_of(events)[1:]] == [(7, 20 / 5.25)]

    training.emit_epoch(RECORD)
    last = progress_of(events)[-1]
    assert (last.step, last.epoch, last.learning_rate) == (10, 1, 0.1)
    assert last.losses == {"train": 0.5, "test": 0.25}
    assert last.metrics == {"train_accuracy": 0.75, "accuracy": 0.5, "precision": 0.5, "recall": 0.5, "f1": 0.5}
    assert last.eta_seconds == 12.0 / 10 * 10

    clock.now += 6.0
    training.step(2, 1, loss)
    assert progress_of(events)[-1] == Progress(
        step=11, steps=20, unit="batches", epoch=2, epochs=2, samples_per_second=10 / 6.0,
        losses={"train": 2.5, "test": 0.25},
        metrics=last.metrics, learning_rate=0.1, eta_seconds=18.0 / 11 * 9, device="cpu",
    )  # fmt: skip


def test_an_epochs_rate_is_its_own_whatever_was_emitted_within_it(clock: Clock) -> None:
    events: list[EventData] = []
    training = progress(events.append)
    clock.now += 6.0
    training.step(1, 9, lambda: 1.0)
    clock.now += 100.0  # the evaluation
    training.emit_epoch(RECORD.model_copy(update={"images_per_second": 12.5}))

    assert [data.samples_per_second for data in progress_of(events)] == [90 / 6.0, 12.5]


def test_a_clock_that_does_not_move_divides_nothing_by_zero(clock: Clock) -> None:
    events: list[EventData] = []
    training = progress(events.append, batches=1, images=1)
    training.emit_epoch(RECORD)
    training.emit_checkpoint(manifest(2, 7), Path("/c/1"))
    assert math.isfinite(progress_of(events)[0].samples_per_second or math.nan)
    assert events[-1] == Checkpoint(1, 1, "/c/1", 7)


def test_what_an_earlier_attempt_has_trained_does_not_count_as_fast(clock: Clock) -> None:
    events: list[EventData] = []
    training = progress(events.append, epochs=2, done=10)
    clock.now += 6.0
    training.step(2, 2, lambda: 1.0)
    (event,) = progress_of(events)
    assert (event.step, event.samples_per_second, event.eta_seconds) == (12, 20 / 6.0, 6.0 / 2 * 8)


@pytest.mark.slow
def test_kubeflow_trainer_is_shown_the_whole_run_also_by_an_attempt_that_goes_on(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer_status, "EVERY_S", 0.0)
    with TrainerStatusServer(tmp_path / "trainer") as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        shown = []
        for epochs in (3, 6):
            params = small(num_epochs=epochs, save_freq=1, eval_freq=1)
            run_step("train", params, lambda params, emit: train(
                dataset=dataset, model=tmp_path / "model", params=params, emit=emit))  # fmt: skip
            shown.append([report["progressPercentage"] for report in server.reports])
            last = {metric["name"]: float(metric["value"]) for metric in server.reports[-1]["metrics"]}
            assert last.keys() >= {
                "epoch",
                "train_loss",
                "test_loss",
                "accuracy",
                "learning_rate",
                "samples_per_second",
            }
            server.reports.clear()
    first, further = shown
    assert (first, further) == (sorted(first), sorted(further))
    assert (first[-1], further[-1]) == (100, 100)
    assert min(further) >= 66, "of six epochs three were trained before, and the first report is of the fourth"
