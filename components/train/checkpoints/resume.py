"""Where a run goes on: the newest checkpoint that is whole and its own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.shared.params.params import Params
from components.shared.signals import Terminated
from components.train.checkpoints.format import (
    CheckpointManifest,
    DamagedError,
    list_checkpoints,
    read_checkpoint_manifest,
    read_state,
    remove_checkpoint,
    remove_leftovers,
    require_keys,
    states_alone,
    verified_state,
    without_manifest,
)
from components.train.checkpoints.identity import differences, of_another_length, of_another_run, require_own


@dataclass(frozen=True)
class Found:
    """A checkpoint to go on from.

    Attributes:
        manifest: What it is of.
        state: On the CPU.
    """

    manifest: CheckpointManifest
    state: dict[str, Any]


def find_checkpoint(directory: Path, params: Params, dataset_sha256: str, log: logging.Logger) -> Found | None:
    """The newest checkpoint of a directory that is whole; damaged ones are passed over with a warning.

    Args:
        directory: Where the run keeps its checkpoints.
        params: The run's.
        dataset_sha256: Of the run's dataset.
        log: Gets warnings.

    Raises:
        CheckpointError: The newest is of another run, or none is one that a run of so many epochs comes by.
    """
    alone = states_alone(directory)
    for state in alone:
        log.warning("a checkpoint in %s is passed over: %s", directory, without_manifest(state.name))
    found, reason = list_checkpoints(directory), None
    for path in reversed(found):
        try:
            manifest = read_checkpoint_manifest(path)
            require_own(manifest, str(directory), params, dataset_sha256)
            if (other := of_another_length(manifest, params)) is not None:
                reason = reason or other
                continue
            found_there = Found(manifest, read_state(path, manifest))
            require_keys(path, found_there.state)
            return found_there
        except DamagedError as error:
            log.warning("a checkpoint in %s is damaged and passed over: %s", directory, error)
    if reason is not None:
        raise of_another_run(str(directory), [f"{reason}; no checkpoint of before is kept"])
    if found or alone:
        log.warning("no checkpoint in %s is whole; the run begins anew", directory)
    return None


def newest(directory: Path, counts: Callable[[Path], bool] = lambda path: True) -> CheckpointManifest | None:
    """The newest checkpoint of a directory whose manifest can be read; its state is not looked at.

    Args:
        directory: Where they lie.
        counts: Whether a checkpoint is one of them, by its manifest's file.
    """
    return next(manifests(directory, counts), None)


def manifests(directory: Path, counts: Callable[[Path], bool] = lambda path: True) -> Iterator[CheckpointManifest]:
    """The manifests of a directory's checkpoints that can be read, the newest first.

    Args:
        directory: Where they lie.
        counts: As for :func:`newest`.
    """
    for path in filter(counts, reversed(list_checkpoints(directory))):
        try:
            manifest = read_checkpoint_manifest(path)
        except DamagedError:
            continue
        yield manifest


def saved_text(directory: Path, named: str, params: Params, dataset_sha256: str, counts: Callable[[Path], bool]) -> str:
    """How far a run is saved, for people; empty: nothing is.

    Args:
        directory: Where its checkpoints lie.
        named: What they call it.
        params: The run's.
        dataset_sha256: Of its dataset.
        counts: As for :func:`newest`.
    """
    manifest = newest(directory, counts)
    if manifest is None or any(differences(manifest, params, dataset_sha256)):
        return ""
    return f"{manifest.place} is saved in {named}"


@contextmanager
def telling_what_is_saved(saved: Callable[[], str]) -> Iterator[None]:
    """Within, an interruption gets a note of how far the run is saved, where it has none yet."""
    try:
        yield
    except (Terminated, KeyboardInterrupt) as error:
        with suppress(Exception):  # the import of torch, which knows the schedules, may be what was interrupted
            if not getattr(error, "__notes__", ()) and (text := saved()):
                error.add_note(text)
        raise


def require_alone(directory: Path, params: Params, dataset_sha256: str) -> Path:
    """Where a training keeps its checkpoints in the directory of one run, in which there are none of another training.

    Args:
        directory: Named by what is computed, as by :func:`~components.train.checkpoints.identity.training_id`.
        params: The run's.
        dataset_sha256: Of the run's dataset.

    Raises:
        CheckpointError: There are some beside it, of other params or another dataset.
    """
    for other in sorted(directory.parent.glob("*/")) if directory.parent.is_dir() else ():
        if other.name != directory.name and (manifest := newest(other)) is not None:
            require_own(manifest, str(other), params, dataset_sha256)
            return other  # it has the name of another version
    return directory


def last_good(directory: Path) -> CheckpointManifest | None:
    """The newest checkpoint of a directory that is whole."""
    for path in reversed(list_checkpoints(directory)):
        try:
            manifest = read_checkpoint_manifest(path)
            verified_state(path, manifest)
        except DamagedError:
            continue
        return manifest
    return None


def remove_all(directory: Path) -> None:
    """Remove every checkpoint of a directory."""
    for path in list_checkpoints(directory):
        remove_checkpoint(path)
    remove_leftovers(directory)
