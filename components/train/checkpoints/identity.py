"""Whether a checkpoint is of this run: what differs, by its path in the params."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

from components.shared.errors import CheckpointError
from components.shared.params.params import Params
from components.shared.params.types import described
from components.train.checkpoints.format import CheckpointManifest

# Data prep's options show in the dataset.
OF_THE_DATASET = frozenset("test_fraction validation_fraction max_unreadable alpha_background".split())
# What may change between two attempts besides: who is told and how, how often is saved, and where it is computed. None
# of it changes what is computed.
FREE = OF_THE_DATASET | frozenset(
    "GOOGLE_APPLICATION_CREDENTIALS PUB_SUB_PROJECT PUB_SUB_TOPIC PUB_SUB_SUBSCRIPTION TIMEOUT KAFKA_HOST KAFKA_TOPIC "
    "device mode eval_metric_compute_freq eval_batch_size on_status_error save_freq checkpoint_minutes "
    "keep_checkpoints compile data_placement".split()
)
_SHOWN = 8


def training_id(params: Params, dataset_sha256: str) -> str:
    """Name for what a training computes: 16 hexadecimal digits, the same where :func:`differences` finds none.

    Args:
        params: The run's. How many epochs they say counts only where a schedule depends on it.
        dataset_sha256: Of the dataset's manifest.
    """
    free = FREE if schedules_of_run_length(params) else FREE | {"num_epochs"}
    return hashlib.sha256(f"{params.digest(without=free)} {dataset_sha256}".encode()).hexdigest()[:16]


def schedules_of_run_length(params: Params) -> list[str]:
    """The learning-rate schedules that last as long as the run, so that more epochs would have changed earlier ones."""
    from components.classifier.schedules import as_long_as, stretches

    found = []
    longer = params.model_copy(update={"num_epochs": params.num_epochs + 1})
    for one, other in zip(stretches(params), stretches(longer), strict=True):
        for index in one.indices:
            spec = params.learning_rate_schedule[index]
            here, there = (as_long_as(spec, stretch.epochs) for stretch in (one, other))
            if here != there:
                missing = ", ".join(here.kwargs.keys() - spec.kwargs.keys())
                found.append(f"learning_rate_schedule[{index}] ({spec.short_name} without {missing})")
    return found


def require_own(manifest: CheckpointManifest, where: str, params: Params, dataset_sha256: str) -> None:
    """See that a checkpoint is of this run, which may have more epochs by now.

    Args:
        manifest: The checkpoint's.
        where: It lies, for the message.
        params: This run's.
        dataset_sha256: This run's.

    Raises:
        CheckpointError: It is of other params or another dataset; with what differs.
    """
    if found := list(differences(manifest, params, dataset_sha256)):
        raise of_another_run(where, found)


def of_another_run(where: str, found: Sequence[str]) -> CheckpointError:
    """The error for a place that holds checkpoints of another run; `found` says in lines what differs."""
    more = f"\n  … and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    lines = "".join(f"\n  {line}" for line in found[:_SHOWN])
    return CheckpointError(
        f"{where}: holds checkpoints of another run; name another place, or start over there by --start-over "
        f"(start_over=True), which removes them. What differs:{lines}{more}",
        f"{lines}{more}",
    )


def differences(manifest: CheckpointManifest, params: Params, dataset_sha256: str) -> Iterator[str]:
    """What differs between a checkpoint's run and this one, a line each."""
    if manifest.dataset_sha256 != dataset_sha256:
        yield f"the dataset: SHA-256 {manifest.dataset_sha256[:12]}… there, {dataset_sha256[:12]}… here"
    # A version that did not have a key yet did what its default does.
    here_only = params.to_dict().keys() - manifest.params.keys()
    fields = Params.model_fields
    absent = {key for key in here_only if getattr(params, key) == fields[key].get_default(call_default_factory=True)}
    yield from differences_of_params(manifest.params, params.to_dict(), FREE | {"num_epochs"} | absent)
    there, here = epochs_of(manifest), params.num_epochs
    if there == here:
        return
    if lasting := schedules_of_run_length(params):
        verb = "last" if len(lasting) > 1 else "lasts"
        yield f"num_epochs: {there} there, {here} here, and {', '.join(lasting)} {verb} as long as the run"
    elif (trained := manifest.epoch - 1 + bool(manifest.batch)) > here:
        yield f"num_epochs: {here} here, and epoch {trained} is trained there; ask for at least {trained}"


def epochs_of(manifest: CheckpointManifest) -> int:
    """How many epochs a checkpoint's run was to have."""
    return int(manifest.params["num_epochs"])


def of_another_length(manifest: CheckpointManifest, params: Params) -> str | None:
    """Why a run of so many epochs would not have come by a checkpoint; None: it would.

    After the last epoch a run is evaluated, whatever ``eval_freq`` says; the best epoch, early stopping and
    ReduceLROnPlateau take that into account.
    """
    there, here, trained = epochs_of(manifest), params.num_epochs, manifest.epoch - 1
    if there == here or manifest.batch or trained % params.eval_freq == 0 or trained not in (there, here):
        return None
    was = "was evaluated as that run's last" if trained == there else "was not evaluated, and is this run's last"
    return f"num_epochs: {there} there, {here} here, and epoch {trained} {was} (eval_freq {params.eval_freq})"


def differences_of_params(there: Mapping[str, Any], here: Mapping[str, Any], free: Set[str]) -> Iterator[str]:
    """What differs between two runs' params as JSON data, a line each; `free` are the keys that may differ."""
    there, here = ({key: value for key, value in each.items() if key not in free} for each in (there, here))
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
