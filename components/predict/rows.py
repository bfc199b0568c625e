"""Predictions as text: CSV, JSON Lines, or a table for people."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from typing import Literal, get_args

from components.predict.predict import Prediction
from components.shared.errors import InputError
from components.shared.spreadsheet import as_cell
from components.shared.text import shortened

Format = Literal["csv", "jsonl", "table"]
FORMATS: tuple[Format, ...] = get_args(Format)
_LONGEST_FILE, _LONGEST_CLASS = 60, 24


def as_format(name: str) -> Format:
    """A format by its name; InputError where there is none of it."""
    found = next((form for form in FORMATS if form == name), None)
    if found is None:
        raise InputError(f"format: must be {', '.join(FORMATS[:-1])} or {FORMATS[-1]}, got {shortened(name)}")
    return found


class Rows:
    """Writes predictions as lines of one format.

    Args:
        form: The format.
        write: Gets the text.
        classes: All classes of the model.
        top_k: How many of them a prediction has at most.
    """

    def __init__(self, form: Format, write: Callable[[str], object], classes: list[str], top_k: int) -> None:
        self._write = write
        self._lines = {"csv": self._csv, "jsonl": self._jsonl, "table": self._table}[form]
        self._shown = min(top_k, len(classes))
        self._is_first = True
        self._file_width = len("file")
        self._class_width = max(len("class"), min(_LONGEST_CLASS, max(map(len, classes))))

    def add(self, predictions: list[Prediction]) -> None:
        """Write some predictions; before the first ones, what is at the top."""
        self._write(self._lines(predictions))
        self._is_first = False

    def _csv(self, predictions: list[Prediction]) -> str:
        text = io.StringIO()
        lines = csv.writer(text, lineterminator="\n")
        if self._is_first:
            others = [f"{name}_{rank}" for rank in range(2, self._shown + 1) for name in ("class", "probability")]
            lines.writerow(["file", "class", "probability", *others, "error"])
        for prediction in predictions:
            cells = [cell for name, probability in prediction.classes for cell in (as_cell(name), probability)]
            cells += [""] * (2 * self._shown - len(cells))
            lines.writerow([as_cell(prediction.file), *cells, as_cell(prediction.error)])
        return text.getvalue()

    def _jsonl(self, predictions: list[Prediction]) -> str:
        return "".join(f"{json.dumps(_document(prediction), ensure_ascii=False)}\n" for prediction in predictions)

    def _table(self, predictions: list[Prediction]) -> str:
        lines, width = [], self._class_width
        if self._is_first:  # names that come later may be longer
            longest = max((len(prediction.file) for prediction in predictions), default=0)
            self._file_width = max(self._file_width, min(_LONGEST_FILE, longest))
            lines.append(f"{'file':{self._file_width}}  {'class':{width}}  probability")
        for prediction in predictions:
            classes = (f"{name:{width}}  {100 * probability:9.2f} %" for name, probability in prediction.classes)
            what = f"no prediction: {prediction.error}" if prediction.error else "    ".join(classes)
            lines.append(f"{prediction.file:{self._file_width}}  {what}")
        return "".join(f"{line}\n" for line in lines)


def _document(prediction: Prediction) -> dict[str, object]:
    if prediction.error:
        return {"file": prediction.file, "error": prediction.error}
    classes = [{"class": name, "probability": probability} for name, probability in prediction.classes]
    return {"file": prediction.file, "classes": classes}
