"""A training whose checkpoints lie in a bucket, killed and started again where nothing of it is: the same weights."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kill.draws import draws_of, runs
from tests.kill.lives import KILLED, Setting, Uninterrupted, settled, survives_where
from tests.kill.moments import Places
from tests.kill.processes import Attempt
from tests.peers.gcs import GcsBucket

pytestmark = pytest.mark.kill


@pytest.fixture(scope="module")
def setting(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Setting, Uninterrupted]:
    folder = tmp_path_factory.mktemp("bucket")
    plain = settled(folder, dataset)
    return plain, plain.uninterrupted(folder)


@pytest.mark.parametrize("number", runs(10))
def test_a_killed_training_goes_on_from_a_bucket(
    setting: tuple[Setting, Uninterrupted],
    gcs_bucket: GcsBucket,
    number: int,
    tmp_path: Path,
    record_property: Callable[..., None],
) -> None:
    hit = survives_elsewhere(*setting, gcs_bucket, tmp_path, draws_of("bucket", number))
    record_property(KILLED, ("checkpoints in a bucket", hit))


def survives_elsewhere(
    setting: Setting, whole: Uninterrupted, bucket: GcsBucket, folder: Path, draws: random.Random
) -> list[str]:
    def machine(number: int) -> Path:
        return folder / f"machine-{number}"

    def forget() -> None:
        for name in bucket.names():
            bucket.delete(name)

    hit = survives_where(
        whole,
        draws,
        start=lambda number: started(setting, machine(number), bucket),
        places=lambda number: Places(machine(number), machine(number) / "model"),
        checkpoints=lambda: whole_in(bucket),
        forget=forget,
    )
    assert len(whole_in(bucket)) == 3, bucket.names()
    return hit


def started(setting: Setting, machine: Path, bucket: GcsBucket) -> Attempt:
    own = Setting(setting.dataset, setting.params, environment={"SHUTTERLINE_SCRATCH": str(machine / "scratch")})
    return own.start(machine, 1, checkpoints=f"{bucket.uri}/kept")


def whole_in(bucket: GcsBucket) -> list[str]:
    return [name for name in bucket.names("kept/") if name.endswith(".json")]
