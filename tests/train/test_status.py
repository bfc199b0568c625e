"""What training tells: every epoch, every checkpoint, and something in between when an epoch is long."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from components.shared.artifacts.model import EpochRecord, open_model
from components.shared.events.data import Checkpoint, EventData, Progress, Succeeded
from components.train import status
from components.train.checkpoints.format import CheckpointManifest
from components.train.position import Position
from components.train.status import TrainingStatus
from components.train.train import train
from tests.examples import small, write_digits


def checkpoint_at(epoch: int, batch: int) -> CheckpointManifest:
    return CheckpointManifest(
        created_by="a test", epoch=epoch, batch=batch, step=batch, finished=False, params={}, dataset_sha256="",
        processes=1, device="cpu", torch="2",
    )  # fmt: skip


class Clock:
    """The time as the status of training sees it."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(status, "time", clock)
    return clock


def progress_of(told: list[EventData]) -> list[Progress]:
    return [data for data in told if isinstance(data, Progress)]


@pytest.mark.mended(
    17,
    input="the epoch lines, and the status events at their ends, of a training that slows down",
    before="images a second of the whole run so far; with the evaluation's seconds counted in the events",
    now="that epoch's images by the seconds that it was trained in",
)
def test_every_epoch_and_every_checkpoint_of_a_real_training_is_told(dataset: Path, tmp_path: Path) -> None:
    told: list[EventData] = []
    there: list[bool] = []

    def emit(data: EventData) -> None:
        told.append(data)
        if isinstance(data, Checkpoint):
            there.append(Path(data.uri).is_file())

    params = small(num_epochs=4, eval_freq=2, save_freq=3)
    result = train(dataset=dataset, model=tmp_path / "model", params=params, emit=emit)

    history = open_model(tmp_path / "model").manifest.history
    batches = math.ceil(200 / 32)
    evaluated: EpochRecord | None = None
    for epoch, (record, data) in enumerate(zip(history, progress_of(told), strict=True), 1):
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
    # It is told of when it is whole, which may be some steps later.
    kinds = [type(data).__name__ for data in told]
    assert kinds.index("Checkpoint") > 2
    assert kinds[-1] == "Checkpoint"
    checkpoints = [data for data in told if isinstance(data, Checkpoint)]
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
    told: list[EventData] = []
    data = write_digits(tmp_path / "data", validation=True)
    train(dataset=data, model=tmp_path / "model", params=small(num_epochs=1), emit=told.append)
    assert [set(data.losses) for data in progress_of(told)] == [{"train", "validation"}]


def test_training_is_the_same_whether_somebody_listens_or_not(dataset: Path, tmp_path: Path) -> None:
    told: list[EventData] = []
    train(dataset=dataset, model=tmp_path / "heard", params=small(), emit=told.append)
    train(dataset=dataset, model=tmp_path / "unheard", params=small())
    assert told
    for file in ("model.safetensors", "last.safetensors"):
        assert (tmp_path / "heard" / file).read_bytes() == (tmp_path / "unheard" / file).read_bytes()


def at(epoch: int, batch: int) -> Position:
    return Position(epoch=epoch, batch=batch)


RECORD = EpochRecord(
    epoch=1, learning_rate=0.1, train_loss=0.5, train_accuracy=0.75, loss=0.25, accuracy=0.5, precision=0.5,
    recall=0.5, f1=0.5,
)  # fmt: skip


