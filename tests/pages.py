"""HTML pages as tests read them: parsed, and in a real browser."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
VOID = {"meta", "img", "br", "hr", "link", "input", "base", "embed", "source"}
SAFE_TAGS = set(
    "html head meta title style body main header section h1 h2 p dl div dt dd table caption thead tbody tr th td span "
    "ol li figure figcaption img svg line text polyline rect circle details summary pre".split()
)


class Page(HTMLParser):
    """A parsed page; parsing fails where a tag is closed that is not open."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.source = text
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs), f"an attribute twice: {attrs}"
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self._open[-1] if self._open else "", data))

    def every(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def text(self) -> str:
        return " ".join(data for tag, data in self.texts if tag != "style")


def assert_harmless(page: Page) -> None:
    """Nothing in the page loads, runs or leads anywhere."""
    assert {tag for tag, _ in page.tags} <= SAFE_TAGS
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            assert name not in ("href", "xlink:href", "srcset", "action", "background", "poster"), (tag, name)
            if name == "src":
                assert (value or "").startswith("data:image/png;base64,")
            if name == "style":
                assert re.fullmatch(r"--share:[01]\.\d{3}", value or "")
    style = next(data for tag, data in page.texts if tag == "style")
    assert "url(" not in style
    assert "@import" not in style
    policy = next(meta for meta in page.every("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert (policy["content"] or "").split("; ")[:3] == [
        "default-src 'none'",
        "style-src 'unsafe-inline'",
        "img-src data:",
    ]


def shown(page: Path, profile: Path, *flags: str) -> tuple[str, list[str]]:
    """Open a page in a headless browser: the document once it is loaded, and what the console would show."""
    assert BROWSER is not None
    done = subprocess.run(
        [
            BROWSER,
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
            *("--disable-background-networking", "--disable-component-update", "--enable-logging=stderr"),
            *(f"--user-data-dir={profile}", *flags, "--dump-dom", page.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
