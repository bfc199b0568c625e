"""HTML files that need nothing else: no request, style inside; made by Jinja2, which escapes every text."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from components.shared.artifacts.model import EpochRecord, Selection
from components.shared.files import writing
from components.shared.html.charts import Series, line_chart

# A row of the table of epochs is about 170 bytes; a thousand of them leave a page below 300 kB.
MAX_ROWS = 1000


# Beyond this a name is cut in its middle, or 2,000 long ones would be most of a page.
_MAX_NAME = 80
# Joiners that scripts of Iran and India, and emoji, cannot do without.
_JOINERS = "\u200c\u200d"


class Cell(str):
    """The text of a table cell, with its CSS classes, a share from 0 to 1 and what it opens.

    The share colours the cell or is its bar's length; `opens` is the id of the popover that the text opens, and
    `label` what a screen reader reads for that.
    """

    kind: str
    share: float | None
    opens: str
    label: str

    def __new__(cls, text: str, kind: str = "", share: float | None = None, opens: str = "", label: str = "") -> Self:
        """A cell of a text."""
        cell = super().__new__(cls, text)
        cell.kind, cell.share, cell.opens, cell.label = kind, share, opens, label
        return cell


def named(name: str, limit: int = _MAX_NAME) -> str:
    """A name from data as it is shown: what cannot be seen as its escape, and the middle of a long one left out."""
    seen = name
    if not name.isprintable():
        seen = "".join(
            each if each.isprintable() or each in _JOINERS else each.encode("unicode_escape").decode("ascii")
            for each in name
        )
    half = (limit - 1) // 2
    return seen if len(seen) <= limit else f"{seen[:half]}…{seen[-half:]}"


def breakable(text: str) -> Markup:
    """A text whose lines may end where the parts of its names do: ``test/`` ``IMG_`` ``0001.jpg``."""
    return Markup(re.sub(r"(?<=[/_])(?=[^\W_])", "<wbr>", escape(text)))  # noqa: S704 - escaped


def percent(share: float, digits: int = 2) -> str:
    """A share as text: ``91.23 %``."""
    return f"{100 * share:.{digits}f} %"


def fixed(value: float | None) -> str:
    """A figure with four digits after the point, in four digits where it is large; a dash where there is none."""
    if value is None:
        return "–"
    return f"{value:.4f}" if abs(value) < 1e6 else f"{value:.4g}"


def rate(value: float | None) -> str:
    """Something a second, without digits that say nothing; a dash where there is none."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if 100 <= abs(value) < 1e12 else f"{value:.3g}"


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parents[2]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "fixed": fixed, "rate": rate, "thousands": "{:,}".format}
    environment.filters |= {"named": named, "breakable": breakable}
    environment.globals["Cell"] = Cell
    return environment


def render(template: str, script: str = "", **values: Any) -> str:
    """A page by a template and the one script that may run in it, each named by its path below ``components``."""
    text = _templates().get_template(script).render() if script else ""
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
    inline = {"text": Markup(text), "digest": digest}  # noqa: S704 - our own file
    return _templates().get_template(template).render(values, script=inline if script else None)


def write_page(file: Path, page: str) -> None:
    """Write a page; half a character from a manifest's JSON, which UTF-8 cannot hold, becomes a reference."""
    with writing(file) as output:
        output.write(page.encode("utf-8", "xmlcharrefreplace"))


@dataclass(frozen=True)
class TrainingView:
    """What a page shows of a training run: charts, and a table of epochs.

    Of more than `MAX_ROWS` epochs, the rows are evenly spaced ones and the chosen one; `left_out` have none.
    """

    charts: list[Markup]
    caption: str
    head: list[str]
    rows: list[list[str]]
    left_out: int


def training_view(history: Sequence[EpochRecord], selection: Selection) -> TrainingView:
    """The charts and the table of all epochs in order, with the chosen one marked."""
    split = f"{selection.split} split"
    lines = {
        "Loss": [("training", "trained", "train_loss"), (split, "evaluated", "loss")],
        "Accuracy": [("training", "trained", "train_accuracy"), (split, "evaluated", "accuracy")],
        "Learning rate": [("learning rate", "rate", "learning_rate")],
        "Training images a second": [("images a second", "throughput", "images_per_second")],
    }

    def series(name: str, kind: str, value: str) -> Series:
        points = [(float(one.epoch), y) for one in history if (y := getattr(one, value)) is not None]
        return Series(name, kind, points)

    charts = [line_chart(title, [series(*line) for line in each], selection.epoch) for title, each in lines.items()]
    every = max(1, -(-len(history) // MAX_ROWS))  # rounded up
    shown = [
        record
        for index, record in enumerate(history)
        if not index % every or record.epoch == selection.epoch or index == len(history) - 1
    ]
    is_measured = any(record.images_per_second is not None for record in history)
    head = "epoch,learning rate,training loss,training accuracy,loss,accuracy,precision,recall,F1".split(",")
    rows = []
    for of in shown:
        figures = (of.train_loss, of.train_accuracy, of.loss, of.accuracy, of.precision, of.recall, of.f1)
        throughput = [rate(of.images_per_second)] if is_measured else []
        rows.append([str(of.epoch), f"{of.learning_rate:.4g}", *map(fixed, figures), *throughput])
    return TrainingView(
        charts=[chart for chart in charts if chart],
        caption=f"Training, epoch by epoch; evaluated on the {split}",
        head=[*head, "images/s"] if is_measured else head,
        rows=rows,
        left_out=len(history) - len(shown),
    )
