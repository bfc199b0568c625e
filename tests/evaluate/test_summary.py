from __future__ import annotations

import re

import pytest
from markdown_it import MarkdownIt

from components.evaluate.summary import render_summary
from components.shared.artifacts.gate import GateResult, ThresholdResult
from tests.evaluate.made_up import COMPARISON, GATE, ORIGIN, found, made_up

CLASSES = ["cat", "dog", "eel"]


def test_headline_gate_and_most_confused_pairs() -> None:
    findings = made_up(CLASSES, 400, spread=3, gate=GATE, comparison=COMPARISON).findings
    accuracy = findings.metrics["accuracy"]
    low, high = findings.intervals["accuracy"]
    summary = render_summary(findings)
    lines = summary.splitlines()

    assert lines[0] == f"# ✗ Not passed: {100 * accuracy:.2f} % accuracy"
    assert lines[2] == f"{findings.wrong:,} of 400 images of the test split taken for another class."
    assert f"| accuracy | {100 * accuracy:.2f} % | {100 * low:.2f} – {100 * high:.2f} % |" in lines
    gate = lines[lines.index("## Gate") + 2 :]
    assert gate[2:5] == [  # what is not reached first
        r"| recall\[class 2\] | 0.9100 | at least 0.97 | ✗ not passed |  |",
        "| accuracy | 0.8912 | at least 0.85 | ✓ passed |  |",
        r"| vs\_baseline | 0.0125 | not worse than the baseline | ✓ passed | not distinguishable |",
    ]
    assert "Beside the baseline: not distinguishable; accuracy +1.25 points (−0.20 points to +2.70 points)." in lines
    most = max(int(count.replace(",", "")) for count in re.findall(r"\| (\d+) \| [\d.]+ % \|", summary))
    assert lines[lines.index("## Most confused") + 4].split(" | ")[2] == str(most)


def test_without_gate_and_errors_it_is_short() -> None:
    summary = render_summary(found([0, 1, 2], [0, 1, 2], CLASSES))
    assert summary.startswith("# 100.00 % accuracy\n\n0 of 3 images of the test split taken for another class.\n")
    assert "## " not in summary
    assert "| accuracy | 100.00 % | 43.85" in summary


def test_a_long_gate_is_cut() -> None:
    thresholds = [ThresholdResult(metric=f"f1[{i}]", wanted="at least 0", got=0.5, passed=True) for i in range(50)]
    summary = render_summary(made_up(CLASSES, 50, gate=GateResult(passed=True, thresholds=thresholds)).findings)
    assert summary.startswith("# ✓ Passed: ")
    assert summary.count(r"f1\[") == 20
    assert "30 more are in the report." in summary


@pytest.mark.parametrize(
    "name",
    [
        "<img src=x onerror=alert(1)>",
        "a | b",
        "[link](https://example.org)",
        "https://example.org",
        "`code` *bold* _low_ ~~gone~~",
        "&lt;b&gt;",
        "back\\slash",
        "# heading",
        "two\nlines",
    ],
)
def test_names_are_only_ever_text(name: str) -> None:
    summary = render_summary(found([0, 0, 1, 1], [1, 1, 0, 1], [name, "other"]))
    tokens = MarkdownIt("gfm-like", {"linkify": False, "html": True}).parse(summary)
    cells = ["".join(child.content for child in token.children or ()) for token in tokens if token.type == "inline"]
    assert name.replace("\n", "\\n") in cells
    kinds = {child.type for token in tokens for child in token.children or ()}
    assert kinds <= {"text", "text_special"}
    assert ORIGIN.run not in summary
