"""``shutterline run --runner docker``: the whole pipeline in real containers.

Needs an engine (``DOCKER_HOST`` names it) and the images; ``IMAGES`` may name the file that says which.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from kfp import local
from kfp.local import docker_task_handler

from components.shared.artifacts.model import open_model
from components.shared.container_images import images_named_by
from components.shared.events.data import Cancelled
from components.shared.events.runs import fold
from components.shared.events.spool import events_in
from components.shared.run import RUN_VARIABLE, new_run_id
from pipelines.cli import main
from tests.examples import DIGITS, write_params

pytestmark = pytest.mark.containers

IMAGES = os.environ.get("IMAGES")
OPTIONS = ["--runner", "docker", "--network", "none", *(["--images", IMAGES] if IMAGES else [])]


class Containers:
    """The containers of one run, as the engine tells."""

    def __init__(self, client: docker.DockerClient, run: str) -> None:
        self.client = client
        self.run = run

    def all(self, step: str | None = None) -> list[Any]:
        labels = [f"shutterline.run={self.run}", *([f"shutterline.step={step}"] if step else [])]
        found: list[Any] = self.client.containers.list(all=True, filters={"label": labels})
        return found


@pytest.fixture
def containers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Containers]:
    """Those of the test's run, which leaves none behind."""
    monkeypatch.setenv(RUN_VARIABLE, new_run_id())
    client = docker.from_env()
    containers = Containers(client, os.environ[RUN_VARIABLE])
    try:
        yield containers
        assert containers.all() == []
    finally:
        for container in containers.all():
            container.remove(force=True)
        client.close()


@pytest.fixture
def endless(tmp_path: Path, containers: Containers) -> Iterator[subprocess.Popen[str]]:
    """A run that would train for ever, in its third epoch."""
    write_params(tmp_path / "params.json", num_epochs=1_000_000)
    command = [sys.executable, *"-m pipelines.cli run --params params.json --out out --json".split(), *OPTIONS]
    run = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert run.stderr is not None
    told: list[str] = []
    while not told or "epoch 3/" not in told[-1]:
        told.append(run.stderr.readline())
        assert told[-1], "".join(told)
    yield run
    if run.poll() is None:
        run.kill()
    run.communicate()


def pause(container: Any) -> None:
    """Freeze what it does; runc gives up after some tries on a busy machine ("unable to freeze")."""
    for tries_left in reversed(range(10)):
        try:
            container.pause()
        except docker.errors.APIError as error:
            if not tries_left or "freeze" not in str(error):
                raise
            time.sleep(1)
        else:
            return


def run_here(capsys: pytest.CaptureFixture[str], out: Path, *options: object) -> tuple[int, dict[str, Any], str]:
    """Run in this process, the steps in containers: exit code, the JSON document, standard error."""
    code = main(["run", "--out", str(out), "--json", *map(str, options)])
    told = capsys.readouterr()
    return code, json.loads(told.out), told.err


def test_the_model_is_byte_for_byte_that_of_a_run_in_processes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], containers: Containers
) -> None:
    params = write_params(tmp_path / "params.json", num_epochs=2, manual_seed=2**62 + 1)

    code, document, told = run_here(capsys, tmp_path / "out", "--params", params, *OPTIONS, "--shm-size", "64m")

    assert code == 0, told
    assert document["steps"] == dict.fromkeys(["data-prep", "train", "evaluate", "exit"], "succeeded")
    assert "epoch 2/2" in told
    assert "pipeline succeeded" in told
    open_model(tmp_path / "out" / "model")
    assert (tmp_path / "out" / "report.html").read_text().startswith("<!DOCTYPE html>")
    assert {path.lstat().st_uid for path in (tmp_path / "out").rglob("*")} == {os.getuid()}
    assert not list((tmp_path / "out").glob(".*")), "temporary files are cleared away"
    code, document_of_processes, told = run_here(capsys, tmp_path / "processes", "--params", params)
    assert code == 0, told
    # The CPUs are the same, and so is ONNX Runtime.
    assert document["metrics"] == pytest.approx(document_of_processes["metrics"], abs=1e-4)
    model, expected = (tmp_path / out / "model" / "model.safetensors" for out in ("out", "processes"))
    assert model.read_bytes() == expected.read_bytes()


