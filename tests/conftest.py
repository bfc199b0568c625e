"""What every test may use, and the table of bad inputs that closes a run."""

from __future__ import annotations

import os

# Before torch starts its threads: the tests run side by side, one to a core.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Iterator

import pytest
from hypothesis import settings

# Tests never judge time: an example may take as long as a busy machine needs.
settings.register_profile("shutterline", deadline=None, print_blob=True)
settings.load_profile("shutterline")

BAD_INPUT = "bad input"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """In CI nothing is skipped: what a user may lack, CI must have."""
    outcome = yield
    report: pytest.TestReport = outcome.get_result()  # type: ignore[attr-defined] # pluggy's result object
    if report.skipped and os.environ.get("CI") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, and CI skips nothing: {report.longrepr}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print every refused input with its message, as the tests saw them."""
    rows = [
        value
        for report in terminalreporter.stats.get("passed", [])
        for key, value in report.user_properties
        if key == BAD_INPUT
    ]
    if not rows:
        return
    terminalreporter.section(f"{len(rows)} bad inputs, exit code 2 each")
    width = max(len(name) for name, _ in rows)
    for name, message in sorted(map(tuple, rows)):
        terminalreporter.write_line(f"{name:<{width}}  {message}")
