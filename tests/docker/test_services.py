"""docker/services.py: what it starts serves, and nothing is left of it."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.peers.emulator import emulator_jar
from tests.peers.fixtures import need
from tests.peers.ports import HOST, claim_port

SCRIPT = Path(__file__).parents[2] / "docker" / "services.py"
NAMES = ("kafka", "pubsub", "gcs", "tensorboard")


def start(folder: Path, ports: dict[str, int]) -> subprocess.Popen[str]:
    options = [part for name, port in ports.items() for part in (f"--{name}-port", str(port))]
    return subprocess.Popen(
        [sys.executable, SCRIPT, *options, "--directory", folder / "services", "--logdir", folder],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.fixture
def ports() -> dict[str, int]:
    return {name: claim_port() for name in NAMES}


@pytest.fixture
def services(tmp_path: Path, ports: dict[str, int]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    need(emulator_jar(), "java and gcloud's pubsub-emulator component")
    process = start(tmp_path, ports)
    assert process.stdout is not None
    printed = ""
    for line in process.stdout:
        printed += line
        if line.startswith("ready"):
            break
    try:
        yield process, printed
    finally:
        process.terminate()  # the script ends its services, which killed it could not
        process.communicate(timeout=60)


def serves(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


@pytest.mark.slow
def test_all_serve_with_topics_and_bucket_and_end_with_the_script(
    services: tuple[subprocess.Popen[str], str], ports: dict[str, int]
) -> None:
    process, printed = services
    assert f"export PUBSUB_EMULATOR_HOST={HOST}:{ports['pubsub']} STORAGE_EMULATOR_HOST=http://{HOST}" in printed
    assert f"shutterline run --set KAFKA_HOST={HOST}:{ports['kafka']} --set KAFKA_TOPIC=status" in printed
    topics = subprocess.run(
        [sys.executable, "-m", "kafka.admin", "-b", f"{HOST}:{ports['kafka']}", "topics", "list"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "status" in topics.stdout
    for address, wanted in (
        (f"http://{HOST}:{ports['gcs']}/storage/v1/b", '"shutterline"'),
        (f"http://{HOST}:{ports['pubsub']}/v1/projects/local-project/subscriptions", "subscriptions/status-watch"),
        (f"http://{HOST}:{ports['tensorboard']}/data/environment", "version"),
    ):
        with urllib.request.urlopen(address, timeout=60) as answer:  # noqa: S310 - our own servers
            assert wanted in json.dumps(json.load(answer))
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert not any(serves(port) for port in ports.values())


@pytest.mark.slow
def test_what_it_prints_works_when_it_is_pasted(services: tuple[subprocess.Popen[str], str], tmp_path: Path) -> None:
    _, printed = services
    lines = printed.partition("in another terminal, in any directory:\n")[2].splitlines()
    export, run, kafka, pubsub = [line for line in lines if line and not line.startswith("ready")]
    assert export.startswith("export ")
    (tmp_path / "elsewhere").mkdir()

    def pasted(line: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/sh", "-c", f"{export}\n{line}"],
            cwd=tmp_path / "elsewhere",
            env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )

    done = pasted(f"{run} --set num_epochs=1 --set learning_rate_schedule=[] --set on_status_error=fail --out run")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "elsewhere" / "run" / "result.json").read_text())
    for watch in (kafka, pubsub):
        shown = pasted(f"{watch} --until-done --timeout 60 --json")
        assert shown.returncode == 0, shown.stderr
        assert result["run"] in shown.stdout
        assert '"succeeded"' in shown.stdout


def test_a_taken_port_is_reported_in_one_line_and_nothing_stays(tmp_path: Path, ports: dict[str, int]) -> None:
    need(emulator_jar(), "java and gcloud's pubsub-emulator component")
    with socket.socket() as taken:
        taken.bind((HOST, ports["pubsub"]))
        taken.listen()
        process = start(tmp_path, ports)
        _, errors = process.communicate(timeout=90)
    assert process.returncode == 1
    problem = f"Pub/Sub: port {ports['pubsub']} is taken (Address already in use); choose another"
    assert errors == f"docker/services.py: error: {problem}\n"
    assert not any(serves(port) for port in ports.values())
