"""Looks at a dataset before its manifest is written: report, log, events, and whether it may be written at all."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Literal

from components.data_prep.engine.assemble import Assembled
from components.data_prep.quality.assess import assess
from components.data_prep.quality.columns import Columns
from components.data_prep.quality.model import Example, Finding, QualityReport
from components.data_prep.quality.page import render_page
from components.shared.decoding.rendering import Rendering
from components.shared.errors import DataError
from components.shared.events.data import DataFinding, Emit
from components.shared.files import write_json
from components.shared.html.page import write_page
from components.shared.limits import give_back_memory
from components.shared.logs import step_logger
from components.shared.text import shortened

REPORT, PAGE = "quality.json", "quality.html"
_EXAMPLES = 3
# What has been logged by those who found it.
_LOGGED = ("missing_classes", "similar_class_names", "unreadable", "left_out")
_LEAKAGE = ("leakage", "near_leakage")

_log = step_logger("data-prep")


class Inspection:
    """Inspects one dataset.

    Attributes:
        report: What was found, once it was inspected.
    """

    report: QualityReport

    def __init__(self, rendering: Rendering, on_leakage: Literal["warn", "fail"], emit: Emit) -> None:
        self._rendering, self._on_leakage, self._emit = rendering, on_leakage, emit

    def __call__(self, assembled: Assembled) -> list[Path]:
        """Write the report's files; DataError: held-out images are training images, too, and that is to fail."""
        columns = Columns.of(assembled)
        # Of 100,000 images 6 MB each time: decoding them, and looking for duplicates, is when most memory is taken.
        give_back_memory()
        self.report = assess(columns, self._rendering)
        give_back_memory()
        for finding in self.report.findings:
            self._emit(_event(finding))
        leaking = [finding for finding in self.report.findings if finding.kind in _LEAKAGE]
        if leaking and self._on_leakage == "fail":
            counts = " and ".join(f"{_counted(finding)} ({_kind(finding)})" for finding in leaking)
            raise DataError(
                f"{assembled.source.where}: leakage between the splits: {counts}, such as {_cases(leaking[0])}; keep "
                "images that show the same in one split, or set on_leakage to warn, which goes on and shows them in "
                f"{PAGE}"
            )
        for finding in self.report.findings:
            if finding.severity != "note" and finding.kind not in _LOGGED:
                such = f" Such as {cases}." if (cases := _cases(finding)) else ""
                _log.warning("%s: %s. %s%s %s", _kind(finding), _counted(finding), finding.text, such, finding.advice)
        report, page = assembled.new_file(REPORT), assembled.new_file(PAGE)
        write_json(report, self.report.model_dump(mode="json"))
        write_page(page, render_page(self.report, columns))
        return [report, page]

    @property
    def counts(self) -> dict[str, int]:
        """The count of each kind of finding."""
        return {finding.kind: finding.count for finding in self.report.findings}

    def summary(self) -> list[str]:
        """How many findings there are of each severity, as text."""
        counts = Counter(finding.severity for finding in self.report.findings)
        return [f"{count} {severity}{'s' * (count > 1)}" for severity, count in counts.items()]


def _kind(finding: Finding) -> str:
    return finding.kind.replace("_", " ")


def _counted(finding: Finding) -> str:
    by_split = ", ".join(f"{split} {count:,}" for split, count in finding.splits.items())
    of = finding.of if finding.count != 1 else {"images": "image", "classes": "class", "files": "file"}[finding.of]
    return f"{'at least ' * finding.at_least}{finding.count:,} {of}{f' ({by_split})' if by_split else ''}"


def _cases(finding: Finding) -> str:
    cases = [_case(example) for example in finding.examples[:_EXAMPLES]]
    return ", ".join(" = ".join(map(shortened, case)) for case in cases)


def _case(example: Example) -> list[str]:
    return [ref.file for ref in example.images] or [example.text]


def _event(finding: Finding) -> DataFinding:
    return DataFinding(
        kind=finding.kind,
        severity=finding.severity,
        count=finding.count,
        of=finding.of,
        text=finding.text,
        splits=dict(finding.splits.items()),
        at_least=finding.at_least,
        examples=[_case(example) for example in finding.examples[:_EXAMPLES]],
    )
