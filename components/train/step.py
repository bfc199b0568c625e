"""Training wherever dataset, model and checkpoints lie: fetch what is read, train, publish."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from components.classifier.check import Checked, check
from components.classifier.weight_files import WEIGHT_FILES
from components.shared.artifacts.dataset import DATASET, files_of_splits, training_splits
from components.shared.artifacts.model import MODEL, starting_weights
from components.shared.claims import require_writable
from components.shared.errors import InputError
from components.shared.events.data import Emit, EventData, Succeeded, ignore_events
from components.shared.logs import step_logger
from components.shared.params.params import Params
from components.shared.process_group import has_restarted_clean, member, note_restarted_clean
from components.shared.staging import Staging
from components.shared.step import Reported
from components.shared.storage.location import AnyPath, Location, parse_location
from components.train.checkpoints.directory import Checkpoints
from components.train.checkpoints.format import list_checkpoints
from components.train.checkpoints.identity import of_another_length
from components.train.checkpoints.remote import CheckpointMirror
from components.train.group import joined, own_device, shared_scratch
from components.train.train import train

_log = step_logger("train")


def trial_staged(
    *, dataset: AnyPath, params: Params, trial: Callable[[Path, Params], Reported], emit: Emit = ignore_events
) -> Reported:
    """A trial on a dataset that may lie in a bucket.

    Args:
        dataset: Where it lies.
        params: The run's options.
        trial: From the dataset's directory and the params to the result.
        emit: Gets the status of the step.

    Raises:
        ShutterlineError: As the trial, and as :func:`train_staged` of the dataset.
    """
    with Staging(_log, emit, params) as staging:
        if isinstance(dataset, Location):
            check(params)  # before anything is fetched
            own_device(params.device)
        images = staging.artifact(dataset, DATASET, partial(files_of_splits, chosen=training_splits))
        if (start := _initial_weights(staging, params)) is not None:
            params = params.model_copy(update={"initial_weights": str(start)})
        return staging.publish(trial(images, params))


def train_staged(
    *,
    dataset: AnyPath,
    model: AnyPath,
    params: Params,
    checkpoints: AnyPath | None = None,
    start_over: bool = False,
    emit: Emit = ignore_events,
) -> Reported:
    """As :func:`~components.train.train.train`, of and for directories that may lie in buckets.

    Of the dataset the splits that training reads are fetched, and what ``initial_weights`` names in a bucket.
    Checkpoints in a bucket are uploaded while training goes on, and the newest is fetched before it begins. Unless
    `checkpoints` names a place for them they lie beside the model, in its bucket, too: of ``gs://b/model`` in
    ``gs://b/model-checkpoints``. With `start_over` checkpoints that are there are removed.

    Raises:
        ParamsError: The network, optimiser, schedules or transforms cannot be built, or do not fit the data.
        CheckpointError: Checkpoints of another run lie there, or another training is at it.
        ArtifactError: The dataset cannot be used, or the model directory cannot be written.
        DeviceError: The device asked for is not there.
        DivergedError: The loss became NaN or infinite.
        StorageRefusedError: A place in a bucket is not there or may not be used.
        StorageUnavailableError: The storage does not answer.
        GroupLostError: Another process of the group ended.
    """
    is_beside = checkpoints is None
    if checkpoints is None and isinstance(model, Location) and model.key:
        checkpoints = replace(model, key=f"{model.key}-checkpoints")
    with joined() as group, shared_scratch(group), Staging(_log, emit, params) as staging, ExitStack() as stack:
        if group.is_first and member().restarts:
            restarts = f"{member().restarts} of at most {member().max_restarts} times"
            _log.warning("a process of the group was lost, and all were started again: %s", restarts)

        # Torch elastic starts all again with the same words, and what this run has saved since is its own.
        anew = start_over and not any(group.gathered(has_restarted_clean()))

        def prepare() -> tuple[Checked, Path, Path, Checkpoints, Path | None]:
            """Only the first process claims and writes; of the others' directories nothing is made or read."""
            checked = check(params)  # before anything is fetched or claimed
            own_device(params.device)
            kept, mirror = None, None
            if checkpoints is not None and group.is_first:
                kept = staging.directory(checkpoints)
                if isinstance(checkpoints, Location):
                    mirror = stack.enter_context(CheckpointMirror(kept, checkpoints, params.keep_checkpoints, _log))
                else:
                    require_writable("checkpoints", kept)
            images = staging.artifact(dataset, DATASET, partial(files_of_splits, chosen=training_splits))
            start = _initial_weights(staging, params)
            if not group.is_first:
                unused = Path(os.devnull)
                return checked, images, unused, Checkpoints(None if checkpoints is None else unused, anew), start
            is_whole = None if is_beside else False
            if mirror is not None and kept is not None and not anew:
                mirror.restore(lambda manifest: of_another_length(manifest, params) is None)
                if is_beside and isinstance(model, Location) and list_checkpoints(kept):
                    is_whole = _is_whole(staging, model)  # before it is claimed, from where on no reader opens it
            saved: Callable[[Path], bool] | None = mirror.saved if mirror is not None else None
            kept_there = Checkpoints(
                kept,
                anew,
                on_saved=_noting(saved) if anew else saved,
                on_cleared=mirror.clear if mirror is not None else None,
                named=None if checkpoints is None else str(checkpoints),
                is_there=mirror.has if mirror is not None else lambda path: True,
                beside_whole_model=is_whole,
            )
            return checked, images, staging.output(model, MODEL), kept_there, start

        checked, images, output, kept, start = group.together(prepare)
        result = train(
            dataset=images,
            model=output,
            params=params,
            checkpoints=kept,
            initial_weights=start,
            checked=checked,
            emit=staging.emit,
        )
        stack.close()
        if group.size == 1:
            return staging.publish(result)
        # What the others have is not where the user's names say.
        return group.on_first(lambda: _Said.of(staging.publish(result)))


@dataclass(frozen=True)
class _Said:
    """What a result says, as another process can have it."""

    told: dict[str, Any]
    last: EventData

    @classmethod
    def of(cls, result: Reported) -> _Said:
        """What a result says."""
        return cls(result.report(), result.event(0))

    def report(self) -> dict[str, Any]:
        """The result as JSON data."""
        return self.told

    def event(self, seconds: float) -> EventData:
        """The result as the step's last status event."""
        return replace(self.last, seconds=seconds) if isinstance(self.last, Succeeded) else self.last


def _noting(saved: Callable[[Path], bool] | None) -> Callable[[Path], bool]:
    """As what is called with each checkpoint, after noting that there is one of this run."""

    def noted(path: Path) -> bool:
        note_restarted_clean()
        return saved is None or saved(path)

    return noted


def _is_whole(staging: Staging, model: Location) -> bool:
    try:
        staging.artifact(model, MODEL, lambda manifest: ())
    except InputError:
        return False
    return True


def _initial_weights(staging: Staging, params: Params) -> Path | None:
    """What training starts from, on this machine: of an earlier model its weights, checked against its manifest."""
    if params.initial_weights is None:
        return None
    where = parse_location(params.initial_weights)
    if isinstance(where, Location) and where.name.lower().endswith(WEIGHT_FILES):
        return staging.file(where)
    return staging.artifact(where, MODEL, starting_weights)