def test_a_step_that_fails_is_reported_every_time_and_nothing_follows_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], containers: Containers
) -> None:
    params = write_params(tmp_path / "params.json")
    (tmp_path / "empty").mkdir()
    ends = []

    for number in range(10):  # without our part of it, kfp's runner takes every second for a success on such an engine
        out = tmp_path / str(number)
        code, document, _ = run_here(capsys, out, "--params", params, "--data", tmp_path / "empty", *OPTIONS)
        ends.append((code, document["status"], document["error"]["step"], document["error"]["type"]))
        assert document["steps"] == {"data-prep": "failed", "exit": "succeeded"}
        tasks = [line for line in (out / "kfp.log").read_text().splitlines() if "Executing task" in line]
        assert [line for line in tasks if "'train'" in line or "'evaluate'" in line] == []

    assert ends == [(2, "failed", "data-prep", "DataError")] * 10


def test_a_model_that_passes_the_gate_is_published_by_its_container_on_paths_that_are_awkward_for_docker(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], containers: Containers
) -> None:
    data, out = tmp_path / 'a: python3\'s, "data" $HOME', tmp_path / "ünï: 'quoted' ro,z"
    shutil.copytree(DIGITS, data)
    (tmp_path / "published").mkdir()
    changes = {"gate": {"accuracy": {"min": 0.1}}, "publish_uri": str(tmp_path / "published")}
    params = write_params(tmp_path / "params.json", num_epochs=1, **changes)

    code, document, told = run_here(capsys, out, "--params", params, "--data", data, *OPTIONS, "--network", "host")

    assert code == 0, told
    open_model(Path(document["artifacts"]["model"]))
    assert list((out / "checkpoints").glob("*/epoch-00002-batch-000000.json"))
    assert document["steps"]["publish"] == "succeeded"
    (published,) = (tmp_path / "published").iterdir()
    assert (published / "model.onnx").read_bytes() == (out / "model" / "model.onnx").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"params.json", data.name, out.name, "published"}


def test_data_that_is_not_there_is_told_as_in_processes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], containers: Containers
) -> None:
    options = ["--params", write_params(tmp_path / "params.json"), "--data", tmp_path / "nowhere"]

    code, document, _ = run_here(capsys, tmp_path / "out", *options, *OPTIONS)

    assert code == 2
    assert document["error"] == run_here(capsys, tmp_path / "processes", *options)[1]["error"]


def test_a_step_is_killed(tmp_path: Path, endless: subprocess.Popen[str], containers: Containers) -> None:
    (container,) = containers.all("train")
    container.kill("SIGKILL")
    printed, told = endless.communicate()

    document = json.loads(printed)
    assert endless.returncode == 1
    assert document["error"]["step"] == "train"
    assert document["error"]["message"].startswith("it was killed by SIGKILL (exit code 137)")
    assert document["steps"] == {"data-prep": "succeeded", "exit": "succeeded"}
    assert "Traceback" not in told


def test_a_step_runs_out_of_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str], containers: Containers) -> None:
    params = write_params(tmp_path / "params.json")

    code, document, _ = run_here(capsys, tmp_path / "out", "--params", params, *OPTIONS, "--memory", "100m")

    assert code == 1
    assert document["error"]["step"] == "train"
    assert document["error"]["message"].startswith("it ran out of memory and was killed (exit code 137)")


@pytest.mark.parametrize(
    ("number", "whole_group", "code"),
    [(signal.SIGINT, True, 130), (signal.SIGTERM, False, 143)],  # the first as a terminal does
    ids=["Ctrl-C", "SIGTERM"],
)
def test_a_run_that_is_told_to_stop_ends_in_good_order(
    tmp_path: Path,
    endless: subprocess.Popen[str],
    containers: Containers,
    number: signal.Signals,
    whole_group: bool,
    code: int,
) -> None:
    (os.killpg if whole_group else os.kill)(endless.pid, number)
    printed, told = endless.communicate()

    document = json.loads(printed)
    assert endless.returncode == code, told
    assert document["status"] == "cancelled"
    assert document["steps"] == {"data-prep": "succeeded", "train": "cancelled", "exit": "succeeded"}
    assert document == json.loads((tmp_path / "out" / "result.json").read_text())
    assert "Traceback" not in told
    view = fold(document["run"], events_in(tmp_path / "out" / "events"))
    assert view.state == "cancelled"
    assert view.ended is not None
    assert [step.outcome for step in view.ended.steps] == ["succeeded", "cancelled", "not started"]
    assert isinstance(view.steps["train"].end, Cancelled)
    # A step that sticks to its Ctrl-C is sent SIGTERM too.
    assert view.steps["train"].end.exit_code in (code, 143)


