"""Writes dataset directories: rows of pixels by their position, then labels, names, and the manifest last."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO, Literal, Self, get_args

import numpy as np

from components.shared.artifacts.artifact import ArtifactWriter, FileRecord, ImageShape, Normalisation
from components.shared.artifacts.dataset import (
    DATASET,
    DatasetManifest,
    Images,
    Labels,
    LeftOut,
    SplitName,
    SplitRecord,
    UnreadableImage,
)
from components.shared.artifacts.names import ImageName
from components.shared.artifacts.row_digests import RowDigests
from components.shared.artifacts.row_files import RowFiles
from components.shared.files import naming, writing
from components.shared.params.types import Fit, Interpolation
from components.shared.pixel_sums import Sums, sums_of
from components.shared.version import __version__


class DatasetWriter:
    """Writes a dataset directory; use as a context manager and end with :meth:`commit`.

    Either image by image with :meth:`add`; or rows by their position through :meth:`rows`, and what they are, in stored
    order, with :meth:`describe`, where `sums` are the caller's to add to.

    Args:
        path: The directory; new, empty, or an earlier dataset that is replaced; ArtifactError for any other.
        classes: Class names; labels index them.
        image_shape: Height, width, channels of every image.
    """

    def __init__(self, path: Path, classes: list[str], image_shape: tuple[int, int, int]) -> None:
        self._writer = ArtifactWriter(path, DATASET)
        self._classes = classes
        self._shape = image_shape
        self._rows: dict[SplitName, RowFiles] = {}
        self._labels: dict[SplitName, list[Labels]] = {}
        self._names: dict[SplitName, IO[bytes]] = {}
        self.digests = RowDigests()
        # Of the training images: mean and std follow exactly.
        self.sums: Sums = np.zeros((image_shape[2], 3), dtype=np.int64)

    def __enter__(self) -> Self:
        self._writer.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for stream in self._names.values():
            with suppress(OSError):  # of a full disk, which has been reported
                stream.close()
        self.digests.close()
        self._writer.__exit__(kind, error, trace)

    def new_file(self, name: str) -> Path:
        """The path of a further file of the dataset, which the manifest is to record."""
        return self._writer.new_file(name)

    def record(self, file: Path) -> FileRecord:
        """The manifest's entry for a further file that is finished."""
        return self._writer.record(file)

    def rows(self, split: SplitName) -> RowFiles:
        """The images of a split."""
        if split not in self._rows:
            self._rows[split] = RowFiles(partial(self._new_shard, split), self._shape)
        return self._rows[split]

    def _new_shard(self, split: SplitName, number: int) -> Path:
        return self._writer.new_file(f"{split}/images-{number:05d}.npy")

    def describe(self, split: SplitName, labels: Labels, names: Iterable[bytes] | None) -> None:
        """Append the labels of the next rows of a split and, in pieces of any size, their lines of names.jsonl."""
        if split in self._labels and (names is None) != (split not in self._names):
            raise ValueError(f"some {split} images have names and others none")
        if names is not None:
            if split not in self._names:
                self._names[split] = self._writer.new_file(f"{split}/names.jsonl").open("wb")
            with naming(Path(self._names[split].name)):
                self._names[split].writelines(names)
        self._labels.setdefault(split, []).append(np.asarray(labels, dtype=np.int64))

    def add(self, split: SplitName, images: Images, labels: Labels, names: Sequence[ImageName] | None = None) -> None:
        """Append images, uint8 of shape (n, height, width, channels), labels, integers of shape (n,), and their names.

        Of a split all images have names, or none.
        """
        if images.dtype != np.uint8 or images.shape[1:] != self._shape or len(images) != len(labels):
            raise ValueError(f"{images.dtype} images of shape {images.shape} with {len(labels)} labels")
        if len(images) != len(images if names is None else names):
            raise ValueError(f"{len(images)} images with {len(names or ())} names")
        first = sum(map(len, self._labels.get(split, ())))
        self.describe(split, labels, None if names is None else (name.line().encode() for name in names))
        self.rows(split).write(first, np.ascontiguousarray(images))
        if split == "train":
            self.sums += sums_of(images)

    def _write_labels(self, split: SplitName, labels: Labels) -> FileRecord:
        file = self._writer.new_file(f"{split}/labels.npy")
        with writing(file) as output:
            np.save(output, labels, allow_pickle=False)
        return self._writer.record(file)

    def _finish_names(self, split: SplitName) -> FileRecord | None:
        if split not in self._names:
            return None
        file = Path(self._names[split].name)
        with naming(file):
            self._names[split].close()
        return self._writer.record(file)

    def commit(
        self,
        *,
        source: str,
        test_split: Literal["given", "held out"],
        manual_seed: int,
        unreadable: list[UnreadableImage],
        validation_split: Literal["given", "held out"] | None = None,
        split_folders: dict[SplitName, str] | None = None,
        left_out: LeftOut | None = None,
        noted: Mapping[str, int] | None = None,
        decoder: str | None = None,
        reports: Sequence[FileRecord] = (),
        image_fit: Fit = "stretch",
        image_interpolation: Interpolation = "bilinear",
        alpha_background: tuple[int, int, int] | None = None,
    ) -> DatasetManifest:
        """Finish all files and write the manifest; the dataset is whole from here on."""
        splits: dict[SplitName, SplitRecord] = {}
        known = self.digests.results()
        for split in (name for name in get_args(SplitName) if name in self._labels):
            labels = np.concatenate(self._labels[split])
            splits[split] = SplitRecord(
                count=len(labels),
                class_counts=np.bincount(labels, minlength=len(self._classes)).tolist(),
                images=self._rows[split].finish(len(labels), lambda path: self._writer.record(path, known.get(path))),
                labels=self._write_labels(split, labels),
                names=self._finish_names(split),
            )
        height, width, channels = self._shape
        manifest = DatasetManifest(
            created_by=f"shutterline {__version__}",
            source=source,
            classes=self._classes,
            image=ImageShape.model_validate({"height": height, "width": width, "channels": channels}),
            normalisation=_normalisation(self.sums),
            splits=splits,
            test_split=test_split,
            manual_seed=manual_seed,
            unreadable=unreadable,
            validation_split=validation_split,
            split_folders=split_folders or {},
            left_out=left_out or LeftOut(),
            noted=dict(noted or {}),
            decoder=decoder,
            reports=list(reports),
            image_fit=image_fit,
            image_interpolation=image_interpolation,
            alpha_background=None if alpha_background is None else list(alpha_background),
        )
        self._writer.commit(manifest)
        return manifest


def _normalisation(sums: Sums) -> Normalisation:
    mean, std = [], []
    for total, first, second in sums.tolist():
        mean.append(first / (total * 255))
        variance = (total * second - first * first) / (total * total)
        # A channel that never varies has nothing to be divided by.
        std.append(math.sqrt(variance) / 255 if variance > 0 else 1.0)
    return Normalisation(mean=mean, std=std)
