"""The report in a real browser: everything in it shows, and the browser has nothing to complain of."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from components.evaluate.evaluate import evaluate
from tests.evaluate.conftest import Place, params_of

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_the_report_shows_without_a_complaint(place: Place, tmp_path: Path) -> None:
    assert BROWSER is not None
    result = evaluate(model=place.model, dataset=place.dataset, evaluation=tmp_path / "out", params=params_of())

    shown = subprocess.run(
        [
            BROWSER,
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
            *("--disable-background-networking", "--disable-component-update", "--enable-logging=stderr"),
            *(f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", result.report_file.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )

    # Chromium logs what a page's console would show, refused styles and failed loads among it.
    assert [line for line in shown.stderr.splitlines() if "CONSOLE" in line] == []
    assert f"{result.metrics.accuracy:.2%}".replace("%", "") in shown.stdout
    assert "<svg" in shown.stdout
    assert shown.stdout.count("<table") >= 2
