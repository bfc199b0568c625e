"""One of several parts of data prep: the images of its share decoded, for the step that joins the parts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from components.data_prep.engine.facts import Facts
from components.data_prep.engine.row_decoder import Placing, RowDecoder
from components.data_prep.layouts.layout import open_source
from components.data_prep.layouts.source import Source, SourceSplit
from components.data_prep.prepare import ImageProgress, check_source
from components.data_prep.trees.bucket_tree import Fetch
from components.shared.artifacts.artifact import ArtifactWriter, FileRecord, ImageShape
from components.shared.artifacts.dataset import SplitName
from components.shared.artifacts.dataset_part import DATASET_PART, PartManifest, PartSplit, RenderingRecord
from components.shared.artifacts.row_files import RowFiles
from components.shared.decoding.content import DIGEST_BYTES
from components.shared.decoding.rendering import Rendering
from components.shared.decoding.version import decoder_version
from components.shared.errors import ArtifactError
from components.shared.events.data import Emit, Succeeded, ignore_events
from components.shared.files import naming, writing
from components.shared.logs import step_logger
from components.shared.params.params import Params
from components.shared.storage.location import AnyPath, overlap_problem
from components.shared.version import __version__

# Facts of a position, as facts.npy has them.
FACTS = np.dtype(
    [
        ("label", "<i8"),
        ("size", "<i4", 2),
        ("digest", "u1", DIGEST_BYTES),
        ("kind", "<u2"),
        ("hash", "<u8"),
        ("constant", "?"),
    ]
)

_log = step_logger("data-prep")


@dataclass(frozen=True)
class PartResult:
    """What a part of data prep made: a part directory, and its manifest."""

    part: Path
    manifest: PartManifest
    unreadable: int

    def report(self) -> dict[str, Any]:
        """The result as JSON data."""
        counts = {name: split.count for name, split in self.manifest.splits.items()}
        place = {"shard": self.manifest.shard, "shards": self.manifest.shards}
        return {"part": str(self.part), **place, "counts": counts, "unreadable": self.unreadable}

    def event(self, seconds: float) -> Succeeded:
        """The result as the step's last status event."""
        metrics: dict[str, float | None] = {
            f"{name}_images": float(split.count) for name, split in self.manifest.splits.items()
        }
        left_out = {"unreadable images": self.unreadable} if self.unreadable else {}
        return Succeeded(seconds=seconds, metrics=metrics, artifacts={"part": str(self.part)}, left_out=left_out)


def prepare_part(
    *,
    data: AnyPath,
    part: Path,
    shard: tuple[int, int],
    params: Params,
    emit: Emit = ignore_events,
    layout: str | None = None,
    follow_links: bool = False,
    fetch: Fetch | None = None,
) -> PartResult:
    """Decode one of several shares of the images, and write it as a part directory.

    A share has, of every split, images that follow each other: sources that are read from their beginning are read no
    further than it goes. Whether too many images are unreadable is decided where the parts are joined.

    Args:
        data: As for :func:`~components.data_prep.prepare.prepare`; all of it is listed.
        part: Directory to write: new, empty, or an earlier part, which is replaced.
        shard: Which share, from 0, and how many there are.
        params: As for :func:`~components.data_prep.prepare.prepare`.
        emit: Gets the status of the step.
        layout: The layout that the data have; None: as ``data_layout`` says.
        follow_links: Whether links may lead out of the data folder.
        fetch: As for :func:`~components.data_prep.prepare.prepare`.

    Raises:
        DataError, ArtifactError, ParamsError: As of :func:`~components.data_prep.prepare.prepare`.
    """
    if problem := overlap_problem(data, part):
        raise ArtifactError(problem)
    layout = layout or params.data_layout
    with open_source(data, params.n_classes, layout=layout, follow_links=follow_links, fetch=fetch) as source:
        check_source(source, params)
        with ArtifactWriter(part, DATASET_PART) as writer:
            return _Part(source, shard, params, emit).write(writer)


