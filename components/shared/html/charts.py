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
    """One line.

    Attributes:
        name: What the key calls it.
        kind: CSS class of the line.
        points: (x, y) pairs in order of x.
    """

    name: str
    kind: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class _Axis:
    """From values to places on a side of the chart."""

    low: float
    high: float
    start: float
    stop: float
    logarithmic: bool = False

    def place(self, value: float) -> float:
        low, high = self._scaled(self.low), self._scaled(self.high)
        return self.start + (self._scaled(value) - low) / (high - low) * (self.stop - self.start)

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self.logarithmic else value


def line_chart(title: str, series: Sequence[Series], selected: float) -> Markup:
    """A chart of values over epochs, with the selected epoch marked.

    Args:
        title: What is shown.
        series: The lines; those without points are left out.
        selected: The marked epoch.
    """
    drawn = [line for line in (_drawable(line) for line in series) if line.points]
    if not drawn:
        return Markup()
    xs = [x for line in drawn for x, _ in line.points]
    ys = [y for line in drawn for _, y in line.points]
    across, along = _epochs(min(xs), max(xs)), _values(min(ys), max(ys))
    parts = [_grid(along), _epoch_ticks(across)]
    if across.low <= selected <= across.high:
        x = across.place(selected)
        parts.append(f'<line class="selected" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>')
    parts += [_line(line, across, along) for line in drawn]
    # One line alone is what the title says.
    keys = "".join(f'<span class="key {line.kind}">{escape(line.name)}</span>' for line in drawn if len(drawn) > 1)
    return Markup(  # noqa: S704 - texts are escaped above
        f'<figure class="chart">\n<figcaption>{escape(title)} {keys}</figcaption>\n'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(_spoken(title, drawn))}">\n'
        + "\n".join(parts)
        + "\n</svg>\n</figure>"
    )


def _drawable(line: Series) -> Series:
    """A line without what cannot be placed: a loss near the end of float64, a learning rate below its normal range."""
    points = [(x, y if abs(y) > 1e-300 else 0.0) for x, y in line.points if math.isfinite(y) and abs(y) < 1e300]
    return replace(line, points=points)


def _epochs(low: float, high: float) -> _Axis:
    # One epoch alone stands in the middle.
    low, high = (low - 0.5, high + 0.5) if low == high else (low, high)
    return _Axis(low, high, _LEFT, _WIDTH - _RIGHT)


def _values(low: float, high: float) -> _Axis:
    logarithmic = low > 0 and high > 20 * low
    if logarithmic:
        low, high = 10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high))
    elif high - low <= 1e-9 * max(abs(low), abs(high)):
        margin = abs(low) / 2 or 0.5
        low, high = low - margin, low + margin
    else:
        step = _step(high - low)
        low, high = math.floor(low / step) * step, math.ceil(high / step) * step
    return _Axis(low, high, _HEIGHT - _BOTTOM, _TOP, logarithmic)


def _step(span: float, count: int = 4) -> float:
    raw = span / count
    power = 10.0 ** math.floor(math.log10(raw))
    return next(factor * power for factor in (1, 2, 5, 10) if raw <= factor * power * 1.000001)


def _ticks(axis: _Axis) -> list[float]:
    if axis.logarithmic:
        low, high = round(math.log10(axis.low)), round(math.log10(axis.high))
        every = max(1, math.ceil((high - low) / 5))
        return [10.0**power for power in range(low, high + 1, every)]
    step = _step(axis.high - axis.low)
    first = math.ceil(axis.low / step - 1e-9)
    last = math.floor(axis.high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def _grid(axis: _Axis) -> str:
    parts, room = [], _LEFT - 6
    for tick in _ticks(axis):
        y, words = axis.place(tick), _number(tick)
        # What stands beyond the edge is cut off: a long number is pressed into the room there is.
        fit = f' textLength="{room}" lengthAdjust="spacingAndGlyphs"' if _wide(words) > room else ""
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="up" x="{_LEFT - 6}" y="{y + 4:.1f}"{fit}>{words}</text>')
    return "".join(parts)


def _epoch_ticks(axis: _Axis) -> str:
    step = max(1, round(_step(axis.high - axis.low, 6)))
    first, last = math.ceil(axis.low), math.floor(axis.high)
    # The first epoch and round numbers after it.
    ticks = [first, *(tick for tick in range(step * (first // step + 1), last + 1, step) if tick - first > step / 2)]

    def place(tick: int) -> float:
        # What stands beyond the edge is cut off.
        return min(axis.place(tick), _WIDTH - _wide(str(tick)) / 2)

    return (
        "".join(
            f'<text class="along" x="{place(tick):.1f}" y="{_HEIGHT - _BOTTOM + 16}">{tick}</text>' for tick in ticks
        )
        + f'<text class="along" x="{(_LEFT + _WIDTH - _RIGHT) / 2:.1f}" y="{_HEIGHT - 3}">epoch</text>'
    )


def _line(line: Series, across: _Axis, along: _Axis) -> str:
    places = _thinned([(across.place(x), along.place(y)) for x, y in line.points])
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    marks = places if len(places) <= _MAX_MARKS else []
    return f'<polyline class="{line.kind}" points="{path}"/>' + "".join(
        f'<circle class="{line.kind}" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>' for x, y in marks
    )


def _thinned(places: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """What of a long line can be seen: the first, lowest, highest and last point of each narrow column.

    Source: Jugel, Jerzak, Hackenbroich, Markl, "M4: A Visualization-Oriented Time Series Data Aggregation", Proceedings
    of the VLDB Endowment 7 (10), 2014.
    """
    if len(places) <= 4 * (_WIDTH - _LEFT - _RIGHT) / _COLUMN:
        return places
    kept = []
    for _, column in groupby(range(len(places)), lambda index: places[index][0] // _COLUMN):
        indices = list(column)
        lowest, highest = (choose(indices, key=lambda index: places[index][1]) for choose in (min, max))
        kept += sorted({indices[0], lowest, highest, indices[-1]})
    return [places[index] for index in kept]


def _wide(number: str) -> float:
    """Units that a number takes at the style's 12.5 px, in a wide font such as DejaVu Sans."""
    return sum(4 if letter in ".-" else 8 for letter in number)


def _number(value: float) -> str:
    if value == 0 or 1e-4 <= abs(value) < 1e5:
        return f"{value:.6g}"
    if 1e5 <= abs(value) < 1e12:
        power = next(power for power in (9, 6, 3) if abs(value) >= 10**power)
        return f"{value / 10**power:.6g}{'kMG'[power // 3 - 1]}"
    return f"{value:.3g}".replace("e-0", "e-").replace("e+", "e")


def _spoken(title: str, lines: Sequence[Series]) -> str:
    ends = "; ".join(
        f"{line.name} from {_number(line.points[0][1])} to {_number(line.points[-1][1])}" for line in lines
    )
    return f"{title} over epochs: {ends}"