def test_a_second_signal_ends_everything_at_once(endless: subprocess.Popen[str], containers: Containers) -> None:
    (container,) = containers.all("train")
    pause(container)  # so that the step cannot end in good order
    endless.send_signal(signal.SIGINT)
    time.sleep(1)  # or the two may be taken as one
    endless.send_signal(signal.SIGINT)
    endless.wait()

    assert endless.returncode == 130
    assert containers.all() == []


def test_docker_stop_reaches_the_step(tmp_path: Path, endless: subprocess.Popen[str], containers: Containers) -> None:
    (container,) = containers.all("train")
    container.stop()
    document = json.loads(endless.communicate()[0])

    assert endless.returncode == 143
    assert document["steps"] == {"data-prep": "succeeded", "train": "cancelled", "exit": "succeeded"}
    assert (document["error"]["step"], document["error"]["message"]) == ("train", "SIGTERM")


def test_the_container_of_a_command_that_was_killed_ends_and_is_found_by_its_label(
    endless: subprocess.Popen[str], containers: Containers
) -> None:
    endless.kill()
    endless.wait()

    (container,) = containers.all()
    assert container.labels["shutterline.step"] == "train"
    assert container.name.startswith(f"shutterline-{containers.run}-train-")
    assert container.wait(timeout=60)["StatusCode"] == 143
    container.remove(force=True)


def test_kfp_is_as_ever_for_everybody_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], containers: Containers, monkeypatch: pytest.MonkeyPatch
) -> None:
    kfps_own = docker_task_handler.run_docker_container
    calls: list[dict[str, Any]] = []

    # The same signature as kfp's, so that it is known again.
    def run_docker_container(
        client: Any, image: str, command: list[str], volumes: dict[str, Any], **container_run_args: Any
    ) -> int:
        calls.append(container_run_args)
        result: int = kfps_own(client, image, command, volumes, **container_run_args)
        return result

    monkeypatch.setattr(docker_task_handler, "run_docker_container", run_docker_container)
    image = images_named_by(Path(IMAGES) if IMAGES else None)["data-prep"].reference
    (tmp_path / "theirs").mkdir()
    labels = {"theirs": "yes", "shutterline.step": "train"}
    arguments = {"entrypoint": "", "network_mode": "none", "labels": labels, "user": f"{os.getuid()}:{os.getgid()}"}
    runner = local.DockerRunner(**arguments)
    command = ["sh", "-c", f"echo made > '{tmp_path}/theirs/file'"]
    handler = docker_task_handler.DockerTaskHandler(image, command, str(tmp_path / "theirs"), runner)
    over, statuses = threading.Event(), []

    def meanwhile() -> None:
        while not over.wait(0.01):
            if docker_task_handler.run_docker_container is not run_docker_container:  # a run of ours is under way
                statuses.append(handler.run())
                return

    thread = threading.Thread(target=meanwhile)
    thread.start()
    params = write_params(tmp_path / "params.json")
    (tmp_path / "empty").mkdir()
    options = ["--out", tmp_path / "out", "--params", params, "--data", tmp_path / "empty", *OPTIONS]
    code = main(["run", *map(str, options)])
    over.set()
    thread.join()

    # Not --json: what kfp prints of their container may come before our run takes what is printed.
    assert code == 2, capsys.readouterr().err
    assert [status.name for status in statuses] == ["SUCCESS"]
    assert calls == [arguments]
    assert (tmp_path / "theirs" / "file").read_text() == "made\n"
    assert docker_task_handler.run_docker_container is run_docker_container


@pytest.fixture
def a_secret(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "correct-horse-battery")
    return "correct-horse-battery"


def test_secrets_reach_the_steps_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], containers: Containers, a_secret: str
) -> None:
    params = write_params(tmp_path / "params.json", num_epochs=1)

    code, _, told = run_here(capsys, tmp_path / "out", "--params", params, *OPTIONS)

    assert code == 0, told
    assert a_secret not in told
    for file in (path for path in (tmp_path / "out").rglob("*") if path.is_file()):
        assert a_secret.encode() not in file.read_bytes(), file
