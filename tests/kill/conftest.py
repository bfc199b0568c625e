from __future__ import annotations

from pathlib import Path

import pytest

from tests.containers.conftest import docker_engine, images, runs
from tests.examples import write_digits
from tests.kill.lives import IMAGES, SEED_VARIABLE, settle_seed
from tests.peers.fixtures import gcs_bucket, gcs_server

__all__ = ["docker_engine", "gcs_bucket", "gcs_server", "images", "runs"]


def pytest_configure(config: pytest.Config) -> None:
    settle_seed()


def pytest_report_header() -> str:
    return f"moments of kills: {SEED_VARIABLE}={settle_seed()} draws the same again"


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("digits") / "dataset", IMAGES)
