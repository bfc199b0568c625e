"""Two nodes as Kubeflow Trainer starts them, one of them killed or terminated at random moments: the same weights."""

from __future__ import annotations

import os
import random
import signal
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from tests.examples import write_params
from tests.kill.lives import PARAMS, descendants_of, draws_of, runs
from tests.kill.test_processes import is_training
from tests.train.nodes_ended import requires_one_story, succeeded
from tests.train.pods import Pods, job_of_two
from tests.train.test_launch import free_port

pytestmark = pytest.mark.kill


@dataclass(frozen=True)
class Undisturbed:
    dataset: Path
    params: Path
    folder: Path
    life_s: float


@pytest.fixture(scope="module")
def undisturbed(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    folder = tmp_path_factory.mktemp("nodes")
    params = write_params(folder / "params.json", **{**PARAMS, "num_epochs": 8})
    begun = time.monotonic()
    with job_of_two(folder / "job", free_port(), dataset, params) as job:
        job.until_done()
    return Undisturbed(dataset, params, folder / "job", time.monotonic() - begun)


def strike(job: Pods, draws: random.Random, how: str) -> str:
    """Kill a container, or a process in it as a kernel does that is out of memory, or delete the pod."""
    pod = draws.choice(job.pods)
    assert pod.process is not None
    if how == "terminated":
        pod.delete()
        return f"pod {pod.index} deleted"
    workers = [pid for pid in descendants_of(pod.process.pid) if is_training(pid)]
    if workers and draws.random() < 0.3:
        os.kill(workers[0], signal.SIGKILL)
        return f"process of pod {pod.index} killed"
    pod.process.kill()
    return f"container of pod {pod.index} killed"


def waits_in_vain(job: Pods, before: int) -> bool:
    """Whether node 0, killed in its last second after its success, waits for node 1, which has left: a limit."""
    host, other = job.pods
    return before > 0 and other.is_done and not host.is_done and "waiting for node 1" in host.log_of(host.starts - 1)


def goes_on(job: Pods, begun: int, before: int) -> bool:
    """Whether the group trains again, or nothing is left to do, or nobody to do it with."""
    return job.begun > begun or all(pod.is_done for pod in job.pods) or waits_in_vain(job, before)


@pytest.mark.parametrize("number", runs(20))
@pytest.mark.parametrize("how", ["killed", "terminated"])
def test_a_node_that_goes_at_any_moment(undisturbed: Undisturbed, tmp_path: Path, how: str, number: int) -> None:
    draws, what = draws_of(f"nodes-{how}", number), ""
    while not what:  # it may be faster than the one whose life was measured
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        with job_of_two(folder, free_port(), undisturbed.dataset, undisturbed.params) as job:
            after = draws.uniform(0, 0.9 * undisturbed.life_s)
            job.for_seconds(after)
            if all(pod.is_running for pod in job.pods):
                begun, struck = job.begun, time.monotonic()
                what = strike(job, draws, how)
                before = succeeded(folder) if how == "killed" else 0
                job.until(partial(goes_on, job, begun, before))
                went_on = time.monotonic() - struck
                if waits_in_vain(job, before):
                    what = ""
                    continue
            job.until_done()
    print(f"{what} after {after:.1f} s of {undisturbed.life_s:.1f} s: went on after {went_on:.1f} s")
    requires_one_story(job, folder, undisturbed.folder, is_killed=how == "killed", before=before)
