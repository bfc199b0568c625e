"""HTML pages as tests read them: parsed, and in a real browser."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser
from playwright.sync_api import Page as Tab

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
VOID = {"meta", "img", "br", "hr", "link", "input", "base", "embed", "source", "wbr"}
SAFE_TAGS = set(
    "html head meta title style body main header nav section h1 h2 h3 p dl div dt dd table caption thead tbody tr th "
    "td span small bdi wbr a ul ol li figure figcaption img svg line text polyline rect circle path details summary "
    "pre button script".split()
)
DESKTOP, PHONE = (1360, 900), (390, 844)


class Page(HTMLParser):
    """A parsed page; parsing fails where a tag is closed that is not open."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.source = text
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self._open: list[str] = []
        self._is_after_wbr = False
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs), f"an attribute twice: {attrs}"
        if tag not in VOID:
            self._open.append(tag)
        self._is_after_wbr = tag == "wbr"

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        tag = self._open[-1] if self._open else ""
        if self._is_after_wbr:
            data, self._is_after_wbr = self.texts.pop()[1] + data, False
        self.texts.append((tag, data))

    def every(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def text(self) -> str:
        """What is read; lines may end inside a name, which adds nothing to it."""
        return " ".join(" ".join(data for tag, data in self.texts if tag not in ("style", "script")).split())


def assert_harmless(page: Page) -> None:
    """Nothing in the page loads, runs or leads anywhere, but one script that its policy names by its digest."""
    assert {tag for tag, _ in page.tags} <= SAFE_TAGS
    ids = {attributes.get("id") for _, attributes in page.tags}
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            assert name not in ("xlink:href", "srcset", "action", "background", "poster", "srcdoc"), (tag, name)
            if name == "href":
                assert (value or "").startswith("#")
                assert (value or "")[1:] in ids
            if name == "src":
                assert re.match(r"data:image/(png|jpeg);base64,[A-Za-z0-9+/]+=*$", value or "")
            if name == "style":
                assert re.fullmatch(r"--share:[01]\.\d{3}", value or "")
    style = next(data for tag, data in page.texts if tag == "style")
    assert "url(" not in style
    assert "@import" not in style
    scripts = [data for tag, data in page.texts if tag == "script"]
    assert len(scripts) == len(page.every("script")) <= 1
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    policy = next(meta for meta in page.every("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert (policy["content"] or "").split("; ") == [
        "default-src 'none'",
        "style-src 'unsafe-inline'",
        "img-src data:",
        *(f"script-src 'sha256-{digest}'" for digest in digests),
        "base-uri 'none'",
        "form-action 'none'",
    ]


@dataclass(frozen=True)
class Shown:
    """A page in a browser, and what its console had and what it asked for since."""

    tab: Tab
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def findings(self) -> list[str]:
        """Serious and critical findings of axe-core, which no policy of the page keeps out."""
        self.tab.evaluate((files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8"))
        found = self.tab.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
        return [
            f"{one['id']}: {node['html'][:200]}"
            for one in found
            if one["impact"] in ("serious", "critical")
            for node in one["nodes"]
        ]

    @property
    def scrolls_sideways(self) -> bool:
        """Whether the page is wider than the window."""
        wide: bool = self.tab.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
        return wide


@contextmanager
def shown(browser: Browser, file: Path, size: tuple[int, int] = DESKTOP, **options: Any) -> Iterator[Shown]:
    """Open a page in a window of a size; options are Playwright's, such as ``color_scheme``."""
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, **options)
    try:
        page = Shown(context.new_page())
        page.tab.on("console", lambda message: page.complaints.append(message.text))
        page.tab.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.tab.on("request", lambda request: page.requests.append(request.url))
        page.tab.goto(file.as_uri())
        assert page.requests.pop(0) == file.as_uri()
        page.requests[:] = [url for url in page.requests if not url.startswith("data:")]
        yield page
    finally:
        context.close()
