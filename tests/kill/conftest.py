from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.containers.conftest import docker_engine, images, runs
from tests.examples import write_digits
from tests.kill.draws import SEED_VARIABLE, settle_seed
from tests.kill.lives import IMAGES, KILLED
from tests.peers.fixtures import gcs_bucket, gcs_server

__all__ = ["docker_engine", "gcs_bucket", "gcs_server", "images", "runs"]


def pytest_configure(config: pytest.Config) -> None:
    settle_seed()


def pytest_report_header() -> str:
    return f"moments of kills: {SEED_VARIABLE}={settle_seed()}"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    outcome = yield
    report: pytest.TestReport = outcome.get_result()  # type: ignore[attr-defined] # pluggy's result object
    if report.failed:
        report.sections.append(("moments of kills", f"{SEED_VARIABLE}={settle_seed()} draws the same moments again"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    told: dict[str, list[Any]] = {}
    for report in terminalreporter.stats.get("passed", []):
        for key, (suite, hit) in (pair for pair in report.user_properties if pair[0] == KILLED):
            told.setdefault(f"{key}: {suite}", []).append(hit)
    if told:
        terminalreporter.section(
            f"runs killed, all with the uninterrupted run's weights ({SEED_VARIABLE}={settle_seed()})"
        )
    for suite, lives in told.items():
        kills = Counter(each for hit in lives for each in hit)
        counts = ", ".join(f"{count} {what}" for what, count in kills.most_common())
        terminalreporter.write_line(f"{suite}: {len(lives)} runs, {kills.total()} kills: {counts}")


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("digits") / "dataset", IMAGES)
