"""Keeps a run's checkpoints: the training thread hands over a copy of the state, a thread behind it does the rest."""

from __future__ import annotations

import logging
import queue
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from components.classifier.device import is_out_of_memory
from components.shared.errors import HostMemoryError, ShutterlineError
from components.shared.storage.fetch import fetch_tree, list_names
from components.shared.storage.location import Location
from components.shared.storage.publish import delete, write_file
from components.train.checkpoints.format import (
    CheckpointManifest,
    DamagedError,
    is_checkpoint_file,
    list_checkpoints,
    order_of,
    read_checkpoint_manifest,
    remove_checkpoint,
    remove_leftovers,
    superseded,
    verified_state,
    without_manifest,
    write_checkpoint,
)

# Copies of the state: one is written while the next is made. The second is made only where saving is due that early.
_SNAPSHOTS = 2
# The best weights are never changed once they are there, so a reference will do.
_UNCHANGING = "best"


class Snapshot:
    """Host memory for one copy of the state; filled again and again, since fresh pages cost more than the copy.

    Copies from a GPU go to pinned memory, all at once, and are waited for together.
    """

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}
        self._devices: set[torch.device] = set()

    def take(self, state: dict[str, Any]) -> dict[str, Any]:
        """A copy of a state whose tensors are this snapshot's own, until the next call."""
        self._devices.clear()
        copied = {key: value if key == _UNCHANGING else self._copy(value, key) for key, value in state.items()}
        for device in self._devices:  # not the current one alone, which need not be the one that trains
            torch.cuda.current_stream(device).synchronize()
        return copied

    def _copy(self, value: Any, path: str) -> Any:
        if isinstance(value, Tensor):
            return self._copy_tensor(value, path)
        if isinstance(value, dict):
            return {key: self._copy(inner, f"{path}/{key}") for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self._copy(inner, f"{path}/{index}") for index, inner in enumerate(value))
        return value

    def _copy_tensor(self, value: Tensor, path: str) -> Tensor:
        is_on_gpu = value.device.type == "cuda"
        kept = self._kept.get(path)
        if kept is None or (kept.shape, kept.stride(), kept.dtype) != (value.shape, value.stride(), value.dtype):
            # In the same order in memory: torch's fused optimisers take it for granted that all of theirs share one.
            kept = torch.empty_strided(value.size(), value.stride(), dtype=value.dtype, pin_memory=is_on_gpu)
            self._kept[path] = kept
        if is_on_gpu:
            self._devices.add(value.device)
        kept.copy_(value.detach(), non_blocking=True)
        return kept


class CheckpointWriter:
    """Writes checkpoints behind the training thread; use as a context manager, which waits for the last one.

    `on_saved` is called on the thread behind with each checkpoint's manifest file, once it is whole, and gives whether
    it is to be reported.
    """

    def __init__(self, directory: Path, keep: int, on_saved: Callable[[Path], bool] = lambda path: True) -> None:
        self._directory, self._keep, self._on_saved = directory, keep, on_saved
        self._free: queue.LifoQueue[Snapshot] = queue.LifoQueue()
        for _ in range(_SNAPSHOTS):
            self._free.put(Snapshot())
        self._thread = ThreadPoolExecutor(1, "checkpoints")
        self._jobs: deque[Future[tuple[CheckpointManifest, Path] | None]] = deque()

    def __enter__(self) -> Self:
        remove_leftovers(self._directory)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for what is under way: the last checkpoint of a training that was ended is the one to go on from."""
        self._thread.shutdown()
        if error is None:
            self._raise()

    @property
    def is_busy(self) -> bool:
        """Whether a checkpoint is still being written."""
        return not all(job.done() for job in self._jobs)

    def prepare(self, state: dict[str, Any]) -> None:
        """Have memory for states of such shapes ready before it is needed, without holding up the training."""
        self._jobs.append(self._thread.submit(self._prepare, self._free.get(), state))

    def save(self, manifest: CheckpointManifest, state: dict[str, Any]) -> None:
        """Hand over a state; returns once it is copied, and waits only where two are being written already.

        Raises:
            OSError: An earlier one could not be written.
            HostMemoryError: There is no memory for the copy.
        """
        snapshot = self._free.get()
        try:
            self._raise()
            copied = snapshot.take(state)
        except BaseException as error:
            self._free.put(snapshot)
            if is_out_of_memory(error):
                raise HostMemoryError(
                    "this machine has no memory for a copy of the training's state, which a checkpoint is written "
                    "from; give the step more memory"
                ) from error
            raise
        self._jobs.append(self._thread.submit(self._write, snapshot, manifest, copied))

    def saved(self) -> list[tuple[CheckpointManifest, Path]]:
        """The checkpoints that have become whole since the last call, with their manifests' files."""
        self._raise()
        done = []
        while self._jobs and self._jobs[0].done():
            done.append(self._jobs.popleft().result())
        return [each for each in done if each is not None]

    def wait(self) -> None:
        """Wait until everything handed over is written."""
        wait(self._jobs)
        self._raise()

    def _raise(self) -> None:
        for job in self._jobs:  # one that failed stays, and is raised again
            if job.done():
                job.result()

    def _prepare(self, snapshot: Snapshot, state: dict[str, Any]) -> None:
        with suppress(RuntimeError, MemoryError):  # if there is none, saving says so
            snapshot.take(state)  # for its pages: the first copy is then as quick as any other
        self._free.put(snapshot)

    def _write(
        self, snapshot: Snapshot, manifest: CheckpointManifest, state: dict[str, Any]
    ) -> tuple[CheckpointManifest, Path] | None:
        try:
            path = write_checkpoint(self._directory, manifest, state)
            for old in superseded((each.name for each in list_checkpoints(self._directory)), path.name, self._keep):
                remove_checkpoint(self._directory / old)
            return (manifest, path) if self._on_saved(path) else None
        finally:
            self._free.put(snapshot)


