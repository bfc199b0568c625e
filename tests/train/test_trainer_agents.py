"""Two nodes as Kubeflow Trainer starts them: one goes, and the group goes on once it is back."""

from __future__ import annotations

import re
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
    write_params(folder / "params.json", **{**PARAMS, "num_epochs": 12})
    return folder


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> Path:
    with job_of_two(folder / "undisturbed", free_port(), folder / "dataset", folder / "params.json") as job:
        job.until_done()
    assert [pod.codes for pod in job.pods] == [[0], [0]], job.log
    assert job.pods[1].log == "", "one speaks"
    return folder / "undisturbed"


def test_nodes_that_go_and_come_again(folder: Path, undisturbed: Path, tmp_path: Path) -> None:
    """Node 1's pod is deleted while all meet, and as by a drain; then both, as by suspend.

    What waits for it in C++ is asked to end and reports that: within seconds, and exactly once. Containers that are
    killed are those of tests/kill.
    """
    with job_of_two(tmp_path / "job", free_port(), folder / "dataset", folder / "params.json") as job:
        first, second = job.pods

        def trains(starts: int) -> None:
            job.until(lambda: job.begun == starts)
            saved = set((tmp_path / "job/checkpoints").glob("*.json"))
            job.until(lambda: bool(set((tmp_path / "job/checkpoints").glob("*.json")) - saved))

        job.until(lambda: "started" in first.log)
        second.delete()
        trains(1)
        second.delete()
        trains(2)
        first.delete()
        second.delete()
        job.until_done()

    assert first.codes == [143, 0], f"no other ends\n{job.log}"
    assert first.log.count("going on from a checkpoint") == 2
    left = re.findall("cancelled: node 1 ended by SIGTERM; the group goes on from .* once it is back", job.log)
    assert len(left) == 1, job.log
    assert "Traceback" not in job.log
    assert "[c10d]" not in job.log, "torch's own warnings"
    requires_one_story(job, tmp_path / "job", undisturbed, is_killed=False)
