"""Evaluation wherever model, dataset and evaluation are: fetch what is read, evaluate, publish."""

from __future__ import annotations

from functools import partial

from components.evaluate.evaluate import evaluate
from components.shared.artifacts.dataset import DATASET, evaluation_splits, files_of_splits
from components.shared.artifacts.evaluation import EVALUATION
from components.shared.artifacts.model import MODEL, onnx_file
from components.shared.events.data import Emit, ignore_events
from components.shared.inference.runtime import check_device
from components.shared.logs import step_logger
from components.shared.params.params import Params
from components.shared.staging import Staging
from components.shared.step import Reported
from components.shared.storage.location import AnyPath

_log = step_logger("evaluate")


def evaluate_staged(
    *, model: AnyPath, dataset: AnyPath, evaluation: AnyPath, params: Params, emit: Emit = ignore_events
) -> Reported:
    """As :func:`~components.evaluate.evaluate.evaluate`, of and for directories that may be in buckets.

    Of the dataset the test split is fetched, of the model its model.onnx.
    """
    with Staging(_log, emit, params) as staging:
        check_device(params.device, _log)  # before anything is fetched
        weights = staging.artifact(model, MODEL, onnx_file)
        images = staging.artifact(dataset, DATASET, partial(files_of_splits, chosen=evaluation_splits))
        output = staging.output(evaluation, EVALUATION)
        result = staging.publish(
            evaluate(model=weights, dataset=images, evaluation=output, params=params, emit=staging.emit)
        )
        _log.info("report: %s", result.report()["report_file"])
        return result
