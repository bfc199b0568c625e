"""What is known of a run from its events: the fold that watchers, the exit step and tests share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from components.shared.events.data import (
    Cancelled,
    Checkpoint,
    Failed,
    PipelineEnded,
    PipelineStarted,
    Progress,
    State,
    StepOutcome,
    StepStarted,
    Succeeded,
)
from components.shared.events.event import PIPELINE, StepEvent

RunState = Literal["running", "succeeded", "failed", "cancelled"]


@dataclass
class StepView:
    """What is known of one step.

    Attributes:
        step: Its name.
        attempt: The newest attempt seen, from 0.
        state: The newest attempt's last state; ``started`` stays until it has progress.
        started: When the newest attempt began, if that was seen.
        last: Time of its last event.
        progress: The newest attempt's last progress.
        checkpoint: The newest checkpoint.
        end: The terminal event's data, once there is one.
        in_pipeline: Whether the step said that it belongs to a pipeline.
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


@dataclass
class RunView:
    """What is known of one run; changed by :meth:`add`, event by event.

    Attributes:
        run: Its id.
        steps: By name, in the order they were first seen.
        began: What the pipeline said when it started, if it did.
        ended: What it said at its end.
        state: Of the run as a whole.
        last: Time of the last event.
    """

    run: str
    steps: dict[str, StepView] = field(default_factory=dict)
    began: PipelineStarted | None = None
    ended: PipelineEnded | None = None
    state: RunState = "running"
    last: datetime | None = None

    def add(self, event: StepEvent) -> None:
        """Take in one event. Events of an attempt come in order; an older attempt's no longer change anything."""
        self.last = event.time if self.last is None else max(self.last, event.time)
        if event.step == PIPELINE:
            self._pipeline(event)
            return
        view = self.steps.get(event.step)
        if view is None or event.attempt > view.attempt:
            saved = view.checkpoint if view is not None else None
            # A dict keeps the place of a name it already has.
            view = self.steps[event.step] = StepView(
                event.step, event.attempt, event.state, event.time, checkpoint=saved
            )
        elif event.attempt < view.attempt or view.end is not None:
            return
        view.state, view.last = event.state, event.time
        data = event.data
        if isinstance(data, StepStarted):
            view.started, view.in_pipeline = event.time, data.pipeline is not None
            if self.ended is None:
                self.state = "running"
        elif isinstance(data, Progress):
            view.progress = data
        elif isinstance(data, Checkpoint):
            view.checkpoint = data
        elif isinstance(data, Succeeded | Failed | Cancelled):
            view.end = data
            if view.started is not None and not view.in_pipeline and self.began is None and self.ended is None:
                # A step that said it was run by itself is all there is of its run.
                self.state = _run_state(event.state)

    def _pipeline(self, event: StepEvent) -> None:
        if isinstance(event.data, PipelineStarted):
            self.began = event.data
            if self.ended is None:
                self.state = "running"
        elif isinstance(event.data, PipelineEnded):
            self.ended = event.data
            self.state = _run_state(event.state)

    @property
    def is_done(self) -> bool:
        """Whether the run is over: its pipeline said so, or the one step that it consists of."""
        return self.state != "running"

    def outcomes(self, steps: Sequence[str], *, pipeline_succeeded: bool, seen: bool) -> list[StepOutcome]:
        """How each step of a finished pipeline ended.

        Args:
            steps: The pipeline's steps in order.
            pipeline_succeeded: What the platform says of the whole.
            seen: Whether the steps' events could be read; otherwise silence means nothing.
        """
        spoke = [index for index, step in enumerate(steps) if step in self.steps]
        outcomes = []
        for index, step in enumerate(steps):
            view = self.steps.get(step)
            if view is not None:
                outcomes.append(_outcome_of(view))
            elif pipeline_succeeded or (spoke and index < max(spoke)):
                # The pipeline went past it, so its result was there without it being run.
                outcomes.append(StepOutcome(step, "cached" if seen else "unknown"))
            else:
                outcomes.append(StepOutcome(step, "not started" if seen else "unknown"))
        return outcomes


def _outcome_of(view: StepView) -> StepOutcome:
    if isinstance(view.end, Failed):
        return StepOutcome(view.step, "failed", view.attempt, view.end.error)
    if view.end is None:
        return StepOutcome(view.step, "killed", view.attempt)
    return StepOutcome(view.step, "succeeded" if isinstance(view.end, Succeeded) else "cancelled", view.attempt)


def _run_state(state: State) -> RunState:
    return "succeeded" if state == "succeeded" else "cancelled" if state == "cancelled" else "failed"


def fold(run: str, events: Iterable[StepEvent]) -> RunView:
    """What is known of a run from some of its events."""
    view = RunView(run)
    for event in events:
        if event.run == run:
            view.add(event)
    return view
