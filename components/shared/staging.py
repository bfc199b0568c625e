"""Local directories for what a step reads and writes, wherever that is, and the addresses that they stand for.

A step's work knows local paths: what is in a bucket is fetched before it and published after it. Every path in a step's
report, its status or an error is replaced by what the user named.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path, PurePath
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from components.shared.artifacts.artifact import ArtifactKind, FileRecord, Manifest
from components.shared.errors import InputError, ShutterlineError
from components.shared.events.data import Checkpoint, Emit, EventData, Progress, Succeeded
from components.shared.files import is_full
from components.shared.params.params import Params
from components.shared.storage.fetch import fetch_artifact, fetch_tree
from components.shared.storage.location import AnyPath, Location
from components.shared.storage.publish import Publication
from components.shared.storage.transfer import OnProgress, TransferProgress
from components.shared.tracking.server import tracking_uri

if TYPE_CHECKING:
    from components.shared.step import Reported

SCRATCH_VARIABLE = "SHUTTERLINE_SCRATCH"
# What a step leaves on its pod's own disk, such as checkpoints that no volume or bucket was named for: it ends with the
# pod, and a path would read as if somebody could open it.
POD = "pod:"
_CREDENTIALS_VARIABLE = "GOOGLE_APPLICATION_CREDENTIALS"
# Set by Vertex AI in a pipeline's steps and on a custom job's machines, where /gcs is the bucket itself, mounted.
_VERTEX_VARIABLES = ("VERTEX_AI_PIPELINES_RUN_LABELS", "CLUSTER_SPEC")
_LOG_SECONDS = 10.0
_STATUS_SECONDS = 5.0


class Addresses:
    """Replaces the beginning of paths in texts by addresses; the longest known path has precedence."""

    def __init__(self, known: Mapping[str, str] | None = None) -> None:
        self._known: dict[str, str] = {}
        self._pattern: re.Pattern[str] | None = None
        for path, address in (known or {}).items():
            self.add(path, address)

    def __bool__(self) -> bool:
        return bool(self._known)

    def add(self, path: str, address: str) -> None:
        """Know one more path; nothing to do where the address is the path."""
        if path and path != address:
            self._known[path] = address
            # /a/model is not the beginning of /a/model-checkpoints.
            longest_first = (
                re.escape(known) + ("" if known.endswith("/") else r"(?![\w-]|\.\w)")
                for known in sorted(self._known, key=len, reverse=True)
            )
            self._pattern = re.compile("|".join(longest_first))

    def text(self, text: str) -> str:
        """A text with addresses for the paths in it."""
        return self._pattern.sub(lambda found: self._known[found[0]], text) if self._pattern else text

    def document(self, document: Any) -> Any:
        """JSON data with addresses for the paths in its texts."""
        if isinstance(document, str):
            return self.text(document)
        if isinstance(document, Mapping):
            return {key: self.document(value) for key, value in document.items()}
        if isinstance(document, list | tuple):
            return [self.document(value) for value in document]
        return document

    def event(self, data: EventData) -> EventData:
        """An event's data with addresses for the paths in it."""
        if isinstance(data, Checkpoint):
            return replace(data, uri=self.text(data.uri))
        if isinstance(data, Succeeded):
            return replace(data, artifacts=self.document(data.artifacts))
        return data


def addresses_of(*artifacts: tuple[str, str]) -> dict[str, str]:
    """Address by local path of a step's artifacts, where a platform copies them to and from its store.

    What is beside an output and no artifact is on the pod's own disk: its address says so by ``pod:``.

    Args:
        artifacts: Local path and uri of each, as KFP has them; both are the same for kfp's local runners.
    """
    known: dict[str, str] = {}
    for path, uri in artifacts:
        if uri and uri != path:
            is_mounted = uri.startswith("gs://") and any(name in os.environ for name in _VERTEX_VARIABLES)
            known[str(PurePath(path).parent)] = uri.rpartition("/")[0] if is_mounted else POD
            known[path] = uri
    return known


