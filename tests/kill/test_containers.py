"""A training in containers that `docker kill` and `docker stop` end, and that others go on with: the same weights."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from components.train.checkpoints.format import list_checkpoints
from tests.containers.conftest import Images
from tests.containers.engine import HARDENED, Docker, flags_of
from tests.examples import write_params
from tests.kill.draws import draws_of
from tests.kill.draws import runs as numbers
from tests.kill.lives import KILLED, PARAMS, left_in

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
def test_a_killed_container(
    container: Container, runs: Path, number: int, record_property: Callable[..., None]
) -> None:
    draws = draws_of("containers", number)
    uninterrupted = folder_in(runs, "uninterrupted")
    begun = time.monotonic()
    with container.started(uninterrupted) as name:
        code, log = container.ended(name)
    life = time.monotonic() - begun
    assert code == 0, log

    hit: list[str] = []
    while not hit:  # one may be faster than the one whose life was measured
        folder = folder_in(runs, f"{len(list(runs.iterdir()))}")
        hit, log = survives(container, folder, draws, life)

    story = f"{', '.join(hit)}, then:\n{log}"
    assert left_in(folder / "model") == left_in(uninterrupted / "model"), story
    record_property(KILLED, ("in containers", hit))


def survives(container: Container, folder: Path, draws: random.Random, life: float) -> tuple[list[str], str]:
    kills, hit = draws.randint(1, 2), list[str]()
    while True:
        had = list_checkpoints(folder / "checkpoints")
        with container.started(folder) as name:
            done = interrupted(container, name, draws, life) if len(hit) < kills else None
            code, log = container.ended(name)
        if done is not None and code != 0:
            assert code in done.codes, log
            assert "Traceback" not in log
            hit.append(done.verb)
            continue
        assert code == 0, log
        assert not had or "going on from a checkpoint" in log, log
        return hit, log


@dataclass(frozen=True)
class Interruption:
    """What was done to a container, and the exit codes it may have then."""

    verb: str
    codes: tuple[int, ...]


def interrupted(container: Container, name: str, draws: random.Random, life: float) -> Interruption | None:
    time.sleep(draws.uniform(0, 0.9 * life))
    engine = container.engine
    is_training = " images in batches of " in engine.logs(name)
    verb = draws.choice(("kill", "stop"))
    if not engine.state(name)["Running"]:
        return None
    try:
        engine.said(*(("kill",) if verb == "kill" else ("stop", "--time=10")), name)
    except RuntimeError:  # it has ended in between
        return None
    codes = {"kill": (137,), "stop": (143,) if is_training else (143, 137)}
    return Interruption(f"docker {verb}", codes[verb])
