"""Trials of a dataset in a bucket: fetched for the trial, and nothing is written there."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.train.__main__ import main
from tests.examples import write_params
from tests.peers.fixtures import gcs_bucket, gcs_server
from tests.peers.object_store import Bucket

__all__ = ["gcs_bucket", "gcs_server"]


@pytest.mark.parametrize("trial", ["--smoke", "--find-learning-rate"])
def test_a_trial_reads_a_dataset_in_a_bucket_and_writes_nothing_there(
    trial: str,
    dataset: Path,
    gcs_bucket: Bucket,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for path in dataset.rglob("*"):
        if path.is_file():
            gcs_bucket.write(f"data/{path.relative_to(dataset)}", path.read_bytes())
    before = gcs_bucket.names()
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setattr("tempfile.tempdir", None)
    params = write_params(tmp_path / "params.json")

    assert main([trial, "--dataset", f"{gcs_bucket.uri}/data", "--params", str(params)]) == 0

    assert gcs_bucket.names() == before
    assert list(scratch.glob("shutterline*")) == []  # torch may leave a folder of its own
    assert "fetched" in capsys.readouterr().err
