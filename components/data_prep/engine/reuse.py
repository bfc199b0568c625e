"""Images of an earlier dataset that need not be decoded again: their bytes, and all that is made of them, are the same.

Which bytes an image had is in the dataset's names. That a file was not changed since, so that it need not even be read,
is known by its stamp, a hash of what the file system says of it: a file beside the manifest, which is no part of the
dataset, has that of each image, in stored order behind the SHA-256 of the manifest.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np

from components.data_prep.contents import Block, Encoded, Read
from components.data_prep.engine.assemble import Placed
from components.data_prep.engine.chunks import are_constant
from components.data_prep.engine.facts import Facts
from components.data_prep.engine.perceptual import perceptual_hashes
from components.data_prep.engine.row_decoder import Placing
from components.data_prep.engine.stored_rows import Positions, StoredRows, copy_rows
from components.data_prep.layouts.source import Source, SourceSplit
from components.data_prep.trees.file_tree import Stamps
from components.shared.artifacts.dataset import DATASET, DatasetManifest, Images, SplitName, open_dataset
from components.shared.artifacts.dataset_writer import DatasetWriter
from components.shared.artifacts.names import LONGEST_NAME, ImageName
from components.shared.decoding.content import DIGEST_BYTES, FilePart, UnreadableImageError, digest_of, read_content
from components.shared.decoding.pixels import NOTES, Note
from components.shared.decoding.rendering import Rendering
from components.shared.decoding.version import decoder_version
from components.shared.errors import ArtifactError, DataError
from components.shared.files import sha256_of, write_atomically
from components.shared.logs import step_logger
from components.shared.text import shown

STAMPS_FILE = ".stamps"
_SHA256_BYTES = 32
_MOST_READ = 16 * 1024**2  # what is larger is decoded again

_log = step_logger("data-prep")


class Earlier:
    """The images of an earlier dataset, those of all splits one after another.

    Args:
        rows: Their pixels.
        names: What the dataset says of each.
        stamps: Those of their files, uint64 of shape (n,); 0: not known.
    """

    def __init__(self, rows: StoredRows, names: list[ImageName], stamps: Stamps) -> None:
        self.rows = rows
        self._names, self._stamps = names, stamps
        self._by_name = {name.file: row for row, name in enumerate(names)}
        if len(self._by_name) < len(names):  # two that look the same when they are printed
            self._by_name.clear()
        digests = np.frombuffer(bytes.fromhex("".join(name.digest for name in names)), np.uint8)
        self._digests = digests.reshape(-1, DIGEST_BYTES)
        starts = np.ascontiguousarray(self._digests[:, :8]).view("<u8")[:, 0]
        self._order = np.argsort(starts, kind="stable")
        self._starts = starts[self._order]

    def __len__(self) -> int:
        return len(self._names)

    def row_of(self, data: bytes) -> int:
        """The row of an image by its encoded bytes; -1: there is none."""
        digest = digest_of(data)
        start = np.frombuffer(digest, "<u8", 1)
        first, last = (int(np.searchsorted(self._starts, start, side)[0]) for side in ("left", "right"))
        rows = self._order[first:last].tolist()
        return next((row for row in rows if self._digests[row].tobytes() == digest), -1)

    def unchanged(self, names: Sequence[str], stamps: Stamps, wanted: Positions) -> tuple[Positions, Positions]:
        """Of wanted positions those whose files are as they were, and the row of each."""
        stamped = wanted[stamps[wanted] != 0].tolist() if self._by_name else []
        rows = np.array([self._by_name.get(shown(names[each], LONGEST_NAME), -1) for each in stamped], dtype=np.int64)
        positions = np.array(stamped, dtype=np.int64)
        same = (rows >= 0) & (self._stamps[rows] == stamps[positions])
        return positions[same], rows[same]

    def describe(self, rows: Positions, positions: Positions, facts: Facts) -> None:
        """Fill in at some positions what is known of rows, but for what follows from the pixels."""
        facts.digests[positions] = self._digests[rows]
        for row, position in zip(rows.tolist(), positions.tolist(), strict=True):
            name = self._names[row]
            facts.sizes[position] = name.width, name.height
            facts.kinds[position] = facts.kind(name.kind)
            if name.notes:
                facts.notes[position] = [cast("Note", note) for note in name.notes if note in NOTES]


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
        splits = dataset.splits.values()
        names = [name for split in splits for name in split.names() or ()]
        if not names or not all(name.digest for name in names):
            _log.info("%s: no image of it is used again: it does not say which bytes each had", shown(path))
            return None
    except ArtifactError as error:
        _log.warning("no image of the earlier dataset is used again: %s", error)
        return None
    return Earlier(StoredRows([shard for of in splits for shard in of.shards]), names, _read_stamps(path, len(names)))


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


def _read_stamps(path: Path, count: int) -> Stamps:
    with suppress(OSError):
        if not (file := path / STAMPS_FILE).is_symlink():
            data = file.read_bytes()
            digest = bytes.fromhex(sha256_of(path / DATASET.manifest_file))
            if data[:_SHA256_BYTES] == digest and len(data) == _SHA256_BYTES + 8 * count:
                return np.frombuffer(data, "<u8", offset=_SHA256_BYTES)
    return np.zeros(count, dtype=np.uint64)


def write_stamps(
    path: Path, manifest: DatasetManifest, placed: Mapping[SplitName, Placed], stamps: Mapping[SplitName, Stamps]
) -> None:
    """Write the stamps of the files of a dataset's images beside it; nothing, where that cannot be."""
    ordered = [stamps[placed[name].source][placed[name].positions].astype("<u8").tobytes() for name in manifest.splits]
    with suppress(OSError):
        digest = bytes.fromhex(sha256_of(path / DATASET.manifest_file))
        write_atomically(path / STAMPS_FILE, b"".join([digest, *ordered]))


