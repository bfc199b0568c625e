"""Data prep: images and labels as people keep them become one dataset directory."""

from __future__ import annotations

import logging
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from components.data_prep.layout import open_source
from components.data_prep.left_out import check_pictures, log_left_out
from components.data_prep.pixels import NOTES, Note
from components.data_prep.source import Batch, Source, alike, listed, shown
from components.data_prep.splits import Mask, assign_splits
from components.shared.artifacts.artifact import read_manifest
from components.shared.artifacts.dataset import DATASET, DatasetManifest, DatasetWriter, SplitName, UnreadableImage
from components.shared.errors import ArtifactError, DataError
from components.shared.events.data import Emit, Progress, Succeeded, ignore_events
from components.shared.logs import step_logger
from components.shared.params.params import Params
from components.shared.storage.location import overlap_problem

_WARNINGS_SHOWN = 10
_LOG_SECONDS = 30.0
_STATUS_SECONDS = 2.0
_CLASSES_SHOWN = 20
_NAME_WIDTH = 40
_SCALES: set[Note] = {"float to 1", "float to 255"}

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
        return Succeeded(
            seconds=seconds,
            metrics={f"{split}_images": float(count) for split, count in self.counts.items()},
            artifacts={"dataset": str(self.dataset)},
            left_out=self.manifest.left_out.by_name(),
        )


def prepare(
    *, data: Path, dataset: Path, params: Params, emit: Emit = ignore_events, follow_links: bool = False
) -> PrepareResult:
    """Read images and labels and write them as a dataset directory.

    The same data and params give the same bytes. Images that cannot be read are left out as if they were not there,
    and named in the manifest.

    Args:
        data: Folder with IDX files, a folder per class, or ``train/info.csv``.
        dataset: Directory to write: new, empty, or an earlier dataset, which is replaced.
        params: ``image_height``, ``image_width``, ``is_image_color`` and ``n_classes``; ``manual_seed``,
            ``test_fraction`` and ``validation_fraction`` where images are held out; ``max_unreadable``;
            ``alpha_background``.
        emit: Gets the status of the step.
        follow_links: Whether links may lead out of the data folder.

    Raises:
        DataError: The data cannot be used; one line says what, where and what to do.
        ArtifactError: The dataset directory cannot be written, or lies in the data folder or around it.
    """
    if problem := overlap_problem(data, dataset):
        raise ArtifactError(problem)
    source = open_source(data, params.n_classes, follow_links=follow_links)
    _log_source(source, params)
    check_pictures(source, params.max_unreadable)
    _log_replaced(dataset, source)
    preparation = _Preparation(source, dataset, params, emit)
    while (manifest := preparation.write()) is None:
        pass
    result = PrepareResult(dataset, manifest)
    for split, fraction in preparation.fractions.items():
        held_out = (result.counts[split], split, params.manual_seed, split, fraction)
        _log.info("%d %s images held out by manual_seed %d, %s_fraction %g", *held_out)
    _log_counts(result)
    return result


def _log_source(source: Source, params: Params) -> None:
    found = ", ".join(f"{len(split.labels)} {name} images" for name, split in source.splits.items())
    _log.info("%s: %s in %d classes", source.name, found, len(source.classes))
    if renamed := [
        f"{shown(folder)} as {split}" for split, folder in source.folders.items() if folder not in ("", split)
    ]:
        _log.info("folders of splits: %s", ", ".join(renamed))
    if similar := alike(source.classes):
        _log.warning("%d classes differ from another in case or spaces alone: %s", len(similar), listed(similar))
    log_left_out(source.left_out)
    if source.name == "IDX files" and params.alpha_background != "white":
        _log.warning("alpha_background %s has no effect: IDX images are never transparent", params.alpha_background)
    if "validation" in source.splits and params.validation_fraction > 0:
        _log.warning(
            "validation_fraction %g has no effect: the data brings its validation split", params.validation_fraction
        )


