from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from components.shared.html.charts import Series, column_chart, line_chart

WIDTH, HEIGHT = 380, 230


def chart(*values: float, selected: float = 1) -> str:
    return line_chart("Loss", [Series("training", "trained", list(enumerate(values, start=1)))], selected)


def places(svg: str) -> list[tuple[float, float]]:
    points = re.findall(r'points="([^"]*)"', svg)[0].split()
    return [(float(x), float(y)) for x, y in (point.split(",") for point in points)]


def ticks(svg: str, kind: str) -> list[str]:
    return re.findall(rf'<text class="{kind}"[^>]*>([^<]*)</text>', svg)


@given(st.lists(st.floats(), max_size=60), st.integers(-5, 70))
@example([5e-324], 1)
@example([1.7e308, -1.7e308], 1)
@example([1.0, 1.0000000000000002], 2)
@example([1e-299, 1e299], 1)
@settings(max_examples=150, deadline=None)
def test_every_point_lies_inside(values: list[float], selected: int) -> None:
    svg = chart(*values, selected=selected)
    if not svg:
        return
    assert "nan" not in svg
    assert "inf" not in svg
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in places(svg))
    assert 1 <= len(ticks(svg, "up")) <= 12


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((0.0, 1.0), ["0", "0.5", "1"]),
        ((0.31, 0.95), ["0.2", "0.4", "0.6", "0.8", "1"]),
        ((0.1, 0.0001), ["0.0001", "0.001", "0.01", "0.1"]),
        ((1e-3, 1e-7), ["1e-7", "1e-6", "1e-5", "0.0001", "0.001"]),
        ((0.001, 0.001), ["0.0005", "0.001", "0.0015"]),
        ((0.0, 0.0), ["-0.5", "0", "0.5"]),
        ((1e-5, 1e-5), ["5e-6", "1e-5", "1.5e-5"]),
        ((120_000.0, 130_000.0), ["120k", "125k", "130k"]),
        ((-2e6, 2e6), ["-2M", "0", "2M"]),
        ((1e13, 3e13), ["1e13", "2e13", "3e13"]),
    ],
)
def test_ticks_are_round(values: tuple[float, ...], expected: list[str]) -> None:
    shown = ticks(chart(*values), "up")
    assert set(expected) <= set(shown)


def test_long_numbers_are_pressed_into_the_room_there_is() -> None:
    svg = chart(0.00296, 0.003)
    assert re.findall(r'<text class="up"[^>]* textLength="46"[^>]*>([^<]*)</text>', svg) == ["0.00296", "0.00298"]
    assert "textLength" not in chart(0.0001, 0.1)


def test_ticks_of_a_narrow_range_differ() -> None:
    shown = ticks(chart(120_000.0, 120_100.0), "up")
    assert len(set(shown)) == len(shown) > 2


@pytest.mark.parametrize("epochs", [1_000, 10_000, 1_000_000])
def test_the_last_epochs_number_is_not_cut_off(epochs: int) -> None:
    svg = line_chart("Loss", [Series("training", "trained", [(1, 1.0), (epochs, 2.0)])], 1)
    last = re.findall(rf'<text class="along" x="([^"]*)" y="[^"]*">{epochs}</text>', svg)
    assert float(last[0]) + 4 * len(str(epochs)) <= WIDTH


@given(st.lists(st.integers(0, 1000), min_size=700, max_size=2000))
@settings(max_examples=20, deadline=None)
def test_a_long_line_keeps_its_ends_and_every_columns_extremes(values: list[int]) -> None:
    drawn = places(chart(*map(float, values)))

    def columns(points: list[tuple[float, float]]) -> dict[int, tuple[float, float]]:
        heights: dict[int, list[float]] = {}
        for x, y in points:
            heights.setdefault(int(x // 20), []).append(y)
        return {column: (min(found), max(found)) for column, found in heights.items()}

    # Each short piece is drawn whole: a chart of few points is never thinned.
    parts = [list(enumerate(values, start=1))[start : start + 100] for start in range(0, len(values), 100)]
    frame = [(1, float(min(values))), (1, float(max(values))), (len(values), float(values[-1]))]
    whole: list[tuple[float, float]] = []
    for part in parts:
        line = Series("training", "trained", [(float(x), float(y)) for x, y in part])
        piece = line_chart("Loss", [line, Series("frame", "frame", frame)], 1)
        whole += places(piece)
    assert drawn[0] == whole[0]
    assert drawn[-1] == whole[-1]
    assert len(drawn) <= 4 * 158 + 4
    assert columns(drawn) == columns(whole)


def test_better_is_higher_on_the_page() -> None:
    (_, first), (_, second) = places(chart(1.0, 2.0))
    assert second < first


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [
        (1, ["1"]),
        (3, ["1", "2", "3"]),
        (12, ["1", "4", "6", "8", "10", "12"]),
        (100, ["1", "20", "40", "60", "80", "100"]),
    ],
)
def test_epoch_ticks(epochs: int, expected: list[str]) -> None:
    assert ticks(chart(*[0.5] * epochs), "along") == [*expected, "epoch"]


@pytest.mark.parametrize(("selected", "marked"), [(1, 1), (3, 1), (4, 0)])
def test_selected_epoch_is_marked(selected: float, marked: int) -> None:
    assert chart(1, 2, 3, selected=selected).count('class="selected"') == marked


def test_a_single_point_is_seen() -> None:
    assert chart(0.5).count("<circle") == 1
    assert chart(*[0.5] * 100).count("<circle") == 0


def test_lines_without_points_are_left_out() -> None:
    lines = [Series("training", "trained", [(1, 2.0)]), Series("test split", "evaluated", [])]
    svg = line_chart("Loss", lines, 1)
    assert svg.count("<polyline") == 1
    assert "test split" not in svg
    assert line_chart("Loss", lines[1:], 1) == ""


def test_names_are_escaped_and_spoken() -> None:
    svg = line_chart('<"Loss">', [Series("a<b", "trained", [(1, 2.0), (2, 0.5)]), Series("c", "rate", [(1, 1.0)])], 1)
    assert "&lt;&#34;Loss&#34;&gt;" in svg
    assert 'aria-label="&lt;&#34;Loss&#34;&gt; over epochs: a&lt;b from 2 to 0.5; c from 1 to 1"' in svg


def test_columns_are_named_in_full_and_below_them_in_short() -> None:
    svg = column_chart("Images", "3 classes", [("<cat>", 1200), ("a name of many letters", 3), ("dog", 0)])
    assert re.findall("<title>([^<]*)</title></path>", svg) == [
        "&lt;cat&gt;: 1,200",
        "a name of many letters: 3",
        "dog: 0",
    ]
    assert re.findall("<title>([^<]*)</title>([^<]*)</text>", svg) == [
        ("&lt;cat&gt;", "&lt;cat&gt;"),
        ("a name of many letters", "a name of man…"),
        ("dog", "dog"),
    ]
    many = column_chart("Images", "1,000 classes", [(str(index), index) for index in range(1000)])
    assert (many.count("<path"), many.count("<title>")) == (1, 24)
