"""Where status goes: the brokers that params name, checked and in one spelling.

Only names live here, never a secret: credentials are found by the clients in the ways their vendors document.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

DEFAULT_KAFKA_PORT = 9092

# The brokers' own rules for names, each with its wording for messages.
KAFKA_TOPIC_RULE = (
    r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,249}",
    "must be 1 to 249 letters, digits or the characters ._- to name a Kafka topic",
)
PUB_SUB_NAME_RULE = (
    r"(?!goog)[A-Za-z][A-Za-z0-9._~+%-]{2,254}",
    "must be 3 to 255 letters, digits or the characters ._~+%-, start with a letter and not with goog",
)
# With the domain prefix that old projects have ("example.com:project").
PUB_SUB_PROJECT_RULE = (
    r"([a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]",
    "must be a project id: 6 to 30 lower-case letters, digits or hyphens, starting with a letter",
)

_HOST = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:(?P<port>[0-9]{1,5}))?")


def bootstrap_servers(hosts: str) -> tuple[str, ...]:
    """The brokers of a comma-separated list, each as ``host:port``; a host without a port means 9092.

    Raises:
        ValueError: A part is not a host with an optional port; the message names the part.
    """
    servers = []
    for part in (piece.strip() for piece in hosts.split(",")):
        match = _HOST.fullmatch(part)
        if match is None or not 0 < int(match["port"] or DEFAULT_KAFKA_PORT) < 65536:
            raise ValueError(f"{part!r} is not host or host:port")
        servers.append(f"{match['host']}:{match['port'] or DEFAULT_KAFKA_PORT}")
    return tuple(servers)


@dataclass(frozen=True)
class StatusTargets:
    """Where a run's status goes; all None when params name no broker.

    Attributes:
        pub_sub_topic: Full name, ``projects/…/topics/…``; likewise the subscription, which is for `shutterline watch`.
        credentials_file: None means application default credentials.
        timeout_s: Seconds for one Pub/Sub operation and for the final flush.
    """

    kafka_servers: tuple[str, ...] = ()
    kafka_topic: str | None = None
    pub_sub_topic: str | None = None
    pub_sub_subscription: str | None = None
    credentials_file: str | None = None
    timeout_s: float = 3.0

    def as_ledger(self) -> dict[str, dict[str, Any]]:
        """The brokers to publish to, by name, as a spool's ledger remembers them for a replay."""
        ledger: dict[str, dict[str, Any]] = {}
        if self.kafka_servers and self.kafka_topic:
            ledger["kafka"] = {"servers": list(self.kafka_servers), "topic": self.kafka_topic}
        if self.pub_sub_topic:
            ledger["pubsub"] = {
                "topic": self.pub_sub_topic,
                "credentials_file": self.credentials_file,
                "timeout_s": self.timeout_s,
            }
        return ledger

    def describe(self) -> str:
        """One line for people: which brokers are named."""
        brokers = []
        if self.kafka_servers:
            brokers.append(f"Kafka {','.join(self.kafka_servers)} topic {self.kafka_topic}")
        if self.pub_sub_topic:
            watched = f" (watched through {self.pub_sub_subscription})" if self.pub_sub_subscription else ""
            credentials = self.credentials_file or "application default credentials"
            brokers.append(f"Pub/Sub {self.pub_sub_topic}{watched} with {credentials}")
        return f"{'; '.join(brokers)}; timeout {self.timeout_s:g} s" if brokers else "none"
