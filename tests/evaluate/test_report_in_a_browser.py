from __future__ import annotations

from pathlib import Path

from components.evaluate.evaluate import evaluate
from tests.evaluate.conftest import AnyPath, params_of
from tests.pages import needs_browser, shown


@needs_browser
def test_the_report_shows_without_a_complaint(place: AnyPath, tmp_path: Path) -> None:
    result = evaluate(model=place.model, dataset=place.dataset, evaluation=tmp_path / "out", params=params_of())

    document, complaints = shown(result.report_file, tmp_path / "profile")

    assert complaints == []
    assert f"{result.findings.metrics.accuracy:.2%}".replace("%", "") in document
    assert "<svg" in document
    assert document.count("<table") >= 2
