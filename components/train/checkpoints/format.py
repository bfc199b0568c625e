"""One checkpoint on disk: a file of state and a manifest beside it, written so that none is ever half there.

::

    epoch-00003-batch-000017.pt     the state: tensors and plain data, read with ``weights_only=True``
    epoch-00003-batch-000017.json   the manifest, written last: what it is of, the SHA-256 of the state and its own

A state without a manifest is nothing.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from components.shared.artifacts.artifact import FileRecord, Record
from components.shared.files import read_regular, replacing, sha256_of, write_atomically
from components.shared.params.training_id import position
from components.shared.strict_json import MAX_BYTES, parse_json
from components.shared.text import first_line

_NAME = re.compile(r"epoch-([0-9]{5,})-batch-([0-9]{6,})")


class CheckpointManifest(Record):
    """What a checkpoint is of: `batch` batches of `epoch`, from 1, and `step` steps in all are done."""

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
        """Of both files, without suffix."""
        return f"epoch-{self.epoch:05d}-batch-{self.batch:06d}"

    @property
    def position(self) -> str:
        """How far the run was, for people."""
        return position(self.epoch, self.batch, finished=self.finished)

    @property
    def num_epochs(self) -> int:
        """How many epochs the run was to have."""
        return int(self.params["num_epochs"])

    def document(self) -> bytes:
        """Its bytes: canonical JSON with the SHA-256 of that, by which a flipped bit shows."""
        document = self.model_dump(mode="json")
        return _canonical({**document, "sha256": hashlib.sha256(_canonical(document)).hexdigest()})


def _canonical(document: object) -> bytes:
    return (json.dumps(document, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


class DamagedError(Exception):
    """A checkpoint that is not what was written; the text says why."""


def write_checkpoint(directory: Path, manifest: CheckpointManifest, state: Mapping[str, Any]) -> Path:
    """Write a checkpoint, its tensors on the CPU; once this returns its manifest's file, it survives a power cut."""
    import torch  # takes seconds, and the pipelines read manifests alone

    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{manifest.name}.json"
    path.unlink(missing_ok=True)  # before its state is another
    digest = hashlib.sha256()
    with replacing(path.with_suffix(".pt"), digest) as output:
        torch.save(dict(state), output)  # type: ignore[arg-type] # it needs write and flush alone
    record = FileRecord(file=path.with_suffix(".pt").name, bytes=output.bytes, sha256=digest.hexdigest())
    write_atomically(path, manifest.model_copy(update={"state": record}).document())
    return path


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
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise DamagedError(f"{path.name} is no manifest of a checkpoint") from error
    if manifest.document() != data or manifest.name != path.stem or manifest.state is None:
        raise DamagedError(f"{path.name} is not as it was written")
    return manifest


def verified_state(path: Path, manifest: CheckpointManifest) -> Path:
    """The file of a checkpoint's state, after checking every byte; `path` is its manifest's.

    Raises:
        DamagedError: It is missing, cannot be read or is another.
    """
    if manifest.state is None:
        raise DamagedError(f"{path.name} names no state")
    file = path.with_name(manifest.state.file)
    try:
        if (size := file.stat().st_size) != manifest.state.bytes:
            raise DamagedError(f"{file.name} has {size} bytes, and its manifest says {manifest.state.bytes}")
        if sha256_of(file) != manifest.state.sha256:
            raise DamagedError(f"the SHA-256 of {file.name} is not its manifest's")
    except OSError as error:
        raise DamagedError(f"{file.name} cannot be read: {error.strerror}") from error
    return file


def read_state(path: Path, manifest: CheckpointManifest) -> dict[str, Any]:
    """Read the state of a checkpoint onto the CPU, after checking every byte; no code of it runs."""
    import torch

    file = verified_state(path, manifest)
    try:
        state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise DamagedError(f"{file.name} is no state of a training: {first_line(error)}") from error
    return state


def order_of(name: str | Path) -> tuple[int, ...]:
    """What sorts checkpoints as they follow each other, by the name of a file of theirs."""
    found = _NAME.fullmatch(Path(name).stem)
    return tuple(map(int, found.groups())) if found else ()


def is_checkpoint_file(name: str) -> bool:
    """Whether a name is that of one of a checkpoint's two files."""
    return name.endswith((".json", ".pt")) and bool(order_of(name))


def list_checkpoints(directory: Path, suffix: str = ".json") -> list[Path]:
    """The manifests in a directory, or its states by ``.pt``, as they follow each other."""
    return sorted((path for path in directory.glob(f"*{suffix}") if is_checkpoint_file(path.name)), key=order_of)


def states_alone(directory: Path) -> list[Path]:
    """The states in a directory that have no manifest: of a writer that was killed, or somebody removed it."""
    return [path for path in list_checkpoints(directory, ".pt") if not path.with_suffix(".json").exists()]


def without_manifest(state: str) -> str:
    """What is wrong with a state that has no manifest, for people; `state` is its file's name."""
    manifest = Path(state).with_suffix(".json").name
    return f"{state} has no {manifest}, which is written last: its writer was killed, or the file was removed"


# Those further on stay, too: an attempt before this one left them, and this one passed over them as damaged or not
# readable; they are not to take the room of what is whole.
def superseded(names: Iterable[str], newest: str, keep: int) -> list[str]:
    """Which manifests, by name, may go now that `newest` is whole: `keep` up to that one stay."""
    return sorted((name for name in names if order_of(name) <= order_of(newest)), key=order_of)[:-keep]


def remove_checkpoint(path: Path) -> None:
    """Remove a checkpoint by its manifest's file, which goes first: its state alone is nothing."""
    path.unlink(missing_ok=True)
    path.with_suffix(".pt").unlink(missing_ok=True)


def remove_leftovers(directory: Path) -> None:
    """Remove what writers that were killed have left: unfinished files, and states without a manifest."""
    for path in (*directory.glob(".epoch-*.tmp"), *states_alone(directory)):
        path.unlink(missing_ok=True)


def remove_all(directory: Path) -> None:
    """Remove every checkpoint of a directory."""
    for path in list_checkpoints(directory):
        remove_checkpoint(path)
    remove_leftovers(directory)
