"""report_end(): how a pipeline ended, as far as its events, Kubeflow's API and the platform's final state tell."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

from components.shared.events.data import StepOutcome
from components.shared.events.history import bucket_of, read_history
from components.shared.events.redaction import redact
from components.shared.events.targets import StatusTargets
from components.shared.kubeflow.api import NoAnswerError, ask_run, is_kubeflow
from components.shared.kubeflow.report import RunReport
from components.shared.logs import step_logger
from components.shared.pipeline_end import CANCELLED_VARIABLE, OUTCOMES, PLATFORM_ERROR, PipelineEnd, pipeline_end
from components.shared.run import StepRun
from components.shared.status import PIPELINE_STEPS

_KAFKA_S = 10.0  # a topic that holds more than can be read in it is not read to its end
_PLATFORM_S = 2.0

_log = step_logger("exit")


def report_end(
    *,
    state: str | None,
    run: StepRun,
    message: str = "",
    targets: StatusTargets | None = None,
    credentials: str | None = None,
) -> PipelineEnd:
    """Decide how the pipeline ended, from all that can be learned in bounded time; what nothing tells is ``unknown``.

    Asked are the folder or bucket of the run's events, Kafka where that says less than everything, Kubeflow's API where
    this is a step of Kubeflow's, and the platform's final state and error message, which may be empty.
    """
    if OUTCOMES.get((state or "").upper()) == "failed" and (cancelled := os.environ.get(CANCELLED_VARIABLE)):
        state, message = "CANCELLED", cancelled
    bucket = bucket_of(run, credentials, _log) if run.bucket is not None else None
    brokers = targets or StatusTargets()
    with ThreadPoolExecutor(1) as pool:
        platform = pool.submit(_platform, run)
        history = read_history(run, brokers, _log, kafka_s=_KAFKA_S, steps=PIPELINE_STEPS, bucket=bucket)
    end = pipeline_end(PIPELINE_STEPS, history, platform=platform.result(), state=state or "", message=message)
    if (state or "").upper() not in OUTCOMES:
        _log.warning("the platform's state %r is no end of a pipeline; it ended %s", state or "", end.outcome)
    for step in end.steps:
        _remark(step, end.reason)
    if end.outcome == "succeeded":
        _log.info("pipeline succeeded")
    elif end.outcome == "unknown":
        _log.warning("pipeline unknown: %s", end.reason)
    elif end.outcome == "cancelled":
        _log.info("pipeline cancelled: %s", end.reason)
    elif ended := [f"{step.step} {step.outcome}" for step in end.steps if _has_logged(step)]:
        _log.info("pipeline %s: %s", end.outcome, ", ".join(ended))
    else:
        _log.error("pipeline %s: %s", end.outcome, end.reason)
    return end


def _has_logged(step: StepOutcome) -> bool:
    return step.outcome == "failed" and step.error is not None and step.error.type != PLATFORM_ERROR


def _platform(run: StepRun) -> RunReport | None:
    if not is_kubeflow() or not run.platform_run:
        return None
    try:
        return ask_run(run.platform_run, _PLATFORM_S, is_over=True)
    except NoAnswerError as error:
        _log.warning("Kubeflow cannot be asked how its run ended: %s", redact(str(error)))
        return None


def _remark(step: StepOutcome, reason: str) -> None:
    if step.outcome == "killed" and f"{step.step} was killed" not in reason:
        _log.warning("%s began and never ended: it was killed", step.step)
    elif step.outcome == "cached":
        _log.info("%s did not run: its result was there already", step.step)
    elif step.outcome == "not started":
        _log.info("%s was not started", step.step)
    elif step.outcome == "unknown":
        _log.warning("%s: how it ended is not known: no event of its end can be read from here", step.step)
