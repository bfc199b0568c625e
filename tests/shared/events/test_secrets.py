"""No secret is left anywhere: runs against brokers with logins, then every byte of what they leave is searched."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest
from cryptography.hazmat.primitives import serialization

from tests.data_prep.building import class_folders
from tests.examples import write_params
from tests.peers.kafka_topics import KafkaTopics
from tests.peers.pubsub_topics import PubSubTopics
from tests.peers.sasl import SaslRelay
from tests.peers.tls import Certificates
from tests.pipelines.conftest import ROOT, Command
from tests.pipelines.conftest import command as command
from tests.shared.events.security_fixtures import a_clean_environment as a_clean_environment
from tests.shared.events.security_fixtures import private_key, service_account

USER = "status-writer"
# Of nobody. They may be names of files, so that a message about a file can quote one.
PASSWORD, KEY_PASSWORD, TOKEN, OTHER, AWS_KEY = (
    "kafka-pw-Zq7vR2xL9mK4", "key-pw-Wn8bT3cJ6hF1", "oauth-token-Xp5yG0dS2aE7", "db-pw-Uf4kM9jB1oC6",
    "aws/sk+Hr3tQ8nV5wY2/Lk6zD1pM4sB9uG7eC0fX",
)  # fmt: skip
KEY_LINES = [line for line in private_key().splitlines() if not line.startswith("-----")]
# Another key than the service account's, which only the environment knows.
KEY_OF_ENVIRONMENT = private_key.__wrapped__()
LINES_OF_ENVIRONMENT = [line for line in KEY_OF_ENVIRONMENT.splitlines() if not line.startswith("-----")]
SECRETS = [PASSWORD, KEY_PASSWORD, TOKEN, OTHER, AWS_KEY, *KEY_LINES[:-1], *LINES_OF_ENVIRONMENT[:-1]]


def disguises() -> Iterator[bytes]:
    """The secrets, and what would do as well for whoever finds it."""
    pairs = [f"{USER}:{PASSWORD}", f"\0{USER}\0{PASSWORD}", f"{USER}\0{USER}\0{PASSWORD}"]
    for secret in [*SECRETS, *pairs]:
        yield secret.encode()
        yield quote(secret, safe="").encode()
        yield base64.b64encode(secret.encode()).rstrip(b"=")
        yield base64.urlsafe_b64encode(secret.encode()).rstrip(b"=")
        yield secret.encode().hex().encode()


def leaks(things: Mapping[str, bytes]) -> list[str]:
    """Where a secret is, by the name of the thing."""
    wanted = set(disguises())
    return [f"{name}: {secret!r}" for name, content in things.items() for secret in wanted if secret in content]


def files_in(*folders: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}


@dataclass
class Brokers:
    """Where the runs' status goes, and what came of it.

    Attributes:
        front: Kafka behind TLS, a client certificate and a login.
        params: Name both brokers.
    """

    front: SaslRelay
    params: dict[str, str]
    kafka: KafkaTopics
    topic: str
    pubsub: PubSubTopics
    subscription: str

    def told(self) -> dict[str, bytes]:
        """All that the brokers have of this test."""
        found = {}
        for record in self.kafka.records(self.topic):
            headers = b"".join(name.encode() + value for name, value in record.headers)
            found[f"Kafka record {record.offset}"] = (record.key or b"") + record.value + headers
        for number, message in enumerate(self.pubsub.pull_all(self.subscription)):
            words = [message.ordering_key, *message.attributes, *message.attributes.values()]
            found[f"Pub/Sub message {number}"] = message.data + "".join(words).encode()
        return found


@pytest.fixture
def brokers(
    kafka_broker: KafkaTopics, topic: str, pubsub_emulator: PubSubTopics, certificates: Certificates, tmp_path: Path
) -> Iterator[Brokers]:
    kafka_broker.create_topic(topic)
    place = pubsub_emulator.create_topic("secrets-project", topic)
    subscription = pubsub_emulator.create_subscription("secrets-project", topic, place)
    account = service_account(tmp_path / "account.json")
    target = int(kafka_broker.bootstrap.rpartition(":")[2])
    tls = certificates.server_context(require_client=True)
    with SaslRelay(target, {USER: PASSWORD}, [TOKEN], tls=tls) as front:
        params = {
            "KAFKA_HOST": front.address,
            "KAFKA_TOPIC": topic,
            "PUB_SUB_PROJECT": "secrets-project",
            "PUB_SUB_TOPIC": topic,
            "GOOGLE_APPLICATION_CREDENTIALS": str(account),
        }
        yield Brokers(front, params, kafka_broker, topic, pubsub_emulator, subscription)


@pytest.fixture
def secured(certificates: Certificates, pubsub_emulator: PubSubTopics, tmp_path: Path) -> dict[str, str]:
    """The environment of a run; each test adds the login."""
    key = serialization.load_pem_private_key(certificates.client_key_file.read_bytes(), None)
    how = serialization.BestAvailableEncryption(KEY_PASSWORD.encode())
    locked = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how)
    (tmp_path / "locked.key").write_bytes(locked)
    (tmp_path / "tmp").mkdir()
    return {
        "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "KAFKA_SSL_CAFILE": str(certificates.ca_file),
        "KAFKA_SSL_CERTFILE": str(certificates.client_cert_file),
        "KAFKA_SSL_KEYFILE": str(tmp_path / "locked.key"),
        "PUBSUB_EMULATOR_HOST": pubsub_emulator.host,
        "DB_PASSWORD": OTHER,
        "AWS_SECRET_ACCESS_KEY": AWS_KEY,
        "SIGNING_PRIVATE_KEY": KEY_OF_ENVIRONMENT,
        "TMPDIR": str(tmp_path / "tmp"),
    }


def mounted(path: Path, secret: str) -> str:
    path.write_text(f"{secret}\n")
    return str(path)


def everything(tmp_path: Path, done: subprocess.CompletedProcess[str], brokers: Brokers | None) -> dict[str, bytes]:
    """What a run leaves, wherever it is, by name."""
    printed = {"standard output": done.stdout.encode(), "standard error": done.stderr.encode()}
    return files_in(tmp_path / "out", tmp_path / "tmp") | printed | (brokers.told() if brokers else {})


def named(things: Iterable[str], *parts: str) -> bool:
    """Whether there is something of each of these names; a search of nothing finds nothing."""
    return all(any(part in name for name in things) for part in parts)


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


@pytest.mark.slow
def test_a_run_with_wrong_credentials_leaves_none(
    brokers: Brokers, secured: dict[str, str], tmp_path: Path, command: Command
) -> None:
    brokers.front.users = {USER: "another-one"}
    params = write_params(tmp_path / "params.json", TIMEOUT=5, **brokers.params)
    given = secured | {
        "KAFKA_SASL_MECHANISM": "PLAIN",
        "KAFKA_SASL_USERNAME": USER,
        "KAFKA_SASL_PASSWORD_FILE": mounted(tmp_path / "password", PASSWORD),
        "KAFKA_SSL_KEY_PASSWORD": KEY_PASSWORD,
    }

    done = command("-m", "pipelines.cli", "run", "--params", params, "--out", "out", "--json", **given)

    assert done.returncode == 2, done.stderr
    assert "does not accept the login" in done.stderr
    assert json.loads(done.stdout)["error"]["type"] == "StatusRefusedError"
    assert brokers.front.authenticated == []
    left = everything(tmp_path, done, brokers)
    assert named(left, "kfp.log", "result.json", "steps/data-prep.json", ".data-prep.0.jsonl", "Pub/Sub message")
    assert leaks(left) == []


def test_a_compiled_pipeline_holds_none(
    brokers: Brokers, secured: dict[str, str], tmp_path: Path, command: Command
) -> None:
    params = write_params(tmp_path / "params.json", **brokers.params)
    given = secured | {
        "KAFKA_SASL_MECHANISM": "PLAIN",
        "KAFKA_SASL_USERNAME": USER,
        "KAFKA_SASL_PASSWORD": PASSWORD,
        "KAFKA_SASL_OAUTH_TOKEN": TOKEN,
        "KAFKA_SSL_KEY_PASSWORD": KEY_PASSWORD,
    }
    (tmp_path / "out").mkdir()

    done = command("-m", "pipelines.cli", "compile", "--params", params, "-o", "out/pipeline.yaml", **given)

    assert done.returncode == 0, done.stderr
    left = everything(tmp_path, done, None)
    assert any(brokers.topic.encode() in content for name, content in left.items() if "pipeline.yaml" in name)
    assert leaks(left) == []


# A step whose work fails with secrets in its exceptions: of the environment, of a mounted file, and the key of the
# service-account file, which the step has checked before.
DEFECT = """
import json, os, sys
from components.shared.params.params import Params
from components.shared.run import StepRun
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
    brokers: Brokers, secured: dict[str, str], tmp_path: Path
) -> None:
    params = write_params(tmp_path / "params.json", TIMEOUT=20, **brokers.params)
    given = secured | {
        "KAFKA_SASL_MECHANISM": "PLAIN",
        "KAFKA_SASL_USERNAME": USER,
        "KAFKA_SASL_PASSWORD": PASSWORD,
        "KAFKA_SSL_KEY_PASSWORD": KEY_PASSWORD,
        "OAUTH_TOKEN": TOKEN,
        "SHUTTERLINE_EVENTS": str(tmp_path / "out" / "events"),
        "SHUTTERLINE_RECORDS": str(tmp_path / "out" / "steps"),
    }
    command = [sys.executable, "-c", DEFECT, str(params), mounted(tmp_path / "token", TOKEN)]

    done = subprocess.run(command, cwd=ROOT, env=os.environ | given, capture_output=True, text=True, timeout=120)

    assert done.returncode == 1, done.stderr
    for part in ("Traceback", "RuntimeError", "The above exception was the direct cause"):
        assert part in done.stderr
    left = everything(tmp_path, done, brokers)
    assert named(left, "steps/train.json", ".train.0.jsonl", "Kafka record 1", "Pub/Sub message 1")
    assert leaks(left) == []
