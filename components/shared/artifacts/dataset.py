"""The dataset directory: images of every split as large uint8 arrays, labels, names, and ``dataset.json``.

Layout::

    dataset.json              the manifest, written last
    train/images-00000.npy    uint8, shape (images, height, width, channels)
    train/labels.npy          int64, shape (images,), in the order of the image shards
    train/names.jsonl         a line an image, in that order: where it came from and what it was (names.py)
    test/…                    the same; validation/… where one was held out
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from components.shared.artifacts.artifact import (
    ArtifactKind,
    ClassNames,
    Color,
    FileRecord,
    ImageShape,
    Manifest,
    Normalisation,
    Record,
    open_artifact,
)
from components.shared.artifacts.names import ImageName, read_names
from components.shared.errors import ArtifactError
from components.shared.params.types import Fit, Interpolation

SplitName = Literal["train", "validation", "test"]
Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


class ShardRecord(FileRecord):
    """One image array and how many images it holds."""

    count: int = Field(ge=1)


class SplitRecord(Record):
    """One split: its image shards in order, its labels and names, and how many images each class has."""

    count: int = Field(ge=1)
    class_counts: list[Annotated[int, Field(ge=0)]]
    images: list[ShardRecord]
    labels: FileRecord
    names: FileRecord | None = Field(None, description="names.jsonl; null: not recorded, as up to version 0.8.")

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if sum(self.class_counts) != self.count:
            raise ValueError(f"the counts of its classes do not add up to its {self.count} images")
        if sum(shard.count for shard in self.images) != self.count:
            raise ValueError(f"the shards of a split do not add up to its {self.count} images")
        return self


class UnreadableImage(Record):
    """An image that was set aside."""

    file: str
    reason: str


class LeftOut(Record):
    """What of the data folder was not read; names beyond the most frequent are counted together."""

    files: dict[str, int] = Field(default_factory=dict, description="Files that are not read, by their ending.")
    images: dict[str, int] = Field(default_factory=dict, description="Images that were not used, by the reason.")
    folders: dict[str, int] = Field(default_factory=dict, description="Folders that are no data, by their name.")
    files_in_folders: int = Field(0, ge=0, description="Files in these, up to 10,000 of each folder.")

    def by_name(self) -> dict[str, int]:
        """All counts in one: endings as they are, folders with a slash, and images with the reason."""
        return {
            **self.files,
            **{f"images {reason}": count for reason, count in self.images.items()},
            **{f"{name}/": count for name, count in self.folders.items()},
        }


class DatasetManifest(Manifest):
    """``dataset.json``."""

    kind: Literal["shutterline.dataset"] = "shutterline.dataset"
    source: str = Field(description="What the images came from, such as 'IDX files'.")
    classes: ClassNames = Field(min_length=1, description="Class names; a label is an index into them.")
    image: ImageShape
    normalisation: Normalisation = Field(description="Of the training images, per channel, in units of 0..1.")
    splits: dict[SplitName, SplitRecord]
    test_split: Literal["given", "held out"] = Field(description="Whether the data brought a test split.")
    manual_seed: int = Field(description="What images were held out by.")
    unreadable: list[UnreadableImage]
    # Datasets of 0.6 and earlier lack what follows.
    noted: dict[str, int] = Field(
        default_factory=dict,
        description="How many images were changed, scaled or shown in part by data prep: 'transparent' and the like.",
    )
    validation_split: Literal["given", "held out"] | None = Field(
        None, description="Whether the data brought a validation split; null: there is none."
    )
    split_folders: dict[SplitName, str] = Field(
        default_factory=dict, description="The folder of each split that the data brought; empty: the data folder."
    )
    left_out: LeftOut = Field(default_factory=LeftOut)
    image_fit: Fit = Field("stretch", description="How images of other proportions became `image`.")
    image_interpolation: Interpolation = Field("bilinear", description="How images were resized.")
    alpha_background: Color | None = Field(
        None, description="What transparent parts were composited on; None: not recorded, as up to version 0.11."
    )
    decoder: str | None = Field(None, description="Versions of what the pixels depend on; null: up to version 0.11.")
    reports: list[FileRecord] = Field(default_factory=list, description="What was found out about the images.")

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        self.normalisation.require_channels(self.image.channels)
        for name, split in self.splits.items():
            if len(split.class_counts) != len(self.classes):
                raise ValueError(f"{name} counts {len(split.class_counts)} classes, and there are {len(self.classes)}")
        names = [record.file for record in self.files()]
        if len(set(names)) != len(names):
            raise ValueError("a file is named twice")
        return self


DATASET = ArtifactKind("dataset", "dataset.json", DatasetManifest)


@dataclass(frozen=True)
class Split:
    """One opened split: memory-mapped shards, uint8 of shape (images, height, width, channels); labels are int64."""

    shards: tuple[Images, ...]
    labels: Labels
    names_file: Path | None = None  # None: not recorded, or not opened

    def __len__(self) -> int:
        return len(self.labels)

    def images(self) -> Images:
        """All images as one array; the memory map itself where there is one shard, else a copy."""
        return self.shards[0] if len(self.shards) == 1 else np.concatenate(self.shards)

    def image(self, index: int) -> Images:
        """One image of shape (height, width, channels), by its position in the split."""
        for shard in self.shards:
            if index < len(shard):
                image: Images = shard[index]
                return image
            index -= len(shard)
        raise IndexError(index)

    def names(self) -> Iterator[ImageName] | None:
        """Where each image came from and its original size, in stored order; None where that was not recorded.

        ArtifactError, while they are read: the file does not hold a name for each image.
        """
        return None if self.names_file is None else read_names(self.names_file, len(self))


@dataclass(frozen=True)
class Dataset:
    """An opened dataset directory, with the splits that were opened."""

    path: Path
    manifest: DatasetManifest
    splits: dict[SplitName, Split]

    @property
    def selection_split(self) -> Literal["validation", "test"]:
        """The split that training is watched by: validation where there is one, else test."""
        return "validation" if "validation" in self.splits else "test"


ChosenSplits = Callable[[DatasetManifest], Collection[SplitName]]


def training_splits(manifest: DatasetManifest) -> Collection[SplitName]:
    """What training reads: the training images, and those it is watched by."""
    return ("train", "validation" if "validation" in manifest.splits else "test")


def evaluation_splits(manifest: DatasetManifest) -> Collection[SplitName]:
    """What evaluation reads."""
    return manifest.splits.keys() & {"test"}


def files_of_splits(manifest: DatasetManifest, chosen: ChosenSplits, *, names: bool = True) -> Iterator[FileRecord]:
    """The files of some splits, with or without those of names; a split that is not there has none."""
    for name in chosen(manifest):
        if split := manifest.splits.get(name):
            yield from (*split.images, split.labels)
            if names and split.names is not None:
                yield split.names


def training_files(manifest: DatasetManifest) -> Iterator[FileRecord]:
    """What training reads of a dataset: images and labels, no names."""
    return files_of_splits(manifest, training_splits, names=False)


def open_dataset(
    path: Path, chosen: ChosenSplits = lambda manifest: manifest.splits.keys(), *, names: bool = True
) -> Dataset:
    """Open the chosen splits of a dataset directory, every file checked; images stay on disk, mapped into memory.

    The files of other splits need not be there, and without `names` neither need those of names. ArtifactError: not a
    complete dataset, or damaged.
    """
    manifest: DatasetManifest
    path, manifest = open_artifact(path, DATASET, partial(files_of_splits, chosen=chosen, names=names))
    wanted = chosen(manifest)
    splits = {
        name: _open_split(path, manifest, record, names=names)
        for name, record in manifest.splits.items()
        if name in wanted
    }
    return Dataset(path, manifest, splits)


def _open_split(path: Path, manifest: DatasetManifest, record: SplitRecord, *, names: bool) -> Split:
    labels = _open_array(path / record.labels.file, np.int64, (record.count,))
    if labels.min() < 0 or labels.max() >= len(manifest.classes):
        raise ArtifactError(f"{path / record.labels.file}: holds labels outside 0..{len(manifest.classes) - 1}")
    shape = manifest.image.as_tuple()
    shards = tuple(_open_array(path / shard.file, np.uint8, (shard.count, *shape)) for shard in record.images)
    return Split(shards, labels, path / record.names.file if names and record.names else None)


ScalarT = TypeVar("ScalarT", bound=np.generic)


def _open_array(file: Path, dtype: type[ScalarT], shape: tuple[int, ...]) -> npt.NDArray[ScalarT]:
    try:
        # Not np.load, which takes zip archives and pickles for arrays too.
        array: npt.NDArray[ScalarT] = np.lib.format.open_memmap(file, mode="r")
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{file}: is not a NumPy array file: {error}") from error
    if array.dtype != dtype or array.shape != shape:
        raise ArtifactError(
            f"{file}: holds {array.dtype} of shape {array.shape}, and the manifest says {np.dtype(dtype)} of {shape}"
        )
    return array
