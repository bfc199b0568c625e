"""Training curves for TensorBoard: scalars of every epoch, the speed, precision-recall curves of the finished model."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from components.classifier.inference import Predictions
from components.shared.model import EpochRecord, Speed
from components.train.speed_text import speed_markdown

# Each class has a curve of its own; beyond this many nobody looks at them one by one.
MAX_CURVES = 100


class Curves:
    """Writes TensorBoard event files into a directory, replacing an earlier run's; use as a context manager."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._writer: Any = None

    def __enter__(self) -> Self:
        shutil.rmtree(self._directory, ignore_errors=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside tensorboard's own imports
            from torch.utils.tensorboard import SummaryWriter  # 0.7 s, paid once training is certain to start

            self._writer = SummaryWriter(str(self._directory))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()

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
        for tag, value in scalars.items():
            if value is not None:
                self._writer.add_scalar(tag, value, record.epoch)

    def speed(self, speed: Speed, epoch: int) -> None:
        """Add the speed-of-light report: as text with all of it, and each figure as a scalar, to compare runs by.

        Args:
            speed: The report.
            epoch: The last epoch, at which its figures stand.
        """
        self._writer.add_text("speed_of_light", speed_markdown(speed), epoch)
        figures = {f"speed/{name}": value for name, value in speed.model_dump().items() if isinstance(value, float)}
        figures |= {f"time/{name}": share for name, share in speed.shares.items()}
        for tag, value in figures.items():
            self._writer.add_scalar(tag, value, epoch)

    def precision_recall(self, predictions: Predictions, classes: list[str], epoch: int) -> None:
        """Add a precision-recall curve of every class."""
        if predictions.probabilities is None:
            return
        for index, name in enumerate(classes[:MAX_CURVES]):
            self._writer.add_pr_curve(
                f"precision_recall/{name}", predictions.labels == index, predictions.probabilities[:, index], epoch
            )