class _Part:
    def __init__(self, source: Source, shard: tuple[int, int], params: Params, emit: Emit) -> None:
        self._source, self._shard, self._params = source, shard, params
        self._rendering = Rendering.of(params)
        self._shares = {name: share_of(len(split.labels), *shard) for name, split in source.splits.items()}
        self._progress = ImageProgress(sum(map(len, self._shares.values())), emit)
        self._unreadable = 0

    def write(self, writer: ArtifactWriter) -> PartResult:
        source, (shard, shards) = self._source, self._shard
        _log.info("part %d/%d: %d of %d images", shard, shards, self._progress.total, source.count)
        with RowDecoder(self._rendering, self._progress.advance) as decoder:
            splits = {name: self._split(writer, name, split, decoder) for name, split in source.splits.items()}
        source.tree.check_unchanged()
        self._progress.end()
        height, width, channels = self._rendering.shape
        manifest = PartManifest(
            created_by=f"shutterline {__version__}",
            shard=shard,
            shards=shards,
            data=source.where,
            listing=listing_digest(source),
            source=source.name,
            classes=list(source.classes),
            left_out=source.left_out,
            image=ImageShape.model_validate({"height": height, "width": width, "channels": channels}),
            rendering=record_of(self._rendering),
            splits=splits,
        )
        writer.commit(manifest)
        return PartResult(writer.path, manifest, self._unreadable)

    def _split(self, writer: ArtifactWriter, name: SplitName, split: SourceSplit, decoder: RowDecoder) -> PartSplit:
        share, facts = self._shares[name], Facts.of(len(split.labels))
        rows = RowFiles(lambda number: writer.new_file(f"{name}/images-{number:05d}.npy"), self._rendering.shape)
        positions = np.arange(share.start, share.stop)
        placing = Placing.of(len(split.labels))
        placing.put(positions, rows, counted=False)
        known = [position for position in split.unreadable if position in share]
        placing.files[known] = -1  # their rows stay empty
        decoder.decode(split, placing, facts, np.zeros((self._rendering.shape[2], 3), dtype=np.int64))
        self._unreadable += len(known) + len(facts.unreadable)
        facts.sort_kinds()
        return PartSplit(
            folder=split.folder,
            total=len(split.labels),
            start=share.start,
            count=len(share),
            kinds=facts.kind_names,
            images=rows.finish(len(share), writer.record) if share else [],
            facts=self._write_facts(writer, name, split.labels[positions], facts, positions),
            names=self._write_names(writer, name, split, facts, share),
        )

    def _write_facts(
        self, writer: ArtifactWriter, name: SplitName, labels: Any, facts: Facts, positions: npt.NDArray[np.int64]
    ) -> FileRecord:
        table = np.zeros(len(positions), dtype=FACTS)
        table["label"] = labels
        table["size"], table["digest"] = facts.sizes[positions], facts.digests[positions]
        table["kind"], table["hash"] = facts.kinds[positions], facts.hashes[positions]
        table["constant"] = facts.constant[positions]
        file = writer.new_file(f"{name}/facts.npy")
        with writing(file) as output:
            np.save(output, table, allow_pickle=False)
        return writer.record(file)

    def _write_names(
        self, writer: ArtifactWriter, name: SplitName, split: SourceSplit, facts: Facts, share: range
    ) -> FileRecord:
        file = writer.new_file(f"{name}/names.jsonl")
        with naming(file), file.open("wb") as output:
            output.writelines(_lines(split, facts, share))
        return writer.record(file)


def _lines(split: SourceSplit, facts: Facts, share: range) -> Iterator[bytes]:
    for position in share:
        more: dict[str, Any] = {}
        if notes := facts.notes.get(position):
            more["notes"] = notes
        if (image := split.unreadable.get(position) or facts.unreadable.get(position)) is not None:
            more = {"unreadable": image.model_dump(), "known": position in split.unreadable}
        # As ASCII, in which names of any bytes are written.
        yield json.dumps([split.names[position], *([more] if more else [])]).encode() + b"\n"


def record_of(rendering: Rendering) -> RenderingRecord:
    """What a part's manifest records of how images are rendered here."""
    return RenderingRecord(
        background="#{:02x}{:02x}{:02x}".format(*rendering.background),
        fit=rendering.fit,
        interpolation=rendering.interpolation,
        decoder=decoder_version(),
    )


def share_of(count: int, shard: int, shards: int) -> range:
    """The positions of one of so many shares of equal size, give or take one, in order."""
    return range(count * shard // shards, count * (shard + 1) // shards)


def listing_digest(source: Source) -> str:
    """What the parts of a dataset must have in common: all that was listed, where it is aside."""
    digest = hashlib.blake2b(digest_size=16)
    splits = {name: [split.folder, len(split.labels)] for name, split in source.splits.items()}
    listed = [source.name, source.classes, splits, source.left_out.model_dump()]
    digest.update(json.dumps(listed, sort_keys=True).encode())
    for split in source.splits.values():
        digest.update(split.labels.astype("<i8").tobytes())
        for name in split.names:
            text = name.encode("utf-8", "surrogatepass")
            digest.update(len(text).to_bytes(4, "little") + text)
        known = {position: image.model_dump() for position, image in sorted(split.unreadable.items())}
        digest.update(json.dumps(known).encode())
    return digest.hexdigest()
