"""``names.jsonl`` of a split: where each image came from and its original size, a JSON array a line in stored order."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from components.shared.errors import ArtifactError
from components.shared.text import shortened, shown

# Linux's longest path, each byte of which takes at most 6 characters.
LONGEST_NAME = 6 * 4096


class ImageName(NamedTuple):
    """Where an image came from, as one printable line, and its size in pixels when upright, before it was resized."""

    file: str
    width: int
    height: int

    @classmethod
    def of(cls, file: str, width: int, height: int) -> ImageName:
        r"""Of a path with any bytes in it: what cannot be printed is escaped, as in ``caf\udce9.png``."""
        return cls(shown(file, LONGEST_NAME), width, height)

    def line(self) -> bytes:
        """As the file has it."""
        return (json.dumps(self, ensure_ascii=False, separators=(",", ":")) + "\n").encode()


def read_names(file: Path, count: int) -> Iterator[ImageName]:
    """The names in a file, one after another; ArtifactError where they are not so many, or are none."""
    number = 0
    try:
        with file.open("rb") as stream:
            while line := stream.readline(4 * LONGEST_NAME):
                number += 1
                match json.loads(line):
                    case [str(name), int(width), int(height)] if width > 0 and height > 0:
                        yield ImageName.of(name, width, height)  # again: it goes to terminals
                    case other:
                        raise ValueError(shortened(other))
    except (ValueError, RecursionError) as error:
        what = shortened(str(error), 100)
        raise ArtifactError(
            f"{file}, line {number}: is no name with width and height ({what}); it is damaged"
        ) from error
    except OSError as error:
        raise ArtifactError(f"{file}: cannot be read: {error.strerror or error}") from error
    if number != count:
        raise ArtifactError(f"{file}: has {number} names, and the manifest says {count} images; it is damaged")
