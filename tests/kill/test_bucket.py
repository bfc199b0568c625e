"""A training whose checkpoints lie in a bucket, killed and started again where nothing of it is: the same weights."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kill.draws import draws_of, runs
from tests.kill.lives import KILLED, Setting, Uninterrupted, goes_on, hit_by, left_in, settled
from tests.kill.moments import Places, drawn
from tests.kill.processes import Attempt
from tests.peers.gcs import GcsBucket

pytestmark = pytest.mark.kill


@pytest.fixture(scope="module")
def setting(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Setting, Uninterrupted]:
    """The uninterrupted run keeps its checkpoints here: where they lie must not change a weight."""
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
    """As :func:`~tests.kill.lives.survives`, each attempt on a machine that has nothing of the ones before.

    Returns:
        What was hit, by kill.
    """
    kills, hit = draws.randint(1, 3), list[str]()
    number = 0
    while True:
        number += 1
        machine = folder / f"machine-{number}"
        had = whole_in(bucket)
        attempt = started(setting, machine, bucket)
        if len(hit) < kills:
            moment = drawn(draws, whole.life)
            if attempt.killed_at(moment, Places(machine, machine / "model")):
                hit.append(hit_by(moment, attempt.said))
                goes_on(attempt, had)
                continue
            if not hit:  # it was faster than the one whose life was measured
                for name in bucket.names():
                    bucket.delete(name)
                continue
        code = attempt.end()
        story = f"killed {len(hit)} times ({', '.join(hit)}), then:\n{attempt.said}"
        assert code == 0, story
        goes_on(attempt, had)
        assert left_in(machine / "model") == whole.left, story
        assert len(whole_in(bucket)) == 3, bucket.names()
        return hit


def started(setting: Setting, machine: Path, bucket: GcsBucket) -> Attempt:
    """An attempt on a machine of its own."""
    own = Setting(setting.dataset, setting.params, environment={"SHUTTERLINE_SCRATCH": str(machine / "scratch")})
    return own.start(machine, 1, checkpoints=f"{bucket.uri}/kept")


def whole_in(bucket: GcsBucket) -> list[str]:
    """The checkpoints in a bucket, by their manifests."""
    return [name for name in bucket.names("kept/") if name.endswith(".json")]
