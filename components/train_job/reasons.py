"""Why a TrainJob did not succeed, as the error that the step ends with."""

from __future__ import annotations

from collections.abc import Sequence

from components.shared.errors import (
    EXIT_BAD_INPUT,
    GroupLostError,
    InputError,
    ShutterlineError,
    TrainJobError,
)
from components.shared.events.data import Cancelled, Failed, Succeeded
from components.shared.process_group import Outcome, error_of
from components.shared.signals import EXIT_TERMINATED
from components.train_job.status import Ending, Loss, exit_code_of, summary_of


def error_of_job(
    name: str,
    ending: Ending | None,
    last: Succeeded | Failed | Cancelled | None,
    losses: Sequence[Loss],
    *,
    state: str,
    job_failure: str,
    saved: str,
) -> ShutterlineError:
    """The reason of a TrainJob that has not succeeded: its process's own, else what Kubernetes knows.

    Args:
        name: The job's name.
        ending: How it ended; None: it is gone.
        last: How the process that reports ended; None: it has not reported that.
        losses: What ended badly of its last pods.
        state: What it waited for or did, as it was last seen.
        job_failure: Why the Job of its nodes failed; empty: not known.
        saved: How far the training is saved; empty: not known.
    """
    seen = "".join(f"; {text}" for text in (f"last seen: {state}" if state else "", saved) if text)
    if ending is None:
        return TrainJobError(f"TrainJob {name} was deleted by somebody before its end{seen}")
    if ending.is_deadline:
        return TrainJobError(f"TrainJob {name} took longer than train.timeout_s allows{seen}")
    if isinstance(last, Failed) and last.error.type != GroupLostError.__name__:
        kind, message = last.error.type, last.error.message
        error = error_of(Outcome(last.exit_code, {"error": {"type": kind, "message": message}}, is_final=True))
        return error if type(error) is not ShutterlineError else TrainJobError(f"{kind}: {message}")
    # Pods that Kubernetes ended because of another one are no reason.
    causes = [loss for loss in losses if loss.exit_code != EXIT_TERMINATED] or losses
    parts = [summary_of(causes), job_failure, ": ".join(filter(None, (ending.reason, ending.message)))]
    text = f"TrainJob {name} failed: {'; '.join(part for part in parts if part)}"
    codes = {loss.exit_code for loss in causes} or {exit_code_of(job_failure)}
    return InputError(text) if codes == {EXIT_BAD_INPUT} else TrainJobError(text)