class RemoteCheckpoints:
    """A location in a bucket that is kept like the local directory of checkpoints.

    A checkpoint that cannot be uploaded is warned of and ends no training; that the location cannot be written at all
    ends it, before it begins.
    """

    def __init__(self, local: Path, location: Location, keep: int, log: logging.Logger) -> None:
        self._local, self._location, self._keep, self._log = local, location, keep, log
        self._there: set[str] = set()  # names of manifests, of states alone as well
        probe, there = local / ".shutterline-writable", location.child(".shutterline-writable")
        probe.touch()
        write_file(there, probe)
        delete(there)
        probe.unlink()

    def restore(self, is_wanted: Callable[[CheckpointManifest], bool]) -> None:
        """Fetch the newest checkpoints down to one that is whole and wanted; damaged ones are warned of."""
        manifests, states = self._list()
        self._there = manifests | states
        for name in sorted(states - manifests, key=order_of):
            # It goes when a newer one is saved. Now it may be a writer's who is still at it.
            state = Path(name).with_suffix(".pt").name
            self._log.warning("a checkpoint in %s is passed over: %s", self._location, without_manifest(state))
        for name in sorted(manifests, key=order_of, reverse=True):
            try:
                path = fetch_tree(self._location.child(name), self._local)
                manifest = read_checkpoint_manifest(path)
                if name in states:
                    fetch_tree(self._location.child(path.with_suffix(".pt").name), self._local)
                verified_state(path, manifest)
            except DamagedError as error:
                self._log.warning("a checkpoint in %s is damaged and passed over: %s", self._location, error)
                remove_checkpoint(self._local / name)
            else:
                if is_wanted(manifest):
                    return

    def has(self, path: Path) -> bool:
        """Whether a checkpoint is there, by its manifest's local file."""
        return path.name in self._there

    def save(self, path: Path) -> bool:
        """Upload a checkpoint by its manifest's file, which goes last; whether it is there."""
        try:
            if path.name in self._there:  # saved once more: its manifest must not stand beside another state
                delete(self._location.child(path.name))
            for file in (path.with_suffix(".pt"), path):
                write_file(self._location.child(file.name), file)
            self._there.add(path.name)
            for old in superseded(self._there, path.name, self._keep):
                self._remove(old)
        except (ShutterlineError, OSError) as error:
            self._log.warning("a checkpoint was saved and not uploaded: %s", error)
            return False
        return True

    def clear(self) -> None:
        """Remove every checkpoint there."""
        for name in sorted(set.union(*self._list()), key=order_of):
            self._remove(name)

    def _list(self) -> tuple[set[str], set[str]]:
        """What is there, both by the names of manifests: those that are there, and those whose state is."""
        found = [Path(name) for name in list_names(self._location) if is_checkpoint_file(name)]
        manifests, states = (
            {path.with_suffix(".json").name for path in found if path.suffix == suffix} for suffix in (".json", ".pt")
        )
        return manifests, states

    def _remove(self, name: str) -> None:
        for file in (name, Path(name).with_suffix(".pt").name):  # the manifest first
            delete(self._location.child(file))
        self._there.discard(name)
