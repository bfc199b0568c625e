"""Data prep: images and labels as people keep them become one dataset directory."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from components.data_prep.engine.assemble import Assembled, Inspect, Placed, assigned, copies, describe, move
from components.data_prep.engine.facts import Facts
from components.data_prep.engine.reuse import STAMPS_FILE, Reuse, open_earlier
from components.data_prep.engine.row_decoder import Placing, RowDecoder
from components.data_prep.layouts.layout import open_source
from components.data_prep.layouts.source import Source, alike, listed
from components.data_prep.quality.inspection import PAGE, Inspection
from components.data_prep.trees.bucket_tree import Fetch
from components.shared.artifacts.dataset import DATASET, DatasetManifest, SplitName, UnreadableImage
from components.shared.artifacts.dataset_writer import DatasetWriter
from components.shared.decoding.pixels import NOTES, note_lines
from components.shared.decoding.rendering import Rendering
from components.shared.decoding.version import decoder_version
from components.shared.errors import ArtifactError, DataError
from components.shared.events.data import Emit, Progress, Succeeded, ignore_events
from components.shared.logs import step_logger
from components.shared.params.gate import check_gate
from components.shared.params.params import Params
from components.shared.storage.location import AnyPath, overlap_problem
from components.shared.text import shown

_WARNINGS_SHOWN = 10
_LOG_SECONDS = 30.0
_STATUS_SECONDS = 2.0
_CLASSES_SHOWN = 20
_NAME_WIDTH = 40

_log = step_logger("data-prep")


@dataclass(frozen=True)
class PrepareResult:
    """What data prep made: a dataset directory, its manifest, and the count of each kind of finding in the data."""

    dataset: Path
    manifest: DatasetManifest
    findings: dict[str, int] = field(default_factory=dict)

    @property
    def counts(self) -> dict[SplitName, int]:
        """Images in each split."""
        return {name: split.count for name, split in self.manifest.splits.items()}

    @property
    def class_counts(self) -> dict[SplitName, dict[str, int]]:
        """Images of each class in each split."""
        classes = self.manifest.classes
        return {name: dict(zip(classes, of.class_counts, strict=True)) for name, of in self.manifest.splits.items()}

    def report(self) -> dict[str, Any]:
        """The result as JSON data."""
        return {
            "dataset": str(self.dataset),
            "classes": self.manifest.classes,
            "counts": self.counts,
            "image_shape": list(self.manifest.image.as_tuple()),
            "unreadable": len(self.manifest.unreadable),
            "source": self.manifest.source,
            "test_split": self.manifest.test_split,
            "validation_split": self.manifest.validation_split,
            "class_counts": self.class_counts,
            "left_out": self.manifest.left_out.model_dump(),
            "findings": self.findings,
            "quality_file": str(self.dataset / PAGE),
        }

    def event(self, seconds: float) -> Succeeded:
        """The result as the step's last status event."""
        unreadable = {"unreadable images": len(self.manifest.unreadable)} if self.manifest.unreadable else {}
        return Succeeded(
            seconds=seconds,
            metrics={f"{split}_images": float(count) for split, count in self.counts.items()},
            artifacts={"dataset": str(self.dataset), "quality": str(self.dataset / PAGE)},
            left_out=self.manifest.left_out.by_name() | unreadable,
            findings=self.findings,
        )


