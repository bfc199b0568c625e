"""The note a writer puts in the place of an artifact's manifest, so that nobody opens what is being written."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import uuid4

from pydantic import ValidationError

from components.shared.artifacts.artifact import ArtifactKind
from components.shared.params.allowed_classes import shortened

_MARK = "shutterline"
_WRITING = "writing"


@dataclass(frozen=True)
class Claim:
    """A writer's word that it writes here.

    Attributes:
        kind: The kind of artifact.
        files: Names below the prefix that this writer, or those before it, may have written.
        writer: Tells it from every other claim.
        host: The machine it is on, for people.
        since: When it began, for people.
    """

    kind: str
    files: tuple[str, ...] = ()
    writer: str = field(default_factory=lambda: uuid4().hex)
    host: str = field(default_factory=socket.gethostname)
    since: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def document(self) -> bytes:
        """The claim as it is written."""
        return (
            json.dumps(
                {
                    _MARK: _WRITING,
                    "version": 1,
                    "kind": self.kind,
                    "writer": self.writer,
                    "host": self.host,
                    "since": self.since,
                    "files": list(self.files),
                },
                indent=2,
            )
            + "\n"
        ).encode()


def claim_in(data: bytes) -> Claim | None:
    """The claim in some bytes; None if they are none."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict) or document.get(_MARK) != _WRITING:
        return None
    files = document.get("files")
    return Claim(
        kind=str(document.get("kind", "")),
        files=tuple(map(str, files)) if isinstance(files, list) else (),
        writer=str(document.get("writer", "")),
        host=str(document.get("host", "unknown")),
        since=str(document.get("since", "unknown")),
    )


def earlier_files(data: bytes, kind: ArtifactKind) -> tuple[str, ...] | None:
    """The files below a prefix that what lies in the manifest's place answers for.

    Args:
        data: That object: a manifest, a claim, or anything.
        kind: The kind of artifact that is to be put there.

    Returns:
        Names; None if it is neither a manifest nor a claim of this kind.
    """
    if (claim := claim_in(data)) is not None:
        return claim.files if claim.kind == kind.name else None
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict) or not {"schema_version", "created_by"} <= document.keys():
        return None
    field_of_kind = kind.manifest_type.model_fields.get("kind")
    if field_of_kind is not None and document.get("kind") != field_of_kind.default:
        return None
    try:
        return tuple(record.file for record in kind.manifest_type.model_validate(document).files())
    except ValidationError:  # of another version, or damaged: it names nothing we may delete
        return ()


def told(claim: Claim) -> str:
    """Who writes, for a sentence: ``by HOST since TIME``."""
    return f"by {shortened(claim.host)} since {shortened(claim.since)}"
