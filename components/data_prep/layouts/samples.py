"""Samples of a shard: neighbours with one key, of which one is an image and others say its label."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple, NoReturn

from components.data_prep.layouts.class_names import Label
from components.data_prep.layouts.shards import Member, Shard, unpacked
from components.data_prep.layouts.source import composed, listed
from components.shared.artifacts.artifact import class_name_problem
from components.shared.decoding.file_names import why_not_read
from components.shared.decoding.images import image_extensions
from components.shared.errors import DataError
from components.shared.strict_json import unique_keys
from components.shared.text import described, shown

# Keys of a sample's JSON that hold its label.
LABEL_KEYS = ("label", "cls", "class")
# A label is a number or a name; JSON may hold an image's whole EXIF beside it.
_LARGEST = {"cls": 4096, "txt": 64 << 10, "json": 4 << 20}
_LARGEST_NUMBER = 2**31 - 1
_KINDS = {"cls": "cls", "json": "json", "jsn": "json", "txt": "txt"}
# Bytes of one image: more than the largest that is decoded takes raw, in 16 bits and four channels.
LARGEST_IMAGE = 1 << 30


class Sample(NamedTuple):
    """An image of a shard with its label: a class's number or name, or None."""

    image: Member
    label: Label | None
    text: str | None  # what its .txt says, which is a label only where it names a class
    problem: str  # why the image cannot be read; empty: it may be


@dataclass
class Unused:
    """What of the shards is not used."""

    files: Counter[str] = field(default_factory=Counter)  # by their ending
    without_image: list[str] = field(default_factory=list)  # labels, by their path


def samples(shard: Shard, unused: Unused) -> Iterator[Sample]:
    """The samples of a shard that hold an image, in their order.

    Raises:
        DataError: Two images or labels are in one sample, a key comes back, or a label is none.
    """
    seen: set[str] = set()
    current: _Sample | None = None
    for member in shard.members():
        folder, slash, name = member.name.rpartition("/")
        stem, dot, ending = name.partition(".")
        if not dot:
            unused.files["no ending"] += 1
            continue
        key = f"{folder}{slash}{stem}"
        if current is None or key != current.key:
            if current and (sample := current.closed(unused)):
                yield sample
            if key in seen and current:
                raise DataError(
                    f"{shard.where}: the key {shown(key)} comes back after {shown(current.key)}, with "
                    f"{shown(member.name)}; the files of a sample stand side by side, and no other sample has its key: "
                    "write the shard anew, sorted by name"
                )
            seen.add(key)
            current = _Sample(shard, key)
        current.add(member, ending.lower())
    if current and (sample := current.closed(unused)):
        yield sample
    unused.files.update(shard.skipped)


def looks_like_samples(shard: Shard, first: int = 200) -> bool:
    """Whether among its first members is a label, or what may be one beside an image of the same key."""
    images: set[str] = set()
    others: set[str] = set()
    for _, member in zip(range(first), shard.members(), strict=False):
        folder, slash, name = member.name.rpartition("/")
        stem, _, ending = name.partition(".")
        kind = _kind(ending.lower())[0]
        if kind == "cls":
            return True
        if kind:
            (images if kind == "image" else others).add(f"{folder}{slash}{stem}")
    return not images.isdisjoint(others)


@lru_cache(4096)
def _kind(ending: str) -> tuple[str, str]:
    """What a file is by its ending (image, picture, cls, json or txt), and what is before that in the ending."""
    before, _, last = ending.removesuffix(".gz").rpartition(".")
    if f".{last}" in image_extensions():
        return "image", before
    return "picture" if why_not_read(f".{last}") else _KINDS.get(last, ""), before


