"""Tests for a GPU: collected where SHUTTERLINE_TEST_DEVICE names a device (`make test-gpu`: cuda), and else not at all.

`SHUTTERLINE_TEST_DEVICE=cpu` goes the same ways on a CPU, where a step is eager whatever is asked for.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

# Before torch starts its threads: the tests run side by side.
os.environ.setdefault("OMP_NUM_THREADS", "1")
DEVICE = os.environ.get("SHUTTERLINE_TEST_DEVICE", "")
collect_ignore_glob = [] if DEVICE else ["test_*.py"]


def pytest_configure(config: pytest.Config) -> None:
    if not DEVICE:
        return
    import torch

    if DEVICE.startswith("cuda") and not torch.cuda.is_available():
        pytest.exit("these tests need a GPU, and torch sees none; with SHUTTERLINE_TEST_DEVICE=cpu they run eagerly", 2)
    from tests.kill.lives import settle_seed

    settle_seed()


def pytest_report_header() -> str:
    if not DEVICE.startswith("cuda"):
        return f"device under test: {DEVICE or 'none'}"
    import torch

    from tests.bench.gpu import describe

    return f"device under test: {describe(torch.device(DEVICE))}"


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 digits to train on, in 6 batches of 32 and one of 8, and 100 to test."""
    from tests.examples import write_digits

    return write_digits(tmp_path_factory.mktemp("digits") / "dataset")


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """What the steps log."""
    steps = logging.getLogger("shutterline")
    monkeypatch.setattr(steps, "handlers", [caplog.handler])
    monkeypatch.setattr(steps, "propagate", False)
    caplog.set_level(logging.INFO, logger="shutterline")
    return caplog
