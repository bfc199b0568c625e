"""Metrics batch by batch in the log: ``eval_metric_compute_freq: batch``."""

from __future__ import annotations

import itertools
import logging

from components.classifier.inference import Predictions

MAX_LINES = 1000


def log_batches(log: logging.Logger, predictions: Predictions, batch_size: int) -> None:
    """Log the metrics of each batch of `batch_size` images, a line each and at most 1,000."""
    batches = -(-len(predictions.labels) // batch_size)
    shown = itertools.islice(predictions.batch_metrics(batch_size), MAX_LINES)
    for number, metrics in enumerate(shown, start=1):
        figures = "  ".join(f"{name} {value:.4f}" for name, value in metrics.as_dict().items())
        log.info("batch %d/%d  %s", number, batches, figures)
    if batches > MAX_LINES:
        log.info("… and %d more batches", batches - MAX_LINES)
