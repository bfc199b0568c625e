"""Checkpoints in a bucket: a local directory of them is kept up there, and begun with what lies there."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from components.shared.errors import ShutterlineError
from components.shared.storage.fetch import fetch_tree, list_names
from components.shared.storage.location import Location
from components.shared.storage.publish import delete, write_file
from components.train.checkpoints.format import (
    CheckpointManifest,
    DamagedError,
    is_checkpoint_file,
    order_of,
    read_checkpoint_manifest,
    remove_checkpoint,
    superseded,
    verified_state,
    without_manifest,
)


class CheckpointMirror:
    """Keeps a bucket's place like a local directory of checkpoints; use as a context manager.

    A checkpoint is there for training to go on from; that it cannot be uploaded is warned of and ends no training. That
    the place cannot be written at all ends it, before it begins.

    Args:
        local: The directory.
        place: What it stands for.
        keep: How many of the newest stay there.
        log: Gets warnings.
    """

    def __init__(self, local: Path, place: Location, keep: int, log: logging.Logger) -> None:
        self._local = local
        self._place = place
        self._keep = keep
        self._log = log
        self._there: set[str] = set()  # names of manifests, of states alone as well

    def __enter__(self) -> Self:
        probe, there = self._local / ".shutterline-writable", self._place.child(".shutterline-writable")
        probe.touch()
        write_file(there, probe)
        delete(there)
        probe.unlink()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is under way here that the keeper of the checkpoints has not waited for."""

    def restore(self, is_wanted: Callable[[CheckpointManifest], bool] = lambda manifest: True) -> None:
        """Fetch the newest checkpoints down to one that is whole and wanted; damaged ones are warned of.

        Args:
            is_wanted: Whether the run can go on from a checkpoint.

        Raises:
            StorageRefusedError: The place may not be read.
            StorageUnavailableError: The store does not answer.
        """
        manifests, states = self._listed()
        self._there = manifests | states
        for name in sorted(states - manifests, key=order_of):
            # It goes when a newer one is saved. Now it may be a writer's who is still at it.
            state = Path(name).with_suffix(".pt").name
            self._log.warning("a checkpoint in %s is passed over: %s", self._place, without_manifest(state))
        for name in sorted(manifests, key=order_of, reverse=True):
            try:
                manifest = self._fetch(name, states)
            except DamagedError as error:
                self._log.warning("a checkpoint in %s is damaged and passed over: %s", self._place, error)
                remove_checkpoint(self._local / name)
            else:
                if is_wanted(manifest):
                    return

    def has(self, path: Path) -> bool:
        """Whether a checkpoint is there, by its manifest's local file."""
        return path.name in self._there

    def clear(self) -> None:
        """Remove every checkpoint there.

        Raises:
            StorageRefusedError: The place may not be written.
            StorageUnavailableError: The store does not answer.
        """
        manifests, states = self._listed()
        for name in sorted(manifests | states, key=order_of):
            self._remove(name)
        self._there = set()

    def _listed(self) -> tuple[set[str], set[str]]:
        """What lies there, both by the names of manifests: those that are there, and those whose state is."""
        found = [name for name in list_names(self._place) if is_checkpoint_file(name)]
        states = {Path(name).with_suffix(".json").name for name in found if name.endswith(".pt")}
        return {name for name in found if name.endswith(".json")}, states

    def _fetch(self, name: str, states: set[str]) -> CheckpointManifest:
        """Fetch a checkpoint; returns its manifest.

        Args:
            name: Of its manifest.
            states: Names of manifests whose state is there.

        Raises:
            DamagedError: It is not what was written.
        """
        path = fetch_tree(self._place.child(name), self._local)
        manifest = read_checkpoint_manifest(path)
        if manifest.state is None:
            raise DamagedError(f"{name} names no state")
        if name not in states:
            raise DamagedError(f"{manifest.state.file} is missing")
        fetch_tree(self._place.child(manifest.state.file), self._local)
        verified_state(path, manifest)
        return manifest

    def saved(self, path: Path) -> bool:
        """Upload a checkpoint by its manifest's file, which goes last; whether it is there."""
        try:
            if path.name in self._there:  # saved once more: its manifest must not stand beside another state
                delete(self._place.child(path.name))
            for file in (path.with_suffix(".pt"), path):
                write_file(self._place.child(file.name), file)
            self._there.add(path.name)
            for old in superseded(self._there, path.name, self._keep):
                self._remove(old)
        except (ShutterlineError, OSError) as error:
            self._log.warning("a checkpoint was saved and not uploaded: %s", error)
            return False
        return True

    def _remove(self, name: str) -> None:
        """Remove a checkpoint there, its manifest first."""
        for file in (name, Path(name).with_suffix(".pt").name):
            delete(self._place.child(file))
        self._there.discard(name)
