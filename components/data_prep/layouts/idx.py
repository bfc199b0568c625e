"""IDX files, the format MNIST comes in: a header of big-endian sizes, then the values in C order.

A header is believed only as far as the file bears it out: nothing is allocated or inflated on its claim alone, so that
neither a wrong size nor a gzip bomb costs memory.
"""

from __future__ import annotations

import math
import re
import struct
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np

from components.data_prep.contents import Block, Encoded
from components.data_prep.layouts.inflating import GZIP_MAGIC, Inflated
from components.data_prep.layouts.source import BLOCK_BYTES, MadeNames, Source, SourceSplit, listed
from components.data_prep.splits import SPLIT_NAMES, SPLITS
from components.data_prep.trees.file_tree import FileTree
from components.data_prep.trees.folder_tree import count_left_out, images_below
from components.shared.artifacts.dataset import Images, Labels, SplitName
from components.shared.decoding.images import MAX_PIXELS
from components.shared.errors import DataError

_SPLITS: dict[str, SplitName] = {"t10k": "test", **SPLIT_NAMES}
IDX_NAME = re.compile(
    rf"(?P<split>{'|'.join(_SPLITS)})-(?P<content>images|labels)[-.]idx[0-9]-ubyte(?:\.gz)?", re.IGNORECASE
)
# How MNIST and its kin name the splits.
_WRITTEN: dict[SplitName, str] = {"train": "train", "validation": "validation", "test": "t10k"}

_UINT8 = 0x08
_OTHER_TYPES = {0x09: "int8", 0x0B: "int16", 0x0C: "int32", 0x0D: "float32", 0x0E: "float64"}
# Deflate codes at most 258 bytes in two bits, and so inflates no further than this.
_DEFLATE_RATIO = 1032
_PIECE = 1024**2

# By split and content (images, labels): the name of the file.
IdxFiles = dict[tuple[SplitName, str], str]


@dataclass(frozen=True)
class _IdxFile:
    """An IDX file with the sizes of its dimensions, outermost first."""

    path: Path
    where: str  # for messages
    dims: tuple[int, ...] = ()

    def __str__(self) -> str:
        return "×".join(str(size) for size in self.dims) or "no dimension"

    @property
    def bytes_before(self) -> int:
        return 4 + 4 * len(self.dims)

    def error(self, problem: str) -> DataError:
        return DataError(f"{self.where}: {problem}")

    def require(self, is_right: bool, problem: str) -> None:
        if not is_right:
            raise self.error(problem)

    def ends_early(self, instead: str) -> DataError:
        announced = self.bytes_before + math.prod(self.dims)
        return self.error(f"ends early: by its header ({self}) it has {announced} bytes, and {instead}; fetch it again")

    def goes_on(self) -> DataError:
        return self.error(f"goes on after the {self} values that its header announces; fetch it again")

    def blocks(self, rows: int) -> Iterator[Images]:
        """All values as uint8, so many of the outermost dimension at a time; an error if they end early or go on."""
        each = math.prod(self.dims[1:])
        with _opened(self) as stream:
            _read(stream, self.bytes_before)
            for start in range(0, self.dims[0], rows):
                wanted = min(rows, self.dims[0] - start) * each
                data = _read(stream, wanted)
                if len(data) < wanted:
                    raise self.ends_early(f"it ends after {self.bytes_before + start * each + len(data)}")
                yield np.frombuffer(data, dtype=np.uint8).reshape(-1, *self.dims[1:])
            # At the end of a compressed file this also compares its checksum.
            if stream.read(1):
                raise self.goes_on()


def find_idx_files(tree: FileTree) -> IdxFiles | None:
    """Files with MNIST's names directly in the data folder, if there are any."""
    found: IdxFiles = {}
    root = tree.root
    for name in sorted({*root.others, *root.specials, *root.folders, *root.problems}):
        if match := IDX_NAME.fullmatch(name):
            earlier = found.setdefault((_SPLITS[match["split"].lower()], match["content"].lower()), name)
            if earlier != name:
                raise DataError(
                    f"{tree.at()}: {earlier} and {name} are both there; remove all but one, so that it "
                    "is clear which counts"
                )
    return found or None


def open_idx(tree: FileTree, files: IdxFiles, n_classes: int | None) -> Source:
    """The source made of a folder's IDX files: labels read, headers of images checked."""
    needed = [split for split in SPLITS if split == "train" or any(split == given for given, _ in files)]
    splits = {split: _open_pair(tree, split, files, n_classes) for split in needed}
    labels = splits["train"].labels
    if n_classes is None:
        n_classes = int(labels.max()) + 1
    if missing := [str(label) for label, count in enumerate(np.bincount(labels, minlength=n_classes)) if not count]:
        raise DataError(
            f"{tree.at()}: {len(missing)} class(es) have no training image: {listed(missing)}; the labels are "
            f"0 to {labels.max()}, and params say n_classes = {n_classes}; correct n_classes or the data"
        )
    beside = {"beside IDX files": [path for path, _, _ in images_below(tree.root)]}
    left_out = count_left_out(tree.root, beside, {*map(tree.root.path, files.values())})
    why = listed(sorted(files.values()))
    return Source(tree, "IDX files", tuple(map(str, range(n_classes))), splits, left_out, why)


