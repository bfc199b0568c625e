"""The report's tables: classes, confusion matrix, most confused pairs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from components.classifier.inference import Predictions
from components.evaluate.findings import Findings
from components.shared.html.markup import Cell, fixed, paragraph, percent, table

# A wider matrix cannot be read; the most confused pairs say it better.
MAX_MATRIX_CLASSES = 60
MAX_PAIRS = 20
# A page of more rows takes a browser seconds to open.
_MAX_ROWS = 2000


@dataclass(frozen=True)
class ConfusedPair:
    """One class taken for another.

    Attributes:
        label: The true class.
        predicted: The class it was taken for.
        count: How many images.
        share: Part of the true class's images.
    """

    label: int
    predicted: int
    count: int
    share: float


def most_confused(predictions: Predictions, limit: int = MAX_PAIRS) -> list[ConfusedPair]:
    """The pairs of classes confused most often, by count; equals in class order."""
    wrong = predictions.labels != predictions.predicted
    flat = predictions.labels[wrong] * predictions.n_classes + predictions.predicted[wrong]
    codes, counts = np.unique(flat, return_counts=True)
    support = np.bincount(predictions.labels, minlength=predictions.n_classes)
    pairs = []
    for place in np.argsort(-counts, kind="stable")[:limit]:
        label, predicted = divmod(int(codes[place]), predictions.n_classes)
        count = int(counts[place])
        pairs.append(ConfusedPair(label, predicted, count, count / int(support[label])))
    return pairs


def class_table(findings: Findings) -> str:
    """Precision, recall, F1 and support of every class, in class order."""
    figures = findings.per_class
    shown = findings.classes[:_MAX_ROWS]
    rows: list[list[Cell | str]] = [
        [
            name,
            *(Cell(fixed(share), "bar", share) for share in (figures.precision[i], figures.recall[i], figures.f1[i])),
            f"{figures.support[i]:,}",
        ]
        for i, name in enumerate(shown)
    ]
    more = len(findings.classes) - len(shown)
    return table(
        "Precision, recall, F1 and support (number of images) of each class",
        ("class", "precision", "recall", "F1", "support"),
        rows,
        "figures",
    ) + (paragraph(f"{more:,} more classes are in evaluation.json.") if more else "")


def weights_table(findings: Findings) -> str:
    """The selected weights beside the last ones."""
    rows = []
    for name, epoch, metrics in (
        ("selected", findings.selected_epoch, findings.metrics),
        ("last", findings.last_epoch, findings.last_metrics),
    ):
        figures = metrics.as_dict() if metrics else {}
        rows.append(
            (
                f"{name} (epoch {epoch})",
                fixed(figures.get("loss")),
                *(percent(figures[key]) if figures else "–" for key in ("accuracy", "precision", "recall", "f1")),
            )
        )
    note = "" if findings.last_metrics else paragraph("With the last weights the network gives no finite values.")
    return (
        table(
            "The selected weights and those after the last epoch, on the same images",
            ("weights", "loss", "accuracy", "precision", "recall", "F1"),
            rows,
            "figures",
        )
        + note
    )


def confusion_table(findings: Findings) -> str:
    """The confusion matrix; cells are coloured by their share of the row, wrong ones in another colour."""
    confusion = findings.confusion()
    rows: list[list[Cell | str]] = []
    for i, name in enumerate(findings.classes):
        of_class = max(1, int(confusion[i].sum()))
        cells: list[Cell | str] = [name]
        for j, count in enumerate(confusion[i].tolist()):
            kind = "right" if i == j else "wrong"
            # By the root, so that one image in a hundred is seen at all.
            cells.append(Cell(f"{count:,}", kind, math.sqrt(count / of_class)) if count else Cell("0", "none"))
        rows.append(cells)
    return table(
        "Confusion matrix: a row for each true class, a column for each predicted one",
        ("true ↓ predicted →", *findings.classes),
        rows,
        "matrix",
    )


def pairs_table(findings: Findings) -> str:
    """The most confused pairs."""
    pairs = most_confused(findings.predictions)
    if not pairs:
        return paragraph("No image was taken for another class.")
    names = findings.classes
    rows = [
        (names[pair.label], Cell(names[pair.predicted], "name"), f"{pair.count:,}", percent(pair.share, 1))
        for pair in pairs
    ]
    return table(
        "The pairs of classes confused most often", ("true", "taken for", "images", "of the class"), rows, "pairs"
    )
