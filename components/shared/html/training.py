"""A training run for people: curves over its epochs and every epoch as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from components.shared.artifacts.model import EpochRecord, Selection
from components.shared.html.charts import Series, line_chart
from components.shared.html.page import fixed, rate

# A row is about 170 bytes; a thousand of them leave a page below 300 kB.
MAX_ROWS = 1000

_Value = Literal["train_loss", "train_accuracy", "loss", "accuracy", "learning_rate", "images_per_second"]


@dataclass(frozen=True)
class TrainingView:
    """What a page shows of a training run.

    Attributes:
        charts: Loss, accuracy, learning rate and, where it was measured, throughput; the chosen epoch marked.
        caption: Of the table of epochs.
        head: Its columns.
        rows: Its rows; of more than `MAX_ROWS` epochs, evenly spaced ones and the chosen one.
        left_out: How many epochs have no row.
    """

    charts: list[Markup]
    caption: str
    head: list[str]
    rows: list[list[str]]
    left_out: int


def training_view(history: Sequence[EpochRecord], selection: Selection) -> TrainingView:
    """The charts and the table of all epochs in order, with the chosen one."""

    def line(name: str, kind: str, value: _Value) -> Series:
        points = [(float(record.epoch), y) for record in history if (y := getattr(record, value)) is not None]
        return Series(name, kind, points)

    evaluated = f"{selection.split} split"
    lines = {
        "Loss": [line("training", "trained", "train_loss"), line(evaluated, "evaluated", "loss")],
        "Accuracy": [line("training", "trained", "train_accuracy"), line(evaluated, "evaluated", "accuracy")],
        "Learning rate": [line("learning rate", "rate", "learning_rate")],
        "Training images a second": [line("images a second", "throughput", "images_per_second")],
    }
    every = max(1, -(-len(history) // MAX_ROWS))  # rounded up
    shown = [
        record
        for index, record in enumerate(history)
        if not index % every or record.epoch == selection.epoch or index == len(history) - 1
    ]
    measured = any(record.images_per_second is not None for record in history)
    head = ["epoch", "learning rate", "training loss", "training accuracy", "loss", "accuracy", "precision", "recall"]
    rows = []
    for of in shown:
        figures = (of.train_loss, of.train_accuracy, of.loss, of.accuracy, of.precision, of.recall, of.f1)
        throughput = [rate(of.images_per_second)] if measured else []
        rows.append([str(of.epoch), f"{of.learning_rate:.4g}", *map(fixed, figures), *throughput])
    charts = (line_chart(title, series, float(selection.epoch)) for title, series in lines.items())
    return TrainingView(
        charts=[chart for chart in charts if chart],
        caption=f"Training, epoch by epoch; evaluated on the {selection.split} split",
        head=[*head, "F1", "images/s"] if measured else [*head, "F1"],
        rows=rows,
        left_out=len(history) - len(shown),
    )
