from __future__ import annotations

from pathlib import Path

import pytest

from components.evaluate.evaluate import evaluate
from tests.evaluate.conftest import Parts, parts_in
from tests.peers.fixtures import bucket, gcs_bucket, gcs_server, s3_bucket, s3_server, seaweed

__all__ = ["bucket", "gcs_bucket", "gcs_server", "s3_bucket", "s3_server", "seaweed"]


@pytest.fixture(scope="session")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    """A model and its evaluation, to be read alone."""
    parts = parts_in(tmp_path_factory.mktemp("ready"))
    evaluate(**parts.arguments())
    return parts


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Where versions are published."""
    return tmp_path / "published"
