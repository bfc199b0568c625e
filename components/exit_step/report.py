"""report_end(): how a pipeline ended, in one vocabulary for every platform."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from components.shared.errors import InputError
from components.shared.logs import step_logger
from components.shared.step import RECORDS_VARIABLE, read_records

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
        reason: Why it failed, as precisely as is known; empty if it did not.
        steps: How each step that left a record ended.
    """

    outcome: Outcome
    state: str
    reason: str
    steps: dict[str, str]

    def report(self) -> dict[str, Any]:
        """The end as JSON data."""
        return {"outcome": self.outcome, "state": self.state, "reason": self.reason, "steps": self.steps}


def report_end(*, state: str, message: str = "", records: Path | None = None) -> PipelineEnd:
    """Say how the pipeline ended.

    Args:
        state: The platform's word for it.
        message: The platform's error message, which Kubeflow leaves empty.
        records: Directory of the steps' records; by default the one the environment names, if any.

    Raises:
        InputError: The word is not one a known platform uses.
    """
    outcome = OUTCOMES.get(state.upper())
    if outcome is None:
        known = ", ".join(OUTCOMES)
        raise InputError(f"status.state: {state!r} is not a final state of a pipeline; known are {known}")
    named = os.environ.get(RECORDS_VARIABLE)
    directory = records or (Path(named) if named else None)
    ended = read_records(directory) if directory else {}
    reason = ""
    if outcome != "succeeded":
        # A step's own error says more than the platform's "task failed".
        errors = [f"{name}: {record.error.message}" for name, record in ended.items() if record.error]
        reason = "; ".join(errors) or message or "the platform gave no reason"
        _log.error("pipeline %s: %s", outcome, reason)
    else:
        _log.info("pipeline succeeded")
    return PipelineEnd(outcome, state, reason, {name: record.status for name, record in ended.items()})
