"""The summary of an evaluation as Markdown, for a pipeline's page: headline, gate, most confused pairs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape

from components.evaluate.confusion import most_confused
from components.evaluate.figures import HEADLINE, difference_texts, figure_name, figure_text, interval_text
from components.evaluate.findings import Findings
from components.shared.html.page import named, percent

_MAX_PAIRS = 10
_MAX_THRESHOLDS = 20


def render_summary(findings: Findings) -> str:
    """The summary as Markdown, some kilobytes; names from data are only ever text in it."""
    lines = [f"# {_heading(findings)}", ""]
    lines += [
        f"{findings.wrong:,} of {findings.images:,} images of the {findings.split} split taken for another class."
    ]
    lines += ["", findings.selection_note(), ""]
    figures = (
        (figure_name(name), figure_text(name, value), interval_text(name, findings.intervals.get(name)) or "–")
        for name in HEADLINE
        if (value := findings.metrics.get(name)) is not None
    )
    lines += _table(("figure", "value", "95 % interval"), figures)
    if findings.gate is not None:
        thresholds = sorted(findings.gate.thresholds, key=lambda one: one.passed)
        lines += ["## Gate", ""]
        rows = (
            (_text(one.metric), one.got_text, one.wanted, "✓ passed" if one.passed else "✗ not passed", one.reason)
            for one in thresholds[:_MAX_THRESHOLDS]
        )
        lines += _table(("figure", "value", "wanted", "result", "why"), rows)
        if (more := len(thresholds) - _MAX_THRESHOLDS) > 0:
            lines += [f"{more:,} more are in the report.", ""]
    if comparison := findings.comparison:
        change, low, high = difference_texts("accuracy", comparison.differences["accuracy"])
        verdict = f"Beside the baseline: {comparison.verdict}; accuracy {change} ({low} to {high})."
        lines += ["## Baseline", "", verdict, ""]
    if pairs := most_confused(findings, _MAX_PAIRS):
        lines += ["## Most confused", ""]
        names = findings.classes
        confused = (
            (_text(names[pair.label]), _text(names[pair.predicted]), f"{pair.count:,}", percent(pair.share, 1))
            for pair in pairs
        )
        lines += _table(("true", "taken for", "images", "share"), confused)
    return "\n".join(lines).rstrip() + "\n"


def _heading(findings: Findings) -> str:
    accuracy = f"{percent(findings.metrics['accuracy'])} accuracy"
    if findings.gate is None:
        return accuracy
    return f"{'✓ Passed' if findings.gate.passed else '✗ Not passed'}: {accuracy}"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return [*(f"| {' | '.join(line)} |" for line in lines), ""]


def _text(text: str) -> str:
    """A name from data, of which neither Markdown nor HTML makes anything but text."""
    return re.sub(r"([\\`*_{}\[\]()#+|~!:.@-])", r"\\\1", escape(named(text), quote=False))
