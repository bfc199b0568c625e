"""`shutterline run` that is killed or hung up takes its steps with it, and a second one in its directory is refused."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from components.shared.events.spool import events_in
from components.shared.locks import RUN_LOCK_VARIABLE, run_locked
from components.shared.params.params import Params
from components.train.checkpoints.format import list_checkpoints, read_checkpoint_manifest, write_checkpoint
from pipelines.params_files import EXAMPLE_DATA
from pipelines.targets.run_directory import write_inputs
from tests.examples import write_params
from tests.pipelines.conftest import Refused
from tests.pipelines.runs_ended import TOKEN, commands_of, end_of_all, run_command, running
from tests.train.checkpoints.making import manifest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]

# As `run` starts a step: below a shell, with the lock's file in the environment, its output read by the run.
STARTING = f"""
import os, subprocess, sys
from pathlib import Path
from components.shared.locks import run_locked

out = Path(sys.argv[1])
with run_locked(out) as lock:
    os.environ["{RUN_LOCK_VARIABLE}"] = str(lock)
    command = ["sh", "-c", '"$0" -c "$1" "$2"; true', sys.executable, sys.argv[2], str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as step:
        print("begun", flush=True)
        step.wait()
"""
STEP = """
import sys, threading
from pathlib import Path
from components.shared.run import StepRun
from components.shared.step import run_step
from tests.shared.test_step import PARAMS, Result

run_step("train", PARAMS, lambda params, emit: threading.Event().wait(), lambda: StepRun(
    "run-1", None, 0, Path(sys.argv[1]) / "events", True, "pod-1"))
"""


def test_a_step_ends_with_its_run_whenever_that_is_killed(tmp_path: Path) -> None:
    states = []
    for number in range(10):
        out = tmp_path / str(number)
        out.mkdir()
        environment = os.environ | {TOKEN: str(out)}
        command = [sys.executable, "-c", STARTING, str(out), STEP]
        with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE) as run:
            assert run.stdout is not None
            assert run.stdout.readline() == b"begun\n"
            if number < 5:  # from before its step has begun
                time.sleep(0.2 * number)
            else:
                while not list(events_in(out / "events")):
                    time.sleep(0.02)
                time.sleep(0.1 * (number - 5))
            run.kill()
        end_of_all(out)
        states.append([event.state for event in events_in(out / "events")])
        with run_locked(out):  # nobody holds it any more
            pass
    assert set(map(tuple, states[:5])) <= {(), ("started", "cancelled")}
    assert states[5:] == [["started", "cancelled"]] * 5


@pytest.fixture
def params(tmp_path: Path) -> Path:
    """Those of a run that trains on and on."""
    return write_params(tmp_path / "params.json", num_epochs=100_000, save_freq=100_000, checkpoint_minutes=None)


def test_a_hung_up_run_goes_on_under_nohup_a_second_is_refused_and_killed_it_leaves_a_checkpoint(
    tmp_path: Path, params: Path, refused: Refused
) -> None:
    out = tmp_path / "out"
    with running(out, ["nohup", *run_command(out, params)]) as run:
        run.until("epoch 3/")
        os.killpg(run.process.pid, signal.SIGHUP)
        run.until(f"epoch {run.log.count(' epoch ') + 20}/")
        for _ in range(5):
            message = refused(*run_command(out, params)[3:])
            assert message.startswith(f"--out {out}: process {run.process.pid} on ")
            assert "is running there; wait for its end, end it, or name another directory" in message
        assert run.process.poll() is None
        run.process.kill()
        run.process.wait()
        end_of_all(out)

    (directory,) = (out / "checkpoints").iterdir()
    assert len(list_checkpoints(directory)) == 1
    states = [(event.step, event.state) for event in events_in(out / "events") if event.is_terminal]
    assert states == [("data-prep", "succeeded"), ("train", "cancelled")]


def test_the_last_line_of_an_interrupted_run_is_the_command_that_goes_on(tmp_path: Path, params: Path) -> None:
    out = tmp_path / "out"
    with running(out, run_command(out, params)) as run:
        run.until("epoch 3/")
        os.killpg(run.process.pid, signal.SIGINT)  # as a terminal does
        assert run.process.wait(60) == 130

    (directory,) = (out / "checkpoints").iterdir()
    place = read_checkpoint_manifest(list_checkpoints(directory)[-1]).position
    *_, saved, command = run.log.splitlines()
    assert saved == f"interrupted; {place} is saved in {directory}; go on by:"
    with running(out, ["sh", "-c", f"exec {command}"]) as again:
        again.until(f"going on from a checkpoint of {place}")


def test_data_prep_interrupted_in_a_run_that_goes_on(tmp_path: Path) -> None:
    params, out = write_params(tmp_path / "params.json"), tmp_path / "out"
    directory = out / "checkpoints" / "0123"
    write_checkpoint(directory, manifest(2, 7, params=Params.load(str(params)).to_dict()), {})
    write_inputs(out, Params.load(str(params)), str(EXAMPLE_DATA))
    with running(out, run_command(out, params)) as run:
        while not any(b"executor_main" in command for command in commands_of(out)):
            assert run.process.poll() is None, run.log
        os.killpg(run.process.pid, signal.SIGINT)  # as a terminal does, before the step can report anything
        assert run.process.wait(60) == 130, run.log

    assert run.log.splitlines()[-2] == f"interrupted; epoch 2, batch 7 is saved in {directory}; go on by:"
    assert "pipeline failed" not in run.log
    last = [event for event in events_in(out / "events") if event.is_terminal][-1]
    assert (last.step, last.state) == ("pipeline", "cancelled")


ON_A_TERMINAL = "import os, sys; os.login_tty(int(sys.argv[1])); os.execv(sys.argv[2], sys.argv[2:])"


def test_a_run_whose_terminal_is_closed_ends_in_good_order(tmp_path: Path) -> None:
    params = write_params(tmp_path / "params.json", num_epochs=100_000)
    master, terminal = pty.openpty()
    out = tmp_path / "out"
    # As a shell in a terminal's window starts it: the terminal is its controlling one, and its only output.
    process = subprocess.Popen(
        [sys.executable, "-c", ON_A_TERMINAL, str(terminal), *run_command(out, params)],
        cwd=ROOT,
        env=os.environ | {TOKEN: str(out)},
        pass_fds=[terminal],
    )
    os.close(terminal)
    read = b""
    while b"epoch 3/" not in read:
        read += os.read(master, 4096)
    os.close(master)

    assert process.wait(60) == 143
    end_of_all(out)
    last = [event for event in events_in(out / "events") if event.is_terminal]
    assert [(event.step, event.state) for event in last] == [
        ("data-prep", "succeeded"),
        ("train", "cancelled"),
        ("pipeline", "cancelled"),
    ]
