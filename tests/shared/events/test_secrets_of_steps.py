"""No secret is left by single steps: neither with secrets that were fetched, nor with a broker that repeats them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.examples import write_digits, write_params
from tests.peers.sasl import RefusedError, SaslRelay
from tests.peers.secret_manager import SecretManager
from tests.peers.tls import Certificates
from tests.pipelines.conftest import ROOT, Command
from tests.pipelines.conftest import command as command
from tests.shared.events.security_fixtures import a_clean_environment as a_clean_environment
from tests.shared.events.security_fixtures import service_account
from tests.shared.events.test_secrets import (
    AWS_KEY,
    KEY_OF_ENVIRONMENT,
    KEY_PASSWORD,
    LINES_OF_ENVIRONMENT,
    OTHER,
    PASSWORD,
    USER,
    Brokers,
    everything,
    leaks,
    named,
)
from tests.shared.events.test_secrets import brokers as brokers
from tests.shared.events.test_secrets import secured as secured

RUN = "secrets-run"


class RepeatingRelay(SaslRelay):
    """Refuses logins, and repeats in its refusal what it was told.

    Attributes:
        accepted: How many logins come through before.
    """

    accepted = 0

    def _plain(self) -> Generator[bytes, bytes, tuple[str, bytes]]:
        _, user, password = (yield b"").decode().split("\0")
        self.accepted -= 1
        if self.accepted >= 0:
            return user, b""
        raise RefusedError(f"{user} with {password!r} is unknown, sasl_plain_password={password}; a token? {password}")


@pytest.fixture
def repeating(brokers: Brokers, certificates: Certificates) -> Iterator[RepeatingRelay]:
    """Such a broker in the place of the one that the params name."""
    tls = certificates.server_context(require_client=True)
    with RepeatingRelay(brokers.front.target, {USER: PASSWORD}, tls=tls) as relay:
        brokers.params["KAFKA_HOST"] = relay.address
        yield relay


@pytest.fixture
def manager() -> Iterator[SecretManager]:
    with SecretManager() as running:
        yield running
    assert running.odd == []


@pytest.fixture
def of_a_run(secured: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """The environment of a step of a run, all of whose steps share their events."""
    (tmp_path / "out" / "events").mkdir(parents=True)
    return secured | {
        "SHUTTERLINE_RUN_ID": RUN,
        "SHUTTERLINE_EVENTS": str(tmp_path / "out" / "events"),
        "SHUTTERLINE_RECORDS": str(tmp_path / "out" / "steps"),
    }


@pytest.fixture
def login(of_a_run: dict[str, str]) -> dict[str, str]:
    """With a login whose secrets are in the environment."""
    return of_a_run | {
        "KAFKA_SASL_MECHANISM": "PLAIN",
        "KAFKA_SASL_USERNAME": USER,
        "KAFKA_SASL_PASSWORD": PASSWORD,
        "KAFKA_SSL_KEY_PASSWORD": KEY_PASSWORD,
    }


@pytest.fixture
def fetched(of_a_run: dict[str, str], manager: SecretManager, tmp_path: Path) -> dict[str, str]:
    """With one whose secrets are in Secret Manager alone, as on Vertex AI."""
    account = service_account(tmp_path / "own.json", token_uri=manager.token_uri)
    files = {name: of_a_run[f"KAFKA_SSL_{name}"] for name in ("CAFILE", "CERTFILE", "KEYFILE")}
    return of_a_run | {
        "KAFKA_SASL_MECHANISM": "SCRAM-SHA-256",
        "KAFKA_SASL_USERNAME": USER,
        "KAFKA_SASL_PASSWORD_FILE": manager.add("password", f"{PASSWORD}\n"),
        "KAFKA_SSL_KEY_PASSWORD_FILE": manager.add("key-password", KEY_PASSWORD),
        **{f"KAFKA_SSL_{name}": manager.add(name, Path(file).read_bytes()) for name, file in files.items()},
        "SHUTTERLINE_SECRET_MANAGER_ENDPOINT": manager.endpoint,
        "GOOGLE_APPLICATION_CREDENTIALS": str(account),
    }


def train(command: Command, tmp_path: Path, params: dict[str, str], **given: str) -> subprocess.CompletedProcess[str]:
    dataset = write_digits(tmp_path / "dataset")
    params_file = write_params(tmp_path / "params.json", num_epochs=1, TIMEOUT=20, **params)
    model = tmp_path / "out" / "model"
    arguments = ["--dataset", dataset, "--model", model, "--params", params_file, "--json"]
    return command("-m", "components.train", *arguments, **given | {"PYTHONPATH": str(ROOT)})


def end(command: Command, tmp_path: Path, params: dict[str, str], **given: str) -> subprocess.CompletedProcess[str]:
    """The exit step, told by the platform what the environment has as secrets."""
    params_file = write_params(tmp_path / "params.json", TIMEOUT=5, **params)
    message = f"task failed: {OTHER} {AWS_KEY} {LINES_OF_ENVIRONMENT[4]} {KEY_OF_ENVIRONMENT}"
    arguments = ["--state", "FAILED", "--message", message, "--params", params_file, "--json"]
    return command("-m", "components.exit_step", *arguments, **given | {"PYTHONPATH": str(ROOT)})


@pytest.mark.slow
@pytest.mark.parametrize("accepted", [0, 1], ids=["us", "Kafka's client"])
def test_training_that_a_broker_refuses_repeating_the_password_tells_it_to_nobody(
    brokers: Brokers,
    repeating: RepeatingRelay,
    login: dict[str, str],
    tmp_path: Path,
    command: Command,
    accepted: int,
) -> None:
    repeating.accepted = accepted

    done = train(command, tmp_path, brokers.params, **login)

    assert done.returncode == 2, done.stderr
    assert any(PASSWORD in message for _, message in repeating.refused), "it was repeated"
    left = everything(tmp_path, done, brokers)
    for place in ("standard output", "standard error", "steps/train.json", f"{RUN}.train.0.jsonl", "Pub/Sub message"):
        assert any(b"with '[redacted]' is unknown" in content for name, content in left.items() if place in name), place
    assert leaks(left) == []


def test_the_exit_step_leaves_none_of_the_platforms_message_or_the_brokers(
    brokers: Brokers, repeating: RepeatingRelay, login: dict[str, str], tmp_path: Path, command: Command
) -> None:
    done = end(command, tmp_path, brokers.params, **login)

    assert done.returncode == 0, done.stderr
    assert any(PASSWORD in message for _, message in repeating.refused), "it was repeated"
    left = everything(tmp_path, done, brokers)
    assert json.loads(left["standard output"])["report"]["outcome"] == "failed"
    for place in ("standard output", "standard error", "steps/exit.json", f"{RUN}.pipeline.0.jsonl", "Pub/Sub message"):
        assert any(b"task failed: [redacted]" in content for name, content in left.items() if place in name), place
    assert leaks(left) == []


@pytest.mark.slow
def test_steps_whose_secrets_were_fetched_leave_none(
    brokers: Brokers, manager: SecretManager, fetched: dict[str, str], tmp_path: Path, command: Command
) -> None:
    trained = train(command, tmp_path, brokers.params, **fetched)
    assert trained.returncode == 0, trained.stderr
    ended = end(command, tmp_path, brokers.params, **fetched)
    assert ended.returncode == 0, ended.stderr

    assert set(brokers.front.authenticated) == {("SCRAM-SHA-256", USER)}
    assert {name.partition("/")[0] for name in manager.read} == set(manager.secrets)
    left = everything(tmp_path, trained, brokers) | everything(tmp_path, ended, None)
    assert named(left, "model.safetensors", "steps/train.json", ".train.0.jsonl", "Kafka record 3", "Pub/Sub message 3")
    assert leaks(left) == []
    assert not [name for name, content in left.items() for token in manager.tokens if token.encode() in content]
    assert list((tmp_path / "tmp").rglob("shutterline-*")) == []


# A step whose work fails with what was fetched in its exception: the environment does not hold it.
FAILING = """
import sys
from components.shared.params.params import Params
from components.shared.step import run_step

def work(params, emit):
    raise RuntimeError(f"{sys.argv[2]} and {sys.argv[3]} did not open it")

run_step("train", Params.load(sys.argv[1]), work)
"""


def test_what_was_fetched_is_taken_out_of_a_traceback(
    brokers: Brokers, fetched: dict[str, str], tmp_path: Path
) -> None:
    params = write_params(tmp_path / "params.json", TIMEOUT=20, **brokers.params)
    command = [sys.executable, "-c", FAILING, str(params), PASSWORD, KEY_PASSWORD]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | fetched, capture_output=True, text=True, timeout=120)

    assert done.returncode == 1, done.stderr
    left = everything(tmp_path, done, brokers)
    for place in ("standard error", "steps/train.json", f"{RUN}.train.0.jsonl", "Kafka record 1", "Pub/Sub message 1"):
        found = [content for name, content in left.items() if place in name]
        assert any(b"[redacted] and [redacted] did not open it" in content for content in found), place
    assert leaks(left) == []