class Reuse:
    """Takes from an earlier dataset what can be used again, and knows the files of the images for the next time.

    Args:
        earlier: The earlier dataset; None: there is none.
        source: What is read; its files are looked at now, before any is read.
    """

    def __init__(self, earlier: Earlier | None, source: Source) -> None:
        self._earlier = earlier
        self._rows: dict[SplitName, dict[int, int]] = {}  # by position of a split
        self._unread = 0
        self.stamps = {
            name: split.stamps() if split.stamps else np.zeros(len(split.labels), dtype=np.uint64)
            for name, split in source.splits.items()
        }

    def reduced(self, name: SplitName, split: SourceSplit, placing: Placing) -> SourceSplit:
        """A split that hands out the images to be decoded; those that are unchanged are not placed any more."""
        if self._earlier is None:
            return split
        positions, rows = self._earlier.unchanged(
            split.names, self.stamps[name], np.flatnonzero(placing.files >= 0).astype(np.int64)
        )
        placing.files[positions] = -1
        self._unread += len(positions)
        found = self._rows[name] = dict(zip(positions.tolist(), rows.tolist(), strict=True))
        return replace(split, read=partial(_unknown, self._earlier, split.read, found))

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
            rows_of, of_source = self._rows.get(of_split.source, {}), facts[of_split.source]
            chosen = np.array([position in rows_of for position in of_split.positions.tolist()], dtype=np.bool_)
            positions = of_split.positions[chosen]
            rows = np.array([rows_of[position] for position in positions.tolist()], dtype=np.int64)
            earlier.describe(rows, positions, of_source)

            def see(at: slice, images: Images, positions: Positions = positions, of_source: Facts = of_source) -> None:
                of_source.hashes[positions[at]] = perceptual_hashes(images)
                of_source.constant[positions[at]] = are_constant(images)

            files, sums = writer.rows(target), writer.sums if target == "train" else None
            copy_rows(earlier.rows, rows, files, np.flatnonzero(chosen), writer.digests, advance, sums, see)
        count, total = sum(map(len, self._rows.values())), sum(len(of.positions) for of in placed.values())
        _log.info("%d of %d images are used again, %d of them without being read", count, total, self._unread)


def _unknown(earlier: Earlier, read: Read, found: dict[int, int], wanted: Collection[int]) -> Iterator[Encoded | Block]:
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
        found[each.position] = row
        if each.release:
            each.release()


def _read(content: FilePart) -> bytes | None:
    """The bytes; None: they are many, or cannot be read, which is found out again where they are decoded."""
    with suppress(UnreadableImageError, DataError):
        data = read_content(content, _MOST_READ)
        return data if isinstance(data, bytes) else None
    return None
