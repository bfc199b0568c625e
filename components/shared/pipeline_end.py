"""How a pipeline ended: decided from its events, from Kubeflow's API, and from the state that the platform handed on.

An outcome is true, or it is ``unknown``: silence counts only where every step's events could have been read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from components.shared.events.data import Cancelled, Error, EventData, Failed, PipelineEnded, StepOutcome, Succeeded
from components.shared.events.history import History
from components.shared.events.redaction import redact
from components.shared.events.runs import StepView
from components.shared.kubeflow.report import RunReport, TaskReport
from components.shared.run import PIPELINE_NAME

Outcome = Literal["succeeded", "failed", "cancelled", "unknown"]

# Local runners and Vertex AI report SUCCEEDED, Kubeflow COMPLETE, or SUCCEEDED without its metadata store; all report
# FAILED. Every other state, as Kubeflow's RUNNING of runs that were cached or terminated, is no end: then it is decided
# without it.
OUTCOMES: dict[str, Outcome] = {
    "SUCCEEDED": "succeeded",
    "COMPLETE": "succeeded",
    "COMPLETED": "succeeded",
    "CACHED": "succeeded",
    "SKIPPED": "succeeded",
    "FAILED": "failed",
    "ERROR": "failed",
    "CANCELLED": "cancelled",
    "CANCELED": "cancelled",
}

# Where `shutterline run` was asked to end: how, for the exit step, to which kfp says that a task failed.
CANCELLED_VARIABLE = "SHUTTERLINE_CANCELLED"
_PART = re.compile(r"(?P<step>[a-z-]+)-part-(?P<number>[0-9]{1,9})")
PUBLISH = "publish"  # the step that a pipeline has only for a model that passes and has somewhere to go
PLATFORM_ERROR = "PlatformError"  # type of an error that the platform reports, not the step
_NO_REASON = "the platform gave no reason"
# As Argo words it where a step had no time to report anything.
_KILLED = re.compile(r"OOMKilled|exit code 1(37|43)|deleted|[Ee]victed|DeadlineExceeded")


def part_of(step: str, number: int) -> str:
    """What status calls one part of a step that several share."""
    return f"{step}-part-{number}"


def with_parts(steps: Sequence[str], named: Iterable[str]) -> list[str]:
    """Steps in order, each behind those of the named ones that are parts of it."""
    parts: dict[str, set[int]] = {}
    for found in filter(None, map(_PART.fullmatch, named)):
        parts.setdefault(found["step"], set()).add(int(found["number"]))
    return [each for step in steps for each in (*(part_of(step, part) for part in sorted(parts.get(step, ()))), step)]


@dataclass(frozen=True)
class PipelineEnd:
    """How a pipeline ended."""

    outcome: Outcome
    state: str  # the platform's
    reason: str  # why it did not succeed, or is not known
    steps: list[StepOutcome]  # those without an event of their own included

    def report(self) -> dict[str, Any]:
        """The end as JSON data."""
        steps = {step.step: step.outcome for step in self.steps}
        return {"outcome": self.outcome, "state": self.state, "reason": self.reason, "steps": steps}

    def event(self, seconds: float) -> PipelineEnded:
        """The end as the pipeline's last status event."""
        return PipelineEnded(PIPELINE_NAME, self.outcome, self.state, self.reason, self.steps)


def pipeline_end(
    steps: Sequence[str], history: History, *, platform: RunReport | None = None, state: str = "", message: str = ""
) -> PipelineEnd:
    """Decide how a pipeline ended.

    Args:
        steps: Those that every run of it has, in order; publishing is added where it ran or should have.
        history: Its events.
        platform: What Kubeflow's API knows; None: it was not asked, or did not answer.
        state: The state that the platform handed to the exit task; empty if it has none.
        message: The platform's error message, which Kubeflow leaves empty.
    """
    outcome = OUTCOMES.get(state.upper())
    if platform is not None and (platform.state in ("cancelling", "cancelled") or platform.body == "cancelled"):
        outcome = "cancelled"
    elif platform is not None and platform.body in ("succeeded", "failed"):
        outcome = platform.body
    task = platform.tasks.get(PUBLISH) if platform is not None else None
    if history.view.publishes or PUBLISH in history.view.steps or (task is not None and task.state != "skipped"):
        steps = [*steps, PUBLISH]
    steps = with_parts(steps, _named(history))
    outcomes = _outcomes(steps, history, platform, outcome)
    outcome = outcome or _by_steps(outcomes)
    found = {step.outcome for step in outcomes}
    if outcome == "failed" and "cancelled" in found and not found & {"failed", "killed"}:
        outcome = "cancelled"  # platforms that have no such state call it failed
    if outcome == "succeeded":
        return PipelineEnd(outcome, state, "", outcomes)
    reason = _reason(outcomes) or _redacted(message)
    if outcome == "unknown":
        reason = f"neither its events nor the platform say how it ended{f': {reason}' if reason else ''}"
    return PipelineEnd(outcome, state, reason or _NO_REASON, outcomes)