def _open_pair(tree: FileTree, split: SplitName, files: IdxFiles, n_classes: int | None) -> SourceSplit:
    for content, other, digit in (("images", "labels", 3), ("labels", "images", 1)):
        if (split, content) not in files:
            reason = f"{files[split, other]} is there without it" if (split, other) in files else "it is needed"
            raise DataError(
                f"{tree.at()}: there is no {_WRITTEN[split]}-{content}-idx{digit}-ubyte, plain or .gz, and {reason}"
            )
    labels, images = (_read_header(tree, files[split, content]) for content in ("labels", "images"))
    labels.require(len(labels.dims) == 1, f"has {len(labels.dims)} dimensions, and labels have 1")
    images.require(
        len(images.dims) in (3, 4),
        f"has {len(images.dims)} dimension(s), and images have 3 (number, height, width) or 4 (and channels)",
    )
    count, height, width, channels = (*images.dims, 1)[:4]
    images.require(channels in (1, 3), f"has {channels} channels, and images have 1 or 3")
    images.require(height * width <= MAX_PIXELS, f"has images of {height}×{width}; {MAX_PIXELS} pixels is most")
    images.require(
        count == labels.dims[0],
        f"holds {count} images, and {files[split, 'labels']} {labels.dims[0]} labels; they must be as many",
    )
    stored = (height, width, channels)
    values = _read_labels(labels, n_classes)
    return SourceSplit(
        "", values, MadeNames((split + "/{}").format, range(count)), partial(_read_blocks, images, stored)
    )


def _read_header(tree: FileTree, name: str) -> _IdxFile:
    path = tree.local(name)
    tree.watch(path, tree.at(name))
    file = _IdxFile(path, tree.at(name))
    with _opened(file) as stream:
        size = path.stat().st_size
        file.require(size > 0, "is empty; fetch it again")
        magic = _read(stream, 4)
        zeros, kind, count = magic[:2], *magic[2:].ljust(2, b"\0")
        file.require(zeros != GZIP_MAGIC, "is gzip-compressed; give it a name that ends in .gz")
        if len(magic) == 4:
            begins = f"it begins with {magic.hex(' ')}, not with 00 00"
            file.require(zeros == b"\0\0", f"is not an IDX file: {begins}; fetch it again")
            file.require(
                kind == _UINT8,
                f"holds values that are {_OTHER_TYPES.get(kind, 'of an unknown type')} (code 0x{kind:02x}); only uint8 "
                "(0x08) is read; store them as whole numbers from 0 to 255",
            )
            file.require(count <= 4, f"has {count} dimensions, and images have 3 or 4 and labels 1")
        sizes = _read(stream, 4 * count)
        file.require(len(magic) == 4 and len(sizes) == 4 * count, "ends within its header; fetch it again")
    file = replace(file, dims=struct.unpack(f">{count}I", sizes))
    file.require(math.prod(file.dims) > 0 and bool(file.dims), f"holds nothing ({file} by its header); fetch it again")
    announced = file.bytes_before + math.prod(file.dims)
    if _is_gzip(path):
        if announced > size * _DEFLATE_RATIO:
            raise file.ends_early(f"its {size} bytes cannot hold them, however compressed")
    elif size != announced:
        raise file.ends_early(f"it has {size}") if size < announced else file.goes_on()
    return file


def _read_labels(file: _IdxFile, n_classes: int | None) -> Labels:
    (values,) = file.blocks(file.dims[0])
    if n_classes is not None and (highest := int(values.max())) >= n_classes:
        raise file.error(
            f"holds label {highest} (first at position {int(values.argmax())}), and params say n_classes = "
            f"{n_classes}, which means labels 0 to {n_classes - 1}; correct n_classes or the labels"
        )
    return values.astype(np.int64)


def _read_blocks(file: _IdxFile, stored: tuple[int, int, int], wanted: Collection[int]) -> Iterator[Encoded | Block]:
    start = 0
    for block in file.blocks(max(1, BLOCK_BYTES // math.prod(stored))):
        yield Block(start, block.reshape(-1, *stored))
        start += len(block)


def _is_gzip(path: Path) -> bool:
    return path.suffix.lower() == ".gz"


@contextmanager
def _opened(file: _IdxFile) -> Iterator[IO[bytes] | Inflated]:
    """A plain or compressed file to read; what goes wrong with it becomes a :class:`DataError`."""
    try:
        with file.path.open("rb") as raw:
            is_gzip = _is_gzip(file.path)
            if is_gzip and (magic := raw.peek(2)[:2]) not in (b"", GZIP_MAGIC):
                begins = f"it begins with {magic.hex(' ')}"
                raise file.error(f"is not gzip-compressed, though its name says so ({begins}); fetch it again")
            yield Inflated(raw) if is_gzip else raw
    except zlib.error as error:
        raise file.error(f"is damaged: its compressed data cannot be read ({error}); fetch it again") from error
    except EOFError as error:
        raise file.error("ends early, within its compressed data; fetch it again") from error
    except OSError as error:
        raise file.error(f"cannot be read: {error.strerror or error}") from error


def _read(stream: IO[bytes] | Inflated, count: int) -> bytes:
    """Up to `count` bytes; memory grows with what is there, not with what was asked for."""
    pieces = []
    while count and (piece := stream.read(min(_PIECE, count))):
        pieces.append(piece)
        count -= len(piece)
    return b"".join(pieces)  # which of one piece makes no copy
