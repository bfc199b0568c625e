"""A training run for people: curves over its epochs and every epoch as numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from components.shared.artifacts.model import EpochRecord, Selection
from components.shared.html.charts import Series, line_chart
from components.shared.html.markup import fixed, paragraph, rate, table

# A row is about 170 bytes; a thousand of them leave a page below 300 kB.
MAX_ROWS = 1000


def training_charts(history: Sequence[EpochRecord], selection: Selection) -> str:
    """Loss, accuracy, learning rate and, where it was measured, throughput over the epochs; the chosen one marked.

    Args:
        history: Every epoch, in order.
        selection: The chosen epoch, and the split that epochs were evaluated on.
    """

    def series(name: str, kind: str, value: Callable[[EpochRecord], float | None]) -> Series:
        points = [(float(record.epoch), number) for record in history if (number := value(record)) is not None]
        return Series(name, kind, points)

    evaluated = f"{selection.split} split"
    loss = [
        series("training", "trained", lambda record: record.train_loss),
        series(evaluated, "evaluated", lambda record: record.loss),
    ]
    accuracy = [
        series("training", "trained", lambda record: record.train_accuracy),
        series(evaluated, "evaluated", lambda record: record.accuracy),
    ]
    selected = float(selection.epoch)
    charts = (
        line_chart("Loss", loss, selected),
        line_chart("Accuracy", accuracy, selected),
        line_chart("Learning rate", [series("learning rate", "rate", lambda record: record.learning_rate)], selected),
        line_chart(
            "Training images a second",
            [series("images a second", "throughput", lambda record: record.images_per_second)],
            selected,
        ),
    )
    return '<div class="charts">\n' + "\n".join(chart for chart in charts if chart) + "\n</div>"


def epochs_table(history: Sequence[EpochRecord], selection: Selection) -> str:
    """Every epoch as numbers; of a run longer than `MAX_ROWS` epochs, evenly spaced ones and the chosen one."""
    every = -(-len(history) // MAX_ROWS)  # rounded up
    shown = [
        record
        for index, record in enumerate(history)
        if not index % max(1, every) or record.epoch == selection.epoch or index == len(history) - 1
    ]
    measured = any(record.images_per_second is not None for record in history)
    head = ["epoch", "learning rate", "training loss", "training accuracy", "loss", "accuracy", "precision", "recall"]
    head += ["F1", "images/s"] if measured else ["F1"]
    rows = []
    for record in shown:
        trained = (record.train_loss, record.train_accuracy)
        evaluated = (record.loss, record.accuracy, record.precision, record.recall, record.f1)
        row = [str(record.epoch), f"{record.learning_rate:.4g}", *(fixed(value) for value in (*trained, *evaluated))]
        rows.append([*row, rate(record.images_per_second)] if measured else row)
    left_out = len(history) - len(shown)
    return table(f"Training, epoch by epoch; evaluated on the {selection.split} split", head, rows, "figures") + (
        paragraph(f"{left_out:,} epochs between these are in model.json.") if left_out else ""
    )
