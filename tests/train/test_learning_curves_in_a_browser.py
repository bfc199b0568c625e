from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from components.train.curves import render_learning_curves
from tests.pages import DESKTOP, PHONE, needs_browser, shown
from tests.train.manifests import SPEED, history_of, manifest_of

MEASURE = """() => {
  const size = (element) => {
    const box = element.getBoundingClientRect();
    return [Math.round(box.width), Math.round(box.height)];
  };
  const all = (selector) => [...document.querySelectorAll(selector)];
  return {
    charts: all(".chart svg").map(size),
    lines: all(".chart polyline").map((line) => getComputedStyle(line).stroke),
    bars: all("div.shares span").map(size),
    fills: all("div.shares span").map((bar) => getComputedStyle(bar).backgroundColor),
    rows: all("tbody tr").map(size),
    ground: getComputedStyle(document.body).backgroundColor,
    ink: getComputedStyle(document.body).color,
  };
}"""


def written(folder: Path, page: str) -> Path:
    file = folder / "learning-curves.html"
    file.write_text(page, encoding="utf-8")
    return file


@needs_browser
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_everything_is_seen_in_light_and_in_dark(browser: Browser, tmp_path: Path, size: tuple[int, int]) -> None:
    file = written(tmp_path, render_learning_curves(manifest_of(history_of(12, eval_every=3), speed=SPEED)))

    measures: dict[str, Any] = {}
    for scheme in ("light", "dark"):
        with shown(browser, file, size, color_scheme=scheme) as page:
            seen = measures[scheme] = page.tab.evaluate(MEASURE)
            assert page.findings() == []
            assert (page.complaints, page.requests, page.scrolls_sideways) == ([], [], False)
        assert len(seen["charts"]) == 4
        assert all(width > 300 and height > 150 for width, height in seen["charts"])
        assert len(seen["bars"]) == 8
        assert all(width > 0 and height > 20 for width, height in seen["bars"])
        assert len(set(seen["fills"])) == 8
        assert all(height > 10 for _, height in seen["rows"])
        assert seen["ground"] not in (seen["ink"], *seen["lines"], *seen["fills"])
    assert measures["light"]["ground"] == "rgb(255, 255, 255)"
    assert measures["dark"]["ground"] == "rgb(18, 22, 26)"
    assert measures["light"]["lines"] != measures["dark"]["lines"]


@needs_browser
def test_a_thousand_epochs_show_too_and_their_table_waits_to_be_opened(browser: Browser, tmp_path: Path) -> None:
    with shown(browser, written(tmp_path, render_learning_curves(manifest_of(history_of(1000))))) as page:
        seen = page.tab.evaluate(MEASURE)

        assert len(seen["charts"]) == 4
        assert all(width > 300 and height > 150 for width, height in seen["charts"])
        assert len(seen["rows"]) == 1000
        assert not page.tab.get_by_role("cell").first.is_visible()
        page.tab.get_by_text("1,000 epochs as numbers").click()
        assert page.tab.get_by_role("cell").first.is_visible()
        assert (page.complaints, page.requests) == ([], [])
