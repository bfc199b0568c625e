"""What is known of a run from its earlier events: those in its folder or bucket first, then those that Kafka has."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from components.shared.errors import StorageRefusedError, StorageUnavailableError
from components.shared.events.bucket import EventsBucket
from components.shared.events.event import PIPELINE, EventError, StepEvent
from components.shared.events.runs import RunView, fold
from components.shared.events.spool import SPOOL_SUFFIX, events_in, spools_of
from components.shared.events.targets import StatusTargets
from components.shared.retry import bounded
from components.shared.run import StepRun

# Runs that take longer than that begin before what a topic keeps by default.
_LOOK_BACK = timedelta(days=7)
_FOLDER_S = 5.0  # a network file system that has gone away never answers
BUCKET_S = 5.0


@dataclass(frozen=True)
class History:
    """A run's earlier events.

    Attributes:
        view: The run as they show it.
        is_whole: Whether a step without events there has not run: all steps keep theirs in a folder or bucket that
            could be read, and no broker has events that it lacks.
    """

    view: RunView
    is_whole: bool = False

    def next_attempt(self, step: str) -> int:
        """The number of a step's next attempt."""
        view = self.view.steps.get(step)
        return 0 if view is None else view.attempt + 1


def bucket_of(run: StepRun, credentials: str | None, log: logging.Logger) -> EventsBucket:
    """The bucket of a run whose steps keep their events in one."""
    assert run.bucket is not None and run.events is not None  # noqa: S101, PT018 - of a run without one nobody asks
    return EventsBucket(run.bucket, run.events, timeout_s=BUCKET_S, log=log, credentials=credentials)


def read_history(
    run: StepRun,
    targets: StatusTargets,
    log: logging.Logger,
    *,
    kafka_s: float,
    steps: Sequence[str] = (),
    level: int = logging.WARNING,
    bucket: EventsBucket | None = None,
) -> History:
    """Read a run's earlier events: the folder and, unless that shows how each step ended, Kafka, each in bounded time.

    Pub/Sub is not asked: a subscription gives each message to one reader, and this one would take it from another.

    Where `steps` are named the folder is only enough if it has an end of each. `level` is at which is logged what
    cannot be read. The folder is fetched first from the `bucket`, if one is given.
    """
    spooled: list[StepEvent] = []
    is_readable = False
    try:
        if run.shared and bucket is not None:
            bucket.fetch(run.run)
            bucket.disconnect()
        spooled, is_readable = bounded(lambda: _in_folder(run), _FOLDER_S)
    except (OSError, TimeoutError, StorageRefusedError, StorageUnavailableError) as error:
        log.log(level, "events of earlier steps cannot be read: %s", error)
    view = fold(run.run, spooled)
    awaited = [*steps, *(["publish"] if view.publishes else [])] if steps else []
    is_enough = is_readable and all(step in view.steps and view.steps[step].end is not None for step in awaited)
    if kafka_s > 0 and not is_enough and targets.kafka_servers and targets.kafka_topic is not None:
        from components.shared.events.kafka import subscriber

        servers, topic, since = targets.kafka_servers, targets.kafka_topic, datetime.now(UTC) - _LOOK_BACK
        bodies, trouble = subscriber.read_topic(servers, topic, since=since, within_s=kafka_s, key=run.run.encode())
        if trouble:
            log.log(level, "events of earlier steps cannot be read back: %s", trouble)
        known = {event.identity for event in spooled}
        processes = {(event.step, event.source) for event in spooled}
        for body in bodies:
            with suppress(EventError):
                event = StepEvent.from_bytes(body)
                if event.run == run.run and event.identity not in known:
                    spooled.append(event)
                    is_readable = is_readable and (event.step, event.source) in processes
        view = fold(run.run, spooled)
    return History(view, is_readable)


def _in_folder(run: StepRun) -> tuple[list[StepEvent], bool]:
    """The events in the folder that all steps share, and whether there is one that they could write."""
    directory = run.events
    if not run.shared or directory is None:
        return [], False
    events = list(events_in(directory, run.run))
    # A spool without an event is of a step that was killed as it began, or that has just begun.
    begun = {path.name.removesuffix(SPOOL_SUFFIX).rsplit(".", 2)[1] for path in spools_of(directory, run.run)}
    # A folder that is not there yet has no events, if it can be made.
    existing = next(parent for parent in (directory, *directory.parents) if parent.exists())
    is_usable = existing.is_dir() and os.access(existing, os.R_OK | os.W_OK, effective_ids=True)
    return events, is_usable and begun <= {event.step for event in events} | {PIPELINE}
