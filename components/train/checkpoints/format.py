"""One checkpoint: a file of state and a manifest beside it, written so that none is ever half there.

::

    epoch-00003-batch-000017.pt     the state: tensors and plain data, read with ``weights_only=True``
    epoch-00003-batch-000017.json   the manifest, written last: what it is of, and the SHA-256 of the state

The state is written under another name, synced and renamed; then the manifest, likewise. A state without a manifest is
nothing. A manifest vouches for itself, too: a bit that flips in it is noticed.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from components.shared.artifacts.artifact import FileRecord, Record, replacing, sha256_of, write_atomically
from components.shared.files import read_regular
from components.shared.params.types import first_line
from components.shared.strict_json import MAX_BYTES, parse_json

_NAME = re.compile(r"epoch-([0-9]{5,})-batch-([0-9]{6,})")
_SUFFIX = ".json"
# What a state consists of: components.train.state.
_STATE: dict[str, Any] = {
    **dict.fromkeys(("network", "average", "optimiser", "schedules", "history", "seconds", "started_from")),
    "position": dict.fromkeys(("epoch", "batch", "step")),
    "best": dict.fromkeys(("epoch", "accuracy", "loss", "weights")),
    "epoch": dict.fromkeys(("order", "weight", "sums", "learning_rate", "seconds")),
    "generators": dict.fromkeys(("flip", "mix", "processes")),
}


class CheckpointManifest(Record):
    """What a checkpoint is of.

    Attributes:
        epoch: The epoch that was being trained, from 1; all before it are done.
        batch: Batches of it that are done.
        step: Steps of the optimiser.
        finished: Whether the run had nothing left to train.
        params: The run's options.
        dataset_sha256: Of the dataset's manifest, and so of every file of it.
        processes: How many trained together.
        device: What they trained on.
        torch: Its version.
        state: The file of the state.
    """

    schema_version: Literal[1] = 1
    kind: Literal["shutterline.checkpoint"] = "shutterline.checkpoint"
    created_by: str
    epoch: int = Field(ge=1)
    batch: int = Field(ge=0)
    step: int = Field(ge=0)
    finished: bool
    params: dict[str, Any]
    dataset_sha256: str
    processes: int = Field(ge=1)
    device: str
    torch: str
    state: FileRecord | None = None

    @property
    def name(self) -> str:
        """What both files are called, without suffix."""
        return f"epoch-{self.epoch:05d}-batch-{self.batch:06d}"

    @property
    def place(self) -> str:
        """How far the run was, for people."""
        if self.finished:
            return f"its end, after epoch {self.epoch - 1}"
        return f"epoch {self.epoch}, batch {self.batch}" if self.batch else f"the beginning of epoch {self.epoch}"


class DamagedError(Exception):
    """A checkpoint that is not what was written; the text says why."""


def write_checkpoint(directory: Path, manifest: CheckpointManifest, state: Mapping[str, Any]) -> Path:
    """Write a checkpoint; once this returns it survives a power cut.

    Args:
        directory: Made if it is not there.
        manifest: Without the file of the state.
        state: Tensors on the CPU and plain data.

    Returns:
        The manifest's file.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{manifest.name}{_SUFFIX}"
    file = path.with_suffix(".pt")
    if _is_there(path, manifest):  # of a process that was told to end before its first step
        return path
    path.unlink(missing_ok=True)  # before its state is another
    record = _write_state(file, dict(state))
    write_atomically(path, _document(manifest.model_copy(update={"state": record})))
    return path


def _is_there(path: Path, manifest: CheckpointManifest) -> bool:
    try:
        there = read_checkpoint_manifest(path)
        return there.model_copy(update={"state": None}) == manifest and verified_state(path, there).is_file()
    except DamagedError:
        return False


def _write_state(file: Path, state: dict[str, Any]) -> FileRecord:
    import torch  # takes seconds, and the pipelines read manifests alone

    digest = hashlib.sha256()
    with replacing(file, digest) as output:
        torch.save(state, output)  # type: ignore[arg-type] # it needs write and flush alone
    return FileRecord(file=file.name, bytes=output.bytes, sha256=digest.hexdigest())


def _document(manifest: CheckpointManifest) -> bytes:
    """A manifest's bytes: its canonical JSON, and the SHA-256 of that."""
    document = manifest.model_dump(mode="json")
    return _canonical({**document, "sha256": hashlib.sha256(_canonical(document)).hexdigest()})


