"""SIGTERM and Ctrl-C: a checkpoint of the very step, `cancelled` as the last event, and a resume that loses nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from components.shared.events.data import Checkpoint, EventData, Progress
from components.shared.events.spool import events_in
from components.shared.run import EVENTS_VARIABLE, RUN_VARIABLE
from components.train.__main__ import main
from components.train.checkpoints.format import list_checkpoints, read_checkpoint_manifest, write_checkpoint
from components.train.group import evaluated
from tests.examples import small, write_params
from tests.train.interrupting import at_step, ended, steps_kept, trained, weights_in

TIMEOUT_S = 600
ENDLESS = {"num_epochs": 10_000_000, "save_freq": 10_000_000, "checkpoint_minutes": None}


def interrupted(dataset: Path, folder: Path, number: signal.Signals) -> tuple[int, str]:
    """The exit code of a training that is sent a signal twice in its second epoch or later, and what it then logs."""
    params = write_params(folder / "params.json", **ENDLESS)
    command: list[str | Path] = [sys.executable, "-m", "components.train", "--params", params, "--dataset", dataset]
    command += ["--model", folder / "model", "--checkpoints", folder / "checkpoints"]
    environment = os.environ | {RUN_VARIABLE: "run-1", EVENTS_VARIABLE: str(folder / "events")}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert any("epoch 1/" in line for line in process.stderr)
        process.send_signal(number)
        if number is signal.SIGTERM:
            process.send_signal(number)  # a platform that says so twice changes nothing
        return process.wait(TIMEOUT_S), process.stderr.read()


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_command_that_is_interrupted_saves_its_step_and_names_the_command_that_goes_on(
    few: Path, tmp_path: Path, number: signal.Signals, exit_code: int
) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    code, log = interrupted(few, folder, number)

    assert code == exit_code, log
    assert "Traceback" not in log
    *_, checkpoint, last = list(events_in(folder / "events"))
    (path,) = list_checkpoints(folder / "checkpoints")
    assert isinstance(checkpoint.data, Checkpoint)
    assert (Path(checkpoint.data.uri), last.state) == (path, "cancelled")
    kept = read_checkpoint_manifest(path)
    assert kept.step == (kept.epoch - 1) * 2 + kept.batch, "a step is lost or made twice"
    assert not (folder / "model" / "model.json").exists(), "nothing half-written looks whole"
    *_, saved, command = log.splitlines()
    how = {143: "terminated", 130: "interrupted"}[exit_code]
    assert saved == f"{how}; {kept.position} is saved in {folder}/checkpoints; go on by:"
    if number is signal.SIGINT:
        return

    write_params(folder / "params.json", **ENDLESS | {"num_epochs": kept.epoch + 1})
    shell = ["sh", "-c", command]
    environment = os.environ | {EVENTS_VARIABLE: str(folder / "events")}
    again = subprocess.run(shell, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert again.returncode == 0, again.stderr
    assert f"going on from a checkpoint of {kept.position}" in again.stderr
    done = read_checkpoint_manifest(list_checkpoints(folder / "checkpoints")[-1])
    assert (done.finished, done.step) == (True, (kept.epoch + 1) * 2)


def test_the_last_line_where_nothing_was_saved_yet(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def at_once(*arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("components.classifier.check.check", at_once)
    params = str(write_params(tmp_path / "params.json"))
    options = ["--dataset", str(dataset), "--model", str(tmp_path / "it's"), "--start-over", "--params", params]

    assert main(options) == 143
    again = f"python -m components.train --dataset {dataset} --model '{tmp_path}/it'\"'\"'s' --params {params}"
    assert capsys.readouterr().err.splitlines()[-2:] == ["terminated; nothing was saved yet; start again by:", again]

    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setattr(os, "getppid", lambda: 1)  # as of what a container is started for
    assert main(options) == 143
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "terminated; nothing was saved yet; start it again with the same options"


@pytest.mark.parametrize("where", ["components.train.group.join_group", "components.train.train.train"])
def test_the_last_lines_where_an_earlier_attempt_has_saved(
    dataset: Path,
    finished_copy: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    params = str(write_params(tmp_path / "params.json"))
    (finished_copy / "checkpoints").rename(finished_copy / "model-checkpoints")
    monkeypatch.setattr(where, lambda **options: os.kill(os.getpid(), signal.SIGTERM))

    assert main(["--dataset", str(dataset), "--model", str(finished_copy / "model"), "--params", params]) == 143
    saved = f"terminated; its end, after epoch 2 is saved in {finished_copy}/model-checkpoints; go on by:"
    assert capsys.readouterr().err.splitlines()[-2] == saved


def test_sigterm_during_evaluation_evaluates_again(few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = small(num_epochs=3, save_freq=5)
    trained(few, tmp_path / "whole", params)
    calls: list[None] = []

    def interrupted_within(*arguments: Any, **options: Any) -> Any:
        calls.append(None)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return evaluated(*arguments, **options)

    monkeypatch.setattr("components.train.trainer.evaluated", interrupted_within)
    ended(few, tmp_path / "broken", params, lambda data: False)
    assert len(calls) == 2, "it is left between two chunks"
    assert steps_kept(tmp_path / "broken") == [4]
    result = trained(few, tmp_path / "broken", params)

    assert result.resumed_from == "epoch 2, batch 2", "its last step is made, and its end is not"
    assert weights_in(tmp_path / "broken") == weights_in(tmp_path / "whole")


@pytest.mark.usefixtures("every_step_reports")
def test_sigterm_during_a_checkpoints_write(few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = small(num_epochs=3, save_freq=1)
    trained(few, tmp_path / "whole", params)

    def slowly(*arguments: Any) -> Path:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.2)  # as a slow disk would
        return write_checkpoint(*arguments)

    monkeypatch.setattr("components.train.checkpoints.writer.write_checkpoint", slowly)
    ended(few, tmp_path / "broken", params, lambda data: False)
    kept = steps_kept(tmp_path / "broken")
    monkeypatch.undo()
    trained(few, tmp_path / "broken", params)

    assert kept[0] == 2
    assert kept == sorted(set(kept))
    assert weights_in(tmp_path / "broken") == weights_in(tmp_path / "whole")


@pytest.mark.usefixtures("every_step_reports")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_no_step_is_made_after_the_one_of_the_signal(dataset: Path, tmp_path: Path, number: signal.Signals) -> None:
    seen = []

    def when(data: EventData) -> bool:
        if isinstance(data, Progress):
            seen.append(data.step)
        return isinstance(data, Progress) and data.step == 5

    if number is signal.SIGTERM:
        ended(dataset, tmp_path, small(), when, number)
    else:
        with pytest.raises(KeyboardInterrupt):
            ended(dataset, tmp_path, small(), when, number)

    assert seen == [1, 2, 3, 4, 5]
    assert steps_kept(tmp_path) == [5]
    ended(dataset, tmp_path, small(), at_step(6))
    assert steps_kept(tmp_path) == [5, 6]


def test_a_checkpoint_that_is_there_already_is_not_written_anew(few: Path, tmp_path: Path) -> None:
    reported = []

    def when(data: EventData) -> bool:
        if isinstance(data, Checkpoint):
            reported.append(data.uri)
        return isinstance(data, Progress) and data.epoch == 1

    ended(few, tmp_path, small(save_freq=1), when)

    assert reported == [str(tmp_path / "checkpoints" / "epoch-00002-batch-000000.json")]


@pytest.mark.usefixtures("every_step_reports")
def test_ctrl_c_twice_ends_at_once(dataset: Path, tmp_path: Path) -> None:
    def twice(data: EventData) -> None:
        if isinstance(data, Progress) and data.step == 9:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        trained(dataset, tmp_path, small(save_freq=1), emit=twice)

    assert steps_kept(tmp_path) == [7], "the epoch's checkpoint, and none of step 9"