def prepare(
    *,
    data: AnyPath,
    dataset: Path,
    params: Params,
    emit: Emit = ignore_events,
    layout: str | None = None,
    follow_links: bool = False,
    fetch: Fetch | None = None,
    reuse: Path | None = None,
    stamp: bool = False,
) -> PrepareResult:
    """Read images and labels and write them as a dataset directory.

    The same data and params give the same bytes. Images that cannot be read are left out as if they were not there,
    and named in the manifest.

    Args:
        data: Images and labels in any layout that :mod:`~components.data_prep.layouts.layout` knows.
        dataset: Directory to write: new, empty, or an earlier dataset, which is replaced.
        params: ``image_height``, ``image_width``, ``is_image_color`` and ``n_classes``; ``stored_height`` and
            ``stored_width`` where images are stored larger than the model takes them; ``manual_seed``,
            ``test_fraction`` and ``validation_fraction`` where images are held out; ``max_unreadable``;
            ``image_fit``, ``image_interpolation`` and ``alpha_background``; ``on_leakage``; ``gate``, whose classes
            must be among the data's.
        emit: Gets the status of the step.
        layout: The layout that the data have; None: as ``data_layout`` says.
        follow_links: Whether links may lead out of the data folder.
        fetch: Makes a local file of an object in a bucket that is no image; None: a temporary one.
        reuse: An earlier dataset, which may be the one that is replaced: images that are as they were are copied from
            it, and not decoded.
        stamp: Whether to write, beside the dataset, what the next such run knows unchanged files by.

    Raises:
        DataError: The data cannot be used, or images are in two splits and ``on_leakage`` is fail; one line says what,
            where and what to do.
        ArtifactError: The dataset directory cannot be written, or is in the data folder or around it.
        ParamsError: The gate names a class that the data do not have.
    """
    if problem := overlap_problem(data, dataset):
        raise ArtifactError(problem)
    layout = layout or params.data_layout
    with open_source(data, params.n_classes, layout=layout, follow_links=follow_links, fetch=fetch) as source:
        earlier = open_earlier(reuse, Rendering.of(params)) if reuse is not None else None
        again = Reuse(earlier, source) if earlier is not None or stamp else None
        preparation = Preparation(source, dataset, params, emit, again)
        result = prepared(preparation)
        if again is not None and stamp:
            placed = {name: preparation.placed[name] for name in result.manifest.splits}
            again.keep(dataset, placed, preparation.facts, preparation.sums)
        return result


def prepared(preparation: Preparation) -> PrepareResult:
    """Make the dataset, and log what it is made of and what becomes of it."""
    params, dataset = preparation.params, preparation.dataset
    check_source(preparation.source, params)
    preparation.check_unreadable()
    if os.path.lexists(dataset / DATASET.manifest_file):
        _log.info("%s: the earlier dataset is replaced", shown(dataset))
        with suppress(OSError):
            (dataset / STAMPS_FILE).unlink()
    inspection = Inspection(Rendering.of(params), params.on_leakage, preparation.emit)
    manifest = preparation.write(inspection)
    result = PrepareResult(dataset, manifest, inspection.counts)
    _log.info("data quality: %s, see %s", listed(inspection.summary()) or "nothing found", shown(dataset / PAGE))
    for split, fraction in preparation.fractions.items():
        held_out = (result.counts[split], split, params.manual_seed, split, fraction)
        _log.info("%d %s images held out by manual_seed %d, %s_fraction %g", *held_out)
    _log_counts(result)
    return result


def check_source(source: Source, params: Params) -> None:
    """Log what is read, and what in it or in params has no effect; ParamsError: the gate names a class it lacks."""
    found = ", ".join(f"{len(split.labels)} {name} images" for name, split in source.splits.items())
    _log.info("%s: %s in %d classes", source.name, found, len(source.classes))
    folders = {split: of.folder for split, of in source.splits.items() if of.folder not in ("", split)}
    if folders:
        named = ", ".join(f"{shown(folder)} as {split}" for split, folder in folders.items())
        _log.info("folders of splits: %s", named)
    if params.stored_shape != params.image_shape:
        sizes = (*params.stored_shape[:2], *params.image_shape[:2])
        _log.info("images are stored as %d×%d, and the model takes %d×%d of each", *sizes)
    if similar := alike(source.classes):
        _log.warning("%d classes differ from another in case or spaces alone: %s", len(similar), listed(similar))
    if source.name == "IDX files" and params.image_fit != "pad" and params.alpha_background != "white":
        _log.warning("alpha_background %s has no effect: IDX images are never transparent", params.alpha_background)
    if "validation" in source.splits and (fraction := params.validation_fraction) > 0:
        _log.warning("validation_fraction %g has no effect: the data brings its validation split", fraction)
    check_gate(params.gate, source.classes)  # now, and not once a model is trained


