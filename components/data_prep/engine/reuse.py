"""Images of an earlier dataset that need not be decoded again: their bytes, and all that is made of them, are the same.

Which bytes an image had is in the dataset's names. That a file was not changed since, so that it need not even be read,
is known by its stamp, a hash of what the file system says of it. Stamps are in a file beside the manifest, which is no
part of the dataset, with what would have to be made of the pixels again.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from components.data_prep.contents import Block, Encoded, Read
from components.data_prep.engine.assemble import Placed
from components.data_prep.engine.chunks import are_constant
from components.data_prep.engine.facts import Facts
from components.data_prep.engine.perceptual import Hashes, perceptual_hashes
from components.data_prep.engine.row_decoder import Placing
from components.data_prep.engine.stored_rows import Positions, StoredRows, copy_rows
from components.data_prep.layouts.source import Source, SourceSplit
from components.data_prep.trees.file_tree import Stamps
from components.shared.artifacts.dataset import DATASET, DatasetManifest, Images, SplitName, open_dataset
from components.shared.artifacts.dataset_writer import DatasetWriter
from components.shared.artifacts.names import ImageName
from components.shared.decoding.content import DIGEST_BYTES, FilePart, UnreadableImageError, digest_of, read_content
from components.shared.decoding.pixels import NOTES
from components.shared.decoding.rendering import Rendering
from components.shared.decoding.version import decoder_version
from components.shared.errors import ArtifactError, DataError
from components.shared.files import write_atomically
from components.shared.logs import step_logger
from components.shared.pixel_sums import Sums
from components.shared.text import shown

STAMPS_FILE = ".stamps"
_SHA256_BYTES = 32
_UNKNOWN = "00" * DIGEST_BYTES  # is the digest of nothing
_MOST_READ = 16 * 1024**2  # what is larger is decoded again

_log = step_logger("data-prep")


@dataclass(frozen=True)
class Beside:
    """What is known of the n images of a dataset that it does not say, in stored order.

    Attributes:
        stamps: Those of their files, uint64 of shape (n,); 0: not known.
        hashes: What they look like, uint64 of shape (n,).
        sums: Those of the training images.
    """

    stamps: Stamps
    hashes: Hashes
    sums: Sums

    @classmethod
    def read(cls, path: Path, count: int, channels: int) -> Self | None:
        """Of so many images of a dataset; None: there is none, or it is of another."""
        with suppress(OSError):
            if not (file := path / STAMPS_FILE).is_symlink():
                data = file.read_bytes()
                values = np.frombuffer(data[_SHA256_BYTES : len(data) // 8 * 8], "<u8")
                if len(values) == 2 * count + 3 * channels and data[:_SHA256_BYTES] == _digest(path, values):
                    stamps, hashes, sums = np.split(values, [count, 2 * count])
                    return cls(stamps, hashes, sums.astype(np.int64).reshape(channels, 3))
        return None

    def write(self, path: Path) -> None:
        """Write it beside a dataset; nothing, where that cannot be."""
        values = np.concatenate([self.stamps, self.hashes, self.sums.astype(np.uint64).ravel()]).astype("<u8")
        with suppress(OSError):
            write_atomically(path / STAMPS_FILE, _digest(path, values) + values.tobytes())


def _digest(path: Path, values: Stamps) -> bytes:
    """What values beside a dataset begin with: SHA-256 of its manifest and of them."""
    return hashlib.sha256((path / DATASET.manifest_file).read_bytes() + values.tobytes()).digest()


class Earlier:
    """The n images of an earlier dataset, those of all splits one after another.

    Args:
        rows: Their pixels.
        names: What the dataset says of each.
        training: bool of shape (n,): which are training images.
        beside: What is known of them beside the dataset; None: nothing.
    """

    def __init__(
        self, rows: StoredRows, names: Iterable[ImageName], training: npt.NDArray[np.bool_], beside: Beside | None
    ) -> None:
        self.rows, self.beside, self._training = rows, beside, training
        facts = self._facts = Facts.of(len(rows))
        digests, sizes, kinds = bytearray(), array("i"), array("H")
        for row, name in enumerate(names):
            digests += bytes.fromhex(name.digest or _UNKNOWN)
            sizes.extend((name.width, name.height))
            kinds.append(facts.kind(name.kind))
            if name.notes:
                facts.notes[row] = [note for note in name.notes if note in NOTES]
        facts.digests[...] = np.frombuffer(digests, np.uint8).reshape(facts.digests.shape)
        facts.sizes[...] = np.frombuffer(sizes, np.int32).reshape(facts.sizes.shape)
        facts.kinds[...] = np.frombuffer(kinds, np.uint16)
        if beside:
            facts.hashes[...] = beside.hashes
            self._by_stamp = np.argsort(beside.stamps, kind="stable")
        self._starts = np.ascontiguousarray(facts.digests[:, :8]).view("<u8")[:, 0]
        self._by_digest = np.argsort(self._starts, kind="stable")

    @property
    def is_known(self) -> bool:
        """Whether it is said of every image which bytes it had."""
        return bool(self._facts.digests.any(axis=1).all())

    def row_of(self, data: bytes) -> int:
        """The row of an image by its encoded bytes; -1: there is none."""
        digest = digest_of(data)
        start = np.frombuffer(digest, "<u8", 1)
        at = int(np.searchsorted(self._starts, start, sorter=self._by_digest)[0])
        stop = int(np.searchsorted(self._starts, start, "right", self._by_digest)[0])
        rows = self._by_digest[at:stop].tolist()
        return next((row for row in rows if self._facts.digests[row].tobytes() == digest), -1)

    def unchanged(self, stamps: Stamps) -> Positions:
        """The row of each file that is as it was, by its stamp; -1: it is not, or that is not known."""
        if self.beside is None:
            return np.full(len(stamps), -1, dtype=np.int64)
        known = self.beside.stamps
        at = np.searchsorted(known, stamps, sorter=self._by_stamp)
        rows = self._by_stamp[np.minimum(at, len(known) - 1)]
        return np.where((stamps != 0) & (known[rows] == stamps), rows, -1)

    def describe(self, rows: Positions, positions: Positions, facts: Facts) -> None:
        """Fill in at some positions what is known of rows, but for what the pixels alone tell."""
        known = self._facts
        facts.digests[positions], facts.sizes[positions] = known.digests[rows], known.sizes[rows]
        facts.hashes[positions] = known.hashes[rows]
        kinds = {kind: facts.kind(known.kind_names[kind]) for kind in np.unique(known.kinds[rows]).tolist()}
        facts.kinds[positions] = [kinds[kind] for kind in known.kinds[rows].tolist()]
        noted = np.isin(rows, list(known.notes)) if known.notes else np.zeros(len(rows), dtype=np.bool_)
        for row, position in zip(rows[noted].tolist(), positions[noted].tolist(), strict=True):
            facts.notes[position] = known.notes[row]

    def sums(self, rows: Positions) -> Sums:
        """Those of the images at some rows, from what is known of the training images and the pixels of the others."""
        if self.beside is None:
            return self.rows.sums(rows)
        times = np.bincount(rows, minlength=len(self.rows)) - self._training
        more, less = (np.repeat(np.arange(len(times)), np.maximum(each, 0)) for each in (times, -times))
        return self.beside.sums + self.rows.sums(more) - self.rows.sums(less)


def open_earlier(path: Path, rendering: Rendering) -> Earlier | None:
    """An earlier dataset of which images can be used again; None, with the reason logged: there is none.

    Every file is verified. Files may be removed once it is open.
    """
    if not (path / DATASET.manifest_file).exists():
        return None
    try:
        dataset = open_dataset(path)
        if why := _why_not(dataset.manifest, rendering):
            _log.info("%s: no image of it is used again: %s", shown(path), why)
            return None
        rows = StoredRows([shard for split in dataset.splits.values() for shard in split.shards])
        training = np.concatenate([np.full(len(of), name == "train") for name, of in dataset.splits.items()])
        beside = Beside.read(path, len(rows), rendering.shape[2])
        names = chain.from_iterable(split.names() or () for split in dataset.splits.values())
        if (earlier := Earlier(rows, names, training, beside)).is_known:
            return earlier
        _log.info("%s: no image of it is used again: it does not say which bytes each had", shown(path))
    except ArtifactError as error:
        _log.warning("no image of the earlier dataset is used again: %s", error)
    return None


def _why_not(manifest: DatasetManifest, rendering: Rendering) -> str:
    """Why an image of a dataset is not what would be made of it now; empty: it is."""
    if (there := manifest.image.as_tuple()) != rendering.shape:
        sizes = [f"{height}×{width} with {channels} channel(s)" for height, width, channels in (there, rendering.shape)]
        return f"its images have {sizes[0]}, and {sizes[1]} are asked for"
    if manifest.decoder is None:
        return f"{manifest.created_by} did not record what decoded it"
    for what, was, now in (
        ("image_fit", manifest.image_fit, rendering.fit),
        ("image_interpolation", manifest.image_interpolation, rendering.interpolation),
        ("alpha_background", tuple(manifest.alpha_background or ()), rendering.background),
        ("what decoded it", manifest.decoder, decoder_version()),
    ):
        if was != now:
            return f"{what} was {was}, and is {now} now"
    return ""


class Reuse:
    """Takes from an earlier dataset what can be used again, and knows the files of the images for the next time.

    Args:
        earlier: The earlier dataset; None: there is none.
        source: What is read; its files are looked at now, before any is read.
    """

    def __init__(self, earlier: Earlier | None, source: Source) -> None:
        self._earlier = earlier
        self._rows: dict[SplitName, Positions] = {}  # by position of a split; -1: none
        self._unread = 0
        self.stamps = {
            name: split.stamps() if split.stamps else np.zeros(len(split.labels), dtype=np.uint64)
            for name, split in source.splits.items()
        }

    def keep(
        self, path: Path, placed: Mapping[SplitName, Placed], facts: Mapping[SplitName, Facts], sums: Sums
    ) -> None:
        """Write beside a dataset, whose splits come in this order, what the next run is to know of its images."""
        of_all = [(self.stamps[each.source], facts[each.source].hashes, each.positions) for each in placed.values()]
        stamps = np.concatenate([stamps[at] for stamps, _, at in of_all])
        Beside(stamps, np.concatenate([hashes[at] for _, hashes, at in of_all]), sums).write(path)

    def reduced(self, name: SplitName, split: SourceSplit, placing: Placing) -> SourceSplit:
        """A split that hands out the images to be decoded; those that are unchanged are not placed any more."""
        if self._earlier is None:
            return split
        rows = self._rows[name] = np.where(placing.files >= 0, self._earlier.unchanged(self.stamps[name]), -1)
        placing.files[rows >= 0] = -1
        self._unread += int(np.count_nonzero(rows >= 0))
        return replace(split, read=partial(_unknown, self._earlier, split.read, rows))

    def copy(
        self,
        placed: Mapping[SplitName, Placed],
        writer: DatasetWriter,
        facts: Mapping[SplitName, Facts],
        advance: Callable[[int], None],
    ) -> None:
        """Copy the rows of what is used again to their places, fill in what is known of it, and log how much it is."""
        if (earlier := self._earlier) is None:
            return
        for target, of_split in placed.items():
            every, of_source = self._rows[of_split.source][of_split.positions], facts[of_split.source]
            chosen = every >= 0
            positions, rows = of_split.positions[chosen], every[chosen]
            earlier.describe(rows, positions, of_source)

            def see(at: slice, images: Images, positions: Positions = positions, of_source: Facts = of_source) -> None:
                here = positions[at]
                if not earlier.beside:
                    of_source.hashes[here] = perceptual_hashes(images)
                unsure = of_source.hashes[here] == 0  # those of one colour, and a few others
                of_source.constant[here[unsure]] = are_constant(images[unsure])

            files = writer.rows(target)
            copy_rows(earlier.rows, rows, files, np.flatnonzero(chosen), writer.digests, advance, seen=see)
            if target == "train":
                writer.sums += earlier.sums(rows)
        count = sum(int(np.count_nonzero(rows >= 0)) for rows in self._rows.values())
        total = sum(len(of.positions) for of in placed.values())
        _log.info("%d of %d images are used again, %d of them without being read", count, total, self._unread)


def _unknown(earlier: Earlier, read: Read, rows: Positions, wanted: Collection[int]) -> Iterator[Encoded | Block]:
    """What is read and not known; what is, is noted by its position."""
    for each in read(wanted):
        if isinstance(each, Block) or each.problem:
            yield each
            continue
        data = each.content if isinstance(each.content, bytes) else _read(each.content)
        row = -1 if data is None else earlier.row_of(data)
        if row < 0:
            yield each if data is None else replace(each, content=data)
            continue
        rows[each.position] = row
        if each.release:
            each.release()


def _read(content: FilePart) -> bytes | None:
    """The bytes; None: they are many, or cannot be read, which is found out again where they are decoded."""
    with suppress(UnreadableImageError, DataError):
        data = read_content(content, _MOST_READ)
        return data if isinstance(data, bytes) else None
    return None