def _canonical(document: object) -> bytes:
    return (json.dumps(document, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def list_checkpoints(directory: Path) -> list[Path]:
    """The manifests in a directory, as they follow each other."""
    found = [path for path in directory.glob(f"epoch-*{_SUFFIX}") if _NAME.fullmatch(path.stem)]
    return sorted(found, key=order_of)


def states_alone(directory: Path) -> list[Path]:
    """The states in a directory that have no manifest: of a writer that was killed, or somebody removed it."""
    found = [path for path in directory.glob("epoch-*.pt") if _NAME.fullmatch(path.stem)]
    return sorted(path for path in found if not path.with_suffix(_SUFFIX).exists())


def without_manifest(state: str) -> str:
    """What is wrong with a state that has no manifest, for people; `state` is its file's name."""
    manifest = Path(state).with_suffix(_SUFFIX).name
    return f"{state} has no {manifest}, which is written last: its writer was killed, or the file was removed"


def superseded(names: Iterable[str], newest: str, keep: int) -> list[str]:
    """Which of some checkpoints may go, now that another one is whole.

    Those that lie further on in the run stay: an attempt before this one left them, which this one has passed over
    because they are damaged or could not be read, and they are not to take the place of what is whole.

    Args:
        names: Of the manifests' files.
        newest: Of the one that was written last.
        keep: How many stay up to that one.
    """
    until = order_of(newest)
    return sorted((name for name in names if order_of(name) <= until), key=order_of)[:-keep]


def is_checkpoint_file(name: str) -> bool:
    """Whether a name is that of one of a checkpoint's two files."""
    path = Path(name)
    return path.suffix in (_SUFFIX, ".pt") and _NAME.fullmatch(path.stem) is not None


def order_of(name: str | Path) -> tuple[int, ...]:
    """What sorts checkpoints as they follow each other, by the name of a file of theirs."""
    found = _NAME.fullmatch(Path(name).stem)
    return tuple(int(number) for number in found.groups()) if found else ()


def read_checkpoint_manifest(path: Path) -> CheckpointManifest:
    """Read a manifest and check it against itself.

    Raises:
        DamagedError: It cannot be read, or is not as it was written.
    """
    try:
        data = read_regular(path, MAX_BYTES)
        document = parse_json(data)
        document.pop("sha256")
        manifest = CheckpointManifest.model_validate(document)
    except OSError as error:
        raise DamagedError(f"{path.name} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, AttributeError, KeyError, ValidationError) as error:
        raise DamagedError(f"{path.name} is no manifest of a checkpoint") from error
    if _document(manifest) != data or manifest.name != path.stem or manifest.state is None:
        raise DamagedError(f"{path.name} is not as it was written")
    return manifest


def verified_state(path: Path, manifest: CheckpointManifest) -> Path:
    """The file of a checkpoint's state, after checking every byte of it.

    Args:
        path: The manifest's file.
        manifest: Read from it.

    Raises:
        DamagedError: The state is missing, or is not what was written.
    """
    if manifest.state is None:
        raise DamagedError(f"{path.name} names no state")
    file = path.with_name(manifest.state.file)
    try:
        size = file.stat().st_size
        if size != manifest.state.bytes:
            raise DamagedError(f"{file.name} has {size} bytes, and its manifest says {manifest.state.bytes}")
        if sha256_of(file) != manifest.state.sha256:
            raise DamagedError(f"the SHA-256 of {file.name} is not its manifest's")
    except FileNotFoundError as error:
        raise DamagedError(f"{file.name} is missing") from error
    except OSError as error:
        raise DamagedError(f"{file.name} cannot be read: {error.strerror}") from error
    return file


def read_state(path: Path, manifest: CheckpointManifest) -> dict[str, Any]:
    """Read the state of a checkpoint onto the CPU, after checking every byte; no code of it runs.

    Args:
        path: The manifest's file.
        manifest: Read from it.

    Raises:
        DamagedError: The state is missing, is not what was written, or is more than tensors and plain data.
    """
    import torch

    file = verified_state(path, manifest)
    try:
        state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise DamagedError(f"{file.name} is no state of a training: {first_line(error)}") from error
    return state


def require_keys(path: Path, state: Mapping[str, Any]) -> None:
    """See that a state has every part that a training goes on from.

    Args:
        path: The manifest's file.
        state: As :func:`read_state` gives it.

    Raises:
        DamagedError: A part is missing, as of a state that another version or another program has written.
    """
    if missing := list(_missing(_STATE, state, "")):
        raise DamagedError(f"{path.with_suffix('.pt').name} lacks {', '.join(missing)}")


def _missing(wanted: Mapping[str, Any], there: Any, where: str) -> Iterator[str]:
    for key, inner in wanted.items():
        if not isinstance(there, Mapping) or key not in there:
            yield f"{where}{key}"
        elif inner:
            yield from _missing(inner, there[key], f"{where}{key}.")


def remove_checkpoint(path: Path) -> None:
    """Remove a checkpoint by its manifest's file, which goes first: its state alone is nothing."""
    path.unlink(missing_ok=True)
    path.with_suffix(".pt").unlink(missing_ok=True)


def remove_leftovers(directory: Path) -> None:
    """Remove what writers that were killed have left: unfinished files, and states without a manifest."""
    for path in directory.glob(".epoch-*.tmp"):
        path.unlink(missing_ok=True)
    for path in states_alone(directory):
        path.unlink(missing_ok=True)
