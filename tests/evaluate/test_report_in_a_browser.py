from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from tests.evaluate.made_up import COMPARISON, GATE, made_up, noise
from tests.pages import DESKTOP, PHONE, Shown, needs_browser, shown

pytestmark = [needs_browser, pytest.mark.slow]
CLASSES = [f"class {number}" for number in range(12)]
CELL = ".matrix .opens"
# The width of the paper without margins of 1 cm, in CSS pixels.
A4 = (718, 1047)
OPEN = "[popover]:popover-open"
# A file as long as file systems take, without a character that a line might end at.
FILES = [f"test/{'x' * 240}{index}.png" for index in range(150)]


def written(folder: Path, page: str) -> Path:
    file = folder / "report.html"
    file.write_text(page, encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = made_up(CLASSES, len(FILES), spread=4, names=FILES, gate=GATE, comparison=COMPARISON)
    return written(tmp_path_factory.mktemp("report"), made.report())


def assert_quiet(page: Shown) -> None:
    assert (page.complaints, page.requests, page.scrolls_sideways) == ([], [], False)


@pytest.mark.parametrize(("size", "scheme"), [(DESKTOP, "light"), (PHONE, "dark")], ids=["desktop", "phone"])
def test_it_is_for_everyone(browser: Browser, report: Path, size: tuple[int, int], scheme: Any) -> None:
    with shown(browser, report, size, color_scheme=scheme) as page:
        page.tab.locator(CELL).first.click()
        assert page.tab.locator(OPEN).is_visible()
        assert page.findings() == []
        assert_quiet(page)


@pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "no scripts"])
def test_a_cell_of_the_matrix_opens_its_images(browser: Browser, report: Path, scripts: bool) -> None:
    with shown(browser, report, java_script_enabled=scripts) as page:
        cell = page.tab.locator(CELL).first
        count = int(cell.inner_text())
        images = page.tab.locator(f"{OPEN} img")
        assert images.count() == 0
        cell.click()
        assert images.count() == min(count, 6)
        pair = re.fullmatch(r"\d+: (.+) taken for (.+)", cell.get_attribute("aria-label") or "")
        assert pair is not None
        assert page.tab.locator(f"{OPEN} h3").inner_text() == f"{pair[1]} taken for {pair[2]}"
        page.tab.keyboard.press("Escape")
        assert images.count() == 0
        assert (page.complaints, page.requests) == ([], [])


def test_in_kubeflows_frame_without_rights_it_opens_images_too(browser: Browser, report: Path, tmp_path: Path) -> None:
    page_text = html.escape(report.read_text(encoding="utf-8"))
    frame = f'<!DOCTYPE html><iframe sandbox="" srcdoc="{page_text}" width="1300" height="800"></iframe>'
    with shown(browser, written(tmp_path, frame)) as page:
        inside = page.tab.frame_locator("iframe")
        inside.locator(CELL).first.click()
        assert inside.locator(f"{OPEN} img").count() > 0
        inside.get_by_role("link", name="Classes").click()
        assert inside.locator("h1").count() == 1  # the page is still there
        assert not any("://" in url for url in page.requests if not url.startswith("about:"))


def test_the_keyboard_alone_reaches_all(browser: Browser, report: Path) -> None:
    with shown(browser, report) as page:
        press = page.tab.keyboard.press
        reached = []
        for _ in range(page.tab.locator("a, button, summary, [tabindex='0']").count()):
            press("Tab")
            reached.append(page.tab.evaluate("document.activeElement.outerHTML.slice(0, 60)"))
            if 'class="opens"' in reached[-1] and len(reached) < 30:
                press("Enter")
                assert page.tab.locator(OPEN).is_visible()
                press("Tab")
                assert page.tab.evaluate("document.activeElement.className") == "close"
                press("Enter")
                assert page.tab.locator(OPEN).count() == 0
            if reached[-1].startswith("<summary") and "Every epoch" in page.tab.evaluate(
                "document.activeElement.textContent"
            ):
                press("Enter")
                assert page.tab.get_by_text("Training, epoch by epoch").is_visible()
        expected = page.tab.locator("nav a, table button, .scroll, summary").all()
        missing = {one.evaluate("one => one.outerHTML.slice(0, 60)") for one in expected if one.is_visible()} - set(
            reached
        )
        assert missing == set()


