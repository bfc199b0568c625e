"""What training tells whoever watches from afar: every epoch, every checkpoint, and something in between."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from components.shared.artifacts.model import EpochRecord
from components.shared.events.data import Checkpoint, Emit, Progress
from components.train.checkpoints.format import CheckpointManifest
from components.train.position import Position

# An epoch that takes longer is not silent until its end.
_SILENCE_S = 5.0


class TrainingStatus:
    """Status events of a training run.

    Args:
        emit: Gets them.
        epochs: Epochs in all.
        steps_per_epoch: Batches in one epoch.
        images: Training images in one epoch.
        held_out: The split that is evaluated.
        device: Where training runs.
        done: Batches that an earlier attempt has trained.
    """

    def __init__(
        self,
        emit: Emit,
        epochs: int,
        steps_per_epoch: int,
        images: int,
        held_out: str,
        device: str,
        done: int = 0,
    ) -> None:
        self._emit = emit
        self._epochs = epochs
        self._steps_per_epoch = steps_per_epoch
        self._images = images
        self._held_out = held_out
        self._device = device
        self._step = self._first_step = done
        self._begun = self._told = time.monotonic()
        self._told_step = done
        self._last: EpochRecord | None = None

    def batch(self, position: Position, loss: Callable[[], float]) -> None:
        """Some batches are under way; costs a tenth of a microsecond unless it is time to say something.

        Args:
            position: Where training is.
            loss: Tells the epoch's mean loss so far; asked only when something is said, since the host then waits.
        """
        if time.monotonic() - self._told > _SILENCE_S:
            self._step = (position.epoch - 1) * self._steps_per_epoch + position.batch
            self._tell(position.epoch, loss())

    def epoch(self, record: EpochRecord) -> None:
        """An epoch has ended."""
        self._last = record
        self._step = record.epoch * self._steps_per_epoch
        self._tell(record.epoch, record.train_loss, record.images_per_second)

    def checkpoint(self, manifest: CheckpointManifest, saved: Path) -> None:
        """A checkpoint has become whole."""
        self._emit(Checkpoint(manifest.epoch - 1, self._epochs, str(saved), manifest.batch))

    def _tell(self, epoch: int, train_loss: float, images_per_second: float | None = None) -> None:
        now, last = time.monotonic(), self._last
        steps = self._epochs * self._steps_per_epoch
        if images_per_second is None:
            images = (self._step - self._told_step) * self._images / self._steps_per_epoch
            images_per_second = images / max(now - self._told, 1e-9)
        losses: dict[str, float | None] = {"train": train_loss}
        metrics: dict[str, float | None] = {}
        if last is not None:
            metrics["train_accuracy"] = last.train_accuracy
            if last.loss is not None:
                losses[self._held_out] = last.loss
                names = ("accuracy", "precision", "recall", "f1")
                metrics |= {name: getattr(last, name) for name in names}
        self._emit(
            Progress(
                step=self._step,
                steps=steps,
                unit="batches",
                epoch=epoch,
                epochs=self._epochs,
                samples_per_second=images_per_second,
                losses=losses,
                metrics=metrics,
                learning_rate=last.learning_rate if last else None,
                eta_seconds=(now - self._begun) / max(self._step - self._first_step, 1) * (steps - self._step),
                device=self._device,
            )
        )
        self._told, self._told_step = now, self._step
