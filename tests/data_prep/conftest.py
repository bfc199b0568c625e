from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator

import pytest

from components.shared.logs import log_to_stderr
from tests.peers.fixtures import gcs_bucket, gcs_server, s3_bucket, s3_server, seaweed

__all__ = ["gcs_bucket", "gcs_server", "s3_bucket", "s3_server", "seaweed"]


@pytest.fixture(scope="module", autouse=True)
def _files_of_libraries() -> Iterator[None]:
    """Libraries leave files open to the garbage collector; they are collected here, so that no later test is blamed."""
    gc.freeze()  # what is there is kept, and to go through it again takes a third of a second
    yield
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="unclosed file", category=ResourceWarning)
        gc.collect()


@pytest.fixture
def log(capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """What has been logged since the last call."""
    log_to_stderr()
    return lambda: capsys.readouterr().err
