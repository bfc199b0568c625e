"""No secret is left anywhere: runs against brokers with logins, then every byte of what they leave is searched."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from pipelines.cli import main
from tests.data_prep.building import class_folders
from tests.examples import write_digits, write_params
from tests.peers.sasl import RefusedError, SaslRelay
from tests.peers.secret_manager import SecretManager
from tests.peers.tls import Certificates
from tests.pipelines.conftest import ROOT, Command
from tests.pipelines.conftest import command as command
from tests.shared.events.secret_search import (
    AWS_KEY,
    KEY_LINES,
    KEY_OF_ENVIRONMENT,
    KEY_PASSWORD,
    LINES_OF_ENVIRONMENT,
    LOGIN,
    OTHER,
    PASSWORD,
    TOKEN,
    USER,
    Brokers,
    everything,
    files_in,
    leaks,
    mounted,
    named,
)
from tests.shared.events.secret_search import brokers as brokers
from tests.shared.events.secret_search import secured as secured
from tests.shared.events.security_fixtures import a_clean_environment as a_clean_environment
from tests.shared.events.security_fixtures import service_account


def test_the_search_finds_each_disguise_in_each_place(tmp_path: Path) -> None:
    pair = base64.b64encode(f"{USER}:{PASSWORD}".encode())
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "artifact").write_bytes(b"\xff\x00" + pair + b"\x00")
    (tmp_path / "log").write_text(f"a line of the key: {KEY_LINES[7]}")
    found = leaks(files_in(tmp_path))
    assert sorted(Path(entry.partition(": ")[0]).name for entry in found) == ["artifact", "log"]


@pytest.mark.slow
def test_a_run_that_succeeds_leaves_no_secret(
    brokers: Brokers, secured: dict[str, str], tmp_path: Path, command: Command
) -> None:
    params = write_params(tmp_path / "params.json", num_epochs=1, TIMEOUT=20, **brokers.params)
    given = secured | {
        "KAFKA_SASL_MECHANISM": "OAUTHBEARER",
        "KAFKA_SASL_OAUTH_TOKEN_FILE": mounted(tmp_path / "token", TOKEN),
        "KAFKA_SSL_KEY_PASSWORD": KEY_PASSWORD,
    }
    done = command("-m", "pipelines.cli", "run", "--params", params, "--out", "out", "--json", **given)
    assert done.returncode == 0, done.stderr
    assert set(brokers.front.authenticated) == {("OAUTHBEARER", TOKEN)}
    left = everything(tmp_path, done, brokers)
    assert named(left, "kfp.log", "result.json", ".train.0.jsonl", ".delivery.json", "steps/train.json", "report.html")
    assert named(left, "model.safetensors", "executor_output.json", "Kafka record 0", "Pub/Sub message 0")
    # The search looks at what was told: each event carries the run's id.
    run = json.loads(done.stdout)["run"].encode()
    for place in (".train.0.jsonl", "Kafka record 0", "Pub/Sub message 0", "standard output"):
        assert any(run in content for name, content in left.items() if place in name), place
    assert leaks(left) == []


@pytest.mark.slow
def test_a_run_that_fails_with_a_secret_in_its_message_shows_it_to_nobody(
    brokers: Brokers, secured: dict[str, str], tmp_path: Path, command: Command
) -> None:
    class_folders(tmp_path / "data", {"cat": 3, "dog": 3})
    (tmp_path / "data" / OTHER).mkdir()  # data prep's message quotes the name of this folder
    params = write_params(tmp_path / "params.json", TIMEOUT=20, n_classes=3, **brokers.params)
    given = secured | {
        "KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
        "KAFKA_SASL_USERNAME": USER,
        "KAFKA_SASL_PASSWORD": PASSWORD,
        "KAFKA_SSL_KEY_PASSWORD_FILE": mounted(tmp_path / "key-password", KEY_PASSWORD),
    }
    data = tmp_path / "data"
    done = command("-m", "pipelines.cli", "run", "--params", params, "--data", data, "--out", "out", **given)
    assert done.returncode == 2, done.stderr
    assert "data-prep ERROR failed: " in done.stderr
    assert set(brokers.front.authenticated) == {("SCRAM-SHA-512", USER)}
    left = everything(tmp_path, done, brokers)
    # It was there, and was taken out.
    for name_part in (
        ".data-prep.0.jsonl", "Kafka record", "Pub/Sub message", "kfp.log", "standard error", "/steps/", "result.json",
    ):  # fmt: skip
        assert any(b"[redacted]" in content for name, content in left.items() if name_part in name), name_part
    assert leaks(left) == []


def test_a_compiled_pipeline_holds_none(
    secured: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    topics = {"KAFKA_HOST": "localhost", "KAFKA_TOPIC": "status-topic"}
    for name, value in (secured | LOGIN | {"KAFKA_SASL_OAUTH_TOKEN": TOKEN}).items():
        monkeypatch.setenv(name, value)
    file = tmp_path / "pipeline.yaml"
    assert main(["compile", "--params", str(write_params(tmp_path / "params.json", **topics)), "-o", str(file)]) == 0
    printed = capsys.readouterr()
    assert b"status-topic" in file.read_bytes()
    assert leaks({"pipeline": file.read_bytes(), "printed": (printed.out + printed.err).encode()}) == []


def failed(script: str, environment: dict[str, str], *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stderr
    return done


# A step whose work fails with secrets in its exceptions: of the environment, of a mounted file, and the key of the
# service-account file, which the step has checked before.
DEFECT = """
import json, os, sys
from components.shared.params.params import Params
from components.shared.step import run_step

def work(params, emit):
    key = json.load(open(params.GOOGLE_APPLICATION_CREDENTIALS))["private_key"]
    password, token = os.environ["KAFKA_SASL_PASSWORD"], open(sys.argv[2]).read().strip()
    try:
        signed = os.environ["SIGNING_PRIVATE_KEY"].splitlines()[7] + os.environ["AWS_SECRET_ACCESS_KEY"]
        raise ConnectionError(f"postgres://{os.environ['DB_PASSWORD']}@db; sasl_plain_password={password!r}; {signed}")
    except ConnectionError as error:
        raise RuntimeError({"token": token, "key": key, "line": key.splitlines()[5]}) from error

run_step("train", Params.load(sys.argv[1]), work)
"""


def test_a_traceback_with_secrets_in_its_exceptions_shows_none(
    brokers: Brokers, login: dict[str, str], tmp_path: Path
) -> None:
    params = write_params(tmp_path / "params.json", TIMEOUT=20, **brokers.params)
    done = failed(DEFECT, login | {"OAUTH_TOKEN": TOKEN}, params, mounted(tmp_path / "token", TOKEN))
    for part in ("Traceback", "RuntimeError", "The above exception was the direct cause"):
        assert part in done.stderr
    left = everything(tmp_path, done, brokers)
    assert named(left, "steps/train.json", ".train.0.jsonl", "Kafka record 1", "Pub/Sub message 1")
    assert leaks(left) == []


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
    return of_a_run | LOGIN


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
    brokers: Brokers, repeating: RepeatingRelay, login: dict[str, str], tmp_path: Path, command: Command, accepted: int
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
    done = failed(FAILING, fetched, params, PASSWORD, KEY_PASSWORD)
    left = everything(tmp_path, done, brokers)
    for place in ("standard error", "steps/train.json", f"{RUN}.train.0.jsonl", "Kafka record 1", "Pub/Sub message 1"):
        found = [content for name, content in left.items() if place in name]
        assert any(b"[redacted] and [redacted] did not open it" in content for content in found), place
    assert leaks(left) == []