def _log_counts(result: PrepareResult) -> None:
    classes, counts = result.manifest.classes, result.class_counts
    splits = [split for split in get_args(SplitName) if split in counts]
    rows = [["class", *splits], *([shown(name), *(str(counts[split][name]) for split in splits)] for name in classes)]
    rows = [*rows[: 1 + _CLASSES_SHOWN], ["all", *(str(result.counts[split]) for split in splits)]]
    widths = [max(len(row[column][:_NAME_WIDTH]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        if row is rows[-1] and len(classes) > _CLASSES_SHOWN:
            _log.info("and %d more class(es)", len(classes) - _CLASSES_SHOWN)
        cells = (f"{number:>{width}}" for number, width in zip(row[1:], widths[1:], strict=True))
        _log.info("%s  %s", f"{row[0][:_NAME_WIDTH]:<{widths[0]}}", "  ".join(cells))
    for split in splits:
        if lacking := [name for name in classes if not counts[split][name]]:
            _log.warning("%s has no image of %d class(es): %s", split, len(lacking), listed(lacking))


class ImageProgress:
    """Reports how many images are done."""

    def __init__(self, total: int, emit: Emit) -> None:
        self.total, self._emit, self._done, self._reported_done = total, emit, 0, 0
        self._reported = self._logged = time.monotonic()

    def advance(self, count: int) -> None:
        """So many more images are done."""
        self._done += count
        if time.monotonic() - self._reported > _STATUS_SECONDS:
            self._report()
        if time.monotonic() - self._logged > _LOG_SECONDS:
            _log.info("%d of %d images", self._done, self.total)
            self._logged = time.monotonic()

    def end(self) -> None:
        """All are done."""
        self._done = self.total
        self._report()

    def _report(self) -> None:
        rate = (self._done - self._reported_done) / max(time.monotonic() - self._reported, 1e-9)
        eta = (self.total - self._done) / rate if rate else None
        self._emit(Progress(self._done, self.total, "images", samples_per_second=rate, eta_seconds=eta))
        self._reported, self._reported_done = time.monotonic(), self._done


class Preparation:
    """Makes the dataset of one source."""

    def __init__(self, source: Source, dataset: Path, params: Params, emit: Emit, again: Reuse | None = None) -> None:
        self.source, self.dataset, self.params, self.emit, self._again = source, dataset, params, emit, again
        self.placed: Mapping[SplitName, Placed] = {}  # where the images are in the end
        self.decoder = decoder_version()  # what decodes them
        self.progress = ImageProgress(source.count, emit)
        # Share of the training images to hold out, by split that the data lacks.
        self.fractions: dict[SplitName, float] = {}
        if "test" not in source.splits:
            self.fractions["test"] = params.test_fraction
        if "validation" not in source.splits and params.validation_fraction > 0:
            self.fractions["validation"] = params.validation_fraction
        self._warned = 0
        self.facts = {name: Facts.of(len(split.labels)) for name, split in source.splits.items()}
        for name, split in source.splits.items():
            self.facts[name].unreadable.update(split.unreadable)
            self.warn(split.unreadable)

    def warn(self, found: Mapping[int, UnreadableImage]) -> None:
        """Log the first few images that cannot be read."""
        for _, image in sorted(found.items())[: _WARNINGS_SHOWN - self._warned]:
            self._warned += 1
            _log.warning("set aside %s: %s", image.file, image.reason)

    def write(self, inspect: Inspect | None = None) -> DatasetManifest:
        """Write the whole dataset."""
        source, params = self.source, self.params
        placed = assigned(source, self.facts, self.fractions, params.manual_seed)
        with DatasetWriter(self.dataset, list(source.classes), params.stored_shape) as writer:
            placed = self.placed = self.fill(writer, placed)
            self.sums = writer.sums
            files = []
            if inspect:
                read = lambda split, indices: writer.rows(split).read(indices)  # noqa: E731
                files = inspect(Assembled(source, placed, self.facts, read, writer.new_file))
            noted = describe(writer, source, placed, self.facts)
            for level, line in note_lines(noted, params.alpha_background):
                _log.log(level, "%s", line)
            return writer.commit(
                source=source.name,
                test_split=self._origin("test") or "given",
                validation_split=self._origin("validation"),
                split_folders={split: shown(of.folder) for split, of in source.splits.items()},
                left_out=source.left_out,
                image_fit=params.image_fit,
                image_interpolation=params.image_interpolation,
                alpha_background=params.background,
                noted={note: noted[note] for note in NOTES if noted[note]},
                manual_seed=params.manual_seed,
                decoder=self.decoder,
                unreadable=[image for facts in self.facts.values() for _, image in sorted(facts.unreadable.items())],
                reports=[writer.record(file) for file in files],
            )

    def fill(self, writer: DatasetWriter, placed: dict[SplitName, Placed]) -> dict[SplitName, Placed]:
        """Decode all images into their rows; where each is in the end."""
        source, params = self.source, self.params
        known = {name: frozenset(facts.unreadable) for name, facts in self.facts.items()}
        with RowDecoder(Rendering.of(params), self.progress.advance) as decoder:
            for name, split in source.splits.items():
                placing = Placing.of(len(split.labels))
                for target, of_split in placed.items():
                    if of_split.source == name:
                        placing.put(of_split.positions, writer.rows(target), writer.digests, counted=target == "train")
                unknown = self._again.reduced(name, split, placing) if self._again else split
                decoder.decode(unknown, placing, self.facts[name], writer.sums)
        source.tree.check_unchanged()
        if self._again:
            self._again.copy(placed, writer, self.facts, self.progress.advance)
        self.progress.end()
        done = sum(np.count_nonzero(facts.sizes[:, 0]) + len(facts.unreadable) for facts in self.facts.values())
        if done != source.count:  # never; but if so, then not with rows of zeros
            raise AssertionError(f"{source.count - done} images were neither decoded nor set aside")
        found = {name: facts.unreadable.keys() - known[name] for name, facts in self.facts.items()}
        copied = bool(self.fractions) and copies(self.facts["train"]) is not None
        if any(found.values()):
            for name, positions in found.items():
                self.warn({position: self.facts[name].unreadable[position] for position in positions})
            self.check_unreadable()
        elif not copied:
            return placed
        final = assigned(source, self.facts, self.fractions, params.manual_seed)
        if all(np.array_equal(of_split.positions, final[name].positions) for name, of_split in placed.items()):
            return placed
        if self.fractions and (copied or found["train"]):
            why = ["without the images that were set aside"] if found["train"] else []
            why += ["with all copies of an image in one split"] if copied else []
            _log.info("holding out anew, %s", " and ".join(why))
        move(writer, placed, final, source)
        return final

    def _origin(self, split: SplitName) -> Literal["given", "held out"] | None:
        return "given" if split in self.source.splits else "held out" if split in self.fractions else None

    def check_unreadable(self) -> None:
        """Raise an error if more than `max_unreadable` of all cannot be read, or of a class that is mostly not read."""
        groups: dict[str, list[UnreadableImage]] = {}
        totals = {"images": self.source.count}
        for name, facts in self.facts.items():
            split = self.source.splits[name]
            counts = np.bincount(split.labels).tolist()
            for position, image in sorted(facts.unreadable.items()):
                groups.setdefault("images", []).append(image)
                if position in split.unreadable:
                    label = split.labels[position]
                    of_class = f"images of {self.source.classes[label]} in {name}"
                    totals[of_class] = counts[label]
                    groups.setdefault(of_class, []).append(image)
        if (count := len(groups.get("images", ()))) > _WARNINGS_SHOWN:
            _log.warning("set aside %d images in all", count)
        allowed = self.params.max_unreadable
        for what, images in groups.items():
            share = len(images) / totals[what]
            if share > allowed and (what == "images" or share > 0.5):
                raise DataError(
                    f"{self.source.where}: {len(images)} of {totals[what]} {what} cannot be read ({share:.2%}), "
                    f"and max_unreadable is {allowed:.2%}; the first is {images[0].file}: {images[0].reason}; mend or "
                    "remove them, or raise max_unreadable to leave them out"
                )
