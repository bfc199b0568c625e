"""Where a run goes on: the newest checkpoint that is whole and its own."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.shared.params import Params
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
from components.train.checkpoints.identity import require_own


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
        CheckpointError: The newest is of another run.
    """
    alone = states_alone(directory)
    for state in alone:
        log.warning("a checkpoint in %s is passed over: %s", directory, without_manifest(state.name))
    found = list_checkpoints(directory)
    for path in reversed(found):
        try:
            manifest = read_checkpoint_manifest(path)
            require_own(manifest, str(directory), params, dataset_sha256)
            found_there = Found(manifest, read_state(path, manifest))
            require_keys(path, found_there.state)
            return found_there
        except DamagedError as error:
            log.warning("a checkpoint in %s is damaged and passed over: %s", directory, error)
    if found or alone:
        log.warning("no checkpoint in %s is whole; the run begins anew", directory)
    return None


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
