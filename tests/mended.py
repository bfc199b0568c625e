"""What 0.5.0 did without a warning, and what happens now: the mark ``mended(line, input=, before=, now=)`` of tests.

``line`` is a number of :data:`LINES`; ``input`` is what was given, ``before`` what 0.5.0 did with it, ``now`` what
happens since. The summary of a test run prints the table.
"""

from __future__ import annotations

import pytest

LINES: dict[int, str] = {
    1: "transforms that change the values' scale",
    2: "schedules that set the learning rate",
    3: "frozen layers, and what is trainable",
    4: "files of weights, as others write them",
    5: "names of split folders",
    6: "files that are not images",
    7: "alpha channels and unusual TIFFs",
    8: "Unicode names, outputs below the data, links",
    9: "data without params",
    10: "counts by split and class",
    11: "gzip in a bucket, long params",
    12: "going on from a checkpoint",
    13: "two writers, and a run that is killed",
    14: "a full disk, and file modes",
    15: "bounds, and files that are not what they seem",
    16: "services, and an installation without extras",
    17: "the speed report",
    18: "progress",
    19: "one message for one failure",
}
MARK = "mended"


def keep_marks(item: pytest.Item) -> None:
    """Let a test's report carry its lines of the table."""
    for mark in item.iter_markers(MARK):
        item.user_properties.append(
            (MARK, (mark.args[0], mark.kwargs["input"], mark.kwargs["before"], mark.kwargs["now"]))
        )


def print_table(reporter: pytest.TerminalReporter) -> None:
    """The table, of the tests that ran: each input, what 0.5.0 did, what happens now, and how many tests say so."""
    rows: dict[tuple[int, str, str, str], list[str]] = {}
    for outcome in ("passed", "failed", "error"):
        for report in reporter.stats.get(outcome, []):
            for key, value in getattr(report, "user_properties", ()):  # of a module that cannot be collected: none
                if key == MARK:
                    rows.setdefault(tuple(value), []).append(outcome)
    if not rows:
        return
    reporter.section(f"{len(rows)} inputs that 0.5.0 took without a warning, or answered wrongly")
    for line, title in LINES.items():
        of_line = {row: outcomes for row, outcomes in rows.items() if row[0] == line}
        if of_line:
            reporter.write_line(f"{line}. {title}")
        for (_, given, before, now), outcomes in sorted(of_line.items()):
            bad = len(outcomes) - outcomes.count("passed")
            reporter.write_line(f"   {given}")
            reporter.write_line(f"      0.5.0: {before}")
            told = f"{bad} FAILED" if bad else "passed"
            reporter.write_line(f"      now:   {now} ({len(outcomes)} test{'s'[: len(outcomes) > 1]}, {told})")
