"""``predictions.csv``: what the model predicts for every image, a line each, for spreadsheets and programs."""

from __future__ import annotations

import csv
from pathlib import Path

from components.evaluate.findings import Findings
from components.shared.files import naming
from components.shared.spreadsheet import as_cell

COLUMNS = ("index", "file", "label", "predicted", "confidence", "loss")
# Rows that are Python numbers at once.
_ROWS = 10_000


def write_predictions(file: Path, findings: Findings) -> None:
    """Write the predictions of all images in stored order; figures with every digit."""
    classes = [as_cell(name) for name in findings.classes]
    columns = (findings.labels, findings.predicted, findings.confidences, findings.losses)
    with naming(file), file.open("w", encoding="utf-8", newline="") as stream:
        lines = csv.writer(stream, lineterminator="\n")
        lines.writerow(COLUMNS)
        for start in range(0, findings.images, _ROWS):
            rows = zip(*(column[start : start + _ROWS].tolist() for column in columns), strict=True)
            for index, (label, predicted, confidence, loss) in enumerate(rows, start):
                name = as_cell(findings.name_of(index))
                lines.writerow((index, name, classes[label], classes[predicted], confidence, loss))
