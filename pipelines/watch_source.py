"""From the options of ``shutterline watch`` to the subscription they name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from components.shared.errors import InputError
from components.shared.events.kafka.subscriber import KafkaSubscriber, Since
from components.shared.events.pubsub.subscriber import PubSubSubscriber
from components.shared.events.targets import (
    KAFKA_TOPIC_RULE,
    PUB_SUB_NAME_RULE,
    PUB_SUB_PROJECT_RULE,
    StatusTargets,
    bootstrap_servers,
)
from components.shared.events.watch import Subscriber
from pipelines.params_files import read_params
from pipelines.watch_text import printable

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_GROUP_RULE = (r"[A-Za-z0-9._-]{1,249}", "must be 1 to 249 letters, digits or the characters ._-")


def subscribe(
    kafka: str | None,
    pubsub: str | None,
    params: str | None = None,
    overrides: Sequence[str] = (),
    since: str | None = None,
    group: str | None = None,
    *,
    from_now: bool = False,
) -> Subscriber:
    """The subscription that the options name; nothing is connected yet.

    An empty `kafka` or `pubsub` means the params'. Kafka is read from a day ago where nothing says otherwise.

    Raises:
        InputError: The options contradict each other, are misspelt, or name nothing.
    """
    if kafka is not None and pubsub is not None:
        raise InputError("--kafka and --pubsub: only one can be watched at a time")
    if overrides and params is None:
        raise InputError("--set: changes params, and none are given; name them by --params")
    targets = StatusTargets() if params is None else read_params(params, list(overrides)).warned().status_targets
    named = "params" if params is None or params.lstrip().startswith("{") else params
    if kafka is None and pubsub is None:
        if params is None:
            raise InputError("nothing to watch: name it by --kafka HOST/TOPIC, --pubsub SUBSCRIPTION or --params FILE")
        if targets.kafka_topic is None and targets.pub_sub_subscription is None:
            raise InputError(f"{named}: names neither KAFKA_TOPIC nor PUB_SUB_SUBSCRIPTION to watch")

    def unknown(option: str, key: str, form: str) -> InputError:
        where = f"{option}: no --params are given" if params is None else f"{named}: no {key}"
        return InputError(f"{where}, so it is not known what to watch; write {option} {form}")

    if kafka is not None or (pubsub is None and targets.kafka_topic is not None):
        servers, topic = _kafka_names(kafka) if kafka else (targets.kafka_servers, targets.kafka_topic)
        if topic is None:
            raise unknown("--kafka", "KAFKA_TOPIC", "HOST[,HOST]/TOPIC")
        if group is not None:
            _must_follow("--group", _GROUP_RULE, group)
        return KafkaSubscriber(servers, topic, since=_moment(since or ("now" if from_now else "24h")), group=group)
    for option, value in (("--since", since), ("--group", group)):
        if value is not None:
            raise InputError(f"{option}: is for Kafka; a Pub/Sub subscription itself remembers what was shown")
    subscription = _subscription(pubsub) if pubsub else targets.pub_sub_subscription
    if subscription is None:
        raise unknown("--pubsub", "PUB_SUB_SUBSCRIPTION", "PROJECT/SUBSCRIPTION")
    return PubSubSubscriber(subscription, targets.credentials_file)


def _kafka_names(text: str) -> tuple[tuple[str, ...], str]:
    hosts, slash, topic = text.rpartition("/")
    if not slash:
        raise InputError(f"--kafka: must be HOST[,HOST]/TOPIC, got {printable(text)!r}")
    try:
        servers = bootstrap_servers(hosts)
    except ValueError as error:
        raise InputError(f"--kafka: {error}") from error
    _must_follow("--kafka", KAFKA_TOPIC_RULE, topic)
    return servers, topic


def _subscription(text: str) -> str:
    parts = text.split("/")
    if len(parts) == 4 and parts[::2] == ["projects", "subscriptions"]:
        parts = parts[1::2]
    if len(parts) != 2:
        raise InputError(f"--pubsub: must be projects/P/subscriptions/S or P/S, got {printable(text)!r}")
    _must_follow("--pubsub", PUB_SUB_PROJECT_RULE, parts[0])
    _must_follow("--pubsub", PUB_SUB_NAME_RULE, parts[1])
    return f"projects/{parts[0]}/subscriptions/{parts[1]}"


def _must_follow(option: str, rule: tuple[str, str], value: str) -> None:
    pattern, message = rule
    if re.fullmatch(pattern, value) is None:
        raise InputError(f"{option}: {message}, got {printable(value)!r}")


def _moment(text: str) -> Since:
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