def column(page: Shown, index: int) -> list[str]:
    return page.tab.locator(f"table.sortable tbody tr > :nth-child({index + 1})").all_inner_texts()


def test_the_table_of_classes_sorts_both_ways(browser: Browser, report: Path) -> None:
    with shown(browser, report) as page:
        assert column(page, 0) == CLASSES
        headers = page.tab.locator("table.sortable thead th")
        for index, key in ((5, float), (1, int), (0, lambda name: int(name.split()[1]))):
            for order in ("ascending", "descending"):
                headers.nth(index).get_by_role("button").click()
                values = [key(text) for text in column(page, index)]
                assert values == sorted(values, reverse=order == "descending")
                assert headers.nth(index).get_attribute("aria-sort") == order
                assert page.tab.locator("th[aria-sort]").count() == 1
        assert_quiet(page)


def test_without_scripts_nothing_is_missing(browser: Browser, report: Path) -> None:
    with shown(browser, report) as page:
        with_scripts = page.tab.locator("main").inner_text()
    with shown(browser, report, java_script_enabled=False) as page:
        assert page.tab.locator("main").inner_text() == with_scripts
        assert page.tab.locator("th button").count() == 0


def test_on_paper_all_tables_are_whole(browser: Browser, tmp_path: Path) -> None:
    file = written(tmp_path, made_up([f"class {number}" for number in range(80)], 400, gate=GATE).report())
    with shown(browser, file, A4, color_scheme="dark") as page:
        page.tab.emulate_media(media="print")
        assert not page.scrolls_sideways
        cut = (
            "[...document.querySelectorAll('.scroll')].filter((box) => box.scrollHeight > box.clientHeight + 1).length"
        )
        assert page.tab.evaluate(cut) == 0
        assert page.tab.get_by_text("Training, epoch by epoch").is_visible()
        assert not page.tab.locator("nav").is_visible()
        assert page.tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_names_of_any_kind_stay_in_their_boxes(browser: Browser, tmp_path: Path) -> None:
    classes = ["<b>bold</b>", "‮reversed", "قطة", "a" * 255, "\"'&amp;", "two\nlines"]
    names = [f"{name}/{index}.png" for index, name in enumerate(classes * 20)]
    file = written(tmp_path, made_up(classes, len(names), spread=4, names=names).report())
    for size in (DESKTOP, PHONE):
        with shown(browser, file, size) as page:
            assert page.tab.locator("b").count() == 0
            assert column(page, 0) == [
                "\"'&amp;",
                "<b>bold</b>",
                "a" * 39 + "…" + "a" * 39,
                "two\\nlines",
                "قطة",
                "\\u202ereversed",
            ]
            assert_quiet(page)


@pytest.mark.slow
def test_two_thousand_classes(browser: Browser, tmp_path: Path) -> None:
    classes = [f"n{number:05}_{'&' * 200}" for number in range(2000)]
    page_text = made_up(classes, 4_000, shape=(96, 96, 3), spread=2.2, image_of=noise((96, 96, 3))).report()
    assert len(page_text.encode()) < 5_000_000
    with shown(browser, written(tmp_path, page_text), PHONE) as page:
        assert len(column(page, 0)) == 2000
        assert page.tab.locator(".matrix tbody tr").count() == 20
        page.tab.locator("table.sortable thead th").nth(5).get_by_role("button").click()
        assert column(page, 5) == sorted(column(page, 5))
        assert_quiet(page)
