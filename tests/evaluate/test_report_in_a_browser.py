from __future__ import annotations

from pathlib import Path

from components.evaluate.evaluate import EvaluateResult
from tests.evaluate.conftest import Parts
from tests.pages import needs_browser, shown


@needs_browser
def test_the_report_shows_without_a_complaint(evaluated: tuple[Parts, EvaluateResult], tmp_path: Path) -> None:
    _, result = evaluated

    document, complaints = shown(result.report_file, tmp_path / "profile")

    assert complaints == []
    assert f"{result.findings.metrics['accuracy']:.2%}".replace("%", "") in document
    assert "<svg" in document
    assert document.count("<table") >= 2