def end_after_retry(
    steps: Sequence[str], history: History, platform: RunReport | None, own: StepOutcome, data: EventData
) -> PipelineEnd:
    """The new end of a pipeline that was retried on its platform, decided by its `own` step, the last to run."""
    if isinstance(data, Failed):
        own = replace(own, outcome="failed", error=data.error)
    else:
        own = replace(own, outcome="succeeded" if isinstance(data, Succeeded) else "cancelled", error=None)
    steps = with_parts([*steps, PUBLISH] if own.step == PUBLISH else steps, [*_named(history), own.step])
    index = steps.index(own.step)
    # It ran, so all before it went well.
    before = _outcomes(steps[:index], history, platform, "succeeded")
    outcomes = [*before, own, *(StepOutcome(step, "not started") for step in steps[index + 1 :])]
    outcome = _by_steps([own])
    return PipelineEnd(outcome, "", "" if outcome == "succeeded" else _reason(outcomes), outcomes)


def _named(history: History) -> list[str]:
    """The steps that a run's events name: those that were announced, and those that began."""
    began = history.view.began
    return [*(began.steps if began is not None else ()), *history.view.steps]


def _by_steps(outcomes: Sequence[StepOutcome]) -> Outcome:
    found = [step.outcome for step in outcomes]
    if found[-1] == "succeeded":
        return "succeeded"
    if "failed" in found or "killed" in found:
        return "failed"
    return "cancelled" if "cancelled" in found else "unknown"


def _outcomes(
    steps: Sequence[str], history: History, platform: RunReport | None, outcome: Outcome | None
) -> list[StepOutcome]:
    tasks: Mapping[str, TaskReport] = platform.tasks if platform is not None else {}
    views = history.view.steps
    last_seen = max((index for index, step in enumerate(steps) if step in views), default=-1)
    found = []
    for index, step in enumerate(steps):
        task, view = tasks.get(step), views.get(step)
        if task is not None and task.state not in ("waiting", "running", "unknown"):
            found.append(_of_task(task, view, step, is_whole=history.is_whole))
        elif view is not None:
            found.append(_of_events(view, outcome, is_whole=history.is_whole))
        elif not history.is_whole:
            found.append(StepOutcome(step, "unknown"))
        elif index < last_seen or outcome == "succeeded":
            found.append(StepOutcome(step, "cached"))  # the pipeline went past it, so its result was there without it
        else:
            # Without a state of the platform nothing tells a run that came from the cache from one that never began.
            found.append(StepOutcome(step, "unknown" if outcome is None and not views else "not started"))
    return found


def _of_task(task: TaskReport, view: StepView | None, step: str, *, is_whole: bool) -> StepOutcome:
    if task.state == "skipped":
        return StepOutcome(step, "not started")
    end = view.end if view is not None else None
    seen = StepOutcome(step, "unknown")
    if view is not None:
        seen = replace(seen, attempt=view.attempt, source=view.source)
    if task.state in ("succeeded", "cached", "cancelled"):
        return replace(seen, outcome=task.state)
    if isinstance(end, Failed):
        return replace(seen, outcome="failed", error=end.error)
    reason = _redacted(task.message) or _NO_REASON
    if isinstance(end, Succeeded):
        reason = f"succeeded by its own events, and failed on the platform: {reason}"
    # Without an event of its end: it was killed, or the event of its end is with a broker that is away.
    was_killed = view is not None and end is None and (is_whole or _KILLED.search(task.message) is not None)
    return replace(seen, outcome="killed" if was_killed else "failed", error=Error(PLATFORM_ERROR, reason))


def _of_events(view: StepView, outcome: Outcome | None, *, is_whole: bool) -> StepOutcome:
    seen = StepOutcome(view.step, "unknown", view.attempt, None, view.source)
    if outcome == "succeeded" or isinstance(view.end, Succeeded):
        return replace(seen, outcome="succeeded")  # of a pipeline that succeeded, whatever was seen of it
    if isinstance(view.end, Failed):
        return replace(seen, outcome="failed", error=view.end.error)
    if isinstance(view.end, Cancelled):
        return replace(seen, outcome="cancelled")
    # It began, and the pipeline is over. Its end may be with a broker that is away; a state such as RUNNING is what
    # Kubeflow hands on of a run that was terminated.
    return replace(seen, outcome="killed") if is_whole or outcome is None else seen


def _redacted(text: str) -> str:
    """A platform's message, which may quote what a container was given."""
    return redact(text.encode("utf-8", "backslashreplace").decode())


def _reason(steps: Sequence[StepOutcome]) -> str:
    reasons = []
    for step in steps:
        error = f": {step.error.message}" if step.error else ""
        if step.outcome in ("killed", "cancelled"):
            reasons.append(f"{step.step} was {step.outcome}{error}")
        elif error:
            reasons.append(f"{step.step}{error}")
    return "; ".join(reasons)
