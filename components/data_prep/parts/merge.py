"""Parts of data prep joined: the dataset that a single run makes, byte for byte."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Never

import numpy as np
import numpy.typing as npt

from components.data_prep.engine.assemble import Placed
from components.data_prep.engine.facts import Facts
from components.data_prep.engine.stored_rows import StoredRows, copy_rows
from components.data_prep.layouts.source import Source, SourceSplit, training_classes
from components.data_prep.parts.part import FACTS, listing_digest, record_of, share_of
from components.data_prep.prepare import Preparation, PrepareResult, prepared
from components.data_prep.trees.file_tree import FileTree
from components.data_prep.trees.folder_tree import Folder
from components.shared.artifacts.artifact import manifest_digest, open_artifact
from components.shared.artifacts.dataset import SplitName, UnreadableImage
from components.shared.artifacts.dataset_part import DATASET_PART, PartManifest
from components.shared.artifacts.dataset_writer import DatasetWriter
from components.shared.decoding.pixels import NOTES
from components.shared.decoding.rendering import Rendering
from components.shared.errors import ArtifactError
from components.shared.events.data import Emit, ignore_events
from components.shared.logs import step_logger
from components.shared.params.params import Params
from components.shared.storage.location import overlap_problem
from components.shared.strict_json import parse_json
from components.shared.text import shortened
from components.shared.version import __version__

_log = step_logger("data-prep")


@dataclass(frozen=True)
class Part:
    """An opened part, every file of which is verified."""

    path: Path
    files: Path  # the directory of its files
    manifest: PartManifest


def merge_parts(
    *,
    parts: Sequence[Path],
    dataset: Path,
    params: Params,
    emit: Emit = ignore_events,
    digests: Collection[str] = (),
) -> PrepareResult:
    """Join the parts of a dataset: all that :func:`~components.data_prep.parts.part.prepare_part` made of one source.

    Args:
        parts: Their directories, in any order.
        dataset: Directory to write: new, empty, or an earlier dataset, which is replaced.
        params: As for the parts.
        emit: Gets the status of the step.
        digests: The SHA-256 that those who made the parts reported of them; none: they did not.

    Raises:
        ArtifactError: A part is missing, damaged, there twice, or of other data, params or of another version; or the
            dataset directory cannot be written.
        DataError, ParamsError: As of :func:`~components.data_prep.prepare.prepare`.
    """
    for part in parts:
        if problem := overlap_problem(part, dataset, "the part"):
            raise ArtifactError(problem)
    opened = [_opened(part) for part in parts]
    if digests and sorted(digests) != sorted(manifest_digest(part.files, DATASET_PART) for part in opened):
        raise ArtifactError(
            "the parts that arrived are not those that were made: something else was stored in the place of one; make "
            "all of them again, without cache"
        )
    opened = _in_order(opened)
    first = opened[0].manifest
    _check_params(opened, params)
    source, facts = _source(opened)
    training_classes(source.where, source.classes, params.n_classes)
    _log.info("joining %d part(s) of %s", len(opened), source.where)
    rows = {name: StoredRows([shard for part in opened for shard in _shards(part, name)]) for name in first.splits}
    return prepared(_Merging(source, dataset, params, emit, facts, rows, first.rendering.decoder))


def _opened(path: Path) -> Part:
    files, manifest = open_artifact(path, DATASET_PART)
    return Part(path, files, manifest)


def _in_order(parts: Sequence[Part]) -> list[Part]:
    """All parts by their number; an error unless each is there once and all are of the same data."""
    if not parts:
        raise ArtifactError("there is no part to join")
    first = parts[0]
    for part in parts[1:]:
        here, there = first.manifest, part.manifest
        both = f"{first.path} and {part.path}"
        if here.shards != there.shards:
            raise ArtifactError(
                f"{both}: the one is of {here.shards} parts, the other of {there.shards}; name those of one run"
            )
        if here.created_by != there.created_by or here.rendering.decoder != there.rendering.decoder:
            made = [f"{of.created_by} with {of.rendering.decoder}" for of in (here, there)]
            raise ArtifactError(f"{both}: were made by {made[0]}, and by {made[1]}; make all by the same version")
        if what := _difference(here, there):
            raise ArtifactError(f"{both}: are of other data: their {what}; make the older one again")
        if (here.rendering, here.image) != (there.rendering, there.image):
            raise ArtifactError(f"{both}: were made with other params; make all with the same")
    by_number: dict[int, Part] = {}
    for part in parts:
        other = by_number.setdefault(part.manifest.shard, part)
        if other is not part:
            raise ArtifactError(f"{other.path} and {part.path}: are both part {part.manifest.shard}; name each once")
    shards = first.manifest.shards
    if missing := [number for number in range(shards) if number not in by_number]:
        raise ArtifactError(
            f"of {shards} parts {len(missing)} are missing: {shortened(', '.join(map(str, missing)), 60)} (the first "
            f"is 0); make each by --shard {missing[0]}/{shards} and the like, and name all"
        )
    return [part for _, part in sorted(by_number.items())]


def _difference(here: PartManifest, there: PartManifest) -> str:
    """In what two parts are of other data; empty: in nothing."""
    if here.listing == there.listing:
        return ""
    if here.source != there.source:
        return f"layouts are {here.source} and {there.source}"
    if here.classes != there.classes:
        return f"classes differ, {len(here.classes)} and {len(there.classes)}"
    counts = [{name: split.total for name, split in of.splits.items()} for of in (here, there)]
    if counts[0] != counts[1]:
        counted = [" and ".join(f"{count} {name}" for name, count in of.items()) for of in counts]
        return f"images are {counted[0]}, and {counted[1]}"
    return "names or labels of images, or files that are left out, differ"


def _check_params(parts: Sequence[Part], params: Params) -> None:
    manifest, rendering = parts[0].manifest, Rendering.of(params)
    where = str(parts[0].path)
    if (found := manifest.image.as_tuple()) != rendering.shape:
        sizes = [f"{height}×{width} with {channels} channel(s)" for height, width, channels in (found, rendering.shape)]
        raise ArtifactError(f"{where}: has images of {sizes[0]}, and params say {sizes[1]}; make the parts with these")
    wanted = record_of(rendering)
    for key in ("background", "fit", "interpolation"):
        if (there := getattr(manifest.rendering, key)) != (here := getattr(wanted, key)):
            raise ArtifactError(f"{where}: was made with {key} {there}, and params say {here}; make the parts with it")
    if manifest.created_by != (own := f"shutterline {__version__}"):
        raise ArtifactError(f"{where}: was made by {manifest.created_by}, and this is {own}; make the parts with it")


def _shards(part: Part, name: SplitName) -> Iterator[npt.NDArray[np.uint8]]:
    for record in part.manifest.splits[name].images:
        rows = _array(part, record.file)
        if rows.dtype != np.uint8 or rows.shape != (record.count, *part.manifest.image.as_tuple()):
            raise _damaged(part, record.file, f"holds {rows.dtype} of shape {rows.shape}")
        yield rows


def _source(parts: Sequence[Part]) -> tuple[Source, dict[SplitName, Facts]]:
    """What the parts list together, and the facts of all images."""
    first = parts[0].manifest
    splits: dict[SplitName, SourceSplit] = {}
    facts: dict[SplitName, Facts] = {}
    for name, split in first.splits.items():
        labels, names = np.zeros(split.total, dtype=np.int64), []
        of_split = Facts.of(split.total)
        known: dict[int, UnreadableImage] = {}
        for part in parts:
            of_part = part.manifest.splits[name]
            share = share_of(split.total, part.manifest.shard, part.manifest.shards)
            if (of_part.start, of_part.count) != (share.start, len(share)):
                raise _damaged(part, DATASET_PART.manifest_file, "has another share than it says")
            table = _facts(part, name, len(share))
            at = slice(share.start, share.stop)
            labels[at] = table["label"]
            of_split.sizes[at], of_split.digests[at] = table["size"], table["digest"]
            of_split.hashes[at], of_split.constant[at] = table["hash"], table["constant"]
            kinds = np.array([of_split.kind(kind) for kind in of_part.kinds] or [0], dtype=np.uint16)
            of_split.kinds[at] = kinds[table["kind"]]
            for position, (file, more) in zip(share, _names(part, of_part.names.file, len(share)), strict=True):
                names.append(file)
                if more is None:
                    continue
                if more["notes"]:
                    of_split.notes[position] = [note for note in more["notes"] if note in NOTES]
                if (image := more["unreadable"]) is not None:
                    of_split.unreadable[position] = image
                    known |= {position: image} if more["known"] else {}
        splits[name] = SourceSplit(split.folder, labels, names, _unread, known)
        facts[name] = of_split
    source = Source(_Gone(first.data), first.source, tuple(first.classes), splits, first.left_out)
    if listing_digest(source) != first.listing:
        raise ArtifactError(f"{parts[0].path}: the parts are not what they list together; make all of them again")
    return source, facts


def _facts(part: Part, name: SplitName, count: int) -> Any:
    of_split = part.manifest.splits[name]
    table = _array(part, of_split.facts.file)
    if table.dtype != FACTS or table.shape != (count,):
        raise _damaged(part, of_split.facts.file, f"holds {table.dtype} of shape {table.shape}")
    is_sound = (table["kind"] < max(1, len(of_split.kinds))) & (table["label"] < len(part.manifest.classes))
    if not (is_sound & (table["label"] >= 0)).all():
        raise _damaged(part, of_split.facts.file, "has labels or kinds that there are not")
    return table


def _names(part: Part, file: str, count: int) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """The name of each position, and what more there is to say of it."""
    with (part.files / file).open("rb") as stream:
        lines = stream.read().splitlines()
    if len(lines) != count:
        raise _damaged(part, file, f"has {len(lines)} names of {count}")
    for line in lines:
        try:
            match parse_json(line):
                case [str(name)]:
                    yield name, None
                case [str(name), {"notes": [*notes]}]:
                    yield name, {"notes": notes, "unreadable": None}
                case [str(name), {"unreadable": dict(image), "known": bool(known)}]:
                    yield name, {"notes": [], "unreadable": UnreadableImage.model_validate(image), "known": known}
                case other:
                    raise ValueError(shortened(other))
        except ValueError as error:
            raise _damaged(part, file, f"has a line that is no name ({shortened(str(error), 80)})") from error


def _array(part: Part, file: str) -> Any:
    try:
        # Not np.load, which takes zip archives and pickles for arrays too.
        return np.lib.format.open_memmap(part.files / file, mode="r")
    except (OSError, ValueError) as error:
        raise _damaged(part, file, f"is no array ({shortened(str(error), 80)})") from error


def _damaged(part: Part, file: str, why: str) -> ArtifactError:
    return ArtifactError(f"{part.path / file}: {why}; the part is damaged, make it again")


def _unread(wanted: Collection[int]) -> Never:
    raise AssertionError("what the parts have is not read again")


class _Gone(FileTree):
    """The data of the parts, which are somewhere else."""

    def __init__(self, name: str) -> None:
        super().__init__(name, "parts")
        self.root = Folder("")

    def local(self, file: str) -> Never:
        raise AssertionError(file)

    def read(self, files: Sequence[str]) -> Never:
        raise AssertionError(files)

    def is_picture(self, real: str) -> Never:
        raise AssertionError(real)


class _Merging(Preparation):
    """Makes the dataset of parts, whose rows it copies."""

    def __init__(
        self,
        source: Source,
        dataset: Path,
        params: Params,
        emit: Emit,
        facts: dict[SplitName, Facts],
        rows: Mapping[SplitName, StoredRows],
        decoder: str,
    ) -> None:
        super().__init__(source, dataset, params, emit)
        self._rows, self.decoder = rows, decoder
        for name, of_split in facts.items():
            self.warn({p: image for p, image in of_split.unreadable.items() if p not in source.splits[name].unreadable})
        self.facts = facts

    def fill(self, writer: DatasetWriter, placed: dict[SplitName, Placed]) -> dict[SplitName, Placed]:
        """Copy all rows to their places."""
        for target, of_split in placed.items():
            count = len(of_split.positions)
            files = writer.rows(target)
            files.plan(count, writer.digests)
            copy_rows(
                self._rows[of_split.source],
                of_split.positions,
                files,
                np.arange(count),
                writer.digests,
                self.progress.advance,
                writer.sums if target == "train" else None,
            )
        self.progress.end()
        return placed
