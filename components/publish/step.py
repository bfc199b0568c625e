"""Publishing wherever model and evaluation are: fetch what is read, publish."""

from __future__ import annotations

from pathlib import Path

from components.publish.publish import PublishResult, destination, publish
from components.shared.artifacts.artifact import read_manifest, require_same
from components.shared.artifacts.evaluation import EVALUATION
from components.shared.artifacts.model import MODEL
from components.shared.events.data import Emit, ignore_events
from components.shared.logs import step_logger
from components.shared.params.params import Params
from components.shared.staging import Staging
from components.shared.step import Reported
from components.shared.storage.location import AnyPath

_log = step_logger("publish")


def publish_staged(*, model: AnyPath, evaluation: AnyPath, params: Params, emit: Emit = ignore_events) -> Reported:
    """As :func:`~components.publish.publish.publish`, of directories that may be in buckets."""
    with Staging(_log, emit, params) as staging:
        destination(params)  # before anything is fetched
        return publish(
            model=staging.artifact(model, MODEL),
            evaluation=staging.artifact(evaluation, EVALUATION),
            params=params,
            reporting=staging.progress,
        )


def publish_in_pipeline(
    *, model: Path, model_sha256: str, evaluation: Path, card: Path, params: Params, emit: Emit = ignore_events
) -> PublishResult:
    """As :func:`~components.publish.publish.publish`, for a pipeline, which has named the model's weights.

    Args:
        model: The model directory.
        model_sha256: SHA-256 of its weights; other ones are refused. Empty: not known.
        evaluation: The evaluation directory of that model.
        card: Where the model card is written, too.
        params: The run's options.
        emit: Gets the status of the step.
    """
    with Staging(_log, emit, params) as staging:
        require_same(MODEL, read_manifest(model, MODEL).weights.sha256, model_sha256)
        result = publish(model=model, evaluation=evaluation, params=params, reporting=staging.progress)
        card.parent.mkdir(parents=True, exist_ok=True)
        card.write_text(result.card, encoding="utf-8")
        return result
