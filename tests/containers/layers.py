"""What is in the layers of images, read from ``docker save`` without putting it anywhere."""

from __future__ import annotations

import json
import posixpath
import tarfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import IO, Any

# What no file of text comes near; torch's libraries go up to gigabytes.
_LOOKED_INTO = 8_000_000


@dataclass(frozen=True)
class Entry:
    """A ``file``, ``folder``, ``link`` or ``removal`` of a layer; `found` names the sought texts that it holds."""

    path: str
    kind: str
    mode: int
    uid: int
    gid: int
    mtime: int
    found: tuple[str, ...] = ()


@dataclass(frozen=True)
class SavedImage:
    """One image: its configuration with its history, and its layers, the base's first."""

    config: dict[str, Any]
    layers: tuple[tuple[Entry, ...], ...]


@dataclass
class _Saved:
    """What a stream has held so far."""

    documents: dict[str, Any] = field(default_factory=dict)
    layers: dict[str, tuple[Entry, ...]] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)


def read_images(stream: IO[bytes], sought: Mapping[str, bytes]) -> dict[str, SavedImage]:
    """The images of a ``docker save`` by tag, each file of up to 8 MB searched for texts that have a name each."""
    saved = _Saved()
    with tarfile.open(fileobj=stream, mode="r|") as outer:
        for member in outer:
            if member.issym():  # a layer that was there before
                saved.links[member.name] = posixpath.normpath(
                    posixpath.join(posixpath.dirname(member.name), member.linkname)
                )
            opened = outer.extractfile(member) if member.isfile() else None
            if opened is None:
                continue
            if member.name.endswith(".json"):
                saved.documents[member.name] = json.load(opened)
            elif member.name.endswith("layer.tar") or member.name.startswith("blobs/"):
                _read_blob(saved, member.name, opened, sought)
    return {
        tag: SavedImage(
            saved.documents[image["Config"]],
            tuple(saved.layers[saved.links.get(name, name)] for name in image["Layers"]),
        )
        for image in saved.documents["manifest.json"]
        for tag in image["RepoTags"]
    }


def _read_blob(saved: _Saved, name: str, opened: IO[bytes], sought: Mapping[str, bytes]) -> None:
    # Newer engines name a configuration and a layer alike, by their digests.
    if opened.peek(1)[:1] == b"{":  # type: ignore[attr-defined] # tarfile's buffered reader has it
        saved.documents[name] = json.load(opened)
        return
    with tarfile.open(fileobj=opened, mode="r|*") as layer:
        saved.layers[name] = tuple(_entry(layer, member, sought) for member in layer)


def _entry(layer: tarfile.TarFile, member: tarfile.TarInfo, sought: Mapping[str, bytes]) -> Entry:
    found: Collection[str] = ()
    if member.isfile() and member.size <= _LOOKED_INTO and (opened := layer.extractfile(member)):
        text = opened.read()
        found = [name for name, wanted in sought.items() if wanted in text]
    if posixpath.basename(member.name).startswith(".wh."):
        kind = "removal"  # of what a lower layer has
    else:
        kind = "folder" if member.isdir() else "file" if member.isfile() else "link"
    return Entry(member.name, kind, member.mode, member.uid, member.gid, int(member.mtime), tuple(found))
