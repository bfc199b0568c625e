"""One command for several processes: it ends as one step does, and goes on where a process was lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from components.shared.artifacts.model import open_model
from components.shared.events.data import Cancelled, Failed
from components.shared.events.event import StepEvent
from components.shared.events.spool import events_in, spools_of
from components.train.__main__ import main
from components.train.launch import processes_for
from tests.examples import write_params
from tests.train.group_cases import PLAIN, TRAINED, write_uneven

# A start of two processes takes 15 s of a core, and an epoch 0.05: long enough to be interrupted.
LONG = {**PLAIN, "num_epochs": 80, "eval_freq": 20, "save_freq": 5, "flip_images": False, "keep_checkpoints": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("launch")
    write_uneven(folder / "dataset")
    write_params(folder / "params.json", **LONG)
    return folder


def command(folder: Path, model: Path, *words: str, processes: str = "2") -> list[str]:
    places = ["--dataset", folder / "dataset", "--model", model, "--params", folder / "params.json"]
    return [sys.executable, "-m", "components.train", *map(str, places), "--processes", processes, "--json", *words]


def run(words: list[str], model: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, env=environment(model), capture_output=True, text=True, check=False)


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return str(free.getsockname()[1])


TORCHRUNS = ("PET_NNODES", "PET_NODE_RANK", "PET_MASTER_ADDR", "PET_MASTER_PORT")
PLATFORMS = ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT")


def on_two_nodes(words: list[str], model: Path, names: tuple[str, ...] = TORCHRUNS, **more: str) -> list[Any]:
    """Exit code, output and log of one command on two nodes, as a platform's variables name them."""
    port = free_port()

    def node(rank: str) -> subprocess.Popen[str]:
        variables = more | dict(zip(names, ("2", rank, "localhost", port), strict=True))
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(words, env=environment(model, **variables), **pipes)

    with node("0") as first, node("1") as second:
        outputs = first.communicate(), second.communicate()
    return [(each.returncode, *output) for each, output in zip((first, second), outputs, strict=True)]


def environment(model: Path, **variables: str) -> dict[str, str]:
    defaults = {"OMP_NUM_THREADS": "1", "SHUTTERLINE_EVENTS": str(model.parent / f"{model.name}-events")}
    return os.environ | defaults | variables


