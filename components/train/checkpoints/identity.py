"""Whether a checkpoint is of this run: what differs, by its path in the params."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from components.shared.errors import CheckpointError
from components.shared.params import Params
from components.shared.params_types import described
from components.train.checkpoints.format import CheckpointManifest

# What may change between two attempts: who is told and how, how often is saved, and where it is computed. None of it
# changes what is computed; data prep's options show in the dataset.
FREE = frozenset(
    "GOOGLE_APPLICATION_CREDENTIALS PUB_SUB_PROJECT PUB_SUB_TOPIC PUB_SUB_SUBSCRIPTION TIMEOUT KAFKA_HOST KAFKA_TOPIC "
    "device mode eval_metric_compute_freq eval_batch_size test_fraction validation_fraction max_unreadable "
    "on_status_error save_freq checkpoint_minutes keep_checkpoints compile data_placement".split()
)
_SHOWN = 8


def training_id(params: Params, dataset_sha256: str) -> str:
    """Name for what a training computes: 16 hexadecimal digits, the same where :func:`differences` finds none.

    Args:
        params: The run's.
        dataset_sha256: Of the dataset's manifest.
    """
    return hashlib.sha256(f"{params.digest(without=FREE)} {dataset_sha256}".encode()).hexdigest()[:16]


def require_own(manifest: CheckpointManifest, where: str, params: Params, dataset_sha256: str) -> None:
    """See that a checkpoint is of this run.

    Args:
        manifest: The checkpoint's.
        where: It lies, for the message.
        params: This run's.
        dataset_sha256: This run's.

    Raises:
        CheckpointError: It is of other params or another dataset; with what differs.
    """
    found = list(differences(manifest, params, dataset_sha256))
    if found:
        more = f"\n  … and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        lines = "".join(f"\n  {line}" for line in found[:_SHOWN])
        raise CheckpointError(
            f"{where}: holds checkpoints of another run; name another place, or start over there by --start-over "
            f"(start_over=True), which removes them. What differs:{lines}{more}",
            f"{lines}{more}",
        )


def differences(manifest: CheckpointManifest, params: Params, dataset_sha256: str) -> Iterator[str]:
    """What differs between a checkpoint's run and this one, a line each."""
    if manifest.dataset_sha256 != dataset_sha256:
        yield f"the dataset: SHA-256 {manifest.dataset_sha256[:12]}… there, {dataset_sha256[:12]}… here"
    there = {key: value for key, value in manifest.params.items() if key not in FREE}
    here = {key: value for key, value in params.to_dict().items() if key not in FREE}
    yield from _between(there, here, "")


def _between(there: Any, here: Any, path: str) -> Iterator[str]:
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        for key in here.keys() | there.keys():
            where = f"{path}.{key}" if path else key
            if key not in there or key not in here:
                only = "here" if key in here else "there"
                yield f"{where}: {described((here if key in here else there)[key])} {only} alone"
            else:
                yield from _between(there[key], here[key], where)
    elif isinstance(there, list) and isinstance(here, list):
        if len(there) != len(here):
            yield f"{path}: {len(there)} entries there, {len(here)} here"
        for index, (one, other) in enumerate(zip(there, here, strict=False)):
            yield from _between(one, other, f"{path}[{index}]")
    elif there != here:
        yield f"{path}: {described(there)} there, {described(here)} here"
