"""SIGTERM and Ctrl-C: a checkpoint of the very step, `cancelled` as the last word, and a resume that loses nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from components.shared.events.data import Checkpoint, Progress
from components.shared.events.event import StepEvent
from components.shared.events.spool import events_in
from components.shared.run import EVENTS_VARIABLE, RUN_VARIABLE
from components.train.__main__ import main
from components.train.checkpoints.format import list_checkpoints, read_checkpoint_manifest, write_checkpoint
from components.train.evaluating import evaluated
from tests.examples import small, write_digits, write_params
from tests.train.interrupting import at_step, ended, steps_kept, trained, weights_in

PATIENCE = 120
EPOCHS, STEPS_PER_EPOCH = 40, 100


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("many") / "dataset", 1500)


@contextmanager
def training(dataset: Path, folder: Path, **params: Any) -> Iterator[subprocess.Popen[str]]:
    options = {"batch_size": 10, "num_epochs": EPOCHS, "save_freq": 1000, "checkpoint_minutes": None, **params}
    file = write_params(folder / "params.json", **options)
    command: list[str | Path] = [sys.executable, "-m", "components.train", "--params", file, "--dataset", dataset]
    command += ["--model", folder / "model", "--checkpoints", folder / "checkpoints"]
    environment = os.environ | {RUN_VARIABLE: "run-1", EVENTS_VARIABLE: str(folder / "events")}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def said_until(process: subprocess.Popen[str], words: str) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if words in line:
            return
    raise AssertionError(f"it ended without {words!r}")


def rest_of(process: subprocess.Popen[str]) -> str:
    return process.communicate(timeout=PATIENCE)[1]


def events_of(folder: Path) -> list[StepEvent]:
    return list(events_in(folder / "events"))


def goes_on_without_loss(dataset: Path, folder: Path) -> None:
    kept = read_checkpoint_manifest(list_checkpoints(folder / "checkpoints")[-1])
    done = (kept.epoch - 1) * STEPS_PER_EPOCH + kept.batch
    assert kept.step == done, "a step is lost or made twice"
    with training(dataset, folder) as process:
        told = rest_of(process)
    assert process.returncode == 0, told
    assert f"going on from a checkpoint of {kept.position}" in told
    last = read_checkpoint_manifest(list_checkpoints(folder / "checkpoints")[-1])
    assert (last.finished, last.step) == (True, EPOCHS * STEPS_PER_EPOCH)


def test_sigterm_in_mid_epoch(many: Path, tmp_path: Path) -> None:
    with training(many, tmp_path) as process:
        said_until(process, "epoch 3/")
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGTERM)  # a platform that says so twice changes nothing
        told = rest_of(process)

    assert process.returncode == 143, told
    assert "Traceback" not in told
    events = events_of(tmp_path)
    assert events[-1].state == "cancelled"
    assert isinstance(events[-2].data, Checkpoint)
    (path,) = list_checkpoints(tmp_path / "checkpoints")
    assert Path(events[-2].data.uri) == path
    assert read_checkpoint_manifest(path).epoch >= 3
    assert not (tmp_path / "model" / "model.json").exists(), "nothing half-written looks whole"
    goes_on_without_loss(many, tmp_path)


def test_ctrl_c_once_leaves_a_checkpoint(many: Path, tmp_path: Path) -> None:
    with training(many, tmp_path) as process:
        said_until(process, "epoch 2/")
        process.send_signal(signal.SIGINT)
        told = rest_of(process)

    assert process.returncode == 130, told
    assert "Traceback" not in told
    assert len(list_checkpoints(tmp_path / "checkpoints")) == 1
    assert events_of(tmp_path)[-1].state == "cancelled"


def test_sigterm_before_the_first_step(many: Path, tmp_path: Path) -> None:
    with training(many, tmp_path) as process:
        said_until(process, "started")
        process.send_signal(signal.SIGTERM)
        told = rest_of(process)

    assert process.returncode == 143, told
    assert "Traceback" not in told
    assert events_of(tmp_path)[-1].state == "cancelled"


def test_the_last_line_is_what_is_saved_and_the_command_that_goes_on(many: Path, tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    with training(many, folder, num_epochs=4) as process:
        said_until(process, "epoch 2/")
        process.send_signal(signal.SIGTERM)
        told = rest_of(process)

    kept = read_checkpoint_manifest(list_checkpoints(folder / "checkpoints")[-1])
    *_, saved, command = told.splitlines()
    assert saved == f"terminated; {kept.position} is saved in {folder}/checkpoints; go on by:"
    environment = os.environ | {EVENTS_VARIABLE: str(folder / "events")}
    shell = ["sh", "-c", command]
    again = subprocess.run(shell, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert again.returncode == 0, again.stderr
    assert f"going on from a checkpoint of {kept.position}" in again.stderr


def test_the_last_line_where_nothing_was_saved_yet(
    many: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def at_once(*arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("components.classifier.check.check", at_once)
    words = ["--dataset", str(many), "--model", str(tmp_path / "it's"), "--start-over", "--params", "{}"]
    words[-1] = str(write_params(tmp_path / "params.json"))

    assert main(words) == 143
    again = f"python -m components.train --dataset {many} --model '{tmp_path}/it'\"'\"'s' --params {words[-1]}"
    assert capsys.readouterr().err.splitlines()[-2:] == ["terminated; nothing was saved yet; start again by:", again]

    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setattr(os, "getppid", lambda: 1)  # as of what a container is started for
    assert main(words) == 143
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "terminated; nothing was saved yet; start it again with the same options"


@pytest.mark.parametrize("where", ["components.train.group.join_group", "components.train.train.train"])
def test_the_last_lines_where_an_earlier_attempt_has_saved(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    params = write_params(tmp_path / "params.json", num_epochs=1)
    words = ["--dataset", str(dataset), "--model", str(tmp_path / "model"), "--params", str(params)]
    assert main(words) == 0
    monkeypatch.setattr(where, lambda **options: os.kill(os.getpid(), signal.SIGTERM))
    capsys.readouterr()

    assert main(words) == 143
    saved = f"terminated; its end, after epoch 1 is saved in {tmp_path}/model-checkpoints; go on by:"
    assert capsys.readouterr().err.splitlines()[-2] == saved


@pytest.fixture
def every_step_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.train.progress.EVENT_EVERY_S", -1.0)


def test_sigterm_during_evaluation_evaluates_again(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = small(num_epochs=3, save_freq=5)
    trained(dataset, tmp_path / "whole", params)
    calls: list[None] = []

    def told_within(*arguments: Any, **options: Any) -> Any:
        calls.append(None)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return evaluated(*arguments, **options)

    monkeypatch.setattr("components.train.trainer.evaluated", told_within)
    ended(dataset, tmp_path / "broken", params, lambda data: False)
    assert len(calls) == 2, "it is left between two chunks"
    assert steps_kept(tmp_path / "broken") == [14]
    result = trained(dataset, tmp_path / "broken", params)

    assert result.resumed_from == "epoch 2, batch 7", "its last step is made, and its end is not"
    assert weights_in(tmp_path / "broken") == weights_in(tmp_path / "whole")


@pytest.mark.usefixtures("every_step_speaks")
def test_sigterm_during_a_checkpoints_write(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = small(num_epochs=3, save_freq=1)
    trained(dataset, tmp_path / "whole", params)

    def slowly(*arguments: Any) -> Path:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.2)  # as a slow disk would
        return write_checkpoint(*arguments)

    monkeypatch.setattr("components.train.checkpoints.writer.write_checkpoint", slowly)
    ended(dataset, tmp_path / "broken", params, lambda data: False)
    kept = steps_kept(tmp_path / "broken")
    monkeypatch.undo()
    trained(dataset, tmp_path / "broken", params)

    assert kept[0] == 7
    assert kept == sorted(set(kept))
    assert weights_in(tmp_path / "broken") == weights_in(tmp_path / "whole")


@pytest.mark.usefixtures("every_step_speaks")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_no_step_is_made_after_the_one_it_was_told_at(dataset: Path, tmp_path: Path, number: signal.Signals) -> None:
    seen = []

    def when(data: object) -> bool:
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


def test_a_checkpoint_that_is_there_already_is_not_written_anew(dataset: Path, tmp_path: Path) -> None:
    told = []

    def when(data: object) -> bool:
        if isinstance(data, Checkpoint):
            told.append(data.uri)
        return isinstance(data, Progress) and data.epoch == 1

    ended(dataset, tmp_path, small(save_freq=1), when)

    assert told == [str(tmp_path / "checkpoints" / "epoch-00002-batch-000000.json")]


@pytest.mark.usefixtures("every_step_speaks")
def test_ctrl_c_twice_ends_at_once(dataset: Path, tmp_path: Path) -> None:
    def twice(data: object) -> None:
        if isinstance(data, Progress) and data.step == 9:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        trained(dataset, tmp_path, small(save_freq=1), emit=twice)

    assert steps_kept(tmp_path) == [7], "the epoch's checkpoint, and none of step 9"
