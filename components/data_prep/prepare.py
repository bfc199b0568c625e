"""Data prep: images and labels as people keep them become one dataset directory."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from components.data_prep.layout import open_source
from components.data_prep.source import Batch, Source, SourceSplit, listed, shown
from components.data_prep.split import Mask, assign_splits
from components.shared.dataset import DatasetManifest, DatasetWriter, SplitName, UnreadableImage
from components.shared.errors import DataError
from components.shared.events.data import Emit, Progress, Succeeded, unheard
from components.shared.logs import step_logger
from components.shared.params import Params

_WARNINGS_SHOWN = 10
_PROGRESS_SECONDS = 30.0
_STATUS_SECONDS = 2.0

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
    """

    dataset: Path
    classes: tuple[str, ...]
    counts: dict[SplitName, int]
    image_shape: tuple[int, int, int]
    unreadable: int
    source: str
    test_split: Literal["given", "held out"]

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
        }

    def event(self, seconds: float) -> Succeeded:
        """The result as the step's last status event."""
        return Succeeded(
            seconds=seconds,
            metrics={f"{split}_images": float(count) for split, count in self.counts.items()},
            artifacts={"dataset": str(self.dataset)},
        )


def prepare(*, data: Path, dataset: Path, params: Params, emit: Emit = unheard) -> PrepareResult:
    """Read images and labels and write them as a dataset directory.

    The same data and params give the same bytes. Images that cannot be read are left out as if they were not there,
    and named in the manifest.

    Args:
        data: Folder with IDX files, a folder per class, or ``train/info.csv``.
        dataset: Directory to write: new, empty, or an earlier dataset, which is replaced.
        params: ``image_height``, ``image_width``, ``is_image_color`` and ``n_classes``; ``manual_seed``,
            ``test_fraction`` and ``validation_fraction`` where images are held out; ``max_unreadable``.
        emit: Gets the status of the step.

    Raises:
        DataError: The data cannot be used; one line says what, where and what to do.
        ArtifactError: The dataset directory cannot be written.
    """
    source = open_source(data, params.n_classes)
    _log.info(
        "%s: %d training and %s test images in %d classes",
        source.name,
        len(source.train.labels),
        "no" if source.test is None else len(source.test.labels),
        len(source.classes),
    )
    preparation = _Preparation(source, dataset, params, emit)
    manifest = None
    while manifest is None:
        manifest = preparation.write()
    return PrepareResult(
        dataset=dataset,
        classes=tuple(manifest.classes),
        counts={name: split.count for name, split in manifest.splits.items()},
        image_shape=manifest.image.as_tuple(),
        unreadable=len(manifest.unreadable),
        source=manifest.source,
        test_split=manifest.test_split,
    )


class _Preparation:
    """Writes the dataset of one source, in as many passes as it takes (one, or two where images are unreadable).

    Args:
        source: Images and labels.
        dataset: Directory to write.
        params: Options of the run.
        emit: Gets progress.
    """

    def __init__(self, source: Source, dataset: Path, params: Params, emit: Emit) -> None:
        self._source = source
        self._dataset = dataset
        self._params = params
        self._emit = emit
        self._splits: dict[SplitName, SourceSplit] = {"train": source.train}
        self._fractions: dict[SplitName, float] = {}
        if source.test is None:
            self._fractions["test"] = params.test_fraction
        else:
            self._splits["test"] = source.test
        if params.validation_fraction > 0:
            self._fractions["validation"] = params.validation_fraction
        # By split of the source, then by position in it.
        self._unreadable: dict[SplitName, dict[int, UnreadableImage]] = {name: {} for name in self._splits}

    def write(self) -> DatasetManifest | None:
        """Write the whole dataset; None if images turned out unreadable and what is held out must be drawn anew."""
        known = {name: len(found) for name, found in self._unreadable.items()}
        self._told, self._told_images = time.monotonic(), 0
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
                if self._fractions and len(self._unreadable["train"]) > known["train"]:
                    _log.info("holding out anew, without the images that were set aside")
                    return None
            return writer.commit(
                source=self._source.name,
                test_split="held out" if self._source.test is None else "given",
                manual_seed=self._params.manual_seed,
                unreadable=[image for found in self._unreadable.values() for _, image in sorted(found.items())],
            )

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
        train = assign_splits(labels, readable, n_classes, self._fractions, self._params.manual_seed)
        if self._source.test is None:
            return {"train": train}
        readable = self._readable("test")
        if not readable.any():
            raise DataError(
                f"{shown(self._source.path)}: no test image can be read; mend them, or remove the test split to have "
                "one held out"
            )
        return {"train": train, "test": {"test": readable}}

    def _check_counts(self, counts: list[int]) -> None:
        """Hold the number of readable training images in each class against the number of splits.

        Raises:
            DataError: A class has too few.
        """
        needed = ["train", *self._fractions]
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
        for batch in split.batches(self._params.image_shape, frozenset(found)):
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
        count = self._unreadable_count()
        total = sum(len(split.labels) for split in self._splits.values())
        if count > _WARNINGS_SHOWN:
            _log.warning("set aside %d images in all", count)
        if count / total > self._params.max_unreadable:
            found = next(found for found in self._unreadable.values() if found)
            first = found[min(found)]
            where = shown(self._source.path)
            raise DataError(
                f"{where}: {count} of {total} images cannot be read ({count / total:.2%}), and max_unreadable is "
                f"{self._params.max_unreadable:.2%}; the first is {first.file}: {first.reason}; mend or remove "
                "them, or raise max_unreadable"
            )


@contextmanager
def _no_decoder_warnings() -> Iterator[None]:
    """Keep quiet what Pillow warns of: an image is read, or it is set aside with a reason."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
