from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

from components.train.curves import render_learning_curves
from tests.pages import needs_browser, shown
from tests.train.manifests import SPEED, history_of, manifest_of

DARK = "--blink-settings=preferredColorScheme=0"
FRAME = """<!DOCTYPE html>
<meta charset="utf-8">
<iframe sandbox="allow-same-origin" srcdoc="{page}" width="1000" height="600"></iframe>
<pre></pre>
<script>
const frame = document.querySelector("iframe");
frame.onload = () => {{
  const inside = frame.contentDocument;
  const size = (element) => {{
    const box = element.getBoundingClientRect();
    return [Math.round(box.width), Math.round(box.height)];
  }};
  document.querySelector("pre").textContent = JSON.stringify({{
    charts: [...inside.querySelectorAll(".chart svg")].map(size),
    lines: [...inside.querySelectorAll(".chart polyline")].map((line) => getComputedStyle(line).stroke),
    bars: [...inside.querySelectorAll("div.shares span")].map(size),
    fills: [...inside.querySelectorAll("div.shares span")].map((bar) => getComputedStyle(bar).backgroundColor),
    rows: [...inside.querySelectorAll("tbody tr")].map(size),
    ground: getComputedStyle(inside.body).backgroundColor,
    ink: getComputedStyle(inside.body).color,
    width: [inside.documentElement.scrollWidth, inside.documentElement.clientWidth],
    requests: frame.contentWindow.performance.getEntriesByType("resource").length,
  }});
}};
</script>
"""


def measured(page: str, directory: Path, *flags: str) -> dict[str, Any]:
    file = directory / "frame.html"
    file.write_text(FRAME.format(page=html.escape(page)), encoding="utf-8")
    document, complaints = shown(file, directory / "profile", *flags)
    assert complaints == []
    found = re.search(r"<pre>(.+?)</pre>", document)
    assert found is not None
    measures: dict[str, Any] = json.loads(html.unescape(found[1]))
    return measures


@needs_browser
def test_everything_is_seen_in_a_frame_without_scripts_in_light_and_in_dark(tmp_path: Path) -> None:
    page = render_learning_curves(manifest_of(history_of(12, eval_every=3), speed=SPEED))

    light, dark = measured(page, tmp_path), measured(page, tmp_path, DARK)

    for seen in (light, dark):
        assert len(seen["charts"]) == 4
        assert all(width > 300 and height > 150 for width, height in seen["charts"])
        assert len(seen["bars"]) == 7
        assert all(width > 0 and height > 20 for width, height in seen["bars"])
        assert len(set(seen["fills"])) == 7
        assert all(height > 10 for _, height in seen["rows"])
        assert seen["ground"] not in (seen["ink"], *seen["lines"], *seen["fills"])
        assert seen["width"][0] <= seen["width"][1], "the page scrolls sideways"
        assert seen["requests"] == 0
    assert light["ground"] == "rgb(255, 255, 255)"
    assert dark["ground"] == "rgb(20, 23, 26)"
    assert light["lines"] != dark["lines"]


@needs_browser
def test_a_thousand_epochs_show_too_and_their_table_waits_to_be_opened(tmp_path: Path) -> None:
    seen = measured(render_learning_curves(manifest_of(history_of(1000))), tmp_path)

    assert len(seen["charts"]) == 4
    assert all(width > 300 and height > 150 for width, height in seen["charts"])
    assert len(seen["rows"]) == 1000
    assert seen["requests"] == 0