@contextmanager
def started(folder: Path, model: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    (model.parent / "tmp").mkdir(exist_ok=True)
    with subprocess.Popen(
        command(folder, model, *words),
        env=environment(model, TMPDIR=str(model.parent / "tmp")),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as step:
        saved = model.with_name(f"{model.name}-checkpoints")
        while not list(saved.glob("*.json")):
            assert step.poll() is None, step.stderr.read() if step.stderr else ""
            time.sleep(0.01)
        yield step


def process_of_rank(rank: int, launcher: int) -> int:
    for found in Path("/proc").glob("[0-9]*"):
        try:
            variables = (found / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if f"RANK={rank}".encode() in variables and f"SHUTTERLINE_GROUP_LAUNCHER={launcher}".encode() in variables:
            return int(found.name)
    raise AssertionError(f"there is no rank {rank}")


def weights(model: Path) -> tuple[bytes, bytes]:
    return (model / "model.safetensors").read_bytes(), (model / "model.onnx").read_bytes()


def events(model: Path) -> list[StepEvent]:
    return list(events_in(model.parent / f"{model.name}-events"))


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> Path:
    model = folder / "undisturbed"
    done = run(command(folder, model), model)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "succeeded"
    assert done.stderr.count("started") == 1, "one process logs"
    assert [event.state for event in events(model) if event.is_terminal] == ["succeeded"]
    return model


@pytest.mark.slow
def test_sigterm_ends_all_at_one_step_and_the_run_goes_on_to_the_same_weights(
    folder: Path, undisturbed: Path, tmp_path: Path
) -> None:
    model, checkpoints = tmp_path / "model", tmp_path / "model-checkpoints"
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does; what is started inherits it
    try:
        with started(folder, model) as step:
            for pid in (step.pid, process_of_rank(0, step.pid), process_of_rank(1, step.pid)):
                os.kill(pid, signal.SIGHUP)
            saved = set(checkpoints.glob("*.json"))
            while not set(checkpoints.glob("*.json")) - saved:
                assert step.poll() is None, step.stderr.read() if step.stderr else ""
                time.sleep(0.01)
            step.send_signal(signal.SIGTERM)
            out, log = step.communicate()
    finally:
        signal.signal(signal.SIGHUP, before)

    assert step.returncode == 128 + signal.SIGTERM
    assert json.loads(out)["status"] == "cancelled"
    assert log.count("cancelled: SIGTERM") == 1
    assert "started again" not in log
    assert "Traceback" not in log
    assert not list((tmp_path / "tmp").glob("shutterline-*")), "nothing temporary is left"
    (cancelled,) = [event for event in events(model) if event.is_terminal]
    assert isinstance(cancelled.data, Cancelled)
    assert cancelled.data.exit_code == 143
    assert not (model / "model.json").exists()

    shutil.copytree(checkpoints, tmp_path / "alone-checkpoints")
    done = run(command(folder, model), model)
    assert done.returncode == 0, done.stderr
    assert "going on from a checkpoint of epoch" in done.stderr
    assert weights(model) == weights(undisturbed)

    alone = tmp_path / "alone"
    done = run(command(folder, alone, processes="1"), alone)
    assert done.returncode == 0, done.stderr
    assert "the checkpoint was made by 2 process(es) on cpu" in done.stderr
    for ours, theirs in zip(open_model(alone).manifest.history, open_model(undisturbed).manifest.history, strict=True):
        assert ours.train_loss == pytest.approx(theirs.train_loss, rel=1e-3)
        assert ours.train_accuracy * TRAINED == pytest.approx(round(ours.train_accuracy * TRAINED))


@pytest.mark.slow
def test_ctrl_c_ends_all_at_one_step(folder: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    with started(folder, model, "--set", "num_epochs=100000") as step:
        step.send_signal(signal.SIGINT)
        _, log = step.communicate()

    assert step.returncode == 128 + signal.SIGINT
    assert log.count("cancelled") == 1
    assert "Traceback" not in log
    assert [event.state for event in events(model) if event.is_terminal] == ["cancelled"]


@pytest.mark.slow
def test_a_lost_process_starts_all_again_from_the_last_checkpoint(
    folder: Path, undisturbed: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    with started(folder, model, "--start-over") as step:
        os.kill(process_of_rank(1, step.pid), signal.SIGKILL)
        while not any(event.attempt == 1 and event.state == "progress" for event in events(model)):
            assert step.poll() is None, step.stderr.read() if step.stderr else ""
            time.sleep(0.01)
        os.kill(process_of_rank(0, step.pid), signal.SIGKILL)
        out, log = step.communicate()

    assert step.returncode == 0, log
    assert json.loads(out)["status"] == "succeeded", "one document"
    assert [f"all were started again: {times} of at most 3 times" in log for times in (1, 2, 3)] == [True, True, False]
    assert log.count("going on from a checkpoint") == 2, "what was there is removed once"
    assert "Traceback" not in log
    assert weights(model) == weights(undisturbed)
    found = events(model)
    assert len({event.run for event in found}) == 1
    assert len({event.id for event in found}) == len(found)
    assert Counter(event.attempt for event in found if event.state == "started") == {0: 1, 1: 1, 2: 1}
    assert [event.state for event in found if event.attempt == 2 and event.is_terminal] == ["succeeded"]
    # The first process saw the other go; killed itself, it could say nothing more.
    (failed,) = [event.data for event in found if event.attempt == 0 and event.is_terminal]
    assert isinstance(failed, Failed)
    assert failed.error.type == "GroupLostError"
    assert ".cc:" not in failed.error.message


@pytest.mark.slow
def test_without_restarts_a_lost_process_ends_the_step(folder: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    with started(folder, model, "--restarts", "0") as step:
        os.kill(process_of_rank(0, step.pid), signal.SIGKILL)
        out, log = step.communicate()

    assert step.returncode == 1
    document = json.loads(out)
    assert document["error"]["type"] == "GroupLostError"
    assert "SIGKILL" in document["error"]["message"]
    assert log.count("failed: ") == 1
    assert "Traceback" not in log
    assert [event.state for event in events(model) if event.is_terminal] == ["failed"]
    assert len({event.run for event in events(model)}) == 1, "it is reported of the run that was lost"


@pytest.mark.slow
def test_a_killed_launcher_leaves_no_process_behind(folder: Path, tmp_path: Path) -> None:
    with started(folder, tmp_path / "model") as step:
        members = [process_of_rank(rank, step.pid) for rank in (0, 1)]
        step.kill()
        step.communicate()

    for _ in range(15_000):
        if not any(Path(f"/proc/{one}/environ").exists() for one in members):
            return
        time.sleep(0.02)
    raise AssertionError("it trains on without its launcher")


@pytest.mark.slow
def test_what_only_the_processes_see_is_log_once_and_not_tried_again(folder: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    changes = {"optim_class": '"torch.optim.SGD"', "learning_rate": "1e30"}
    words = [word for key, value in changes.items() for word in ("--set", f"{key}={value}")]
    done = run(command(folder, model, *words), model)

    assert done.returncode == 1
    assert json.loads(done.stdout)["error"]["type"] == "DivergedError"
    assert done.stderr.count("failed: ") == 1
    assert "Traceback" not in done.stderr
    assert [event.state for event in events(model)].count("started") == 1, "trying again would change nothing"


def test_bad_params_are_found_before_anything_is_started(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = command(folder, tmp_path / "model", "--set", "net_arch[0].kwargs.in_channels=3")[3:]

    assert main(words) == 2
    out, log = capsys.readouterr()
    assert "net_arch[0].kwargs.in_channels" in json.loads(out)["error"]["message"]
    assert log.count("failed: ") == 1
    assert len(spools_of(tmp_path / "events")) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--processes", "many"], '--processes must be "auto" or a number from 1'),
        (["--processes", "2", "--set", "device=cuda"], 'device: "cuda" was asked for, and'),
        (["--processes", "2", "--set", "device=cuda:0"], 'device: "cuda:0" was asked for, and'),
    ],
)
def test_processes_that_cannot_be(
    folder: Path, tmp_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command(folder, tmp_path / "model")[3:], *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({}, "PET_NNODES is 2, and PET_NODE_RANK and PET_MASTER_ADDR are not set; set PET_NODE_RANK"),
        ({"PET_MASTER_ADDR": "localhost"}, "PET_NNODES is 2, and PET_NODE_RANK is not set"),
        ({"PET_NODE_RANK": "0"}, "PET_NNODES is 2, and PET_MASTER_ADDR is not set"),
        ({"PET_NODE_RANK": "2", "PET_MASTER_ADDR": "localhost"}, "node 2: nodes are numbered from 0 to 1"),
    ],
)
def test_a_node_that_does_not_know_its_place_waits_for_nobody(
    folder: Path,
    tmp_path: Path,
    variables: dict[str, str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in {"PET_NNODES": "2", "PET_RDZV_CONF": "timeout=1", **variables}.items():
        monkeypatch.setenv(name, value)
    assert main(command(folder, tmp_path / "model")[3:]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("device", ["cpu", "cuda:1", "auto"])
def test_without_several_gpus_one_process_is_enough(device: str) -> None:
    assert processes_for("auto", device) == 1


@pytest.mark.slow
def test_nodes_find_each_other_by_the_platforms_variables(folder: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shorter = ["--set", "num_epochs=2", "--set", "save_freq=1"]

    first, second = on_two_nodes(command(folder, model, *shorter), model, PLATFORMS)

    assert (first[0], second[0]) == (0, 0), first[2] + second[2]
    report: dict[str, Any] = json.loads(first[1])["report"]
    assert report["epochs"] == 2
    assert second[2] == "", "only the first process logs"
    (newest, *_) = sorted((tmp_path / "model-checkpoints").glob("*.json"), reverse=True)
    assert json.loads(newest.read_text())["processes"] == 4


SCARCE = '''\
import os
import torch


class Scarce(torch.nn.Identity):
    """Of the second process, memory is not enough for more than eight images."""

    def forward(self, images):
        if os.environ.get("RANK") == "1" and self.training and images.device.type == "cpu" and len(images) > 8:
            raise MemoryError("so little")
        return images
'''


@pytest.mark.slow
def test_what_one_node_ends_with_for_good_ends_the_other_at_once(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "scarce.py").write_text(SCARCE)
    layers: Any = LONG["net_arch"]
    net, model = [*layers, {"class": "scarce.Scarce", "kwargs": {}}], tmp_path / "model"
    path = f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"

    nodes = on_two_nodes(
        command(folder, model, "--set", f"net_arch={json.dumps(net)}", processes="1"),
        model,
        SHUTTERLINE_MODULES="scarce",
        PYTHONPATH=path,
    )

    for code, document, log in nodes:
        assert code == 2, log
        (problem,) = json.loads(document)["error"]["problems"]
        assert problem["path"] == "batch_size"
        assert "8 would (tried)" in problem["message"] or "16 would (tried)" in problem["message"]
    assert "all were started again" not in nodes[0][2], "they found each other, and ended"
