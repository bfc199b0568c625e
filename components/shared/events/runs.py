"""What is known of a run from its events, as watchers, the exit step and tests show it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal, cast

from components.shared.events.data import (
    Cancelled,
    Checkpoint,
    DataFinding,
    Failed,
    PipelineEnded,
    PipelineStarted,
    Progress,
    State,
    StepStarted,
    Succeeded,
)
from components.shared.events.event import PIPELINE, StepEvent

RunState = Literal["running", "succeeded", "failed", "cancelled", "unknown"]

# A step at work emits every 5 s, and longer silences are pods that wait for a node, as a group does for a node that has
# ended. After so much of it the events alone do not show whether the run still goes on.
SILENCE = timedelta(minutes=15)
# There is one of each kind, of which there are fewer; events come from elsewhere.
MOST_FINDINGS = 50

_Process = tuple[str, int]  # source and attempt


@dataclass
class StepView:
    """What is known of one step.

    Attributes:
        attempt: The newest attempt seen, from 0: its own number, or one more than the attempt before it where it could
            not learn that there was one. All else is of this attempt.
        last: Time of its last event.
        end: The terminal event's data, once there is one.
    """

    step: str
    attempt: int
    state: State
    last: datetime
    started: datetime | None = None
    progress: Progress | None = None
    checkpoint: Checkpoint | None = None
    end: Succeeded | Failed | Cancelled | None = None
    in_pipeline: bool = False
    source: str = field(default="", compare=False)
    findings: list[DataFinding] = field(default_factory=list)


@dataclass
class RunView:
    """What is known of one run; changed by :meth:`add`, event by event, in whatever order brokers deliver them.

    Attributes:
        steps: By name, in the order they were first seen.
        began: What the pipeline reported when it started, if it did.
        ended: What it reported at its newest end.
        state: Of the run as a whole: a step that starts after the pipeline's end goes on with it.
        starting_again: The step that is a run by itself and has ended, where a next attempt is likely to follow.
    """

    run: str
    steps: dict[str, StepView] = field(default_factory=dict)
    began: PipelineStarted | None = None
    ended: PipelineEnded | None = None
    state: RunState = "running"
    last: datetime | None = None
    starting_again: StepView | None = None
    _ended_at: datetime | None = field(default=None, repr=False, compare=False)
    # Of each step every process that has emitted, with the time of its first event.
    _processes: dict[str, dict[_Process, datetime]] = field(default_factory=dict, repr=False, compare=False)

    def add(self, event: StepEvent) -> None:
        """Take in one event. Events of an attempt come in order; an older attempt's no longer change anything."""
        self.last = event.time if self.last is None else max(self.last, event.time)
        if event.step != PIPELINE:
            self._step(event)
        elif isinstance(event.data, PipelineStarted):
            self.began = event.data
        elif isinstance(event.data, PipelineEnded) and (self._ended_at is None or event.time >= self._ended_at):
            self.ended, self._ended_at = event.data, event.time
        self.state = self._state()

    def _step(self, event: StepEvent) -> None:
        process = (event.source, event.attempt)
        processes = self._processes.setdefault(event.step, {})
        processes[process] = min(event.time, processes.get(process, event.time))
        newest, number = _newest(processes)
        view = self.steps.get(event.step)
        if view is not None and process != newest:
            view.attempt = number  # an older attempt, whose events came late
            return
        if view is None or view.source != event.source or view.attempt != number:
            saved = view.checkpoint if view is not None else None
            # A dict keeps the position of a name it already has.
            view = self.steps[event.step] = StepView(
                event.step, number, event.state, event.time, checkpoint=saved, source=event.source
            )
        elif view.end is not None:
            return
        view.state, view.last = event.state, event.time
        data = event.data
        if isinstance(data, StepStarted):
            view.started, view.in_pipeline = event.time, data.pipeline is not None
        elif isinstance(data, Progress):
            view.progress = data
        elif isinstance(data, Checkpoint):
            view.checkpoint = data
        elif isinstance(data, DataFinding) and len(view.findings) < MOST_FINDINGS:
            view.findings.append(data)
        elif isinstance(data, Succeeded | Failed | Cancelled):
            view.end = data

    def _state(self) -> RunState:
        self.starting_again = None
        if self.ended is not None and not self._goes_on(self.ended):
            return self.ended.outcome
        if self.began is None and self.ended is None and not any(view.in_pipeline for view in self.steps.values()):
            # A step that reported that it was run by itself is all there is of its run.
            begun = [view for view in self.steps.values() if view.started is not None]
            newest = max(begun, key=lambda view: view.started or view.last, default=None)
            if newest is not None and isinstance(newest.end, Failed | Cancelled) and newest.end.starts_again:
                self.starting_again = newest
            elif newest is not None and newest.end is not None:
                return cast("RunState", newest.state)
        return "running"

    def _goes_on(self, ended: PipelineEnded) -> bool:
        """Whether a step began after the pipeline's end, as after a retry; not one that the end is known to count."""
        counted = {step.source for step in ended.steps}
        ended_at = self._ended_at
        return ended_at is not None and any(
            source not in counted and begun > ended_at
            for processes in self._processes.values()
            for (source, _), begun in processes.items()
        )

    def state_at(self, now: datetime) -> RunState:
        """The run's state as somebody who has its events alone knows it: after a long silence, unknown."""
        silent = self.last is not None and now - self.last > SILENCE
        state = self.end_at(now)
        return state if state is not None else "unknown" if silent else "running"

    def end_at(self, now: datetime) -> RunState | None:
        """How the run ended, None while it goes on: also while a step that has ended is likely to start again."""
        if self.starting_again is not None and now - self.starting_again.last > SILENCE:
            return cast("RunState", self.starting_again.state)
        return self.state if self.is_done else None

    @property
    def publishes(self) -> bool:
        """Whether evaluation reported that the model is published next."""
        evaluated = self.steps.get("evaluate")
        return evaluated is not None and isinstance(evaluated.end, Succeeded) and evaluated.end.publishes is True

    @property
    def is_done(self) -> bool:
        """Whether the run is over: its pipeline reported so, or the one step that it consists of."""
        return self.state != "running"


def _newest(processes: dict[_Process, datetime]) -> tuple[_Process, int]:
    """The newest process of a step, and the number of its attempt."""
    # The time of a source's first event decides: a platform's number of an attempt starts at 0 again after a retry by
    # hand. Of one source, as torch elastic's restarts have it, the attempt's number does.
    first: dict[str, datetime] = {}
    for (source, _), time in processes.items():
        first[source] = min(time, first.get(source, time))
    ordered = sorted(processes, key=lambda process: (first[process[0]], process[1]))
    number = -1
    for _, attempt in ordered:
        number = max(number + 1, attempt)
    return ordered[-1], number


def fold(run: str, events: Iterable[StepEvent]) -> RunView:
    """What is known of a run from some of its events."""
    view = RunView(run)
    for event in events:
        if event.run == run:
            view.add(event)
    return view
