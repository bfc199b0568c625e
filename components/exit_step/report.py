"""report_end(): how a pipeline ended, in one vocabulary for every platform, with what silent steps could not say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from components.exit_step.hearsay import heard_at_kafka
from components.shared.errors import InputError
from components.shared.events.data import PipelineEnded, StepOutcome
from components.shared.events.redaction import redact
from components.shared.events.runs import RunView, fold
from components.shared.events.spool import events_in
from components.shared.events.targets import StatusTargets
from components.shared.logs import step_logger
from components.shared.run import PIPELINE_NAME, StepRun
from components.shared.status import PIPELINE_STEPS

Outcome = Literal["succeeded", "failed", "cancelled"]

# Local runners and Vertex AI say SUCCEEDED, Kubeflow COMPLETE, or SUCCEEDED without its metadata store; all say FAILED.
# Kubeflow hands on its task's state as it is: CACHED and SKIPPED went well too.
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
# Of a pipeline whose exit step runs, and so is over: Kubeflow may not have noticed yet (kubeflow/pipelines#13321), and
# Vertex AI may still be cancelling. How it ended is then what its steps told.
UNDECIDED = frozenset({"", "NEW", "RUNNING", "UNKNOWN", "RUNTIME_STATE_UNSPECIFIED", "CANCEL_PENDING", "CANCELLING"})

_log = step_logger("exit")


@dataclass(frozen=True)
class PipelineEnd:
    """How a pipeline ended.

    Attributes:
        outcome: In our words.
        state: In the platform's.
        reason: Why it did not succeed, as precisely as is known; empty if it did.
        steps: How each step ended, those that could not say it included.
    """

    outcome: Outcome
    state: str
    reason: str
    steps: list[StepOutcome]

    def report(self) -> dict[str, Any]:
        """The end as JSON data."""
        steps = {step.step: step.outcome for step in self.steps}
        return {"outcome": self.outcome, "state": self.state, "reason": self.reason, "steps": steps}

    def event(self, seconds: float) -> PipelineEnded:
        """The end as the pipeline's last status event."""
        return PipelineEnded(PIPELINE_NAME, self.outcome, self.state, self.reason, self.steps)


def report_end(
    *, state: str | None, run: StepRun, message: str = "", targets: StatusTargets | None = None
) -> PipelineEnd:
    """Say how the pipeline ended.

    Args:
        state: The platform's word for it; None or empty where it has none.
        run: The run, and where its steps kept their events.
        message: The platform's error message, which Kubeflow leaves empty.
        targets: Brokers; where the spools cannot be seen, Kafka is asked what the steps have told it.

    Raises:
        InputError: The word is not one a known platform uses at the end, and the steps have not told it either.
    """
    state = state or ""
    outcome = OUTCOMES.get(state.upper())
    if outcome is None and state.upper() not in UNDECIDED:
        raise InputError(f"status.state: {state!r} is not a final state of a pipeline; known are {', '.join(OUTCOMES)}")
    view: RunView | None = fold(run.run, events_in(run.events, run.run)) if run.shared else None
    if view is None and targets is not None:
        view = heard_at_kafka(run.run, targets)
    if outcome is None:
        outcome = _told(view)
        if outcome is None:
            raise InputError(
                f"status.state: {state!r} is not a final state of a pipeline, and its steps have not told how it ended"
            )
        _log.warning("the platform says %r of a pipeline that is over; its steps tell how it ended", state)
    steps = _steps(view, succeeded=outcome == "succeeded")
    for step in steps:
        if step.outcome not in ("succeeded", "failed", "cancelled"):
            _log.log(*_remark(step))
    if outcome == "failed" and _was_cancelled(steps):
        outcome = "cancelled"  # platforms that know no such word call it failed
    reason = ""
    if outcome != "succeeded":
        # A platform's message may quote what a container was given.
        reason = _reason(steps) or redact(message) or "the platform gave no reason"
        _log.error("pipeline %s: %s", outcome, reason)
    else:
        _log.info("pipeline succeeded")
    return PipelineEnd(outcome, state, reason, steps)


def _steps(view: RunView | None, *, succeeded: bool) -> list[StepOutcome]:
    return (view or RunView("")).outcomes(PIPELINE_STEPS, pipeline_succeeded=succeeded, seen=view is not None)


def _told(view: RunView | None) -> Outcome | None:
    """How the pipeline ended as far as its steps have told; None if they have not.

    That the last step succeeded is the pipeline's success. Its silence may mean that it was cached or never begun.
    """
    outcomes = [step.outcome for step in _steps(view, succeeded=False)]
    if outcomes[-1] == "succeeded":
        return "succeeded"
    if "failed" in outcomes or "killed" in outcomes:
        return "failed"
    return "cancelled" if "cancelled" in outcomes else None


_INFO, _WARNING = 20, 30  # of the logging module


def _remark(step: StepOutcome) -> tuple[int, str]:
    """A log line on a step that did not say how it ended."""
    remarks = {
        "killed": (_WARNING, f"{step.step} began and never ended: it was killed"),
        "cached": (_INFO, f"{step.step} did not run: its result was there already"),
        "not started": (_WARNING, f"{step.step} was not started"),
        "unknown": (_INFO, f"{step.step}: nothing is known of it here: SHUTTERLINE_EVENTS names no shared directory"),
    }
    return remarks[step.outcome]


def _was_cancelled(steps: list[StepOutcome]) -> bool:
    outcomes = {step.outcome for step in steps}
    return "cancelled" in outcomes and not outcomes & {"failed", "killed"}


def _reason(steps: list[StepOutcome]) -> str:
    """Why a pipeline ended: a step's own error says more than the platform's "task failed"."""
    told = [f"{step.step}: {step.error.message}" for step in steps if step.error]
    told += [f"{step.step} was cancelled" for step in steps if step.outcome == "cancelled"]
    told += [f"{step.step} was killed" for step in steps if step.outcome == "killed"]
    return "; ".join(told)
