"""Where a run goes on: its directory of checkpoints, and the newest one there that is whole and its own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.shared.artifacts.artifact import WRITING_MARKER, read_manifest
from components.shared.artifacts.model import MODEL
from components.shared.errors import ArtifactError, CheckpointError
from components.shared.files import unwritable
from components.shared.locks import HeldError, locked
from components.shared.params.params import Params
from components.shared.params.schedules import schedules_of_run_length
from components.shared.params.training_id import FREE
from components.shared.process_group import note_restarted_clean
from components.shared.run import checkpoints_beside
from components.shared.text import described
from components.train.checkpoints.format import (
    CheckpointManifest,
    DamagedError,
    list_checkpoints,
    read_checkpoint_manifest,
    read_state,
    remove_all,
    states_alone,
    verified_state,
    without_manifest,
)

if TYPE_CHECKING:
    from components.train.checkpoints.writer import RemoteCheckpoints

LOCK = ".shutterline-training"
# A pod that was asked to end may still be at it while the next attempt begins: Kubernetes gives it 30 s.
LOCK_TIMEOUT_S = 60.0

_SHOWN = 8


@dataclass(frozen=True)
class Found:
    """A checkpoint to go on from; its state is on the CPU."""

    manifest: CheckpointManifest
    state: dict[str, Any]


@dataclass(frozen=True)
class Checkpoints:
    """Where a run keeps its checkpoints, and what becomes of those of another.

    The directory may stand for a location in a bucket, `remote`; `name` is what the user calls it, where that is not
    the directory. Beside a whole model, it is one that this run replaces.
    """

    directory: Path
    start_over: bool = False
    remote: RemoteCheckpoints | None = None
    name: str = ""
    is_beside_whole_model: bool = False

    @classmethod
    def beside(cls, model: Path, *, start_over: bool = False) -> Checkpoints:
        """Checkpoints beside a model directory."""
        is_whole = not (model / WRITING_MARKER).exists()
        try:
            read_manifest(model, MODEL)
        except ArtifactError:
            is_whole = False
        directory = Path(str(checkpoints_beside(model)))
        return cls(directory, start_over, is_beside_whole_model=is_whole)

    def find(self, params: Params, dataset_sha256: str, log: logging.Logger) -> tuple[Found | None, bool]:
        """As :func:`find_checkpoint`, and whether those that are there are to be removed.

        Those of another run are, where their model beside them is replaced: only of a run that is finished, with a
        model that is whole. What was not trained to its end is kept, and is a `CheckpointError`.
        """
        if self.start_over:
            return None, True
        try:
            return find_checkpoint(self.directory, params, dataset_sha256, log), False
        except CheckpointError as error:
            found = next(manifests(self.directory), None)
            if not self.is_beside_whole_model or found is None or not found.finished:
                raise
            log.warning(
                "%s: the checkpoints of another run, which is finished, are removed, as its model beside them is "
                "replaced; what differs:%s",
                self.directory,
                error.differences,
            )
            return None, True

    def on_saved(self, path: Path) -> bool:
        """Upload a checkpoint, by its manifest's file, where that is to be; whether it is to be reported."""
        if self.start_over:
            note_restarted_clean()
        return self.remote is None or self.remote.save(path)

    def clear(self) -> None:
        """Remove what is there."""
        remove_all(self.directory)
        if self.remote is not None:
            self.remote.clear()

    def saved(self, params: Params, dataset_sha256: str) -> str:
        """How far a run is saved, for people; empty: nothing is."""
        counts = self.remote.has if self.remote is not None else lambda path: True
        manifest = next(manifests(self.directory, counts), None)
        if manifest is None or any(differences(manifest, params, dataset_sha256)):
            return ""
        return f"{manifest.position} is saved in {self.name or self.directory}"


@contextmanager
def lock_directory(directory: Path, log: logging.Logger, timeout_s: float | None = None) -> Iterator[None]:
    """Make a directory for checkpoints and have it for this training alone."""

    def warn(error: HeldError) -> None:
        log.warning("%s: another training keeps its checkpoints there, %s; waiting for its end", directory, error)

    with ExitStack() as stack:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(directory / LOCK, timeout_s=timeout_s or LOCK_TIMEOUT_S, on_wait=warn))
        except HeldError as error:
            raise CheckpointError(
                f"{directory}: another training keeps its checkpoints there, {error}; end it, or name another directory"
            ) from error
        except OSError as error:
            raise unwritable("checkpoints", directory, error) from error
        yield


def find_checkpoint(directory: Path, params: Params, dataset_sha256: str, log: logging.Logger) -> Found | None:
    """The newest checkpoint of a directory that is whole; damaged ones are passed over with a warning.

    Raises:
        CheckpointError: They are of another run, or of one whose number of epochs has changed the last of them.
    """
    alone, found, reason = states_alone(directory), list_checkpoints(directory), None
    for state in alone:
        log.warning("a checkpoint in %s is passed over: %s", directory, without_manifest(state.name))
    for path in reversed(found):
        try:
            manifest = read_checkpoint_manifest(path)
            require_own(manifest, directory, params, dataset_sha256)
            if (other := of_another_length(manifest, params)) is None:
                return Found(manifest, read_state(path, manifest))
            reason = reason or other
        except DamagedError as error:
            log.warning("a checkpoint in %s is damaged and passed over: %s", directory, error)
    if reason is not None:
        raise _of_another_run(directory, [f"{reason}; no checkpoint of before is kept"])
    if found or alone:
        log.warning("no checkpoint in %s is whole; the run begins anew", directory)
    return None


