"""Nodes by a platform's variables: what cannot be, what has no effect, and what ends the wait for the others."""

from __future__ import annotations

import json
import logging
import signal
import threading
from pathlib import Path

import pytest

from components.shared.events.spool import spools_of
from components.train.__main__ import main
from tests.examples import write_params
from tests.train.group_cases import write_uneven
from tests.train.test_launch import LONG, TORCHRUNS, command, free_port


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("variables")
    write_uneven(folder / "dataset")
    write_params(folder / "params.json", **LONG)
    return folder


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"PET_NNODES": "two"}, "PET_NNODES=two, PET_NODE_RANK=0): invalid literal for int() with base 10: 'two'"),
        ({"PET_NNODES": "3:2"}, "PET_NNODES=3:2, PET_NODE_RANK=0): min_nodes must be > 0 and <= max_nodes"),
        ({"PET_NNODES": "2", "PET_NODE_RANK": "first"}, "argument --node-rank/--node_rank: invalid int value: 'first'"),
        (
            {"PET_NNODES": "2", "PET_MONITOR_INTERVAL": "soon"},
            "PET_MONITOR_INTERVAL=soon, PET_NNODES=2, PET_NODE_RANK=0): argument --monitor-interval",
        ),
    ],
)
def test_a_platforms_variables_that_cannot_be(
    folder: Path,
    tmp_path: Path,
    variables: dict[str, str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = {"PET_NODE_RANK": "0", "PET_MASTER_ADDR": "localhost", "SHUTTERLINE_RECORDS": str(tmp_path / "records")}
    for name, value in {**place, **variables}.items():
        monkeypatch.setenv(name, value)

    assert main(command(folder, tmp_path / "model", processes="1")[3:]) == 2
    out, log = capsys.readouterr()
    assert json.loads(out)["error"]["type"] == "InputError"
    assert message in json.loads(out)["error"]["message"]
    assert log.count("failed: ") == 1
    assert "Traceback" not in log
    assert (tmp_path / "records" / "train.json").exists()


def test_nodes_that_never_come(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    variables = {"PET_NNODES": "2", "PET_RDZV_BACKEND": "c10d", "PET_RDZV_ENDPOINT": f"localhost:{free_port()}"}
    for name, value in {**variables, "PET_RDZV_CONF": "join_timeout=1"}.items():
        monkeypatch.setenv(name, value)

    assert main(command(folder, tmp_path / "model", processes="1")[3:]) == 1
    out, log = capsys.readouterr()
    assert json.loads(out)["error"]["type"] == "GroupLostError"
    assert "the processes of the nodes did not find each other" in log
    assert "Traceback" not in log


@pytest.mark.parametrize("rank", ["0", "1"])
def test_sigterm_ends_the_wait_for_the_other_nodes(
    folder: Path, tmp_path: Path, rank: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    waited_for = threading.Event()

    class Log(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "waiting for node" in record.getMessage():
                waited_for.set()

    def ends() -> None:
        waited_for.wait(600)
        signal.raise_signal(signal.SIGTERM)

    for name, value in zip(TORCHRUNS, ("2", rank, "localhost", free_port()), strict=True):
        monkeypatch.setenv(name, value)
    logging.getLogger("shutterline").addHandler(handler := Log())
    thread = threading.Thread(target=ends)
    thread.start()
    try:
        assert main(command(folder, tmp_path / "model", processes="1")[3:]) == 143
    finally:
        logging.getLogger("shutterline").removeHandler(handler)
        thread.join()
    out, log = capsys.readouterr()
    assert json.loads(out)["status"] == "cancelled"
    assert log.count("waiting for node") == 1
    assert (len(spools_of(tmp_path / "events")) == 1) is (rank == "0"), "the first node alone reports"


def test_variables_of_torchrun_without_effect_are_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    variables = {"PET_NNODES": "1", "PET_NPROC_PER_NODE": "4", "PET_MAX_RESTARTS": "9", "PET_NODE_RANK": "0"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    words = command(folder, tmp_path / "model", "--dataset", str(tmp_path / "nowhere"), processes="1")

    assert main(words[3:]) == 2
    log = capsys.readouterr().err
    assert log.count("PET_NPROC_PER_NODE is 4, and has no effect: --processes is 1, which is 1 here") == 1
    assert log.count("PET_MAX_RESTARTS: of no effect here") == 1
