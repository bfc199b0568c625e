"""What two runs share that compute the same: their checkpoints, and the directory of these; how far one is."""

from __future__ import annotations

import hashlib

from components.shared.params.params import Params
from components.shared.params.schedules import schedules_of_run_length

# Data prep's options show in the dataset.
OF_THE_DATASET = frozenset(
    "test_fraction validation_fraction max_unreadable alpha_background image_fit image_interpolation data_layout "
    "on_leakage".split()
)
# What may change between two attempts besides: status, how often is saved, where it is computed, and what becomes of
# the model; a recipe's values count, not its name. None of it changes what is computed, but for
# rounding, and for the numbers that compiled dropout draws.
FREE = OF_THE_DATASET | frozenset(
    "GOOGLE_APPLICATION_CREDENTIALS PUB_SUB_PROJECT PUB_SUB_TOPIC PUB_SUB_SUBSCRIPTION TIMEOUT KAFKA_HOST KAFKA_TOPIC "
    "device mode eval_metric_compute_freq eval_batch_size on_status_error save_freq checkpoint_minutes "
    "keep_checkpoints compile step gradient_checkpointing data_placement gate baseline publish_uri recipe".split()
)

# What a training logs that goes on, before the checkpoint's position.
RESUMED = "going on from a checkpoint of "


def training_id(params: Params, dataset_sha256: str) -> str:
    """Name for what a training computes: 16 hexadecimal digits, the same where a run may go on from the other's.

    How many epochs the params say counts only where a schedule depends on it.
    """
    free = FREE if schedules_of_run_length(params) else FREE | {"num_epochs"}
    return hashlib.sha256(f"{params.digest(without=free)} {dataset_sha256}".encode()).hexdigest()[:16]


def position(epoch: int, batch: int, *, finished: bool) -> str:
    """How far a training is, for people: before a batch of an epoch, from 0 and from 1; or it is finished."""
    if finished:
        return f"its end, after epoch {epoch - 1}"
    return f"epoch {epoch}, batch {batch}" if batch else f"the beginning of epoch {epoch}"
