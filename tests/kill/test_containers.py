"""A training in containers that `docker kill` and `docker stop` end, and that others go on with: the same weights."""

from __future__ import annotations

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
from tests.kill.lives import KILLED, PARAMS, Left, left_in

pytestmark = [pytest.mark.kill, pytest.mark.containers]


@dataclass(frozen=True)
class Container:
    """A training in a container, which can be started again and again.

    Attributes:
        engine: Runs it.
        image: Of the training step.
        dataset: Its data.
        params: Its params, a file.
    """

    engine: Docker
    image: str
    dataset: Path
    params: Path

    @contextmanager
    def started(self, folder: Path) -> Iterator[str]:
        """A container that writes into a folder, by its name."""
        mounts = {self.dataset: "/dataset:ro", self.params: "/params.json:ro", folder: "/runs"}
        flags = [*HARDENED, *flags_of(mounts=mounts, environment={"OMP_NUM_THREADS": "1"})]
        options = ["--dataset", "/dataset", "--model", "/runs/model", "--params", "/params.json"]
        options += ["--checkpoints", "/runs/checkpoints"]
        with self.engine.running(self.image, *options, flags=flags) as name:
            yield name

    def ended(self, name: str) -> tuple[int, str]:
        """The exit code of a container, once it has ended by itself, and what it said."""
        while self.engine.state(name)["Running"]:
            time.sleep(0.05)
        return self.engine.state(name)["ExitCode"], self.engine.logs(name)


@pytest.fixture(scope="module")
def container(
    docker_engine: Docker, images: Images, dataset: Path, tmp_path_factory: pytest.TempPathFactory
) -> Container:
    folder = tmp_path_factory.mktemp("containers")
    return Container(docker_engine, images["train"], dataset, write_params(folder / "params.json", **PARAMS))


@pytest.fixture
def whole(container: Container, runs: Path) -> tuple[Left, float]:
    """What a container leaves that nothing happens to, and the seconds it takes."""
    folder = runs / "whole"
    folder.mkdir()
    shutil.chown(folder, runs.stat().st_uid, runs.stat().st_gid)
    folder.chmod(0o777)
    begun = time.monotonic()
    with container.started(folder) as name:
        code, log = container.ended(name)
    assert code == 0, log
    return left_in(folder / "model"), time.monotonic() - begun


@pytest.mark.parametrize("number", numbers(5))
def test_a_killed_container(
    container: Container, whole: tuple[Left, float], runs: Path, number: int, record_property: Callable[..., None]
) -> None:
    draws = draws_of("containers", number)
    left, life = whole
    kills = draws.randint(1, 2)
    hit: list[str] = []
    while True:
        verb = draws.choice(("kill", "stop"))
        had = list_checkpoints(runs / "checkpoints")
        with container.started(runs) as name:
            if len(hit) < kills:
                was_running = interrupted(container, name, verb, draws.uniform(0, 0.9 * life))
                code, log = container.ended(name)
                if was_running and code != 0:
                    assert code == {"kill": 137, "stop": 143}[verb], log
                    assert "Traceback" not in log
                    hit.append(f"docker {verb}")
                    continue
            code, log = container.ended(name)
        story = f"{', '.join(hit)}, then:\n{log}"
        assert code == 0, story
        assert not had or "going on from a checkpoint" in log, story
        assert left_in(runs / "model") == left, story
        break
    record_property(KILLED, ("in containers", hit))


def interrupted(container: Container, name: str, verb: str, after: float) -> bool:
    """Kill or stop a container after some seconds; whether it had not ended before."""
    time.sleep(after)
    if not container.engine.state(name)["Running"]:
        return False
    # What is still running ten seconds after it was asked to stop is killed, and its exit code is then 137.
    words = ("kill",) if verb == "kill" else ("stop", "--time=10")
    try:
        container.engine.said(*words, name)
    except RuntimeError:  # it has ended in between, and cannot be killed any more
        return False
    return True
