"""What training tells whoever watches from afar: every epoch, every checkpoint, and something in between."""

from __future__ import annotations

import time
from pathlib import Path

from components.shared.events.data import Checkpoint, Emit, Progress
from components.shared.model import EpochRecord

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
    """

    def __init__(self, emit: Emit, epochs: int, steps_per_epoch: int, images: int, held_out: str, device: str) -> None:
        self._emit = emit
        self._epochs = epochs
        self._steps_per_epoch = steps_per_epoch
        self._images = images
        self._held_out = held_out
        self._device = device
        self._step = 0
        self._begun = self._told = time.monotonic()
        self._told_step = 0
        self._last: EpochRecord | None = None

    def batch(self) -> None:
        """One batch is under way; costs a tenth of a microsecond unless it is time to say something."""
        self._step += 1
        if time.monotonic() - self._told > _SILENCE_S:
            # The last epoch's figures: reading this one's would make the host wait for the device.
            self._tell(epoch=(self._step - 1) // self._steps_per_epoch + 1)

    def epoch(self, record: EpochRecord) -> None:
        """An epoch has ended."""
        self._last = record
        self._step = record.epoch * self._steps_per_epoch
        self._tell(epoch=record.epoch)

    def checkpoint(self, epoch: int, saved: Path) -> None:
        """A checkpoint was saved after an epoch."""
        self._emit(Checkpoint(epoch, self._epochs, str(saved)))

    def _tell(self, epoch: int) -> None:
        now, last = time.monotonic(), self._last
        steps = self._epochs * self._steps_per_epoch
        images = (self._step - self._told_step) * self._images / self._steps_per_epoch
        losses: dict[str, float | None] = {}
        metrics: dict[str, float | None] = {}
        if last is not None:
            losses["train"], metrics["train_accuracy"] = last.train_loss, last.train_accuracy
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
                samples_per_second=images / max(now - self._told, 1e-9),
                losses=losses,
                metrics=metrics,
                learning_rate=last.learning_rate if last else None,
                eta_seconds=(now - self._begun) / max(self._step, 1) * (steps - self._step),
                device=self._device,
            )
        )
        self._told, self._told_step = now, self._step