class Staging:
    """What a step reads and writes; use as a context manager around its work, and end with :meth:`publish`.

    `params`, if there are any, may name the credentials for ``gs://``, as the environment may. Every method raises
    StorageRefusedError and StorageUnavailableError as the storage does.
    """

    def __init__(self, log: logging.Logger, emit: Emit, params: Params | None) -> None:
        self._log = log
        self._emit = emit
        self._credentials = params.GOOGLE_APPLICATION_CREDENTIALS if params else None
        self._stack = ExitStack()
        self._outputs: list[tuple[Path, Publication]] = []
        self._addresses = Addresses()  # of local directories: the URI each stands for
        self._temporary: set[Path] = set()

    def __enter__(self) -> Self:
        # Google's client looks for them there; the file that the environment names has precedence.
        if self._credentials and _CREDENTIALS_VARIABLE not in os.environ:
            os.environ[_CREDENTIALS_VARIABLE] = self._credentials
            self._stack.callback(os.environ.pop, _CREDENTIALS_VARIABLE, None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._stack.__exit__(kind, error, trace)
        finally:
            for directory in self._temporary:
                shutil.rmtree(directory, ignore_errors=True)
        if isinstance(error, ShutterlineError):
            error.args = tuple(self._addresses.document(error.args))

    def emit(self, data: EventData) -> None:
        """Emit status, paths in it by the user's names."""
        self._emit(self._addresses.event(data))

    def artifact(
        self, where: AnyPath, kind: ArtifactKind, wanted: Callable[..., Iterable[FileRecord]] = Manifest.files
    ) -> Path:
        """An artifact to read: its own directory, or what was fetched of it, by default all files."""
        if isinstance(where, Path):
            return where
        with self.progress("fetch", where) as progress:
            return fetch_artifact(where, kind, self._local(where), wanted=wanted, progress=progress)

    def tree(self, where: AnyPath) -> Path:
        """A folder of any files to read, or one file."""
        if isinstance(where, Path):
            return where
        with self.progress("fetch", where) as progress:
            fetched = fetch_tree(where, self._local(where), mirror=True, progress=progress)
        self._addresses.add(str(fetched), str(where))
        return fetched

    def output(self, where: AnyPath, kind: ArtifactKind) -> Path:
        """A directory for an artifact to write. A bucket's location is marked now, so that it fails now if it must."""
        if isinstance(where, Path):
            return where
        publication = self._stack.enter_context(Publication(where, kind))
        local = self._local(where, is_temporary=True)
        self._outputs.append((local, publication))
        return local

    def directory(self, where: AnyPath) -> Path:
        """A directory, or for a location that something else keeps up an empty one, which is removed afterwards."""
        if isinstance(where, Path):
            return where
        local = self._local(where, is_temporary=True)
        # In containers every process has the same number, and what an earlier one left is not what is there now.
        shutil.rmtree(local)
        local.mkdir()
        return local

    def publish(self, result: Reported) -> Reported:
        """Publish every output; returns the result in the user's names. What is not published stays, and is logged."""
        for local, publication in self._outputs:
            where = publication.location
            try:
                with self.progress("publish", where) as progress:
                    contents = publication.publish(local, progress)
            except (ShutterlineError, OSError):
                self._temporary -= set(local.parents)
                command = f"python -m components.shared.storage publish {local} {where}"
                self._log.error("%s was made and not published; it is in %s: publish it by %s", where, local, command)
                raise
            self._addresses.add(f"{local}/", f"{contents}/")
        if not self._addresses:
            return result
        addressed = _Addressed(result, self._addresses)
        if tracking_uri():  # which gets files when the step has ended: they stay as long as the result that names them
            for folder in {each for each in self._temporary for local, _ in self._outputs if each in local.parents}:
                self._temporary.remove(folder)
                weakref.finalize(addressed, shutil.rmtree, folder, ignore_errors=True)
        return addressed

    @cached_property
    def _own(self) -> Path:
        directory = Path(tempfile.mkdtemp(prefix="shutterline-"))
        self._temporary.add(directory)
        return directory

    def _local(self, location: Location, *, is_temporary: bool = False) -> Path:
        """A directory for a location: the same at every attempt, so that one goes on where another broke."""
        named = os.environ.get(SCRATCH_VARIABLE)
        digest = hashlib.sha256(str(location).encode()).hexdigest()[:16]
        folder = (Path(named).absolute() if named else self._own) / (
            f"{digest}-{os.getpid()}" if is_temporary else digest
        )
        local = folder / location.name
        try:
            local.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if is_full(error):
                raise
            raise InputError(
                f"{local}: cannot be made, and {location} needs room on this machine: {error.strerror}; "
                f"{SCRATCH_VARIABLE} names a directory for that"
            ) from error
        if is_temporary:  # inputs stay where the user has named a directory for them
            self._temporary.add(folder)
        self._addresses.add(str(local), str(location))
        return local

    @contextmanager
    def progress(self, verb: str, where: Location) -> Iterator[OnProgress]:
        """Within, log and emit the progress of a transfer, whose callback this gives; `verb` is fetch or publish."""
        logged = reported = time.monotonic()
        last: TransferProgress | None = None

        def progress(now: TransferProgress) -> None:  # called by the storage's threads, one call at a time
            nonlocal last, logged, reported
            last, moment, rate = now, time.monotonic(), now.bytes_per_second
            if moment - logged > _LOG_SECONDS:
                logged = moment
                self._log.info("%sing %s: %s of %s at %s/s", verb, where, *map(size, (now.done, now.total, rate)))
            if moment - reported > _STATUS_SECONDS:
                reported = moment
                eta = (now.total - now.done) / rate if rate else None
                metrics: dict[str, float | None] = {"bytes_per_second": rate}
                self._emit(Progress(now.done, now.total, "bytes", metrics=metrics, eta_seconds=eta))

        yield progress
        if last is not None:
            amounts = size(last.done), size(last.bytes_per_second)
            self._log.info("%sed %s: %d files, %s at %s/s", verb, where, last.files, *amounts)


def size(count: float) -> str:
    """Bytes for people: 1.5 MB."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:,.0f} {unit}" if unit == "bytes" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.0f} GB" if count >= 100 else f"{count:.1f} GB"


class _Addressed:
    """A result in the user's names; `local` is it in paths of this machine."""

    def __init__(self, result: Reported, addresses: Addresses) -> None:
        self.local = result
        self._addresses = addresses

    def report(self) -> dict[str, Any]:
        report: dict[str, Any] = self._addresses.document(self.local.report())
        return report

    def event(self, seconds: float) -> EventData:
        return self._addresses.event(self.local.event(seconds))
