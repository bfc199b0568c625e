"""The few HTML forms our pages are made of; every text passes through :func:`escaped` here."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """One table cell.

    Attributes:
        text: What it says, unescaped.
        kind: CSS classes, or empty.
        share: 0..1, how strongly the cell is coloured or how long its bar is; None: neither.
    """

    text: str
    kind: str = ""
    share: float | None = None


def escaped(text: object) -> str:
    """Text as HTML, for content and for quoted attributes."""
    return html.escape(str(text), quote=True)


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


def section(heading: str, identifier: str, *parts: str) -> str:
    """A section of the page with its heading."""
    body = "\n".join(part for part in parts if part)
    return (
        f'<section aria-labelledby="{identifier}">\n<h2 id="{identifier}">{escaped(heading)}</h2>\n{body}\n</section>'
    )


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph of plain text."""
    return f"<p{_class(kind)}>{escaped(text)}</p>"


def definitions(pairs: Iterable[tuple[str, str]], kind: str) -> str:
    """A list of names and values."""
    items = "".join(f"<div><dt>{escaped(name)}</dt><dd>{escaped(value)}</dd></div>\n" for name, value in pairs)
    return f"<dl{_class(kind)}>\n{items}</dl>"


def details(summary: str, content: str) -> str:
    """Something that opens on demand; `content` is HTML."""
    return f"<details><summary>{escaped(summary)}</summary>\n{content}\n</details>"


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[Cell | str]], kind: str = "") -> str:
    """A table whose first column names its rows, in a box that scrolls sideways where the page is narrow.

    Args:
        caption: What the table shows; also names the box for those who cannot see it.
        head: Column names.
        rows: Cells of each row, the first its name.
        kind: CSS classes.
    """
    top = "".join(f'<th scope="col"><span>{escaped(name)}</span></th>' for name in head)
    body = "".join(f"<tr>{_row(cells)}</tr>\n" for cells in rows)
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escaped(caption)}">\n<table{_class(kind)}>\n'
        f"<caption>{escaped(caption)}</caption>\n<thead><tr>{top}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>\n"
        "</div>"
    )


def _row(cells: Sequence[Cell | str]) -> str:
    name, *values = [cell if isinstance(cell, Cell) else Cell(cell) for cell in cells]
    return f'<th scope="row">{escaped(name.text)}</th>' + "".join(
        f"<td{_class(cell.kind)}{_share(cell.share)}>{escaped(cell.text)}</td>" for cell in values
    )


def _class(kind: str) -> str:
    return f' class="{escaped(kind)}"' if kind else ""


def _share(share: float | None) -> str:
    return "" if share is None else f' style="--share:{share:.3f}"'
