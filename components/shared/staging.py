"""Local directories for what a step reads and writes, wherever it really lies.

A step's work knows local paths. What lies in a bucket is fetched before it and published after it; a local path is used
as it is. Everything a step says of a path, in its report, its status or an error, names what the user named.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from components.shared.addresses import Addresses
from components.shared.artifacts.artifact import ArtifactKind, FileRecord
from components.shared.errors import InputError, ShutterlineError
from components.shared.events.data import Emit, EventData, Progress
from components.shared.files import is_full
from components.shared.params.params import Params
from components.shared.step import Reported
from components.shared.storage.fetch import fetch_artifact, fetch_tree
from components.shared.storage.location import AnyPath, Location
from components.shared.storage.publish import Publication
from components.shared.storage.transfer import TransferProgress

SCRATCH_VARIABLE = "SHUTTERLINE_SCRATCH"
_CREDENTIALS_VARIABLE = "GOOGLE_APPLICATION_CREDENTIALS"

_LOG_SECONDS = 10.0
_STATUS_SECONDS = 5.0


class Staging:
    """What a step reads and writes; use as a context manager around its work.

    Without an error, leave the block only after :meth:`publish`: leaving it gives up every claim on a bucket's place.

    Args:
        log: Gets a line for every transfer, and now and then one from within.
        emit: Gets the step's status.
        params: May name the credentials for ``gs://``, which the environment may as well.
    """

    def __init__(self, log: logging.Logger, emit: Emit, params: Params) -> None:
        self._log = log
        self._emit = emit
        self._credentials = params.GOOGLE_APPLICATION_CREDENTIALS
        self._claims = ExitStack()  # and what else ends with the block
        self._outputs: list[_Output] = []
        self._addresses = Addresses()  # of local directories: the URI each stands for
        self._fresh: list[Path] = []
        self._own: Path | None = None
        self._keep: set[Path] = set()

    def __enter__(self) -> Self:
        # Google's client looks for them there; the file that the environment names has the first word.
        if self._credentials and _CREDENTIALS_VARIABLE not in os.environ:
            os.environ[_CREDENTIALS_VARIABLE] = self._credentials
            self._claims.callback(os.environ.pop, _CREDENTIALS_VARIABLE, None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._claims.__exit__(kind, error, trace)
        finally:
            self._clear()
        if isinstance(error, ShutterlineError):
            error.args = tuple(self._addresses.document(error.args))

    def emit(self, data: EventData) -> None:
        """Tell status, paths in it by the user's names."""
        self._emit(self._addresses.event(data))

    def artifact(
        self,
        place: AnyPath,
        kind: ArtifactKind,
        wanted: Callable[[Any], Iterable[FileRecord]] | None = None,
    ) -> Path:
        """An artifact to read: its own directory, or what was fetched of it.

        Args:
            place: Where it lies.
            kind: Which kind it must be.
            wanted: From its manifest to the files that are read; by default all.

        Raises:
            StorageRefusedError: It is not there, or may not be read.
            StorageUnavailableError: The storage does not answer.
            ArtifactError: It is incomplete or damaged.
        """
        if isinstance(place, Path):
            return place
        into = self._local(place)
        with self._watched("fetch", place) as progress:
            fetch_artifact(place, kind, into, wanted=wanted, progress=progress)
        return into

    def tree(self, place: AnyPath) -> Path:
        """A folder of any files to read.

        Raises:
            StorageRefusedError: It is not there, or may not be read.
            StorageUnavailableError: The storage does not answer.
        """
        if isinstance(place, Path):
            return place
        into = self._local(place)
        with self._watched("fetch", place) as progress:
            return fetch_tree(place, into, mirror=True, progress=progress)

    def file(self, place: AnyPath) -> Path:
        """One file to read.

        Raises:
            StorageRefusedError: It is not there, or may not be read.
            StorageUnavailableError: The storage does not answer.
        """
        if isinstance(place, Path):
            return place
        fetched = self.tree(place)
        self._addresses.add(str(fetched), str(place))
        return fetched

    def output(self, place: AnyPath, kind: ArtifactKind) -> Path:
        """A directory for an artifact to write. A place in a bucket is claimed now, so that it fails now if it must.

        Raises:
            StorageRefusedError: There is no such bucket, it may not be written, or something else lies there.
            StorageUnavailableError: The storage does not answer.
        """
        if isinstance(place, Path):
            return place
        local = self._local(place, fresh=True)
        watched = self._watched("publish", place)
        publication = self._claims.enter_context(Publication(place, kind, progress=watched.progress))
        self._outputs.append(_Output(place, local, publication, watched))
        return local

    def directory(self, place: AnyPath) -> Path:
        """A directory for a place that something else keeps up; of a bucket's an empty one, which goes afterwards."""
        if isinstance(place, Path):
            return place
        local = self._local(place, fresh=True)
        # In containers every process has the same number, and what an earlier one left is not what lies there now.
        shutil.rmtree(local)
        local.mkdir()
        self._fresh.append(local)
        return local

    def publish(self, result: Reported) -> Reported:
        """Publish every output; returns the result in the user's names.

        Raises:
            StorageRefusedError: Another writer took a place over, or it may no longer be written.
            StorageUnavailableError: The storage does not answer. What was made stays where the message says.
        """
        for output in self._outputs:
            try:
                with output.watched:
                    contents = output.publication.publish(output.local)
                self._addresses.add(f"{output.local}/", f"{contents}/")
            except (ShutterlineError, OSError) as error:
                self._keep.add(output.local)
                self._log.error(
                    "%s was made and not published; it is in %s: publish it by "
                    "python -m components.shared.storage publish %s %s",
                    output.place,
                    output.local,
                    output.local,
                    output.place,
                )
                raise error
        return _Addressed(result, self._addresses) if self._addresses else result

    def _local(self, location: Location, *, fresh: bool = False) -> Path:
        """A directory for what lies at a place: the same at every attempt, so that one goes on where another broke."""
        root = self._root()
        digest = hashlib.sha256(str(location).encode()).hexdigest()[:16]
        local = root / (f"{digest}-{os.getpid()}" if fresh else digest) / location.name
        try:
            local.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if is_full(error):
                raise
            raise InputError(
                f"{local}: cannot be made, and {location} needs room on this machine: {error.strerror}; "
                f"{SCRATCH_VARIABLE} names a directory for that"
            ) from error
        self._addresses.add(str(local), str(location))
        return local

    def _root(self) -> Path:
        if named := os.environ.get(SCRATCH_VARIABLE):
            return Path(named).absolute()
        if self._own is None:
            self._own = Path(tempfile.mkdtemp(prefix="shutterline-"))
        return self._own

    def _clear(self) -> None:
        """Remove what nobody needs any more: inputs stay where the user has named a directory for them."""
        for output in self._outputs:
            if output.local not in self._keep:
                shutil.rmtree(output.local.parent, ignore_errors=True)
        for local in self._fresh:
            shutil.rmtree(local.parent, ignore_errors=True)
        if self._own is not None and not self._keep:
            shutil.rmtree(self._own, ignore_errors=True)

    def _watched(self, verb: str, place: Location) -> _Watched:
        return _Watched(verb, place, self._log, self._emit)


