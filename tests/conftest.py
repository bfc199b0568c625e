"""What every test may use, and the table of bad inputs that closes a run."""

from __future__ import annotations

import atexit
import functools
import gc
import inspect
import os
import shutil
import sys
import tempfile

# Before torch starts its threads: the tests run side by side, one to a core.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A network is exported once for all tests, by whichever process trains it first: 5 s of a core each.
if not os.environ.get("SHUTTERLINE_GRAPHS"):
    os.environ["SHUTTERLINE_GRAPHS"] = tempfile.mkdtemp(prefix="shutterline-graphs-")
    atexit.register(shutil.rmtree, os.environ["SHUTTERLINE_GRAPHS"], ignore_errors=True)

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from pipelines.targets.kfp_import import import_kfp

# Its grammars of IRIs take jsonschema more than a second to build, and no schema of ours or of Kubernetes has an IRI.
sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment] # which makes its import fail, as where it is missing

# Modules are compiled once, and not by each of the hundreds of processes that tests start.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
import_kfp()  # before a test does, which takes two seconds more
# kfp looks at the stack each time that a task gets something. Of a frame without a file, such as those of runpy and of
# workers of pytest-xdist, inspect goes through all modules: 95 % of the time of compiling, once tests have loaded many.
inspect.modulesbyfile.update({"<string>": "builtins", "<frozen runpy>": "runpy"})

# Tests never judge time: an example may take as long as a busy machine needs.
settings.register_profile("shutterline", deadline=None, print_blob=True)
settings.load_profile("shutterline")

# What a script starts in the background, or nohup, ignores these, and so would each command that a test sends them to.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

MARKS = ("slow", "containers", "kill")
BAD_INPUT = "bad input"
FAULT = "fault"


@pytest.fixture(autouse=True)
def _as_kfps_launcher_takes_it(request: pytest.FixtureRequest) -> Iterator[None]:
    """Check the executor's output of every component that a test runs through kfp, as KFP's launcher would."""
    folder = request.getfixturevalue("tmp_path") if "tmp_path" in request.fixturenames else None
    if "kfp.dsl.executor" in sys.modules:  # importing it takes a second, and most tests run no component
        from tests.peers.kfp_launcher import check_executors

        check_executors()
    yield
    if folder is not None and next(folder.rglob("executor_output.json"), None) is not None:
        from tests.peers.kfp_launcher import check_local_runs

        check_local_runs(folder)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium; tests that use it are marked by `tests.pages.needs_browser`.

    Not for the session: while Playwright runs, asyncio.run() fails in the same thread.
    """
    from playwright.sync_api import sync_playwright  # not for the many tests without

    from tests.pages import BROWSER

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=BROWSER)
        yield chromium
        chromium.close()


@functools.cache
def _says(file: Path, mark: str) -> bool:
    return mark in file.read_text("utf-8").lower()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Import no file that does not say which tests are asked for: `-m slow` takes half the time of all of them."""
    wanted = config.option.markexpr
    mark = "" if " or " in wanted else wanted.partition(" ")[0]
    is_test = collection_path.name.startswith("test_") and collection_path.suffix == ".py"
    return True if mark in MARKS and is_test and not _says(collection_path, mark) else None


def pytest_itemcollected(item: pytest.Item) -> None:
    """See to it that none is left out by that."""
    for mark in MARKS:
        if item.get_closest_marker(mark) and not _says(item.path, mark):
            raise pytest.UsageError(f"{item.nodeid} is marked {mark}: its file has to say so, or it is never collected")


def pytest_collection_finish() -> None:
    """What is imported stays: going through torch, kfp and the tests again and again takes a tenth of all time."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


# Python takes it apart at its end, since nanobind's modules complain of what is left; not earlier, since pytest goes
# through everything twice before that.
atexit.register(gc.unfreeze)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """In CI nothing is skipped: what a user may lack, CI must have."""
    outcome = yield
    report: pytest.TestReport = outcome.get_result()  # type: ignore[attr-defined] # pluggy's result object
    if report.skipped and os.environ.get("CI") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, and CI skips nothing: {report.longrepr}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print every refused input with its message, and what each fault cost, as the tests saw them."""

    def recorded(kind: str) -> list[Any]:
        passed = terminalreporter.stats.get("passed", [])
        return [value for report in passed for key, value in report.user_properties if key == kind]

    if faults := recorded(FAULT):
        _print_faults(terminalreporter, faults)
    rows = recorded(BAD_INPUT)
    if not rows:
        return
    terminalreporter.section(f"{len(rows)} bad inputs, exit code 2 each")
    width = max(len(name) for name, _ in rows)
    for name, message in sorted(map(tuple, rows)):
        terminalreporter.write_line(f"{name:<{width}}  {message}")


def _print_faults(terminalreporter: pytest.TerminalReporter, rows: list[dict[str, Any]]) -> None:
    """The fault table: the training was bit-identical in every row that is here."""
    terminalreporter.section(f"{len(rows)} faults; the training bit-identical in each")
    width = max(len(row["fault"]) for row in rows)
    head = f"{'fault':<{width}}  broker  events  at exit  lost  equal duplicates  s more at start  s more at exit"
    terminalreporter.write_line(head)
    for row in sorted(rows, key=lambda row: (row["broker"], row["fault"])):
        terminalreporter.write_line(
            f"{row['fault']:<{width}}  {row['broker']:<6}  {row['events']:>6}  {row['at_exit']:>7}  {row['lost']:>4}  "
            f"{row['duplicates']:>16}  {row['waited_at_start']:>15.2f}  {row['waited_at_exit']:>14.2f}"
        )