def _log_replaced(dataset: Path, source: Source) -> None:
    try:
        if not (dataset / DATASET.manifest_file).exists():
            return
        earlier: DatasetManifest = read_manifest(dataset, DATASET)
    except OSError:
        return  # an error once it is written
    except ArtifactError as error:
        _log.warning("an earlier dataset is replaced, whose manifest cannot be read: %s", error)
        return
    count = sum(split.count for split in earlier.splits.values()) + len(earlier.unreadable)
    is_other = (earlier.source, earlier.classes, count) != (source.name, list(source.classes), source.count)
    _log.log(
        logging.WARNING if is_other else logging.INFO,
        "%s: the earlier dataset%s is replaced; it was made from %s: %d images in %d classes (%s)",
        shown(dataset),
        ", of other data," if is_other else "",
        shown(earlier.source),
        count,
        len(earlier.classes),
        listed(earlier.classes),
    )


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
    """Writes the dataset of one source, in as many passes as it takes: one, or two where images are unreadable.

    Attributes:
        fractions: Share of the training images to hold out, by split that the data lacks.
    """

    def __init__(self, source: Source, dataset: Path, params: Params, emit: Emit) -> None:
        self._source, self._dataset, self._params, self._emit = source, dataset, params, emit
        self.fractions: dict[SplitName, float] = {}
        if "test" not in source.splits:
            self.fractions["test"] = params.test_fraction
        if "validation" not in source.splits and params.validation_fraction > 0:
            self.fractions["validation"] = params.validation_fraction
        # By split of the source, then by position in it.
        self._unreadable: dict[SplitName, dict[int, UnreadableImage]] = {name: {} for name in source.splits}

    def write(self) -> DatasetManifest | None:
        """Write the whole dataset; None if images turned out unreadable and what is held out must be drawn anew."""
        known = self._unreadable_count, len(self._unreadable["train"])
        self._noted: Counter[Note] = Counter()
        assigned = self._assigned()
        classes, shape = list(self._source.classes), self._params.image_shape
        with DatasetWriter(self._dataset, classes, shape) as writer, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Pillow warns of is read, or set aside with a reason
            for name, batch in self._batches():
                labels = self._source.splits[name].labels[batch.positions]
                for target, mask in assigned[name].items():
                    if (chosen := mask[batch.positions]).any():
                        writer.add(target, batch.images[chosen], labels[chosen])
            if self._unreadable_count > known[0]:
                self._check_share()
                self._assigned()  # an error if a class has too few images now
                if self.fractions and len(self._unreadable["train"]) > known[1]:
                    _log.info("holding out anew, without the images that were set aside")
                    return None
            self._log_notes()
            return writer.commit(
                source=self._source.name,
                test_split=self._origin("test") or "given",
                validation_split=self._origin("validation"),
                split_folders={split: shown(folder) for split, folder in self._source.folders.items()},
                left_out=self._source.left_out,
                noted={note: self._noted[note] for note in NOTES if self._noted[note]},
                manual_seed=self._params.manual_seed,
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
            found = self._unreadable[name]
            for batch in split.batches(self._params.image_shape, frozenset(found), self._params.background):
                self._noted.update(batch.noted)
                for position, image in batch.unreadable.items():
                    found[position] = image
                    if self._unreadable_count <= _WARNINGS_SHOWN:
                        _log.warning("set aside %s: %s", image.file, image.reason)
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

    @property
    def _unreadable_count(self) -> int:
        return sum(len(found) for found in self._unreadable.values())

    def _assigned(self) -> dict[SplitName, dict[SplitName, Mask]]:
        where, n_classes = shown(self._source.path), len(self._source.classes)
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

    def _check_share(self) -> None:
        lost = sum(pictures.count for pictures in self._source.pictures)
        count, total = self._unreadable_count + lost, self._source.count + lost
        if count - lost > _WARNINGS_SHOWN:
            _log.warning("set aside %d images in all", count - lost)
        if count / total > self._params.max_unreadable:
            found = next(found for found in self._unreadable.values() if found)
            first = found[min(found)]
            with_lost = f", {lost} of them for their ending" if lost else ""
            raise DataError(
                f"{shown(self._source.path)}: {count} of {total} images cannot be read ({count / total:.2%}"
                f"{with_lost}), and max_unreadable is {self._params.max_unreadable:.2%}; the first is {first.file}: "
                f"{first.reason}; mend or remove them, or raise max_unreadable"
            )

    def _log_notes(self) -> None:
        for note, text in NOTES.items():
            if count := self._noted[note]:
                level = logging.INFO if note in _SCALES else logging.WARNING
                _log.log(level, "%d image(s) %s", count, text.format(background=self._params.alpha_background))
        if set(self._noted) >= _SCALES:
            _log.warning(
                "floating-point images are read by two scales, each by its own values: where the data mean 0 to 255, "
                "those of at most 1 become bright and should be nearly black; convert the images to 8 bits"
            )
