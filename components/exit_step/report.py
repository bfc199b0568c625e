"""report_end(): how a pipeline ended, in one vocabulary for every platform, with what silent steps could not say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from components.exit_step.hearsay import heard_at_kafka
from components.shared.errors import InputError
from components.shared.events.data import PipelineEnded, StepOutcome
from components.shared.events.runs import RunView, fold
from components.shared.events.spool import events_in
from components.shared.events.targets import StatusTargets
from components.shared.logs import step_logger
from components.shared.run import PIPELINE_NAME, StepRun
from components.shared.status import PIPELINE_STEPS

Outcome = Literal["succeeded", "failed", "cancelled"]

# Local runners and Vertex AI say SUCCEEDED, Kubeflow's Argo backend COMPLETE; all say FAILED.
OUTCOMES: dict[str, Outcome] = {
    "SUCCEEDED": "succeeded",
    "COMPLETE": "succeeded",
    "COMPLETED": "succeeded",
    "FAILED": "failed",
    "ERROR": "failed",
    "CANCELLED": "cancelled",
    "CANCELED": "cancelled",
}

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


def report_end(*, state: str, run: StepRun, message: str = "", targets: StatusTargets | None = None) -> PipelineEnd:
    """Say how the pipeline ended.

    Args:
        state: The platform's word for it.
        run: The run, and where its steps kept their events.
        message: The platform's error message, which Kubeflow leaves empty.
        targets: Brokers; where the spools cannot be seen, Kafka is asked what the steps have told it.

    Raises:
        InputError: The word is not one a known platform uses.
    """
    outcome = OUTCOMES.get(state.upper())
    if outcome is None:
        known = ", ".join(OUTCOMES)
        raise InputError(f"status.state: {state!r} is not a final state of a pipeline; known are {known}")
    view: RunView | None = fold(run.run, events_in(run.events, run.run)) if run.shared else None
    if view is None and targets is not None:
        view = heard_at_kafka(run.run, targets)
    succeeded = outcome == "succeeded"
    steps = (view or RunView(run.run)).outcomes(PIPELINE_STEPS, pipeline_succeeded=succeeded, seen=view is not None)
    for step in steps:
        if step.outcome not in ("succeeded", "failed", "cancelled"):
            _log.log(*_remark(step))
    if outcome == "failed" and _was_cancelled(steps):
        outcome = "cancelled"  # platforms that know no such word call it failed
    reason = ""
    if outcome != "succeeded":
        reason = _reason(steps) or message or "the platform gave no reason"
        _log.error("pipeline %s: %s", outcome, reason)
    else:
        _log.info("pipeline succeeded")
    return PipelineEnd(outcome, state, reason, steps)


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