def test_a_long_epoch_says_something_after_a_silence(clock: Clock) -> None:
    told: list[EventData] = []
    training = TrainingStatus(told.append, epochs=2, steps_per_epoch=10, images=100, held_out="test", device="cpu")
    asked: list[str] = []

    def loss() -> float:
        asked.append("loss")
        return 2.5

    for batch in range(1, 5):
        clock.now += 1.25
        training.batch(at(1, batch), loss)
    assert told == []  # five seconds are no silence yet
    assert asked == []  # and nobody has waited for the device

    clock.now += 1.0
    training.batch(at(1, 5), loss)
    assert told == [
        Progress(
            step=5, steps=20, unit="batches", epoch=1, epochs=2, samples_per_second=50 / 6.0, eta_seconds=6.0 / 5 * 15,
            losses={"train": 2.5}, device="cpu",
        )
    ]  # fmt: skip
    assert asked == ["loss"]

    clock.now += 5.0
    training.batch(at(1, 6), loss)
    assert len(told) == 1
    for batch in (7, 8, 9, 10):
        clock.now += 0.25
        training.batch(at(1, batch), loss)
    # Five and a quarter seconds since the last word; and the silence begins anew with each word.
    assert [(data.step, data.samples_per_second) for data in progress_of(told)[1:]] == [(7, 20 / 5.25)]

    training.epoch(RECORD)
    last = progress_of(told)[-1]
    assert (last.step, last.epoch, last.learning_rate) == (10, 1, 0.1)
    assert last.losses == {"train": 0.5, "test": 0.25}
    assert last.metrics == {"train_accuracy": 0.75, "accuracy": 0.5, "precision": 0.5, "recall": 0.5, "f1": 0.5}
    assert last.eta_seconds == 12.0 / 10 * 10

    clock.now += 6.0
    training.batch(at(2, 1), loss)
    # Within the second epoch: its own training loss so far, and the figures of the first.
    assert progress_of(told)[-1] == Progress(
        step=11, steps=20, unit="batches", epoch=2, epochs=2, samples_per_second=10 / 6.0,
        losses={"train": 2.5, "test": 0.25},
        metrics=last.metrics, learning_rate=0.1, eta_seconds=18.0 / 11 * 9, device="cpu",
    )  # fmt: skip


def test_an_epochs_rate_is_its_own_whatever_was_told_within_it(clock: Clock) -> None:
    told: list[EventData] = []
    training = TrainingStatus(told.append, epochs=1, steps_per_epoch=10, images=100, held_out="test", device="cpu")
    clock.now += 6.0
    training.batch(at(1, 9), lambda: 1.0)
    clock.now += 100.0  # the evaluation
    training.epoch(RECORD.model_copy(update={"images_per_second": 12.5}))

    assert [data.samples_per_second for data in progress_of(told)] == [90 / 6.0, 12.5]


def test_the_last_epoch_leaves_nothing_to_wait_for(clock: Clock) -> None:
    told: list[EventData] = []
    training = TrainingStatus(told.append, epochs=1, steps_per_epoch=4, images=10, held_out="test", device="cpu")
    clock.now += 2.0
    training.epoch(RECORD.model_copy(update={"loss": None, "accuracy": None}))
    assert told == [
        Progress(
            step=4, steps=4, unit="batches", epoch=1, epochs=1, samples_per_second=5.0, losses={"train": 0.5},
            metrics={"train_accuracy": 0.75}, learning_rate=0.1, eta_seconds=0.0, device="cpu",
        )
    ]  # fmt: skip


def test_a_clock_that_does_not_move_divides_nothing_by_zero(clock: Clock) -> None:
    told: list[EventData] = []
    training = TrainingStatus(told.append, epochs=1, steps_per_epoch=1, images=1, held_out="test", device="cpu")
    training.epoch(RECORD)
    training.checkpoint(checkpoint_at(2, 7), Path("/c/1"))
    (progress,) = progress_of(told)
    assert progress.samples_per_second is not None
    assert math.isfinite(progress.samples_per_second)
    assert told[-1] == Checkpoint(1, 1, "/c/1", 7)


def test_what_an_earlier_attempt_has_trained_does_not_count_as_fast(clock: Clock) -> None:
    told: list[EventData] = []
    training = TrainingStatus(told.append, 2, 10, 100, "test", "cpu", done=10)
    clock.now += 6.0
    training.batch(at(2, 2), lambda: 1.0)
    (progress,) = progress_of(told)
    assert (progress.step, progress.samples_per_second, progress.eta_seconds) == (12, 20 / 6.0, 6.0 / 2 * 8)
