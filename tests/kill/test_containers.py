"""A training in containers that `docker kill` and `docker stop` end, and that others go on with: the same weights."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from components.train.checkpoints.format import list_checkpoints
from tests.containers.conftest import Images
from tests.containers.engine import HARDENED, Docker, flags_of
from tests.examples import write_params
from tests.kill.lives import PARAMS, draws_of, left_in
from tests.kill.lives import runs as numbers

pytestmark = [pytest.mark.kill, pytest.mark.containers]


@dataclass(frozen=True)
class Container:
    """A training in a container, which can be started again and again."""

    engine: Docker
    image: str
    dataset: Path
    params: Path

    @contextmanager
    def started(self, folder: Path) -> Iterator[str]:
        mounts = {self.dataset: "/dataset:ro", self.params: "/params.json:ro", folder: "/runs"}
        flags = [*HARDENED, *flags_of(mounts=mounts, environment={"OMP_NUM_THREADS": "1"})]
        options = ["--dataset", "/dataset", "--model", "/runs/model", "--params", "/params.json"]
        options += ["--checkpoints", "/runs/checkpoints"]
        with self.engine.running(self.image, *options, flags=flags) as name:
            yield name

    def ended(self, name: str) -> tuple[int, str]:
        while self.engine.state(name)["Running"]:
            time.sleep(0.05)
        return self.engine.state(name)["ExitCode"], self.engine.logs(name)

    def interrupted(self, name: str, draws: random.Random, life_s: float) -> tuple[int, ...]:
        """The exit codes that the container may have after what was done to it; none: it was faster."""
        time.sleep(draws.uniform(0, 0.9 * life_s))
        is_training = " images in batches of " in self.engine.logs(name)
        verb = draws.choice((("kill",), ("stop", "--time=10")))
        if not self.engine.state(name)["Running"]:
            return ()
        try:
            self.engine.output(*verb, name)
        except RuntimeError:  # it has ended in between
            return ()
        return (137,) if verb[0] == "kill" else (143,) if is_training else (143, 137)


@pytest.fixture(scope="module")
def container(
    docker_engine: Docker, images: Images, dataset: Path, tmp_path_factory: pytest.TempPathFactory
) -> Container:
    folder = tmp_path_factory.mktemp("containers")
    return Container(docker_engine, images["train"], dataset, write_params(folder / "params.json", **PARAMS))


def folder_in(runs: Path, name: str) -> Path:
    folder = runs / name
    folder.mkdir()
    shutil.chown(folder, runs.stat().st_uid, runs.stat().st_gid)
    folder.chmod(0o777)
    return folder


@pytest.mark.parametrize("number", numbers(5))
def test_a_killed_container(container: Container, runs: Path, number: int) -> None:
    draws = draws_of("containers", number)
    whole = folder_in(runs, "uninterrupted")
    begun = time.monotonic()
    with container.started(whole) as name:
        code, log = container.ended(name)
    life_s = time.monotonic() - begun
    assert code == 0, log

    folder = folder_in(runs, "0")
    while (interruptions := survives(container, folder, draws, life_s)) == 0:  # faster than the uninterrupted one
        folder = folder_in(runs, f"{len(list(runs.iterdir()))}")
    assert left_in(folder / "model") == left_in(whole / "model"), f"after {interruptions} interruptions"


def survives(container: Container, folder: Path, draws: random.Random, life_s: float) -> int:
    wanted, interruptions = draws.randint(1, 2), 0
    while True:
        had = list_checkpoints(folder / "checkpoints")
        with container.started(folder) as name:
            codes = container.interrupted(name, draws, life_s) if interruptions < wanted else ()
            code, log = container.ended(name)
        if codes and code != 0:
            assert code in codes, log
            assert "Traceback" not in log
            interruptions += 1
            continue
        assert code == 0, log
        assert not had or "going on from a checkpoint" in log, log
        return interruptions
