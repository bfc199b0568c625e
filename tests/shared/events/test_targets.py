"""The brokers that params name, in one spelling."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.shared.events.targets import (
    KAFKA_TOPIC_RULE,
    PUB_SUB_NAME_RULE,
    PUB_SUB_PROJECT_RULE,
    StatusTargets,
    bootstrap_servers,
)
from components.shared.params.params import Params
from tests.configs import small


@pytest.mark.parametrize(
    ("hosts", "servers"),
    [
        ("localhost", ("localhost:9092",)),
        ("localhost:9093", ("localhost:9093",)),
        (" a , b-1.example.com:1,10.0.0.1:65535 ", ("a:9092", "b-1.example.com:1", "10.0.0.1:65535")),
        ("[::1],[fe80::1]:9094", ("[::1]:9092", "[fe80::1]:9094")),
    ],
)
def test_a_host_without_a_port_means_9092(hosts: str, servers: tuple[str, ...]) -> None:
    assert bootstrap_servers(hosts) == servers


@pytest.mark.parametrize(
    "hosts",
    [
        "", ",", "a,", "a:0", "a:65536", "a:99999", "a:x", "a:", ":9092", "a b", "kafka://a", "a:1:2", "::1", "[::1",
        "a/b", "a\nb",
    ],
)  # fmt: skip
def test_what_is_no_host_is_named(hosts: str) -> None:
    parts = [part.strip() for part in hosts.split(",")]
    with pytest.raises(ValueError, match="is not host or host:port") as caught:
        bootstrap_servers(hosts)
    assert any(str(caught.value).startswith(repr(part)) for part in parts)


@given(st.text(max_size=20))
def test_any_text_is_servers_or_a_value_error(hosts: str) -> None:
    try:
        servers = bootstrap_servers(hosts)
    except ValueError:
        return
    assert all(re.fullmatch(r".+:\d{1,5}", server) for server in servers)
    assert bootstrap_servers(",".join(servers)) == servers


@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        (KAFKA_TOPIC_RULE, ["a", "A.b_c-1", "...", "a" * 249], ["", ".", "..", "a" * 250, "a b", "ä", "a\n", "{{a}}"]),
        (PUB_SUB_NAME_RULE, ["abc", "a.-_~+%1", "a" * 255], ["ab", "1abc", "goog-x", "a" * 256, "a/b", "abc\n"]),
        (
            PUB_SUB_PROJECT_RULE,
            ["abc-12", "a23456", "example.com:abc-12", "neuroengineering-334116"],
            ["abc12", "Abc-12", "abc-12-", "1abc-1", "a" * 31, "abc_12", "abc-12\n"],
        ),
    ],
)
def test_names_follow_the_brokers_own_rules(rule: tuple[str, str], good: list[str], bad: list[str]) -> None:
    pattern, _ = rule
    assert [name for name in good if re.fullmatch(pattern, name) is None] == []
    assert [name for name in bad if re.fullmatch(pattern, name) is not None] == []


def test_targets_are_described_in_one_line() -> None:
    assert StatusTargets().describe() == "none"
    assert Params.from_dict(small()).status_targets == StatusTargets()
    both = Params.from_dict(
        small(
            KAFKA_HOST="a,b:1",
            KAFKA_TOPIC="status",
            PUB_SUB_PROJECT="vision-1",
            PUB_SUB_TOPIC="status",
            PUB_SUB_SUBSCRIPTION="watch",
            GOOGLE_APPLICATION_CREDENTIALS="keys/status.json",
            TIMEOUT=2.5,
        )
    ).status_targets
    assert both.describe() == (
        "Kafka a:9092,b:1 topic status; Pub/Sub projects/vision-1/topics/status (watched through "
        "projects/vision-1/subscriptions/watch) with keys/status.json; timeout 2.5 s"
    )
    plain = Params.from_dict(small(PUB_SUB_PROJECT="vision-1", PUB_SUB_TOPIC="status")).status_targets
    assert plain.describe() == (
        "Pub/Sub projects/vision-1/topics/status with application default credentials; timeout 3 s"
    )
