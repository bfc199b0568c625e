"""What is known of a run from its earlier events: those in its folder or bucket first, then those that Kafka has."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from components.shared.bounded import bounded
from components.shared.errors import StorageRefusedError, StorageUnavailableError
from components.shared.events.bucket import EventsBucket
from components.shared.events.event import PIPELINE, EventError, StepEvent
from components.shared.events.runs import RunView, fold
from components.shared.events.spool import SPOOL_SUFFIX, events_in, spools_of
from components.shared.events.targets import StatusTargets
from components.shared.run import StepRun

# Runs that take longer than that begin before what a topic keeps by default.
_LOOK_BACK = timedelta(days=7)
_FOLDER_S = 5.0  # a network file system that has gone away never answers
_BUCKET_S = 5.0


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

    @classmethod
    def empty(cls, run: str) -> History:
        """Of a run of which nothing is known."""
        return cls(RunView(run))

    def next_attempt(self, step: str) -> int:
        """The number of a step's next attempt."""
        view = self.view.steps.get(step)
        return 0 if view is None else view.attempt + 1


def bucket_of(run: StepRun, credentials: str | None, log: logging.Logger) -> EventsBucket:
    """The bucket of a run's events.

    Args:
        run: Its steps keep their events in one.
        credentials: A file of Google credentials, where the environment names none.
        log: Gets trouble with it.
    """
    assert run.bucket is not None and run.events is not None  # noqa: S101, PT018 - of a run without one nobody asks
    return EventsBucket(run.bucket, run.events, timeout_s=_BUCKET_S, log=log, credentials=credentials)


@dataclass
class HistoryReader:
    """Reads a run's earlier events, each source in bounded time; what cannot be read is logged once.

    Attributes:
        run: Which run, and where its steps keep their events.
        targets: Brokers. Pub/Sub is not asked: a subscription gives each message to one reader, and this one would take
            it from another.
        log: Gets what cannot be read.
        level: Of what it gets.
        bucket: Where the folder is fetched from first; None: it is there already, or in no bucket.
    """

    run: StepRun
    targets: StatusTargets
    log: logging.Logger
    level: int = logging.WARNING
    bucket: EventsBucket | None = None
    _kept: list[StepEvent] = field(default_factory=list)

    def read(self, steps: Sequence[str], kafka_s: float) -> History:
        """Read the folder and, unless it says how each step ended, Kafka.

        Args:
            steps: The run's steps; none: the folder alone is enough where there is one.
            kafka_s: Seconds for Kafka; 0: it is not asked.
        """
        is_readable = self._read_folder()
        view = fold(self.run.run, self._kept)
        is_enough = is_readable and all(step in view.steps and view.steps[step].end is not None for step in steps)
        if kafka_s > 0 and not is_enough:
            kept = {event.identity for event in self._kept}
            further = [event for event in self._at_kafka(kafka_s) if event.identity not in kept]
            lacks = {(event.step, event.source) for event in further} - {(e.step, e.source) for e in self._kept}
            is_readable = is_readable and not lacks
            view = fold(self.run.run, [*self._kept, *further])
        return History(view, is_readable)

    def _read_folder(self) -> bool:
        """Read the events of the folder that all steps share; whether there is one that they could write."""
        directory = self.run.events
        if not self.run.shared or directory is None:
            return False

        def read() -> bool:
            self._kept = list(events_in(directory, self.run.run))
            # A spool without an event is of a step that was killed as it began, or that has just begun.
            begun = {
                path.name.removesuffix(SPOOL_SUFFIX).rsplit(".", 2)[1] for path in spools_of(directory, self.run.run)
            }
            is_heard = begun <= {event.step for event in self._kept} | {PIPELINE}
            # One that is not there yet has no events, if it can be made.
            there = next(parent for parent in (directory, *directory.parents) if parent.exists())
            return there.is_dir() and os.access(there, os.R_OK | os.W_OK, effective_ids=True) and is_heard

        try:
            if self.bucket is not None:
                self.bucket.fetch(self.run.run)
                self.bucket.disconnect()
            return bounded(read, _FOLDER_S)
        except (OSError, TimeoutError, StorageRefusedError, StorageUnavailableError) as error:
            self.log.log(self.level, "events of earlier steps cannot be read: %s", error)
            return False

    def _at_kafka(self, within_s: float) -> list[StepEvent]:
        if not self.targets.kafka_servers or self.targets.kafka_topic is None:
            return []
        from components.shared.events.kafka.history import read_history

        servers, topic = self.targets.kafka_servers, self.targets.kafka_topic
        since = datetime.now(UTC) - _LOOK_BACK
        found = read_history(servers, topic, since=since, within_s=within_s, key=self.run.run.encode())
        if found.trouble:
            self.log.log(self.level, "events of earlier steps cannot be read back: %s", found.trouble)
        events = []
        for body in found.bodies:
            try:
                event = StepEvent.from_bytes(body)
            except EventError:
                continue
            if event.run == self.run.run:
                events.append(event)
        return events