@dataclass(frozen=True)
class _Output:
    place: Location
    local: Path
    publication: Publication
    watched: _Watched


class _Watched:
    """Log lines and status of one transfer; entered, it says how the transfer ended."""

    def __init__(self, verb: str, place: Location, log: logging.Logger, emit: Emit) -> None:
        self._verb = verb
        self._place = place
        self._log = log
        self._emit = emit
        self._logged = self._told = time.monotonic()
        self._last: TransferProgress | None = None

    def __enter__(self) -> Callable[[TransferProgress], None]:
        self._logged = self._told = time.monotonic()
        return self.progress

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None and (last := self._last) is not None:
            self._log.info(
                "%sed %s: %d files, %s at %s/s",
                self._verb,
                self._place,
                last.files,
                size(last.done),
                size(last.bytes_per_second),
            )

    def progress(self, progress: TransferProgress) -> None:
        """What the storage calls: from its own threads, one call at a time."""
        self._last, now = progress, time.monotonic()
        if now - self._logged > _LOG_SECONDS:
            self._logged = now
            self._log.info(
                "%sing %s: %s of %s at %s/s",
                self._verb,
                self._place,
                size(progress.done),
                size(progress.total),
                size(progress.bytes_per_second),
            )
        if now - self._told > _STATUS_SECONDS:
            self._told = now
            left = progress.total - progress.done
            rate = progress.bytes_per_second
            self._emit(
                Progress(
                    progress.done,
                    progress.total,
                    "bytes",
                    metrics={"bytes_per_second": rate},
                    eta_seconds=left / rate if rate else None,
                )
            )


def size(count: float) -> str:
    """Bytes for people: 1.5 MB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:,.0f} {unit}" if unit == "bytes" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


class _Addressed:
    """A result in the user's names."""

    def __init__(self, result: Reported, addresses: Addresses) -> None:
        self._result = result
        self._addresses = addresses

    def report(self) -> dict[str, Any]:
        """The result as JSON data."""
        report: dict[str, Any] = self._addresses.document(self._result.report())
        return report

    def event(self, seconds: float) -> EventData:
        """The result as the step's last status event."""
        return self._addresses.event(self._result.event(seconds))
