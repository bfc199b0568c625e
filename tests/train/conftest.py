from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest

from components.train.train import train
from tests.examples import small, write_digits
from tests.peers.fixtures import bucket as bucket
from tests.peers.fixtures import gcs_bucket as gcs_bucket
from tests.peers.fixtures import gcs_server as gcs_server
from tests.peers.fixtures import s3_bucket as s3_bucket
from tests.peers.fixtures import s3_server as s3_server
from tests.peers.fixtures import seaweed as seaweed


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 digits to train on, in 7 batches of 32, and 100 to test."""
    return write_digits(tmp_path_factory.mktemp("digits") / "dataset")


@pytest.fixture(scope="session")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 digits to train on, in 2 batches of 32, and 30 to test."""
    return write_digits(tmp_path_factory.mktemp("few") / "dataset", 90)


@pytest.fixture(scope="session")
def finished(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`model` and `checkpoints` of a finished training of `small()`; nothing may be written there."""
    folder = tmp_path_factory.mktemp("finished")
    train(dataset=dataset, model=folder / "model", params=small(), checkpoints=folder / "checkpoints")
    return folder


@pytest.fixture
def finished_copy(finished: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    return Path(shutil.copytree(finished, tmp_path / "finished"))


@pytest.fixture(scope="session")
def learnt(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory of 12 epochs; nothing may be written there."""
    model = tmp_path_factory.mktemp("learnt") / "model"
    train(dataset=dataset, model=model, params=small(num_epochs=12))
    return model


@pytest.fixture
def every_step_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each step of a training emit its progress."""
    monkeypatch.setattr("components.train.progress.EVENT_EVERY_S", -1.0)


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """What the steps log, whatever an earlier test has done to their logger."""
    steps = logging.getLogger("shutterline")
    monkeypatch.setattr(steps, "handlers", [caplog.handler])
    monkeypatch.setattr(steps, "propagate", False)
    monkeypatch.setattr(caplog.handler, "filters", [logging.Filter("shutterline")])  # a client's thread may be left
    caplog.set_level(logging.INFO, logger="shutterline")
    return caplog
