"""Where checkpoints are kept: one training at a time, in a directory that can be written."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from components.shared.artifacts.model import open_model
from components.shared.errors import CheckpointError, InputError
from components.train.checkpoints.format import write_checkpoint
from components.train.checkpoints.resume import last_good, lock_directory
from components.train.train import train
from tests.examples import small
from tests.train.checkpoints.making import manifest

LOG = logging.getLogger("shutterline.train")


def test_a_second_training_waits_and_then_says_who_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(LOG, "propagate", True)
    who = f"another training keeps its checkpoints there, process {os.getpid()} on "
    with lock_directory(tmp_path / "kept", LOG):
        with (
            pytest.raises(CheckpointError, match=f"{who}.*; end it"),
            lock_directory(tmp_path / "kept", LOG, timeout_s=0.3),
        ):
            raise AssertionError
        # A broker's client of an earlier test may still be logging.
        (waiting,) = [record.getMessage() for record in caplog.records if record.name == LOG.name]
        assert waiting.startswith(f"{tmp_path}/kept: {who}")
        assert waiting.endswith("; waiting for its end")
    with lock_directory(tmp_path / "kept", LOG):
        pass


def test_a_directory_that_cannot_be_one_leaves_the_earlier_model_as_it_was(
    dataset: Path, finished: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    for where in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match=rf"checkpoints {where}: cannot be written .*, or name another directory"):
            train(dataset=dataset, model=finished / "model", params=small(), checkpoints=where)
    open_model(finished / "model")


def test_the_last_good_one_is_whole(tmp_path: Path) -> None:
    assert last_good(tmp_path) is None
    for epoch in (1, 2, 3):
        path = write_checkpoint(tmp_path, manifest(epoch), {"epoch": epoch})
    path.with_suffix(".pt").write_bytes(b"damaged")
    found = last_good(tmp_path)
    assert found is not None
    assert found.epoch == 2
