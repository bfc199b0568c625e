"""IDX files, the format MNIST comes in: a header of big-endian sizes, then the values in C order.

A header is believed only as far as the file bears it out: nothing is allocated or inflated on its word alone, so that
neither a wrong size nor a gzip bomb costs memory.
"""

from __future__ import annotations

import gzip
import math
import re
import struct
import zlib
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from components.data_prep.folder_tree import Folder, images_below, leads_out_of
from components.data_prep.image_files import DECODING_THREADS
from components.data_prep.images import MAX_PIXELS
from components.data_prep.left_out import BESIDE_IDX, LeftOutCounter
from components.data_prep.pixels import WHITE, Background, fitted
from components.data_prep.source import BATCH_BYTES, SPLITS, Batch, Source, SourceSplit, leads_inside, listed, shown
from components.data_prep.split_folders import WORDS, split_of
from components.shared.artifacts.dataset import Images, Labels, SplitName
from components.shared.errors import DataError

NAME = re.compile(
    rf"(?P<split>t10k|{'|'.join(word for words in WORDS.values() for word in words)})-(?P<content>images|labels)"
    r"[-.]idx[0-9]-ubyte(?:\.gz)?",
    re.IGNORECASE,
)
# How MNIST and its kin name the splits.
_WRITTEN: dict[SplitName, str] = {"train": "train", "validation": "validation", "test": "t10k"}

_UINT8 = 0x08
_OTHER_TYPES = {0x09: "int8", 0x0B: "int16", 0x0C: "int32", 0x0D: "float32", 0x0E: "float64"}
_GZIP_MAGIC = b"\x1f\x8b"
# Deflate codes at most 258 bytes in two bits, and so inflates no further than this.
_DEFLATE_RATIO = 1032
_PIECE = 1024**2


class _Readable(Protocol):
    """An opened file, plain or compressed."""

    def read(self, count: int, /) -> bytes: ...


@dataclass(frozen=True)
class IdxFile:
    """One IDX file whose header was checked.

    Attributes:
        path: Where it is.
        dims: Sizes of its dimensions, outermost first.
    """

    path: Path
    dims: tuple[int, ...]

    @property
    def header_bytes(self) -> int:
        """Length of the header."""
        return 4 + 4 * len(self.dims)


