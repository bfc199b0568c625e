"""The training loop: epochs of steps, and what happens between two of them: looks, words, checkpoints, the end."""

from __future__ import annotations

import time
from collections.abc import Callable

from components.classifier.inference import Predictions
from components.shared.artifacts.model import EpochRecord
from components.shared.signals import Deferred
from components.train.checkpoints.writer import CheckpointWriter
from components.train.group import Agreement
from components.train.memory import answering_evaluation, answering_out_of_memory
from components.train.nan_checks import require_finite_weights, require_numbers
from components.train.progress import Progress
from components.train.state import manifest_of, state_of, tensors_of
from components.train.status import TrainingStatus
from components.train.trainer import LOOK_EVERY, Trainer

OnEpoch = Callable[[EpochRecord, Predictions | None], None]


class _Leave(Exception):  # noqa: N818 - no fault, and never seen outside
    """The process was told to end, and what it needs to go on is saved."""


class TrainingLoop:
    """Trains until there is nothing left to train, or the process is told to end.

    Args:
        trainer: Fresh, or restored from a checkpoint.
        keeper: Keeps the checkpoints; None in processes that save nothing.
        told: Whether the process was told to end.
        dataset_sha256: Of the dataset, for checkpoints.
        status: Tells whoever watches from afar.
        progress: Shows people.
    """

    def __init__(
        self,
        trainer: Trainer,
        keeper: CheckpointWriter | None,
        told: Deferred,
        dataset_sha256: str,
        status: TrainingStatus,
        progress: Progress,
    ) -> None:
        self._trainer = trainer
        self._keeper = keeper
        self._told = told
        self._dataset_sha256 = dataset_sha256
        self._status = status
        self._progress = progress
        self._agree = Agreement(trainer.group)
        minutes = trainer.params.checkpoint_minutes
        self._every_s = minutes * 60 if minutes is not None else float("inf")
        self._saved_at = time.monotonic()
        self._saved_place: tuple[int, int] | None = None
        self._is_prepared = self._is_asked = False

    def run(self, on_epoch: OnEpoch) -> bool:
        """Train.

        Args:
            on_epoch: Called after every epoch with its record, and what its evaluation predicted.

        Returns:
            Whether everything is trained; false where the process was told to end, and has saved what it needs.

        Raises:
            DivergedError: A loss or a weight is no longer a number.
            ParamsError: A step, or the evaluation, does not fit in memory.
            OSError: A checkpoint cannot be written.
        """
        trainer, params = self._trainer, self._trainer.params
        try:
            while not trainer.is_finished:
                answering_out_of_memory(trainer, lambda: trainer.train_rest(self._after_step))
                if self._has_extra_evaluation and self._place != self._saved_place:
                    self._save()  # what a run of more epochs can go on from, which has no evaluation here
                record, predictions = answering_evaluation(trainer, lambda: trainer.end_epoch(self._poll))
                on_epoch(record, predictions)
                trainer.timing.lap("other")
                self._status.epoch(record)
                trainer.timing.lap("status")
                if record.epoch % params.save_freq == 0 or trainer.is_finished:
                    self._save()
                self._tell_saved()
                if self._told.signal is not None and trainer.group.size == 1:
                    self._leave()
        except _Leave:
            return False
        finally:
            self._agree.close()
        return True

    def _after_step(self) -> None:
        trainer = self._trainer
        self._progress.reach((trainer.position.epoch - 1) * len(trainer.slices) + trainer.position.batch)
        if trainer.position.step % LOOK_EVERY == 0:
            require_numbers(trainer)
        self._status.batch(trainer.position, lambda: trainer.loss_so_far)
        is_due = time.monotonic() - self._saved_at > self._every_s
        if self._keeper is not None and not self._is_prepared:
            # After its first step an optimiser has all of its state.
            self._keeper.prepare(tensors_of(trainer))
            self._is_prepared = True
        # In a group the answer comes a step later; until then it is not asked again.
        asks = is_due and self._is_free and not self._is_asked
        self._is_asked = self._is_asked or asks
        leave, save = self._agree(self._told.signal is not None, asks)
        trainer.timing.lap("status")
        if leave:
            self._leave()
        if save:
            self._save()
        if self._keeper is not None:
            self._tell_saved()

    @property
    def _has_extra_evaluation(self) -> bool:
        """Whether the epoch is evaluated only because it is the last."""
        params, epoch = self._trainer.params, self._trainer.position.epoch
        return epoch == params.num_epochs and epoch % params.eval_freq != 0

    @property
    def _is_free(self) -> bool:
        """Whether a checkpoint could be written now; in a group, the process that writes says when."""
        return self._keeper is not None and not self._keeper.is_busy

    def _poll(self) -> None:
        """Between two chunks of an evaluation, which is made again after a restart; in every process as often."""
        leave, _ = self._agree(self._told.signal is not None, False)
        if leave:
            self._leave()

    @property
    def _place(self) -> tuple[int, int]:
        """How far the run is; equal places have equal checkpoints."""
        return self._trainer.position.epoch, self._trainer.position.batch

    def _leave(self) -> None:
        if self._place != self._saved_place:  # what is whole already is not written anew
            self._save()
        if self._keeper is not None:
            self._keeper.wait()
            self._tell_saved()
        raise _Leave

    def _save(self) -> None:
        """Hand the present state over to be written; every process of a group gets here at the same step."""
        trainer = self._trainer
        require_finite_weights(trainer)
        state = state_of(trainer)
        if self._keeper is not None:
            self._keeper.save(manifest_of(trainer, self._dataset_sha256), state)
        self._saved_at, self._saved_place, self._is_asked = time.monotonic(), self._place, False
        trainer.timing.lap("checkpoints")

    def _tell_saved(self) -> None:
        if self._keeper is not None:
            for manifest, path in self._keeper.saved():
                self._status.checkpoint(manifest, path)

    def close(self) -> None:
        """Tell of the checkpoints that have become whole since."""
        self._tell_saved()
