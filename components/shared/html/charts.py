"""Line charts as inline SVG: no script, colours from the page's style."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from markupsafe import Markup, escape

_WIDTH, _HEIGHT = 380, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 12, 34
# The plot of a unit chart is a square.
_UNIT_HEIGHT = _WIDTH - _LEFT - _RIGHT + _TOP + _BOTTOM
# With more points than this, marks on them would run together.
_MAX_MARKS = 40
# Names of columns stand upright below them, each in the width of a line; longer ones are cut.
_MAX_NAMES, _MAX_LETTERS = 24, 14
# Columns of two units, each with at most four points: a line of any length is below 8 kB, and looks the same.
_COLUMN = 2


@dataclass(frozen=True)
class Series:
    """One line: what the key calls it, its CSS class, and (x, y) pairs in order of x."""

    name: str
    kind: str
    points: Sequence[tuple[float, float]]
    has_marks: bool = True


@dataclass(frozen=True)
class _Axis:
    """From values to positions on a side of the chart."""

    low: float
    high: float
    start: float
    stop: float
    is_logarithmic: bool = False
    steps: int = 4

    def position(self, value: float) -> float:
        low, high, at = (math.log10(each) if self.is_logarithmic else each for each in (self.low, self.high, value))
        return self.start + (at - low) / (high - low) * (self.stop - self.start)

    def ticks(self) -> list[float]:
        if self.is_logarithmic:
            low, high = round(math.log10(self.low)), round(math.log10(self.high))
            return [10.0**power for power in range(low, high + 1, max(1, math.ceil((high - low) / 5)))]
        step = _step(self.high - self.low, self.steps)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [index * step for index in range(first, last + 1)]


def line_chart(title: str, series: Sequence[Series], selected: float) -> Markup:
    """A chart of values over epochs, with the selected epoch marked; lines without points are left out."""
    drawn = [line for line in map(_drawable, series) if line.points]
    if not drawn:
        return Markup()
    across = _epochs([x for line in drawn for x, _ in line.points])
    along = _values([y for line in drawn for _, y in line.points])
    parts = [_grid(along), _ticks_across(across, "epoch")]
    if across.low <= selected <= across.high:
        x = across.position(selected)
        parts.append(f'<line class="selected" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>')
    parts += [_line(line, across, along) for line in drawn]
    ends = (f"{one.name} from {_number(one.points[0][1])} to {_number(one.points[-1][1])}" for one in drawn)
    return _figure(title, f"{title} over epochs: {'; '.join(ends)}", drawn, parts, _HEIGHT)


def unit_chart(
    title: str, label: str, axes: tuple[str, str], series: Sequence[Series], counts: Sequence[int] = ()
) -> Markup:
    """A square chart of shares over shares, both from 0 to 1.

    Args:
        title: What stands above it, with the keys of the lines.
        label: What it shows, for those who do not see it.
        axes: Names of the axis across and of the one along.
        series: The lines; one of the kind `ideal` is a dashed reference.
        counts: Columns of equal width at the bottom, the largest a quarter as high as the chart.
    """
    across = _Axis(0, 1, _LEFT, _WIDTH - _RIGHT, steps=5)
    along = _Axis(0, 1, _UNIT_HEIGHT - _BOTTOM, _TOP, steps=5)
    parts = [_grid(along)]
    for tick in across.ticks():
        parts.append(
            f'<text class="along" x="{across.position(tick):.1f}" y="{along.start + 16}">{_number(tick)}</text>'
        )
    for index, count in enumerate(counts):
        left, right = (across.position(at / len(counts)) for at in (index, index + 1))
        height = 0.25 * count / max(counts) * (along.start - along.stop)
        parts.append(
            f'<rect class="count" x="{left + 1:.1f}" width="{right - left - 2:.1f}" y="{along.start - height:.1f}" '
            f'height="{height:.1f}"/>'
        )
    middle = (_TOP + along.start) / 2
    parts += [
        _name_across(axes[0], _UNIT_HEIGHT),
        f'<text class="along" transform="translate(12 {middle:.1f}) rotate(-90)">{escape(axes[1])}</text>',
        *(_line(line, across, along) for line in series),
    ]
    return _figure(title, label, series, parts, _UNIT_HEIGHT)


def column_chart(title: str, label: str, columns: Sequence[tuple[str, int]]) -> Markup:
    """Counts as columns from zero, from left to right, each with its name; many of them are one area, a few named."""
    across = _Axis(0.5, len(columns) + 0.5, _LEFT, _WIDTH - _RIGHT)
    counts = [count for _, count in columns]
    along = replace(_values([0, *counts]), low=0) if max(counts) else _values([0, 1])
    gap = 0.1 if len(columns) <= _MAX_MARKS else 0
    paths, names = [], []
    for number, (name, count) in enumerate(columns, start=1):
        left, right = (across.position(number + side) for side in (gap - 0.5, 0.5 - gap))
        paths.append(f"M{left:.1f} {along.start}V{along.position(count):.1f}H{right:.1f}V{along.start}")
        if (number - 1) % -(-len(columns) // _MAX_NAMES) == 0:
            short = name if len(name) <= _MAX_LETTERS else f"{name[: _MAX_LETTERS - 1]}…"
            at = f"translate({across.position(number) + 4:.1f} {along.start + 8}) rotate(-90)"
            names.append(f'<text class="up" transform="{at}"><title>{escape(name)}</title>{escape(short)}</text>')
    drawn = (
        [
            f'<path class="columns" d="{path}"><title>{escape(name)}: {count:,}</title></path>'
            for path, (name, count) in zip(paths, columns, strict=True)
        ]
        if gap
        else [f'<path class="columns" d="{"".join(paths)}"/>']
    )
    height = along.start + 14 + 8 * min(_MAX_LETTERS, max(len(name) for name, _ in columns))
    return _figure(title, label, [], [_grid(along), *drawn, *names], round(height))


def _figure(title: str, label: str, lines: Sequence[Series], parts: Sequence[str], height: int) -> Markup:
    # One line alone is what the title says.
    keys = "".join(f'<span class="key {line.kind}">{escape(line.name)}</span>\n' for line in lines if len(lines) > 1)
    return Markup(  # noqa: S704 - every text is escaped
        f'<figure class="chart">\n<figcaption>{escape(title)}</figcaption>\n'
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(label)}">\n'
        + "\n".join(parts)
        + "\n</svg>\n"
        + (f'<div class="keys">\n{keys}</div>\n' if keys else "")
        + "</figure>"
    )


def _name_across(name: str, height: int) -> str:
    return f'<text class="along" x="{(_LEFT + _WIDTH - _RIGHT) / 2:.1f}" y="{height - 3}">{escape(name)}</text>'


def _drawable(line: Series) -> Series:
    """A line without what has no position: a loss near the end of float64, a learning rate below its normal range."""
    points = [(x, y if abs(y) > 1e-300 else 0.0) for x, y in line.points if math.isfinite(y) and abs(y) < 1e300]
    return replace(line, points=points)


def _epochs(xs: Sequence[float]) -> _Axis:
    low, high = min(xs), max(xs)
    margin = 0.5 if low == high else 0.0  # one epoch alone stands in the middle
    return _Axis(low - margin, high + margin, _LEFT, _WIDTH - _RIGHT)


def _values(ys: Sequence[float]) -> _Axis:
    low, high = min(ys), max(ys)
    is_logarithmic = low > 0 and high > 20 * low
    if is_logarithmic:
        low, high = 10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high))
    elif high - low <= 1e-9 * max(abs(low), abs(high)):
        margin = abs(low) / 2 or 0.5
        low, high = low - margin, low + margin
    else:
        step = _step(high - low, _Axis.steps)
        low, high = math.floor(low / step) * step, math.ceil(high / step) * step
    return _Axis(low, high, _HEIGHT - _BOTTOM, _TOP, is_logarithmic)


def _step(span: float, count: int) -> float:
    raw = span / count
    power = 10.0 ** math.floor(math.log10(raw))
    return next(factor * power for factor in (1, 2, 5, 10) if raw <= factor * power * 1.000001)


def _grid(axis: _Axis) -> str:
    parts, room = [], _LEFT - 6
    for tick in axis.ticks():
        y, number = axis.position(tick), _number(tick)
        # What stands beyond the edge is cut off: a long number is pressed into the room there is.
        fit = f' textLength="{room}" lengthAdjust="spacingAndGlyphs"' if _wide(number) > room else ""
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="up" x="{_LEFT - 6}" y="{y + 4:.1f}"{fit}>{number}</text>')
    return "".join(parts)


def _ticks_across(axis: _Axis, name: str) -> str:
    step = max(1, round(_step(axis.high - axis.low, 6)))
    first, last = math.ceil(axis.low), math.floor(axis.high)
    # The first and round numbers after it.
    ticks = [first, *(tick for tick in range(step * (first // step + 1), last + 1, step) if tick - first > step / 2)]
    # What stands beyond the edge is cut off.
    places = {tick: min(axis.position(tick), _WIDTH - _wide(str(tick)) / 2) for tick in ticks}
    return "".join(
        f'<text class="along" x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 16}">{at}</text>' for at, x in places.items()
    ) + _name_across(name, _HEIGHT)


def _line(line: Series, across: _Axis, along: _Axis) -> str:
    points = _thinned([(across.position(x), along.position(y)) for x, y in line.points])
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    marks = points if line.has_marks and len(points) <= _MAX_MARKS else []
    return f'<polyline class="{line.kind}" points="{path}"/>' + "".join(
        f'<circle class="{line.kind}" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>' for x, y in marks
    )


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """What of a long line can be seen: the first, lowest, highest and last point of each narrow column.

    Source: Jugel, Jerzak, Hackenbroich, Markl, "M4: A Visualization-Oriented Time Series Data Aggregation", Proceedings
    of the VLDB Endowment 7 (10), 2014.
    """
    if len(points) <= 4 * (_WIDTH - _LEFT - _RIGHT) / _COLUMN:
        return points
    kept = []
    for _, column in groupby(range(len(points)), lambda index: points[index][0] // _COLUMN):
        indices = list(column)
        lowest, highest = (choose(indices, key=lambda index: points[index][1]) for choose in (min, max))
        kept += sorted({indices[0], lowest, highest, indices[-1]})
    return [points[index] for index in kept]


def _wide(number: str) -> float:
    """Units that a number takes at the style's 12.5 px, in a wide font such as DejaVu Sans."""
    return sum(4 if letter in ".-" else 8 for letter in number)


def _number(value: float) -> str:
    for power, unit in ((9, "G"), (6, "M"), (3, "k")):
        if 1e5 <= abs(value) < 1e12 and abs(value) >= 10**power:
            return f"{value / 10**power:.6g}{unit}"
    if value == 0 or 1e-4 <= abs(value) < 1e5:
        return f"{value:.6g}"
    return f"{value:.3g}".replace("e-0", "e-").replace("e+", "e")
