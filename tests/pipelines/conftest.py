from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pipelines.cli import main
from tests.conftest import BAD_INPUT
from tests.examples import write_params
from tests.peers.fixtures import bucket as bucket
from tests.peers.fixtures import gcs_bucket as gcs_bucket
from tests.peers.fixtures import gcs_server as gcs_server
from tests.peers.fixtures import kafka_broker as kafka_broker
from tests.peers.fixtures import leaky_kafka_client as leaky_kafka_client
from tests.peers.fixtures import own_kafka_broker as own_kafka_broker
from tests.peers.fixtures import pubsub_emulator as pubsub_emulator
from tests.peers.fixtures import s3_bucket as s3_bucket
from tests.peers.fixtures import s3_server as s3_server
from tests.peers.fixtures import seaweed as seaweed
from tests.peers.fixtures import topic as topic
from tests.peers.kafka_topics import KafkaTopics

Command = Callable[..., "subprocess.CompletedProcess[str]"]
Capsys = pytest.CaptureFixture[str]
Environment = pytest.MonkeyPatch
ROOT = Path(__file__).parents[2]


class Done(NamedTuple):
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


Shutterline = Callable[..., Done]
Refused = Callable[..., str]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def shutterline(capsys: pytest.CaptureFixture[str]) -> Shutterline:
    """Run the shutterline command in this process."""

    def run(*arguments: object) -> Done:
        capsys.readouterr()
        code = main([*map(str, arguments)])
        done = Done(code, *capsys.readouterr())
        assert "Traceback" not in done.err
        return done

    return run


@pytest.fixture
def refused(
    shutterline: Shutterline, record_property: Callable[[str, object], None], request: pytest.FixtureRequest
) -> Refused:
    """Run the shutterline command, which must end with exit code 2 and some lines; returns its message."""

    def run(*arguments: object, lines: int = 1) -> str:
        done = shutterline(*arguments)
        if "--json" in arguments:
            assert (done.code, done.document["status"]) == (2, "failed")
            return str(done.document["error"]["message"])
        assert (done.code, done.out, done.err.count("\n"), done.err[:7]) == (2, "", lines, "error: "), done
        message = done.err[7:].strip()
        record_property(BAD_INPUT, (request.node.name, message))
        return message

    return run


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Run one of our commands in a process of its own, in an empty directory."""

    def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=tmp_path, env=os.environ | environment, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip

    return run


@pytest.fixture
def status(kafka_broker: KafkaTopics, topic: str) -> str:
    """A topic of three partitions, as `shutterline watch --kafka` wants it."""
    kafka_broker.create_topic(topic, partitions=3)
    return f"{kafka_broker.bootstrap}/{topic}"


class FinishedRun(NamedTuple):
    """A run that succeeded, in a process of its own."""

    folder: Path
    changes: tuple[str, ...]
    done: Done

    @property
    def out(self) -> Path:
        return self.folder / OUT

    @property
    def params(self) -> dict[str, Any]:
        kept: dict[str, Any] = json.loads((self.out / "params.json").read_text())
        return kept


SEED = 2**62 + 1
OUT = "a python3 ünï 'quoted' $HOME"  # awkward for a shell, and for who replaces "python3" in a command


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    folder = tmp_path_factory.mktemp("finished")
    rates = {"name": "steps", "class": "torch.optim.lr_scheduler.StepLR", "kwargs": {"step_size": 1}}
    changed = {"num_epochs": 3, "validation_fraction": 0.1, "learning_rate": 0.1 + 0.2}
    write_params(folder / "params.json", learning_rate_schedule=[rates], **changed)
    (folder / "tmp").mkdir()
    for name in ("torch.py", "numpy.py", "json.py"):  # must not stand in for the packages
        (folder / name).write_text("raise RuntimeError('not this one')")
    changes = ("--set", "learning_rate_schedule[0].kwargs.step_size=2", "--set", f"manual_seed={SEED}")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "pipelines.cli", "run", "--params", "params.json", "--out", OUT, "--json",
         *changes],
        cwd=folder, env=os.environ | {"TMPDIR": str(folder / "tmp")}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return FinishedRun(folder, changes, Done(0, done.stdout, done.stderr))