def find_idx_files(folder: Path) -> dict[tuple[SplitName, str], list[Path]]:
    """Files with MNIST's names directly in a folder, by split and content (images, labels)."""
    found: dict[tuple[SplitName, str], list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if (match := NAME.fullmatch(path.name)) and (split := _split_of(match["split"])):
            found.setdefault((split, match["content"].lower()), []).append(path)
    return found


def _split_of(word: str) -> SplitName | None:
    return "test" if word.lower() == "t10k" else split_of(word)


def open_idx(folder: Path, root: Folder, n_classes: int, *, follow_links: bool) -> Source:
    """The source made of a folder's IDX files: labels read, image headers checked.

    Args:
        folder: Where :func:`find_idx_files` found some.
        root: What else is in it.
        n_classes: Classes are named ``0`` to ``n_classes - 1``.
        follow_links: Whether links may lead out of the folder.

    Raises:
        DataError: A file is missing, there twice, not IDX, damaged, or labels and images disagree.
    """
    found = find_idx_files(folder)
    for paths in found.values():
        if len(paths) > 1:
            names = " and ".join(path.name for path in paths)
            raise DataError(
                f"{shown(folder)}: {names} are both there; remove all but one, so that it is clear which counts"
            )
        if not follow_links and not leads_inside(paths[0], folder):
            raise DataError(f"{shown(paths[0])}: {leads_out_of(folder, 'the file')}")
    train = _open_pair(folder, "train", found, n_classes)
    counts = np.bincount(train.labels, minlength=n_classes)
    if missing := [str(label) for label, count in enumerate(counts) if count == 0]:
        raise DataError(
            f"{shown(folder)}: {len(missing)} class(es) have no training image: {listed(missing)}; the labels are "
            f"0 to {train.labels.max()}, and params say n_classes = {n_classes}; correct n_classes or the data"
        )
    splits: dict[SplitName, SourceSplit] = {"train": train}
    for held_out in SPLITS[1:]:
        if any(split == held_out for split, _ in found):
            splits[held_out] = _open_pair(folder, held_out, found, n_classes)
    counter = LeftOutCounter(root)
    counter.add_images(BESIDE_IDX, [path for path, _, _ in images_below(root)])
    return Source(
        path=folder,
        name="IDX files",
        classes=tuple(str(label) for label in range(n_classes)),
        splits=splits,
        folders=dict.fromkeys(splits, ""),
        left_out=counter.counted({f"{root.real}/{path.name}" for paths in found.values() for path in paths}),
    )


def _open_pair(
    folder: Path, split: SplitName, found: dict[tuple[SplitName, str], list[Path]], n_classes: int
) -> IdxSplit:
    named = _WRITTEN[split]
    for content, other, digit in (("images", "labels", 3), ("labels", "images", 1)):
        if (split, content) not in found:
            reason = f"{found[split, other][0].name} is there without it" if (split, other) in found else "it is needed"
            raise DataError(
                f"{shown(folder)}: there is no {named}-{content}-idx{digit}-ubyte, plain or .gz, and {reason}"
            )
    labels = read_header(found[split, "labels"][0])
    if len(labels.dims) != 1:
        raise DataError(f"{shown(labels.path)}: has {len(labels.dims)} dimensions, and labels have 1")
    images = read_header(found[split, "images"][0])
    if len(images.dims) not in (3, 4):
        raise DataError(
            f"{shown(images.path)}: has {len(images.dims)} dimension(s), and images have 3 (number, height, width) "
            "or 4 (and channels)"
        )
    if len(images.dims) == 4 and images.dims[3] not in (1, 3):
        raise DataError(f"{shown(images.path)}: has {images.dims[3]} channels, and images have 1 or 3")
    if images.dims[1] * images.dims[2] > MAX_PIXELS:
        raise DataError(
            f"{shown(images.path)}: has images of {images.dims[1]}×{images.dims[2]}; {MAX_PIXELS} pixels is most"
        )
    if images.dims[0] != labels.dims[0]:
        raise DataError(
            f"{shown(images.path)}: holds {images.dims[0]} images, and {labels.path.name} {labels.dims[0]} labels; "
            "they must be as many"
        )
    return IdxSplit(images, _read_labels(labels, n_classes))


def read_header(path: Path) -> IdxFile:
    """Check an IDX file's header against the size of the file.

    Raises:
        DataError: Not an IDX file of uint8, or of a size the file cannot have.
    """
    if path.exists() and not path.is_file():  # opening a pipe would wait for its other end
        raise DataError(f"{shown(path)}: is not a file")
    with _opened(path) as stream:
        size = path.stat().st_size
        if size == 0:
            raise DataError(f"{shown(path)}: is empty; fetch it again")
        magic = _read(stream, 4)
        if magic[:2] == _GZIP_MAGIC:
            raise DataError(f"{shown(path)}: is gzip-compressed; give it a name that ends in .gz")
        if len(magic) < 4:
            raise DataError(f"{shown(path)}: ends within its header; fetch it again")
        if magic[:2] != b"\0\0":
            raise DataError(
                f"{shown(path)}: is not an IDX file: it begins with {magic.hex(' ')}, not with 00 00; fetch it again"
            )
        if magic[2] != _UINT8:
            what = _OTHER_TYPES.get(magic[2], "of an unknown type")
            raise DataError(
                f"{shown(path)}: holds values that are {what} (code 0x{magic[2]:02x}); only uint8 (0x08) is read; "
                "store them as whole numbers from 0 to 255"
            )
        if magic[3] > 4:
            raise DataError(f"{shown(path)}: has {magic[3]} dimensions, and images have 3 or 4 and labels 1")
        sizes = _read(stream, 4 * magic[3])
        if len(sizes) < 4 * magic[3]:
            raise DataError(f"{shown(path)}: ends within its header; fetch it again")
    file = IdxFile(path, struct.unpack(f">{magic[3]}I", sizes))
    if 0 in file.dims or not file.dims:
        raise DataError(f"{shown(path)}: holds nothing ({_times(file.dims)} by its header); fetch it again")
    announced = file.header_bytes + math.prod(file.dims)
    if _is_gzip(path):
        if announced > size * _DEFLATE_RATIO:
            raise _ends_early(file, f"its {size} bytes cannot hold them, however compressed")
    elif size < announced:
        raise _ends_early(file, f"it has {size}")
    elif size > announced:
        raise _trailing(file)
    return file


def _times(dims: tuple[int, ...]) -> str:
    return "×".join(str(size) for size in dims) or "no dimension"


def _ends_early(file: IdxFile, instead: str) -> DataError:
    announced = file.header_bytes + math.prod(file.dims)
    return DataError(
        f"{shown(file.path)}: ends early: by its header ({_times(file.dims)}) it has {announced} bytes, and {instead}; "
        "fetch it again"
    )


def _trailing(file: IdxFile) -> DataError:
    return DataError(
        f"{shown(file.path)}: goes on after the {_times(file.dims)} values that its header announces; fetch it again"
    )


def _read_labels(file: IdxFile, n_classes: int) -> Labels:
    with _opened(file.path) as stream:
        _read(stream, file.header_bytes)
        values = np.frombuffer(_read(stream, file.dims[0]), dtype=np.uint8)
        if len(values) < file.dims[0]:
            raise _ends_early(file, f"it ends after {file.header_bytes + len(values)}")
        if stream.read(1):
            raise _trailing(file)
    if (highest := int(values.max())) >= n_classes:
        raise DataError(
            f"{shown(file.path)}: holds label {highest} (first at position {int(values.argmax())}), and params say "
            f"n_classes = {n_classes}, which means labels 0 to {n_classes - 1}; correct n_classes or the labels"
        )
    return values.astype(np.int64)


@dataclass(frozen=True)
class IdxSplit:
    """Images of one IDX file with their labels.

    Attributes:
        file: The images, of dimensions (n, height, width) or (n, height, width, channels).
        labels: int64 of shape (n,).
    """

    file: IdxFile
    labels: Labels

    def batches(
        self, shape: tuple[int, int, int], skip: Collection[int], background: Background = WHITE
    ) -> Iterator[Batch]:
        """Read the file from front to back; see :class:`SourceSplit`. No image is unreadable or transparent."""
        count, height, width, *rest = self.file.dims
        stored = (height, width, rest[0] if rest else 1)
        per_batch = max(1, BATCH_BYTES // max(math.prod(stored), math.prod(shape)))
        with _opened(self.file.path) as stream, ThreadPoolExecutor(DECODING_THREADS) as pool:
            _read(stream, self.file.header_bytes)
            for start in range(0, count, per_batch):
                wanted = min(per_batch, count - start)
                data = _read(stream, wanted * math.prod(stored))
                if len(data) < wanted * math.prod(stored):
                    complete = self.file.header_bytes + start * math.prod(stored) + len(data)
                    raise _ends_early(self.file, f"it ends after {complete}")
                images = np.frombuffer(data, dtype=np.uint8).reshape(wanted, *stored)
                if stored != shape:
                    images = np.stack(list(pool.map(lambda image: _brought_to(image, shape), images)))
                yield Batch(np.arange(start, start + wanted), images, {})
            # At the end of a compressed file this also compares its checksum.
            if stream.read(1):
                raise _trailing(self.file)


def _brought_to(image: Images, shape: tuple[int, int, int]) -> Images:
    return fitted(Image.fromarray(image[..., 0] if image.shape[2] == 1 else image), shape)


def _is_gzip(path: Path) -> bool:
    return path.suffix.lower() == ".gz"


@contextmanager
def _opened(path: Path) -> Iterator[_Readable]:
    """A plain or compressed file to read; what goes wrong with it becomes a :class:`DataError`."""
    try:
        with path.open("rb") as raw:
            if _is_gzip(path):
                with gzip.GzipFile(fileobj=raw) as stream:
                    yield stream
            else:
                yield raw
    except gzip.BadGzipFile as error:
        what = "is not gzip-compressed, though its name says so" if "Not a gzipped" in str(error) else "is damaged"
        raise DataError(f"{shown(path)}: {what} ({shown(error)}); fetch it again") from error
    except zlib.error as error:
        raise DataError(
            f"{shown(path)}: is damaged: its compressed data cannot be read ({error}); fetch it again"
        ) from error
    except EOFError as error:
        raise DataError(f"{shown(path)}: ends early, within its compressed data; fetch it again") from error
    except OSError as error:
        raise DataError(f"{shown(path)}: cannot be read: {error.strerror or error}") from error


def _read(stream: _Readable, count: int) -> bytearray:
    """Up to `count` bytes; memory grows with what is there, not with what was asked for."""
    data = bytearray()
    while len(data) < count and (piece := stream.read(min(_PIECE, count - len(data)))):
        data += piece
    return data
