"""A training whose checkpoints are in a bucket, killed and started again where nothing of it is: the same weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.kill.lives import Attempt, Places, Whole, draws_of, runs, survives_where, uninterrupted
from tests.peers.gcs import GcsBucket

pytestmark = pytest.mark.kill


@pytest.fixture(scope="module")
def whole(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return uninterrupted(tmp_path_factory.mktemp("bucket"), dataset)


@pytest.mark.parametrize("number", runs(10))
def test_a_killed_training_goes_on_from_a_bucket(
    whole: Whole, gcs_bucket: GcsBucket, number: int, tmp_path: Path
) -> None:
    def machine(attempt: int) -> Path:
        return tmp_path / f"machine-{attempt}"

    def start(attempt: int) -> Attempt:
        scratch = {"SHUTTERLINE_SCRATCH": str(machine(attempt) / "scratch")}
        own = replace(whole.setting, environment=scratch)
        return own.start(machine(attempt), 1, checkpoints=f"{gcs_bucket.uri}/kept")

    def checkpoints() -> list[str]:
        return [name for name in gcs_bucket.names("kept/") if name.endswith(".json")]

    def forget() -> None:
        for name in gcs_bucket.names():
            gcs_bucket.delete(name)

    survives_where(
        whole,
        draws_of("bucket", number),
        start=start,
        places=lambda attempt: Places(machine(attempt), machine(attempt) / "model"),
        checkpoints=checkpoints,
        forget=forget,
    )
    assert len(checkpoints()) == 3, gcs_bucket.names()
