"""Data prep: images and labels as people keep them become one dataset directory."""

from __future__ import annotations

import itertools
import os
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from components.data_prep.decode import Batch, decode
from components.data_prep.layout import open_source
from components.data_prep.source import Source, alike, listed
from components.data_prep.splits import Mask, assign_splits
from components.shared.artifacts.dataset import DATASET, DatasetManifest, DatasetWriter, SplitName, UnreadableImage
from components.shared.decoding.pixels import NOTES, Note, note_lines
from components.shared.decoding.rendering import Rendering
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
    """What data prep made: a dataset directory, and its manifest."""

    dataset: Path
    manifest: DatasetManifest

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
        }

    def event(self, seconds: float) -> Succeeded:
        """The result as the step's last status event."""
        unreadable = {"unreadable images": len(self.manifest.unreadable)} if self.manifest.unreadable else {}
        return Succeeded(
            seconds=seconds,
            metrics={f"{split}_images": float(count) for split, count in self.counts.items()},
            artifacts={"dataset": str(self.dataset)},
            left_out=self.manifest.left_out.by_name() | unreadable,
        )


def prepare(
    *,
    data: AnyPath,
    dataset: Path,
    params: Params,
    emit: Emit = ignore_events,
    layout: str | None = None,
    follow_links: bool = False,
) -> PrepareResult:
    """Read images and labels and write them as a dataset directory.

    The same data and params give the same bytes. Images that cannot be read are left out as if they were not there,
    and named in the manifest.

    Args:
        data: Images and labels in any layout that :mod:`~components.data_prep.layout` knows.
        dataset: Directory to write: new, empty, or an earlier dataset, which is replaced.
        params: ``image_height``, ``image_width``, ``is_image_color`` and ``n_classes``; ``stored_height`` and
            ``stored_width`` where images are stored larger than the model takes them; ``manual_seed``,
            ``test_fraction`` and ``validation_fraction`` where images are held out; ``max_unreadable``;
            ``alpha_background``; ``gate``, whose classes must be among the data's.
        emit: Gets the status of the step.
        layout: The layout that the data have; None: as ``data_layout`` says.
        follow_links: Whether links may lead out of the data folder.

    Raises:
        DataError: The data cannot be used; one line says what, where and what to do.
        ArtifactError: The dataset directory cannot be written, or is in the data folder or around it.
        ParamsError: The gate names a class that the data do not have.
    """
    if problem := overlap_problem(data, dataset):
        raise ArtifactError(problem)
    with open_source(data, params.n_classes, layout=layout or params.data_layout, follow_links=follow_links) as source:
        return _prepared(source, dataset, params, emit)


def _prepared(source: Source, dataset: Path, params: Params, emit: Emit) -> PrepareResult:
    _log_source(source, params)
    check_gate(params.gate, source.classes)  # now, and not once a model is trained
    preparation = _Preparation(source, dataset, params, emit)
    preparation.check_unreadable()
    if os.path.lexists(dataset / DATASET.manifest_file):
        _log.info("%s: the earlier dataset is replaced", shown(dataset))
    while (manifest := preparation.write()) is None:
        _log.info("holding out anew, without the images that were set aside")
    result = PrepareResult(dataset, manifest)
    for split, fraction in preparation.fractions.items():
        held_out = (result.counts[split], split, params.manual_seed, split, fraction)
        _log.info("%d %s images held out by manual_seed %d, %s_fraction %g", *held_out)
    _log_counts(result)
    return result


def _log_source(source: Source, params: Params) -> None:
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
    if source.name == "IDX files" and params.alpha_background != "white":
        _log.warning("alpha_background %s has no effect: IDX images are never transparent", params.alpha_background)
    if "validation" in source.splits and (fraction := params.validation_fraction) > 0:
        _log.warning("validation_fraction %g has no effect: the data brings its validation split", fraction)


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


