"""Brokers with logins, the environment of a run that uses them, and a search of every byte that runs leave."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.peers.kafka_topics import KafkaTopics
from tests.peers.pubsub_topics import PubSubTopics
from tests.peers.sasl import SaslRelay
from tests.peers.tls import Certificates
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


LOGIN = {
    "KAFKA_SASL_MECHANISM": "PLAIN",
    "KAFKA_SASL_USERNAME": USER,
    "KAFKA_SASL_PASSWORD": PASSWORD,
    "KAFKA_SSL_KEY_PASSWORD": KEY_PASSWORD,
}


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
    (tmp_path / "locked.key").write_bytes(certificates.locked_client_key(KEY_PASSWORD))
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