def manifests(
    directory: Path, counts: Callable[[Path], bool] = lambda path: True, *, is_verified: bool = False
) -> Iterator[CheckpointManifest]:
    """The manifests of a directory's checkpoints that can be read, the newest first; states are read to be verified."""
    for path in filter(counts, reversed(list_checkpoints(directory))):
        try:
            manifest = read_checkpoint_manifest(path)
            if is_verified:
                verified_state(path, manifest)
        except DamagedError:
            continue
        yield manifest


def last_good(directory: Path) -> CheckpointManifest | None:
    """The newest checkpoint of a directory that is whole."""
    return next(manifests(directory, is_verified=True), None)


def require_alone(directory: Path, params: Params, dataset_sha256: str) -> Path:
    """The directory of a training's checkpoints in that of a run, which must hold none of another training."""
    for other in sorted(directory.parent.glob("*/")) if directory.parent.is_dir() else ():
        if other.name != directory.name and (manifest := next(manifests(other), None)) is not None:
            require_own(manifest, other, params, dataset_sha256)
            return other  # it has the name of another version
    return directory


def require_own(manifest: CheckpointManifest, where: Path, params: Params, dataset_sha256: str) -> None:
    """See that a checkpoint in a directory is of this run, which may have more epochs by now."""
    if found := list(differences(manifest, params, dataset_sha256)):
        raise _of_another_run(where, found)


def _of_another_run(where: Path, found: Sequence[str]) -> CheckpointError:
    more = f"\n  … and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    lines = "".join(f"\n  {line}" for line in found[:_SHOWN]) + more
    return CheckpointError(
        f"{where}: holds checkpoints of another run; name another directory, or start over there by --start-over "
        f"(start_over=True), which removes them. What differs:{lines}",
        lines,
    )


def differences(manifest: CheckpointManifest, params: Params, dataset_sha256: str) -> Iterator[str]:
    """What differs between a checkpoint's run and this one, a line each, by its path in the params."""
    if manifest.dataset_sha256 != dataset_sha256:
        yield f"the dataset: SHA-256 {manifest.dataset_sha256[:12]}… there, {dataset_sha256[:12]}… here"
    # A version that did not have a key yet did what its default does.
    fields, here_only = Params.model_fields, params.to_dict().keys() - manifest.params.keys()
    absent = {key for key in here_only if getattr(params, key) == fields[key].get_default(call_default_factory=True)}
    # One that is to be chosen is the one that was.
    chosen = {"batch_size"} if params.batch_size == "auto" else set()
    yield from differences_of_params(manifest.params, params.to_dict(), FREE | {"num_epochs"} | absent | chosen)
    there, here = manifest.num_epochs, params.num_epochs
    if there == here:
        return
    if lasting := schedules_of_run_length(params):
        verb = "last" if len(lasting) > 1 else "lasts"
        yield f"num_epochs: {there} there, {here} here, and {', '.join(lasting)} {verb} as long as the run"
    elif (trained := manifest.epoch - 1 + bool(manifest.batch)) > here:
        yield f"num_epochs: {here} here, and epoch {trained} is trained there; ask for at least {trained}"


def of_another_length(manifest: CheckpointManifest, params: Params) -> str | None:
    """Why a run of so many epochs would not have come by a checkpoint; None: it would."""
    there, here, trained = manifest.num_epochs, params.num_epochs, manifest.epoch - 1
    if there == here or manifest.batch or trained % params.eval_freq == 0 or trained not in (there, here):
        return None
    was = "was evaluated as that run's last" if trained == there else "was not evaluated, and is this run's last"
    return f"num_epochs: {there} there, {here} here, and epoch {trained} {was} (eval_freq {params.eval_freq})"


def differences_of_params(
    there: Mapping[str, Any], here: Mapping[str, Any], free: Set[str] = frozenset(), path: str = ""
) -> Iterator[str]:
    """What differs between two runs' params as JSON data, a line each; `free` are the keys that may differ."""
    for key in (here.keys() | there.keys()) - free:
        where = f"{path}{key}"
        if key not in there or key not in here:
            only, side = (here, "here") if key in here else (there, "there")
            yield f"{where}: {described(only[key])} {side} alone"
            continue
        one, other = there[key], here[key]
        if isinstance(one, list) and isinstance(other, list):
            if len(one) != len(other):
                yield f"{where}: {len(one)} entries there, {len(other)} here"
            # An entry by its index, as a key in brackets.
            size = min(len(one), len(other))
            one, other = ({f"[{index}]": value for index, value in enumerate(each[:size])} for each in (one, other))
            yield from differences_of_params(one, other, path=where)
        elif isinstance(one, Mapping) and isinstance(other, Mapping):
            yield from differences_of_params(one, other, path=f"{where}.")
        elif one != other:
            yield f"{where}: {described(one)} there, {described(other)} here"