class _Preparation:
    """Writes the dataset of one source, in as many passes as it takes: one, or two where images are unreadable."""

    def __init__(self, source: Source, dataset: Path, params: Params, emit: Emit) -> None:
        self._source, self._dataset, self._params, self._emit = source, dataset, params, emit
        # Share of the training images to hold out, by split that the data lacks.
        self.fractions: dict[SplitName, float] = {}
        if "test" not in source.splits:
            self.fractions["test"] = params.test_fraction
        if "validation" not in source.splits and params.validation_fraction > 0:
            self.fractions["validation"] = params.validation_fraction
        # By split of the source, then by position in it.
        self._unreadable: dict[SplitName, dict[int, UnreadableImage]] = {name: {} for name in source.splits}
        for name, split in source.splits.items():
            self._set_aside(name, split.unreadable)

    def _set_aside(self, split: SplitName, found: dict[int, UnreadableImage]) -> None:
        left = max(0, _WARNINGS_SHOWN - sum(map(len, self._unreadable.values())))
        self._unreadable[split] |= found
        for image in list(found.values())[:left]:
            _log.warning("set aside %s: %s", image.file, image.reason)

    def write(self) -> DatasetManifest | None:
        """Write the whole dataset; None if images turned out unreadable and what is held out must be drawn anew."""
        known = {name: len(found) for name, found in self._unreadable.items()}
        noted: Counter[Note] = Counter()
        assigned = self._assigned()
        source, params = self._source, self._params
        writing = DatasetWriter(self._dataset, list(source.classes), params.stored_shape)
        with writing as writer, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Pillow warns of is read, or set aside with a reason
            for name, batch in self._batches():
                noted.update(batch.noted)
                labels = source.splits[name].labels[batch.positions]
                for target, mask in assigned[name].items():
                    if (chosen := mask[batch.positions]).any():
                        names = list(itertools.compress(batch.names, chosen))
                        writer.add(target, batch.images[chosen], labels[chosen], names)
            if known != {name: len(found) for name, found in self._unreadable.items()}:
                self.check_unreadable()
                self._assigned()  # an error if a class has too few images now
                if self.fractions and len(self._unreadable["train"]) > known["train"]:
                    return None
            for level, line in note_lines(noted, params.alpha_background):
                _log.log(level, "%s", line)
            return writer.commit(
                source=source.name,
                test_split=self._origin("test") or "given",
                validation_split=self._origin("validation"),
                split_folders={split: shown(of.folder) for split, of in source.splits.items()},
                left_out=source.left_out,
                noted={note: noted[note] for note in NOTES if noted[note]},
                manual_seed=params.manual_seed,
                unreadable=[image for found in self._unreadable.values() for _, image in sorted(found.items())],
            )

    def _origin(self, split: SplitName) -> Literal["given", "held out"] | None:
        return "given" if split in self._source.splits else "held out" if split in self.fractions else None

    def _batches(self) -> Iterator[tuple[SplitName, Batch]]:
        """All images that are not known to be unreadable; those that turn out to be are kept, progress is reported."""
        done, total = 0, self._source.count
        reported, reported_done, logged = time.monotonic(), 0, time.monotonic()

        def progress() -> Progress:
            rate = (done - reported_done) / max(time.monotonic() - reported, 1e-9)
            eta = (total - done) / rate if rate else None
            return Progress(done, total, "images", samples_per_second=rate, eta_seconds=eta)

        for name, split in self._source.splits.items():
            known = frozenset(self._unreadable[name])
            for batch in decode(split, Rendering.of(self._params), known):
                self._set_aside(name, batch.unreadable)
                yield name, batch
                done += len(batch.positions)
                if time.monotonic() - reported > _STATUS_SECONDS:
                    self._emit(progress())
                    reported, reported_done = time.monotonic(), done
                if time.monotonic() - logged > _LOG_SECONDS:
                    _log.info("%d of %d images", done, total)
                    logged = time.monotonic()
        done = total
        self._emit(progress())

    def _assigned(self) -> dict[SplitName, dict[SplitName, Mask]]:
        where, n_classes = self._source.where, len(self._source.classes)
        readable = {name: np.ones(len(split.labels), dtype=np.bool_) for name, split in self._source.splits.items()}
        for name, found in self._unreadable.items():
            readable[name][list(found)] = False
            if name != "train" and not readable[name].any():
                raise DataError(
                    f"{where}: no {name} image can be read; mend them, or remove the {name} split to have one held out"
                )
        labels, needed = self._source.splits["train"].labels, ["train", *self.fractions]
        counts = np.bincount(labels[readable["train"]], minlength=n_classes).tolist()
        numbered = zip(self._source.classes, counts, strict=True)
        if short := [f"{name} ({count})" for name, count in numbered if count < len(needed)]:
            raise DataError(
                f"{where}: {len(short)} class(es) have too few readable training images: {listed(short)}; every class "
                f"needs {len(needed)}, for {' and '.join(needed)}; add images"
                + (" or set validation_fraction to 0" if "validation" in needed else "")
            )
        train = assign_splits(labels, readable["train"], n_classes, self.fractions, self._params.manual_seed)
        return {name: train if name == "train" else {name: mask} for name, mask in readable.items()}

    def check_unreadable(self) -> None:
        """Raise an error if more than `max_unreadable` of all cannot be read, or of a class that is mostly not read."""
        groups: dict[str, list[UnreadableImage]] = {}
        totals = {"images": self._source.count}
        for name, found in self._unreadable.items():
            split = self._source.splits[name]
            counts = np.bincount(split.labels).tolist()
            for position, image in sorted(found.items()):
                groups.setdefault("images", []).append(image)
                if position in split.unreadable:
                    label = split.labels[position]
                    of_class = f"images of {self._source.classes[label]} in {name}"
                    totals[of_class] = counts[label]
                    groups.setdefault(of_class, []).append(image)
        if (count := len(groups.get("images", ()))) > _WARNINGS_SHOWN:
            _log.warning("set aside %d images in all", count)
        allowed = self._params.max_unreadable
        for what, images in groups.items():
            share = len(images) / totals[what]
            if share > allowed and (what == "images" or share > 0.5):
                raise DataError(
                    f"{self._source.where}: {len(images)} of {totals[what]} {what} cannot be read ({share:.2%}), "
                    f"and max_unreadable is {allowed:.2%}; the first is {images[0].file}: {images[0].reason}; mend or "
                    "remove them, or raise max_unreadable to leave them out"
                )