class _Sample:
    """The files of one key, as they come."""

    def __init__(self, shard: Shard, key: str) -> None:
        self.key = key
        self._shard = shard
        self._files: dict[str, Member] = {}  # by their ending
        self._contents: dict[str, bytes] = {}

    def add(self, member: Member, ending: str) -> None:
        """Add the file that the shard has just given."""
        if earlier := self._files.get(ending):
            both = " and ".join(dict.fromkeys((shown(earlier.name), shown(member.name))))
            self._refuse(f"has the file {both} twice; remove or rename one")
        self._files[ending] = member
        kind, _ = _kind(ending)
        if kind in _LARGEST:
            if member.size > _LARGEST[kind]:
                if kind == "txt":
                    return
                self._refuse_label(ending, f"has {member.size} bytes; a label has at most {_LARGEST[kind]}")
            content: bytes | None = self._shard.read(member)
            if ending.endswith(".gz"):
                content = unpacked(content or b"", _LARGEST[kind])
                if content is None:
                    self._refuse_label(ending, f"cannot be unpacked, or to more than {_LARGEST[kind]} bytes")
            self._contents[ending] = content or b""

    def closed(self, unused: Unused) -> Sample | None:
        """The sample that its files make; None if none of them is an image."""
        kinds = {ending: _kind(ending) for ending in self._files}
        images = [ending for ending, (kind, _) in kinds.items() if kind == "image"]
        images = images or [ending for ending, (kind, _) in kinds.items() if kind == "picture"]
        labels = {ending: label for ending in kinds if (label := self._label(ending, kinds[ending][0])) is not None}
        plain = [ending for ending in images if not kinds[ending][1]]
        chosen = plain if len(plain) == 1 else images
        befores = {kinds[ending][1] for ending in labels}
        before = kinds[chosen[0]][1] if chosen else ""
        others = befores - {before} if len(images) > 1 else befores - {before, ""} if before else set()
        if len(chosen) > 1 or len(befores) > 1 or others:
            self._refuse(
                f"is made of {listed([file.name for file in self._files.values()], 8)}, of which it is not clear what "
                "is its image and what its label; a key ends at its first dot, so that img_0.25.png and img_0.5.png "
                "are one sample: rename them, or keep one image for each key"
            )
        label = self._agreed(labels)
        unused.files.update(f".{shown(ending)}"[:20] for ending in self._files if ending not in (*chosen, *labels))
        if not chosen:
            unused.without_image += [self._files[ending].name for ending in labels]
            return None
        image = self._files[chosen[0]]
        problem = f"has {image.size} bytes, and {LARGEST_IMAGE} is most" if image.size > LARGEST_IMAGE else ""
        text = next((self._contents[ending] for ending in self._contents if kinds[ending] == ("txt", "")), None)
        return Sample(
            image,
            label,
            None if text is None else composed(text.decode(errors="replace").strip()[:1000]),
            why_not_read(f".{chosen[0].rpartition('.')[2]}") or problem,
        )

    def _label(self, ending: str, kind: str) -> Label | None:
        content = self._contents.get(ending, b"")
        if kind == "cls":
            try:
                return int(content)
            except ValueError:
                pass
            try:
                return content.decode().strip()
            except UnicodeDecodeError:
                self._refuse_label(ending, "is neither a whole number nor a name in UTF-8")
        if kind == "json":
            try:
                # Tools write NaN among what they know of an image, which json reads, and is no label.
                value = json.loads(content, object_pairs_hook=unique_keys)
            except (ValueError, RecursionError) as error:
                self._refuse_label(ending, f"is not JSON: {error}")
            return self._json_label(ending, value)
        return None

    def _json_label(self, ending: str, value: Any) -> Label | None:
        content: dict[str, Any] = value if isinstance(value, dict) else {}
        found: dict[str, Any] = {key: content[key] for key in LABEL_KEYS if content.get(key) is not None}
        for key, label in found.items():
            if isinstance(label, bool) or not isinstance(label, int | str):
                self._refuse_label(ending, f"has {described(label)} as {key}; it is a class's number or its name")
        labels: set[Label] = {label for label in found.values() if isinstance(label, int)} or set(found.values())
        if len(labels) > 1:
            self._refuse_label(ending, f"has several labels ({listed([f'{k}: {v}' for k, v in found.items()])})")
        return next(iter(labels), None)

    def _agreed(self, labels: dict[str, Label]) -> Label | None:
        """The one label; a name beside a number is only another way to say it."""
        for ending, label in labels.items():
            if isinstance(label, int) and not 0 <= label <= _LARGEST_NUMBER:
                says = shown(label, 20)
                self._refuse_label(ending, f"says {says}, and a class's number is between 0 and {_LARGEST_NUMBER}")
            if isinstance(label, str) and (problem := class_name_problem(composed(label))):
                self._refuse_label(ending, f"as the name of a class {problem}")
        numbers = {label for label in labels.values() if isinstance(label, int)}
        names = {composed(label) for label in labels.values() if isinstance(label, str)}
        if len(numbers) > 1 or len(names) > 1:
            given = [f"{shown(self._files[ending].name)}: {label}" for ending, label in labels.items()]
            self._refuse(f"has several labels ({listed(given)}); an image has one class")
        agreed: list[Label] = [*numbers, *names]
        return agreed[0] if agreed else None

    def _refuse_label(self, ending: str, problem: str) -> NoReturn:
        raise DataError(f"{self._shard.where}: {shown(self._files[ending].name)} {problem}")

    def _refuse(self, problem: str) -> NoReturn:
        raise DataError(f"{self._shard.where}: the sample {shown(self.key)} {problem}")
