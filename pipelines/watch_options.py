"""From the options of ``shutterline watch`` to the subscription they name."""

from __future__ import annotations

import argparse
import math
import re
from datetime import UTC, datetime, timedelta

from components.shared.errors import InputError
from components.shared.events.event import is_run_id
from components.shared.events.kafka.subscriber import KafkaSubscriber, Since
from components.shared.events.pubsub.subscriber import PubSubSubscriber
from components.shared.events.targets import (
    KAFKA_TOPIC_RULE,
    PUB_SUB_NAME_RULE,
    PUB_SUB_PROJECT_RULE,
    StatusTargets,
    bootstrap_servers,
)
from components.shared.events.watch import Source
from components.shared.params.params import Params
from pipelines.params_files import read_params
from pipelines.watch_text import printable

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def open_source(options: argparse.Namespace) -> Source:
    """The subscription that the options name; nothing is connected yet.

    Raises:
        InputError: The options contradict each other, are misspelt, or name nothing.
    """
    _check(options)
    params = None if options.params is None else _read_params(options.params, options.overrides)
    targets = StatusTargets() if params is None else params.status_targets
    if options.kafka is None and options.pubsub is None:
        if params is None:
            raise InputError("nothing to watch: name it by --kafka HOST/TOPIC, --pubsub SUBSCRIPTION or --params FILE")
        if targets.kafka_topic is None and targets.pub_sub_subscription is None:
            raise InputError(f"{_named(options)}: names neither KAFKA_TOPIC nor PUB_SUB_SUBSCRIPTION to watch")
    if options.kafka is not None or (options.pubsub is None and targets.kafka_topic is not None):
        servers, topic = _kafka_names(options, targets)
        return KafkaSubscriber(servers, topic, since=_since(options), group=_group(options))
    for option in ("since", "group"):
        if getattr(options, option) is not None:
            raise InputError(f"--{option}: is for Kafka; a Pub/Sub subscription itself remembers what was shown")
    return PubSubSubscriber(_subscription(options, targets), targets.credentials_file)


def _check(options: argparse.Namespace) -> None:
    if options.run is not None and not is_run_id(options.run):
        raise InputError(f"--run: {printable(options.run)!r} is not a run's id: letters, digits and the characters ._-")
    if options.timeout is not None and not (options.timeout > 0 and math.isfinite(options.timeout)):
        raise InputError("--timeout: must be a number of seconds greater than 0")
    if options.overrides and options.params is None:
        raise InputError("--set: changes params, and none are given; name them by --params")
    if options.kafka is not None and options.pubsub is not None:
        raise InputError("--kafka and --pubsub: only one can be watched at a time")


def _read_params(source: str, overrides: list[str]) -> Params:
    """Params without a look at the network, which takes torch and seconds."""
    return read_params(source, overrides).warned()


def _named(options: argparse.Namespace) -> str:
    return "params" if options.params.lstrip().startswith("{") else str(options.params)


def _kafka_names(options: argparse.Namespace, targets: StatusTargets) -> tuple[tuple[str, ...], str]:
    if not options.kafka:
        if targets.kafka_topic is None:
            where = "--kafka: no --params are given" if options.params is None else f"{_named(options)}: no KAFKA_TOPIC"
            raise InputError(f"{where}, so it is not known what to watch; write --kafka HOST[,HOST]/TOPIC")
        return targets.kafka_servers, targets.kafka_topic
    hosts, slash, topic = options.kafka.rpartition("/")
    if not slash:
        raise InputError(f"--kafka: must be HOST[,HOST]/TOPIC, got {printable(options.kafka)!r}")
    try:
        servers = bootstrap_servers(hosts)
    except ValueError as error:
        raise InputError(f"--kafka: {error}") from error
    _must_follow("--kafka", KAFKA_TOPIC_RULE, topic)
    return servers, topic


def _subscription(options: argparse.Namespace, targets: StatusTargets) -> str:
    if not options.pubsub:
        if targets.pub_sub_subscription is None:
            nothing = "--pubsub: no --params are given"
            where = nothing if options.params is None else f"{_named(options)}: no PUB_SUB_SUBSCRIPTION"
            raise InputError(f"{where}, so it is not known what to watch; write --pubsub PROJECT/SUBSCRIPTION")
        return targets.pub_sub_subscription
    parts = options.pubsub.split("/")
    if len(parts) == 4 and parts[::2] == ["projects", "subscriptions"]:
        parts = parts[1::2]
    if len(parts) != 2:
        raise InputError(
            f"--pubsub: must be projects/P/subscriptions/S or P/S, got {printable(options.pubsub)!r}"
        )  # fmt: skip
    _must_follow("--pubsub", PUB_SUB_PROJECT_RULE, parts[0])
    _must_follow("--pubsub", PUB_SUB_NAME_RULE, parts[1])
    return f"projects/{parts[0]}/subscriptions/{parts[1]}"


def _must_follow(option: str, rule: tuple[str, str], value: str) -> None:
    pattern, message = rule
    if re.fullmatch(pattern, value) is None:
        raise InputError(f"{option}: {message}, got {printable(value)!r}")


def _group(options: argparse.Namespace) -> str | None:
    if options.group is not None and re.fullmatch(r"[A-Za-z0-9._-]{1,249}", options.group) is None:
        raise InputError("--group: must be 1 to 249 letters, digits or the characters ._-")
    return None if options.group is None else str(options.group)


def _since(options: argparse.Namespace) -> Since:
    text = options.since
    if text is None:
        text = "now" if options.until_done and options.run is None else "24h"
    if text == "now":
        return "now"
    if text == "beginning":
        return "beginning"
    now = datetime.now(UTC)
    try:
        if span := re.fullmatch(r"([0-9]{1,9})([smhd])", text):
            return now - timedelta(**{_UNITS[span[2]]: int(span[1])})
        moment = datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise InputError(
            f"--since: must be beginning, now, a span such as 90s, 10m, 24h or 7d, or an ISO time such as "
            f"2026-11-23T14:00, got {printable(text)!r}"
        ) from error
    if moment > now:
        raise InputError(f"--since: {printable(text)} is in the future; to see only what comes, say now")
    return moment
