"""Data prep: images and labels as people keep them become one dataset directory."""

from __future__ import annotations

import logging
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from components.data_prep.layout import open_source
from components.data_prep.left_out import advice, log_left_out, pictures_in_words
from components.data_prep.pixels import NOTES, Note
from components.data_prep.source import Batch, Source, SourceSplit, alike, listed, shown
from components.data_prep.split import Mask, assign_splits
from components.shared.artifacts.artifact import read_manifest
from components.shared.artifacts.dataset import (
    DATASET,
    DatasetManifest,
    DatasetWriter,
    LeftOut,
    SplitName,
    UnreadableImage,
)
from components.shared.data_folder import overlap_problem
from components.shared.errors import ArtifactError, DataError
from components.shared.events.data import Emit, Progress, Succeeded, ignore_events
from components.shared.logs import step_logger
from components.shared.params.params import Params

Origin = Literal["given", "held out"]

_WARNINGS_SHOWN = 10
_PROGRESS_SECONDS = 30.0
_STATUS_SECONDS = 2.0
_CLASSES_SHOWN = 20
_NAME_WIDTH = 40
_SCALES: set[Note] = {"float to 1", "float to 255"}

_log = step_logger("data-prep")


@dataclass(frozen=True)
class PrepareResult:
    """What data prep made.

    Attributes:
        dataset: The dataset directory.
        classes: Class names; labels index them.
        counts: Images in each split.
        image_shape: Height, width, channels.
        unreadable: How many images were set aside.
        source: What the images came from, such as ``IDX files``.
        test_split: Whether the data brought its test split, or it was held out.
        validation_split: The same of the validation split; None where there is none.
        class_counts: Images of each class in each split.
        left_out: What of the data folder was not read.
    """

    dataset: Path
    classes: tuple[str, ...]
    counts: dict[SplitName, int]
    image_shape: tuple[int, int, int]
    unreadable: int
    source: str
    test_split: Origin
    validation_split: Origin | None
    class_counts: dict[SplitName, dict[str, int]]
    left_out: LeftOut

    def report(self) -> dict[str, Any]:
        """The result as JSON data."""
        return {
            "dataset": str(self.dataset),
            "classes": list(self.classes),
            "counts": dict(self.counts),
            "image_shape": list(self.image_shape),
            "unreadable": self.unreadable,
            "source": self.source,
            "test_split": self.test_split,
            "validation_split": self.validation_split,
            "class_counts": {split: dict(counts) for split, counts in self.class_counts.items()},
            "left_out": self.left_out.model_dump(),
        }

    def event(self, seconds: float) -> Succeeded:
        """The result as the step's last status event."""
        return Succeeded(
            seconds=seconds,
            metrics={f"{split}_images": float(count) for split, count in self.counts.items()},
            artifacts={"dataset": str(self.dataset)},
            left_out=self.left_out.by_name(),
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
    _check_pictures(source, params.max_unreadable)
    _log_replaced(dataset, source)
    preparation = _Preparation(source, dataset, params, emit)
    manifest = None
    while manifest is None:
        manifest = preparation.write()
    class_counts = {
        name: dict(zip(manifest.classes, split.class_counts, strict=True)) for name, split in manifest.splits.items()
    }
    for split, fraction in preparation.fractions.items():
        _log.info(
            "%d %s images held out by manual_seed %d, %s_fraction %g",
            manifest.splits[split].count,
            split,
            params.manual_seed,
            split,
            fraction,
        )
    _log_counts(manifest.classes, class_counts)
    return PrepareResult(
        dataset=dataset,
        classes=tuple(manifest.classes),
        counts={name: split.count for name, split in manifest.splits.items()},
        image_shape=manifest.image.as_tuple(),
        unreadable=len(manifest.unreadable),
        source=manifest.source,
        test_split=manifest.test_split,
        validation_split=manifest.validation_split,
        class_counts=class_counts,
        left_out=manifest.left_out,
    )


def _log_source(source: Source, params: Params) -> None:
    """Say what there is, which folder is taken for which split, and which options have no effect on it."""
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
    """What of an earlier dataset is lost; a warning where it was made of other data."""
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
    found = sum(len(split.labels) for split in source.splits.values())
    is_other = (earlier.source, earlier.classes, count) != (source.name, list(source.classes), found)
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


def _log_counts(classes: list[str], counts: dict[SplitName, dict[str, int]]) -> None:
    """The number of images of each class in each split as a table, and the classes that a split lacks."""
    splits = [split for split in get_args(SplitName) if split in counts]
    rows = [["class", *splits], *([shown(name), *(str(counts[split][name]) for split in splits)] for name in classes)]
    total = ["all", *(str(sum(counts[split].values())) for split in splits)]
    left = len(rows) - 1 - _CLASSES_SHOWN
    table = [*rows[: 1 + _CLASSES_SHOWN], total]
    widths = [max(len(row[column][:_NAME_WIDTH]) for row in table) for column in range(len(total))]
    for row in table:
        if row is total and left > 0:
            _log.info("and %d more class(es)", left)
        first, *numbers = row
        cells = (f"{number:>{width}}" for number, width in zip(numbers, widths[1:], strict=True))
        _log.info("%s  %s", f"{first[:_NAME_WIDTH]:<{widths[0]}}", "  ".join(cells))
    for split in splits:
        if lacking := [name for name in classes if not counts[split][name]]:
            _log.warning("%s has no image of %d class(es): %s", split, len(lacking), listed(lacking))


def _check_pictures(source: Source, allowed: float) -> None:
    """Hold the pictures that are not read for their ending against the share that may be unreadable.

    Raises:
        DataError: They are too many of all, or more than are read of one class.
    """
    if not source.pictures:
        return
    lost = sum(found.count for found in source.pictures)
    read = sum(len(split.labels) for split in source.splits.values())
    mostly = [found for found in source.pictures if found.count > found.read and found.share > allowed]
    what = pictures_in_words(source.pictures)
    todo = advice(source.pictures)
    if mostly or lost / (lost + read) > allowed:
        of = f"{mostly[0].share:.2%} of {shown(mostly[0].path)}" if mostly else f"{lost / (lost + read):.2%} of all"
        raise DataError(
            f"{shown(source.path)}: {lost} picture(s) cannot be read, being {what}; they are {of}, and max_unreadable "
            f"is {allowed:.2%}; {todo}, or raise max_unreadable to leave them out; the images are not "
            "opened yet, and those that cannot be decoded will count as well"
        )
    _log.warning("%d picture(s) are not read: %s; %s", lost, what, todo)


class _Preparation:
    """Writes the dataset of one source, in as many passes as it takes (one, or two where images are unreadable).

    Args:
        source: Images and labels.
        dataset: Directory to write.
        params: Options of the run.
        emit: Gets progress.

    Attributes:
        fractions: Share of the training images to hold out, by split that the data lacks.
    """

    def __init__(self, source: Source, dataset: Path, params: Params, emit: Emit) -> None:
        self._source = source
        self._dataset = dataset
        self._params = params
        self._emit = emit
        self._splits = source.splits
        self.fractions: dict[SplitName, float] = {}
        if "test" not in source.splits:
            self.fractions["test"] = params.test_fraction
        if "validation" not in source.splits and params.validation_fraction > 0:
            self.fractions["validation"] = params.validation_fraction
        # By split of the source, then by position in it.
        self._unreadable: dict[SplitName, dict[int, UnreadableImage]] = {name: {} for name in self._splits}

    def write(self) -> DatasetManifest | None:
        """Write the whole dataset; None if images turned out unreadable and what is held out must be drawn anew."""
        known = {name: len(found) for name, found in self._unreadable.items()}
        self._told, self._told_images = time.monotonic(), 0
        self._noted: Counter[Note] = Counter()
        assigned = self._assigned()
        shape = self._params.image_shape
        with DatasetWriter(self._dataset, list(self._source.classes), shape) as writer, _no_decoder_warnings():
            done, total = 0, sum(len(split.labels) for split in self._splits.values())
            for name, split in self._splits.items():
                for batch in self._read(name, split):
                    labels = split.labels[batch.positions]
                    for target, mask in assigned[name].items():
                        chosen = mask[batch.positions]
                        if chosen.any():
                            writer.add(target, batch.images[chosen], labels[chosen])
                    done += len(batch.positions)
                    self._tell(done, total)
            self._tell(total, total, final=True)
            if any(len(found) > known[name] for name, found in self._unreadable.items()):
                self._check_share()
                self._assigned()  # says so if a class has too few images now
                if self.fractions and len(self._unreadable["train"]) > known["train"]:
                    _log.info("holding out anew, without the images that were set aside")
                    return None
            noted: dict[str, int] = {}
            for note, text in NOTES.items():
                if count := self._noted[note]:
                    noted[note] = count
                    level = logging.INFO if note in _SCALES else logging.WARNING
                    _log.log(level, "%d image(s) %s", count, text.format(background=self._params.alpha_background))
            if set(noted) >= _SCALES:
                _log.warning(
                    "floating-point images are read by two scales, each by its own values: where the data mean 0 to "
                    "255, those of at most 1 become bright and should be nearly black; convert the images to 8 bits"
                )
            return writer.commit(
                source=self._source.name,
                test_split="held out" if "test" in self.fractions else "given",
                validation_split=self._origin("validation"),
                split_folders={split: shown(folder) for split, folder in self._source.folders.items()},
                left_out=self._source.left_out,
                noted=noted,
                manual_seed=self._params.manual_seed,
                unreadable=[image for found in self._unreadable.values() for _, image in sorted(found.items())],
            )

    def _origin(self, split: SplitName) -> Origin | None:
        """Where a split comes from; None where there is none."""
        return "given" if split in self._splits else "held out" if split in self.fractions else None

    def _tell(self, done: int, total: int, *, final: bool = False) -> None:
        """Progress, not more often than somebody can look at it."""
        now = time.monotonic()
        if final or now - self._told > _STATUS_SECONDS:
            rate = (done - self._told_images) / max(now - self._told, 1e-9)
            eta = (total - done) / rate if rate else None
            self._emit(Progress(done, total, "images", samples_per_second=rate, eta_seconds=eta))
            self._told, self._told_images = now, done

    def _assigned(self) -> dict[SplitName, dict[SplitName, Mask]]:
        """For each split of the source: which of its images go to which split of the dataset."""
        labels, readable = self._source.train.labels, self._readable("train")
        n_classes = len(self._source.classes)
        self._check_counts(np.bincount(labels[readable], minlength=n_classes).tolist())
        train = assign_splits(labels, readable, n_classes, self.fractions, self._params.manual_seed)
        assigned: dict[SplitName, dict[SplitName, Mask]] = {"train": train}
        for split in self._splits:
            if split == "train":
                continue
            readable = self._readable(split)
            if not readable.any():
                raise DataError(
                    f"{shown(self._source.path)}: no {split} image can be read; mend them, or remove the {split} split "
                    "to have one held out"
                )
            assigned[split] = {split: readable}
        return assigned

    def _check_counts(self, counts: list[int]) -> None:
        """Hold the number of readable training images in each class against the number of splits.

        Raises:
            DataError: A class has too few.
        """
        needed = ["train", *self.fractions]
        numbered = zip(self._source.classes, counts, strict=True)
        if short := [f"{name} ({count})" for name, count in numbered if count < len(needed)]:
            advice = " or set validation_fraction to 0" if "validation" in needed else ""
            raise DataError(
                f"{shown(self._source.path)}: {len(short)} class(es) have too few readable training images: "
                f"{listed(short)}; every class needs {len(needed)}, for {' and '.join(needed)}; add images{advice}"
            )

    def _readable(self, split: SplitName) -> Mask:
        readable = np.ones(len(self._splits[split].labels), dtype=np.bool_)
        readable[list(self._unreadable[split])] = False
        return readable

    def _read(self, name: SplitName, split: SourceSplit) -> Iterator[Batch]:
        """Batches of one split; what is unreadable is remembered, what takes long is reported."""
        found = self._unreadable[name]
        reported = time.monotonic()
        for batch in split.batches(self._params.image_shape, frozenset(found), self._params.background):
            self._noted.update(batch.noted)
            for position, image in batch.unreadable.items():
                found[position] = image
                if self._unreadable_count() <= _WARNINGS_SHOWN:
                    _log.warning("set aside %s: %s", image.file, image.reason)
            yield batch
            if len(batch.positions) and time.monotonic() - reported > _PROGRESS_SECONDS:
                reported = time.monotonic()
                _log.info("%s: %d of %d images", name, batch.positions[-1] + 1, len(split.labels))

    def _unreadable_count(self) -> int:
        return sum(len(found) for found in self._unreadable.values())

    def _check_share(self) -> None:
        """Hold the unreadable images against the share that may be.

        Raises:
            DataError: They are too many.
        """
        lost = sum(pictures.count for pictures in self._source.pictures)
        count = self._unreadable_count() + lost
        total = sum(len(split.labels) for split in self._splits.values()) + lost
        if count - lost > _WARNINGS_SHOWN:
            _log.warning("set aside %d images in all", count - lost)
        if count / total > self._params.max_unreadable:
            found = next(found for found in self._unreadable.values() if found)
            first = found[min(found)]
            where = shown(self._source.path)
            with_lost = f", {lost} of them for their ending" if lost else ""
            raise DataError(
                f"{where}: {count} of {total} images cannot be read ({count / total:.2%}{with_lost}), and "
                f"max_unreadable is {self._params.max_unreadable:.2%}; the first is {first.file}: {first.reason}; mend "
                "or remove them, or raise max_unreadable"
            )


@contextmanager
def _no_decoder_warnings() -> Iterator[None]:
    """Keep quiet what Pillow warns of: an image is read, or it is set aside with a reason."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
