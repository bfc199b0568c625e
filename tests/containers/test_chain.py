"""Data prep, training, evaluation and the exit step by ``docker run`` alone, on paths and on buckets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from components.shared.events.runs import fold
from components.shared.events.spool import events_in
from components.shared.run import EVENTS_VARIABLE, RUN_VARIABLE
from pipelines.params_files import EXAMPLE_DATA, EXAMPLE_PARAMS
from tests.containers.conftest import Images
from tests.containers.engine import HARDENED, SOMEBODY, Docker, Ended, flags_of
from tests.peers.object_store import Bucket

pytestmark = pytest.mark.containers

RUN = "run-of-containers"
# As many threads on both sides: another number sums in another order.
THREADS = {"OMP_NUM_THREADS": "1"}
PARAMS = ("--set", "num_epochs=2", "--set", "device=cpu")


@pytest.fixture(scope="module")
def model_of_processes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The weights that the same steps make as processes of this installation."""
    folder = tmp_path_factory.mktemp("processes")
    steps: dict[str, list[str | Path]] = {
        "data_prep": ["--data", EXAMPLE_DATA, "--dataset", folder / "dataset"],
        "train": ["--dataset", folder / "dataset", "--model", folder / "model"],
    }
    for module, options in steps.items():
        command: list[str | Path] = [sys.executable, "-m", f"components.{module}", *options]
        command += ["--params", EXAMPLE_PARAMS, *PARAMS]
        done = subprocess.run(command, env=os.environ | THREADS, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return (folder / "model" / "model.safetensors").read_bytes()


class Chain:
    """The four steps in containers, one after the other."""

    def __init__(self, engine: Docker, images: Images, flags: Sequence[str], network: str) -> None:
        self._engine = engine
        self._images = images
        self._flags = [*HARDENED, *flags, *flags_of(mounts={EXAMPLE_PARAMS: "/params.json:ro"})]
        self._network = network

    def run(self, data: str, made: str) -> dict[str, Ended]:
        """Run all of them; `made` is what everything that they make is below."""
        return {
            "data-prep": self._step("data-prep", "--data", data, "--dataset", f"{made}/dataset"),
            "train": self._step("train", "--dataset", f"{made}/dataset", "--model", f"{made}/model"),
            "evaluate": self._step(
                *("evaluate", "--model", f"{made}/model", "--dataset", f"{made}/dataset"),
                *("--evaluation", f"{made}/evaluation"),
            ),
            "exit": self._exit_step(),
        }

    def _step(self, step: str, *options: str) -> Ended:
        image = self._images[step]  # type: ignore[index] # one of the three
        arguments = [*options, "--params", "/params.json", *PARAMS, "--json"]
        return self._engine.run(image, *arguments, flags=self._flags, network=self._network)

    def _exit_step(self) -> Ended:
        module = ["-m", "components.exit_step", "--state", "SUCCEEDED", "--params", "/params.json", "--json"]
        flags = [*self._flags, "--entrypoint=python"]
        return self._engine.run(self._images["data-prep"], *module, flags=flags, network=self._network)


def environment(**more: str) -> dict[str, str]:
    return {RUN_VARIABLE: RUN, EVENTS_VARIABLE: "/runs/events", **THREADS, **more}


def assert_whole_run(ended: dict[str, Ended], runs: Path) -> None:
    """All four steps are done, and their events tell the same."""
    assert {step: end.code for step, end in ended.items()} == dict.fromkeys(ended, 0), "".join(
        end.err for end in ended.values()
    )
    view = fold(RUN, events_in(runs / "events"))
    assert view.state == "succeeded"
    assert view.ended is not None
    assert [step.outcome for step in view.ended.steps] == ["succeeded"] * 3


def test_on_paths_without_rights_or_network(
    docker_engine: Docker, images: Images, runs: Path, model_of_processes: bytes
) -> None:
    flags = flags_of(mounts={EXAMPLE_DATA: "/data:ro", runs: "/runs"}, environment=environment())

    ended = Chain(docker_engine, images, flags, network="none").run("/data", "/runs")

    assert_whole_run(ended, runs)
    assert (runs / "model" / "model.safetensors").read_bytes() == model_of_processes
    assert (runs / "evaluation" / "report.html").read_text().startswith("<!DOCTYPE html>")
    assert {path.lstat().st_uid for path in runs.rglob("*")} == {SOMEBODY}
    assert json.loads(ended["evaluate"].out)["report"]["metrics"]["accuracy"] > 0.5


@pytest.mark.parametrize("store", ["gcs_bucket", "s3_bucket"])
def test_on_buckets(
    docker_engine: Docker,
    images: Images,
    runs: Path,
    model_of_processes: bytes,
    store: str,
    request: pytest.FixtureRequest,
) -> None:
    bucket: Bucket = request.getfixturevalue(store)
    for file in EXAMPLE_DATA.iterdir():
        bucket.write(f"data/{file.name}", file.read_bytes())
    flags = flags_of(mounts={runs: "/runs"}, environment=environment(**bucket.environment))

    ended = Chain(docker_engine, images, flags, network="host").run(f"{bucket.uri}/data", f"{bucket.uri}/made")

    assert_whole_run(ended, runs)
    (weights,) = (name for name in bucket.names("made/model/") if name.endswith("/model.safetensors"))
    assert bucket.read(weights) == model_of_processes
    (page,) = (name for name in bucket.names("made/evaluation/") if name.endswith("/report.html"))
    assert bucket.read(page).startswith(b"<!DOCTYPE html>")
    assert {path.name for path in runs.iterdir()} == {"events"}, "nothing but status was left on the mount"
