"""Training curves for TensorBoard: scalars of every epoch, the speed, precision-recall curves of the finished model."""

from __future__ import annotations

import os
import shutil
import socket
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from components.classifier.inference import Predictions
from components.shared.artifacts.model import EpochRecord, Speed
from components.shared.files import Output, naming
from components.train.speed import speed_markdown

# Each class has a curve of its own; beyond this many nobody looks at them one by one.
MAX_CURVES = 100


class Curves:
    """Writes a TensorBoard event file into a directory, replacing an earlier run's; use as a context manager.

    Events are torch's, records are tensorboard's; the file is written here, because the thread that tensorboard's own
    writer has prints a traceback where the disk is full.

    Raises:
        OSError: The file cannot be written; with its name.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        # The name that TensorBoard looks for.
        name = f"events.out.tfevents.{time.time():010.0f}.{socket.gethostname()}.{os.getpid()}.0"
        self._file = directory / name
        self._records: Any = None

    def __enter__(self) -> Self:
        shutil.rmtree(self._directory, ignore_errors=True)
        self._directory.mkdir(parents=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside tensorboard's own imports
            # 0.7 s, paid once training is certain to start
            from tensorboard.compat.proto.event_pb2 import Event
            from tensorboard.summary.writer.record_writer import RecordWriter
            from torch.utils.tensorboard import summary

        self._event = Event
        self._summary: Any = summary
        self._stream = self._file.open("wb", buffering=0)
        self._output = Output(self._stream)
        self._records = RecordWriter(self._output)
        try:
            self._write(file_version="brain.Event:2")
        except OSError:
            self._stream.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()

    def _write(self, **content: Any) -> None:
        self._records.write(self._event(wall_time=time.time(), **content).SerializeToString())
        with naming(self._file):
            self._output.check()

    def _scalars(self, scalars: Mapping[str, float | None], step: int) -> None:
        for tag, value in scalars.items():
            if value is not None:
                self._write(summary=self._summary.scalar(tag, value), step=step)

    def epoch(self, record: EpochRecord, split: str) -> None:
        """Add an epoch's scalars; `split` names the evaluated split."""
        scalars = {
            "loss/train": record.train_loss,
            "accuracy/train": record.train_accuracy,
            "learning_rate": record.learning_rate,
            "images_per_second": record.images_per_second,
            f"loss/{split}": record.loss,
            f"accuracy/{split}": record.accuracy,
            f"precision/{split}": record.precision,
            f"recall/{split}": record.recall,
            f"f1/{split}": record.f1,
        }
        if record.lowest_learning_rate != record.highest_learning_rate:
            scalars["learning_rate/lowest"] = record.lowest_learning_rate
            scalars["learning_rate/highest"] = record.highest_learning_rate
        self._scalars(scalars, record.epoch)

    def speed(self, speed: Speed, epoch: int) -> None:
        """Add the speed-of-light report at the last epoch: as text, and each figure as a scalar, to compare runs by."""
        self._write(summary=self._summary.text("speed_of_light", speed_markdown(speed)), step=epoch)
        figures = {f"speed/{name}": value for name, value in speed.model_dump().items() if isinstance(value, float)}
        figures |= {f"time/{name}": share for name, share in speed.shares.items()}
        self._scalars(figures, epoch)

    def precision_recall(self, predictions: Predictions, classes: list[str], epoch: int) -> None:
        """Add a precision-recall curve of every class."""
        if predictions.probabilities is None:
            return
        for index, name in enumerate(classes[:MAX_CURVES]):
            truths, shares = predictions.labels == index, predictions.probabilities[:, index]
            curve = self._summary.pr_curve(f"precision_recall/{name}", truths, shares)
            self._write(summary=curve, step=epoch)
