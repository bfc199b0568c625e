"""Two nodes as Kubeflow Trainer starts them: one goes, and the group goes on once it is back."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from tests.examples import write_digits, write_params
from tests.kill.lives import IMAGES, PARAMS
from tests.train.nodes_ended import requires_one_story
from tests.train.pods import job_of_two
from tests.train.test_launch import free_port

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nodes")
    write_digits(folder / "dataset", IMAGES)
    write_params(folder / "params.json", **PARAMS)
    return folder


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> Path:
    with job_of_two(folder / "undisturbed", free_port(), folder / "dataset", folder / "params.json") as job:
        job.until_done()
    assert [pod.codes for pod in job.pods] == [[0], [0]], job.log
    assert job.pods[1].log == "", "one speaks"
    return folder / "undisturbed"


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("how", ["killed", "deleted"])
def test_a_node_that_goes(folder: Path, undisturbed: Path, tmp_path: Path, index: int, how: str) -> None:
    with job_of_two(tmp_path / "job", free_port(), folder / "dataset", folder / "params.json") as job:
        job.until(lambda: job.begun == 1 and bool(list((tmp_path / "job/checkpoints").glob("*.json"))))
        gone = job.pods[index]
        assert gone.process is not None
        if how == "killed":
            gone.process.kill()
        else:
            gone.delete()
        job.until_done()

    assert "going on from a checkpoint" in job.pods[0].log
    assert "Traceback" not in job.log
    assert job.pods[1 - index].codes == [0], "it stays, and needs no new container"
    assert gone.codes == [-signal.SIGKILL if how == "killed" else 128 + signal.SIGTERM, 0], job.log
    requires_one_story(job, tmp_path / "job", undisturbed, is_killed=how == "killed")
    if (index, how) == (1, "deleted"):
        assert (
            len(re.findall("cancelled: node 1 ended by SIGTERM; the group goes on from .* once it is back", job.log))
            == 1
        )
