"""Training curves for people: TensorBoard's event file, and one HTML page without scripts and requests."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import google_crc32c

from components.classifier.inference import Predictions
from components.shared.artifacts.model import EpochRecord, ModelManifest, Speed
from components.shared.files import Output, naming
from components.train.speed import speed_facts, time_shares

# Each class has a precision-recall curve of its own; beyond this many nobody looks at them one by one.
MAX_CURVES = 100
# A longer table is closed until somebody asks for it.
_OPEN_ROWS = 30


class Curves:
    """Writes a TensorBoard event file into a directory, replacing an earlier run's; use as a context manager.

    Events are tensorboard's; the file is written here, because the thread that tensorboard's own writer has prints a
    traceback where the disk is full, and its writer of records imports boto3 and half of TensorFlow's stand-in, 0.3 s.

    Raises:
        OSError: The file cannot be written; with its name.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        # The name that TensorBoard looks for.
        self._file = directory / f"events.out.tfevents.{time.time():010.0f}.{socket.gethostname()}.{os.getpid()}.0"

    def __enter__(self) -> Self:
        shutil.rmtree(self._directory, ignore_errors=True)
        self._directory.mkdir(parents=True)
        # Paid once training is certain to start.
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._event, self._summary = Event, Summary
        self._stream = self._file.open("wb", buffering=0)
        self._output = Output(self._stream)
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
        record = self._event(wall_time=time.time(), **content).SerializeToString()
        # As TensorFlow has it: the length, its checksum, the record, its checksum.
        length = struct.pack("<Q", len(record))
        self._output.write(length + _masked_checksum(length) + record + _masked_checksum(record))
        with naming(self._file):
            self._output.check()

    def _scalars(self, scalars: Mapping[str, float | None], step: int) -> None:
        for tag, value in scalars.items():
            if value is not None:
                self._write(summary=self._summary(value=[self._summary.Value(tag=tag, simple_value=value)]), step=step)

    def epoch(self, record: EpochRecord, split: str) -> None:
        """Add an epoch's scalars; `split` names the evaluated split."""
        scalars: dict[str, float | None] = {"loss/train": record.train_loss, "accuracy/train": record.train_accuracy}
        scalars |= {name: getattr(record, name) for name in ("learning_rate", "images_per_second")}
        scalars |= {
            f"{name}/{split}": getattr(record, name) for name in ("loss", "accuracy", "precision", "recall", "f1")
        }
        if record.lowest_learning_rate != record.highest_learning_rate:
            scalars["learning_rate/lowest"] = record.lowest_learning_rate
            scalars["learning_rate/highest"] = record.highest_learning_rate
        self._scalars(scalars, record.epoch)

    def speed(self, speed: Speed, epoch: int) -> None:
        """Add each figure of the speed report at the last epoch, to compare runs by."""
        figures = {f"speed/{name}": value for name, value in speed.model_dump().items() if isinstance(value, float)}
        self._scalars(figures | {f"time/{name}": share for name, share in speed.shares.items()}, epoch)

    def precision_recall(self, predictions: Predictions, classes: list[str], epoch: int) -> None:
        """Add a precision-recall curve of every class; `predictions` have every class's probability."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside tensorboard's own imports
            from torch.utils.tensorboard.summary import pr_curve  # 0.3 s, of no use before there are predictions

        assert predictions.probabilities is not None  # noqa: S101 - for the type checker
        for index, name in enumerate(classes[:MAX_CURVES]):
            truths, shares = predictions.labels == index, predictions.probabilities[:, index]
            curve = pr_curve(f"precision_recall/{name}", truths, shares)  # type: ignore[no-untyped-call]
            self._write(summary=curve, step=epoch)


def _masked_checksum(data: bytes) -> bytes:
    """TensorFlow's CRC-32C: one of a text that has checksums in it would be of little use."""
    checksum = google_crc32c.value(data)
    return struct.pack("<I", ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def render_learning_curves(manifest: ModelManifest) -> str:
    """The learning curves of a model as one HTML document; the same for the same manifest.

    It is below 300 kB however many epochs there are: lines and rows beyond what can be seen are thinned out.
    """
    from components.shared.html.page import fixed, percent, rate, render, training_view  # Jinja2, when it is needed

    selection, origin, history = manifest.selection, manifest.provenance, manifest.history
    return render(
        "train/learning_curves.html",
        model=manifest,
        params_id=origin.params_sha256[:12],  # by which people tell runs apart
        headline=[
            (f"accuracy, {selection.split} split", percent(selection.accuracy)),
            ("loss (nats)", fixed(selection.loss)),
            (f"chosen epoch of {len(history):,}", f"{selection.epoch:,}"),
            ("images/s", rate(origin.images_per_second)),
            ("seconds", f"{origin.seconds:,.1f}"),
            ("parameters", f"{manifest.parameters:,}"),
        ],
        evaluated=sum(record.loss is not None for record in history),
        training=training_view(history, selection),
        open_rows=_OPEN_ROWS,
        speed=speed_facts(origin.speed) if origin.speed else [],
        shares=time_shares(origin.speed) if origin.speed else [],
    )
