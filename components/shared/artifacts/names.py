"""``names.jsonl`` of a split: where each image came from and what it was, a JSON array a line in stored order.

``["cat/1.png", 640, 480, "<digest>", "JPEG RGB"]``, and where there is something to report, a list of notes. Lines of
version 0.11 end after the height.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from json.encoder import encode_basestring
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from components.shared.errors import ArtifactError
from components.shared.text import shortened, shown

# Linux's longest path, each byte of which takes at most 6 characters.
LONGEST_NAME = 6 * 4096
_DIGEST = re.compile("(?:[0-9a-f]{32})?")


class ImageName(NamedTuple):
    """Where an image came from and what it was.

    Attributes:
        file: Its path, or what its source calls it, as one printable line.
        width: Of the upright image, before it was resized.
        height: The same.
        digest: BLAKE2b-128 of the encoded bytes, hexadecimal; of raw pixels, another 128 bits; empty: not recorded.
        kind: Format and mode, such as ``JPEG RGB``; empty: not recorded.
        notes: What was done with it that is worth reporting.
    """

    file: str
    width: int
    height: int
    digest: str = ""
    kind: str = ""
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, file: str, width: int, height: int, digest: str = "", kind: str = "", notes: tuple[str, ...] = ()
    ) -> ImageName:
        r"""Of a path with any bytes in it: what cannot be printed is escaped, as in ``caf\udce9.png``."""
        return cls(shown(file, LONGEST_NAME), width, height, digest, kind, notes)

    def line(self) -> str:
        """As the file has it."""
        kind = f',"{self.digest}",{encode_basestring(self.kind)}' if self.digest else ""
        notes = f",{json.dumps(self.notes)}" if self.notes else ""
        return f"[{encode_basestring(self.file)},{self.width},{self.height}{kind}{notes}]\n"


def name_lines(
    files: Sequence[str],
    sizes: npt.NDArray[np.int32],
    digests: npt.NDArray[np.uint8],
    kinds: npt.NDArray[np.uint16],
    kind_names: Sequence[str],
) -> list[str]:
    """The lines of images, one or more, that nothing is noted of, in a tenth of the time of one by one.

    Args:
        files: Path of each.
        sizes: Width and height of each, of shape (n, 2).
        digests: Of shape (n, 16).
        kinds: Index into `kind_names` of each, of shape (n,).
        kind_names: Formats and modes.
    """
    most = LONGEST_NAME
    every = "".join(files)
    if every.isprintable() and max(map(len, files)) <= most and '"' not in every and "\\" not in every:
        quoted: Iterable[str] = files
    else:
        printable = (name if name.isprintable() and len(name) <= most else shown(name, most) for name in files)
        quoted = (encode_basestring(name)[1:-1] for name in printable)
    middles = _texts(sizes, lambda size: f'",{size[0]},{size[1]},"')
    quoted_kinds = [encode_basestring(kind) for kind in kind_names]
    ends = _texts(kinds, lambda kind: f'",{quoted_kinds[kind]}]\n')
    written = digests.tobytes().hex("\n", digests.shape[1]).split("\n")
    return [
        f'["{name}{middle}{digest}{end}'
        for name, middle, digest, end in zip(quoted, middles, written, ends, strict=True)
    ]


def _texts(values: npt.NDArray[Any], text: Callable[[Any], str]) -> Iterable[str]:
    """The text of each value, made once where all are equal."""
    if (values[1:] == values[:-1]).all():  # which NumPy does many at once
        return itertools.repeat(text(values[0].tolist()), len(values))
    return map(text, values.tolist())


def read_names(file: Path, count: int) -> Iterator[ImageName]:
    """The names in a file, one after another; ArtifactError where they are not so many, or are none."""
    number = 0
    try:
        with file.open("rb") as stream:
            while line := stream.readline(4 * LONGEST_NAME):
                number += 1
                match json.loads(line):
                    case [str(name), int(width), int(height), *further] if width > 0 and height > 0:
                        yield ImageName.of(name, width, height, *_further(further))  # again: it goes to terminals
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


def _further(values: list[object]) -> tuple[str, str, tuple[str, ...]]:
    match values:
        case []:
            return "", "", ()
        case [str(digest), str(kind)] if _DIGEST.fullmatch(digest):
            return digest, shown(kind, 60), ()
        case [str(digest), str(kind), [*notes]] if _DIGEST.fullmatch(digest):
            return digest, shown(kind, 60), tuple(shortened(note) for note in notes)
    raise ValueError(shortened(values))
