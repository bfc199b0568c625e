"""`shutterline run` killed or hung up at random moments: nothing that it has started outlives it, 20 times of 20."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from components.shared.events.spool import events_in
from components.shared.locks import run_locked
from tests.examples import write_params
from tests.kill.lives import draws_of, runs
from tests.pipelines.runs_ended import end_of_all, run_command, running

pytestmark = pytest.mark.kill


@pytest.mark.parametrize("number", runs(20))
@pytest.mark.parametrize("signal_name", ["SIGKILL", "SIGHUP"])
def test_a_run_takes_its_steps_with_it(tmp_path: Path, number: int, signal_name: str) -> None:
    params = write_params(tmp_path / "params.json", num_epochs=100_000)
    ending = signal.Signals[signal_name]
    with running(tmp_path / "out", run_command(tmp_path / "out", params)) as run:
        time.sleep(draws_of(signal_name, number).uniform(0, 15))
        os.kill(run.process.pid, ending)
        code = run.process.wait(120)
        end_of_all(run.out)

    assert code in ((143, -ending) if ending is signal.SIGHUP else (-ending,))
    ended = {event.step: event.state for event in events_in(run.out / "events") if event.is_terminal}
    assert ended.get("train", "cancelled") == "cancelled"
    if run.out.exists():
        with run_locked(run.out):  # the next one may begin
            pass
