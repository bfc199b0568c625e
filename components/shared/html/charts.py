"""Line charts as inline SVG: no script, colours from the page's style."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from markupsafe import Markup, escape

_WIDTH, _HEIGHT = 380, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 12, 34
# With more points than this, marks on them would run together.
_MAX_MARKS = 40
# Columns of two units, each with at most four points: a line of any length is below 8 kB, and looks the same.
_COLUMN = 2


@dataclass(frozen=True)
class Series:
    """One line: what the key calls it, its CSS class, and (x, y) pairs in order of x."""

    name: str
    kind: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class _Axis:
    """From values to positions on a side of the chart."""

    low: float
    high: float
    start: float
    stop: float
    is_logarithmic: bool = False

    def position(self, value: float) -> float:
        low, high, at = (math.log10(each) if self.is_logarithmic else each for each in (self.low, self.high, value))
        return self.start + (at - low) / (high - low) * (self.stop - self.start)

    def ticks(self) -> list[float]:
        if self.is_logarithmic:
            low, high = round(math.log10(self.low)), round(math.log10(self.high))
            return [10.0**power for power in range(low, high + 1, max(1, math.ceil((high - low) / 5)))]
        step = _step(self.high - self.low)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [index * step for index in range(first, last + 1)]


def line_chart(title: str, series: Sequence[Series], selected: float) -> Markup:
    """A chart of values over epochs, with the selected epoch marked; lines without points are left out."""
    drawn = [line for line in map(_drawable, series) if line.points]
    if not drawn:
        return Markup()
    across = _epochs([x for line in drawn for x, _ in line.points])
    along = _values([y for line in drawn for _, y in line.points])
    parts = [_grid(along), _epoch_ticks(across)]
    if across.low <= selected <= across.high:
        x = across.position(selected)
        parts.append(f'<line class="selected" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>')
    parts += [_line(line, across, along) for line in drawn]
    # One line alone is what the title says.
    keys = "".join(f'<span class="key {line.kind}">{escape(line.name)}</span>' for line in drawn if len(drawn) > 1)
    ends = (f"{one.name} from {_number(one.points[0][1])} to {_number(one.points[-1][1])}" for one in drawn)
    label = f"{title} over epochs: {'; '.join(ends)}"
    return Markup(  # noqa: S704 - texts are escaped above
        f'<figure class="chart">\n<figcaption>{escape(title)} {keys}</figcaption>\n'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}">\n'
        + "\n".join(parts)
        + "\n</svg>\n</figure>"
    )


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
        step = _step(high - low)
        low, high = math.floor(low / step) * step, math.ceil(high / step) * step
    return _Axis(low, high, _HEIGHT - _BOTTOM, _TOP, is_logarithmic)


def _step(span: float, count: int = 4) -> float:
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


def _epoch_ticks(axis: _Axis) -> str:
    step = max(1, round(_step(axis.high - axis.low, 6)))
    first, last = math.ceil(axis.low), math.floor(axis.high)
    # The first epoch and round numbers after it.
    ticks = [first, *(tick for tick in range(step * (first // step + 1), last + 1, step) if tick - first > step / 2)]
    # What stands beyond the edge is cut off.
    places = {tick: min(axis.position(tick), _WIDTH - _wide(str(tick)) / 2) for tick in ticks}
    return (
        "".join(f'<text class="along" x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 16}">{at}</text>' for at, x in places.items())
        + f'<text class="along" x="{(_LEFT + _WIDTH - _RIGHT) / 2:.1f}" y="{_HEIGHT - 3}">epoch</text>'
    )


def _line(line: Series, across: _Axis, along: _Axis) -> str:
    points = _thinned([(across.position(x), along.position(y)) for x, y in line.points])
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    marks = points if len(points) <= _MAX_MARKS else []
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
