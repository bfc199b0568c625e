from __future__ import annotations

from collections.abc import Callable

import pytest

from components.shared.logs import log_to_stderr
from tests.peers.fixtures import gcs_bucket, gcs_server, s3_bucket, s3_server, seaweed

__all__ = ["gcs_bucket", "gcs_server", "s3_bucket", "s3_server", "seaweed"]


@pytest.fixture
def log(capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """What has been logged since the last call."""
    log_to_stderr()
    return lambda: capsys.readouterr().err
