"""HTML files that need nothing else: no script, no request, style inside; made by Jinja2, which escapes every text."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Self

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from components.shared.files import writing


class Cell(str):
    """The text of a table cell, with its CSS classes.

    Attributes:
        kind: CSS classes.
        share: 0..1, how strongly the cell is coloured or how long its bar is; None: neither.
    """

    kind: str
    share: float | None

    def __new__(cls, text: str, kind: str = "", share: float | None = None) -> Self:
        """A cell of a text."""
        cell = super().__new__(cls, text)
        cell.kind, cell.share = kind, share
        return cell


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
    return environment


def render(template: str, **values: Any) -> str:
    """A page by a template, which is named by its path below ``components``."""
    return _templates().get_template(template).render(values)


def write_page(file: Path, page: str) -> None:
    """Write a page; half a character from a manifest's JSON, which UTF-8 cannot hold, becomes a reference."""
    with writing(file) as output:
        output.write(page.encode("utf-8", "xmlcharrefreplace"))
