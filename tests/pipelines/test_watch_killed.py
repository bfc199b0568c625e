"""A watcher that is killed: the next one shows what it had not shown."""

from __future__ import annotations

import subprocess
from typing import Any

from google.pubsub_v1.types import PublishRequest, PubsubMessage

from tests.peers.pubsub_server import PubSubServer
from tests.pipelines.watchers import lines_of, parsed, publish, watched, watching
from tests.shared.events.sample_events import EventSequence, progress

PROJECT = "project-x"


def many(count: int) -> list[bytes]:
    voice = EventSequence("run-1", "train")
    return [voice.next("progress", progress(1, 3)) for _ in range(count)]


def killed_after(process: subprocess.Popen[str], count: int) -> list[Any]:
    """What a watcher has shown that is killed once it has shown so many events."""
    lines = lines_of(process, count)
    process.kill()
    assert process.stdout is not None
    rest = process.stdout.read().splitlines()
    return parsed(lines + [line for line in rest if line.endswith("}}")])


def test_what_a_killed_watcher_had_not_shown_is_shown_by_the_next_one_of_its_group(status: str) -> None:
    bodies = many(5_000)
    publish(status, bodies)
    options = ("--kafka", status, "--since", "beginning", "--group", "watchers", "--json")

    with watching(*options) as process:
        first = killed_after(process, 700)
    with watching(*options) as process:
        lines = [*lines_of(process, 1)]
        while parsed(lines[-1:]) != parsed(bodies[-1:]):
            lines += lines_of(process, 1)
    second = parsed(lines)

    assert len(first) < len(bodies)
    assert len(second) < len(bodies), "it goes on, and does not begin again"
    overlap = len(first) + len(second) - len(bodies)
    assert overlap >= 0
    assert first + second[overlap:] == parsed(bodies)


def test_what_a_killed_watcher_had_not_shown_comes_to_the_next_one_of_the_subscription() -> None:
    bodies = many(2_000)
    with PubSubServer(ack_deadline=1.0) as server:
        topic = server.create_topic(PROJECT, "status")
        subscription = server.create_subscription(PROJECT, "status", topic, ordered=False)
        server.broker.publish(PublishRequest(topic=topic, messages=[PubsubMessage(data=body) for body in bodies]))
        with watching("--pubsub", f"{PROJECT}/status", "--json", PUBSUB_EMULATOR_HOST=server.host) as process:
            first = killed_after(process, 300)
        second = parsed(
            watched("--pubsub", subscription, "--json", "--timeout", "6", PUBSUB_EMULATOR_HOST=server.host)
            .stdout.splitlines()
        )  # fmt: skip

    assert len(first) < len(bodies)
    assert len(second) < len(bodies)
    assert {each["id"] for each in first + second} == {each["id"] for each in parsed(bodies)}
