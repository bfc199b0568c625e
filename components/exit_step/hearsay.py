"""What the steps of a run told a broker, for an exit step that cannot see their spools."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from components.shared.errors import StatusRefusedError
from components.shared.events.runs import RunView
from components.shared.events.targets import StatusTargets
from components.shared.events.watch import Counts, follow
from components.shared.logs import step_logger

# Runs that take longer than that begin before what a topic keeps by default.
_LOOK_BACK = timedelta(days=7)
_LONGEST_S = 15.0  # reading; a topic that holds more is not read to its end
_QUIET_S = 1.0  # so long without a message is the end of what there is

_log = step_logger("exit")


def heard_at_kafka(run: str, targets: StatusTargets) -> RunView | None:
    """The run as its events on the topic tell it; None if there is no such topic to ask, or it cannot be read.

    Pub/Sub is not asked: a subscription gives each message to one reader, and this one would take it from another.
    """
    if not targets.kafka_servers or targets.kafka_topic is None:
        return None
    from components.shared.events.kafka.subscriber import KafkaSource

    view = RunView(run)
    caught_up = _CaughtUp()
    try:
        source = KafkaSource(targets.kafka_servers, targets.kafka_topic, since=datetime.now(UTC) - _LOOK_BACK)
        try:
            follow(source, view.add, run=run, until=caught_up, poll_s=0.2)
        finally:
            source.close()
    except StatusRefusedError as error:
        _log.warning("how the steps ended cannot be read back: %s", error)
        return None
    if not caught_up.whole:
        _log.warning("how the steps ended cannot be read back from %s in time", source.place)
        return None
    return view


class _CaughtUp:
    """Whether a reader has come to the end of what is there.

    Attributes:
        whole: Whether it ended for that reason, and not because it took too long or the broker was away.
    """

    def __init__(self) -> None:
        self._end = time.monotonic() + _LONGEST_S
        self._seen = -1
        self._changed = time.monotonic()
        self.whole = False

    def __call__(self, counts: Counts) -> bool:
        now = time.monotonic()
        seen = counts.shown + counts.duplicates + counts.others + counts.foreign
        if seen != self._seen:
            self._seen, self._changed = seen, now
        # Without a message nothing tells whether the broker was reached, so nothing is concluded from it.
        self.whole = seen > 0 and counts.troubles == 0 and now - self._changed > _QUIET_S
        return self.whole or now > self._end or (counts.troubles > 0 and now - self._changed > _QUIET_S)
