"""The images that manifests name: found in the tree or in buckets, each once, with its label and split."""

from __future__ import annotations

import os
import re
from array import array
from collections import Counter

import numpy as np
import numpy.typing as npt

from components.data_prep.contents import Read
from components.data_prep.layouts.manifest_rows import Row, rows
from components.data_prep.layouts.named_files import NamedFiles, unused_images
from components.data_prep.layouts.source import listed
from components.data_prep.splits import SPLITS, split_of
from components.data_prep.trees.bucket_images import BucketImages
from components.data_prep.trees.file_tree import FileTree
from components.data_prep.trees.folder_tree import count_left_out
from components.data_prep.trees.name_tree import MOST_NAMES
from components.shared.artifacts.dataset import LeftOut, SplitName
from components.shared.errors import DataError, InputError
from components.shared.logs import step_logger
from components.shared.staging import SCRATCH_VARIABLE
from components.shared.storage.fetch_ahead import FetchAhead
from components.shared.storage.location import Location, parse_location
from components.shared.text import shown

_log = step_logger("data-prep")

# What pandas, and so datasets, reads from CSV as no value, and as a number.
_NO_VALUES = {"#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A"}
_NO_VALUES |= {"NA", "NULL", "NaN", "None", "n/a", "nan", "null"}
_NUMBER = re.compile(r"\s*[-+]?\d+(\.\d*)?\s*", re.ASCII)

Numbers = npt.NDArray[np.int64]  # of rows, ascending


class ManifestImages:
    """The images of all rows, numbered in their order.

    Attributes:
        names: Path below the data of each, or its URI where it is elsewhere.
        labels: The label of each.
    """

    def __init__(self, tree: FileTree) -> None:
        self.names: list[str] = []
        self.labels: list[str] = []
        self._tree = tree
        # Of one file, the paths that it names are beside it; they are listed once there is one.
        self._around: FileTree | None = None if tree.is_file else tree
        self._base = tree.name.rstrip("/") + "/"
        if tree.is_file:
            self._base = tree.name.rpartition("/")[0] + "/"
        self._splits: list[SplitName | None] = []
        self._lines = array("q")
        self._numbers: dict[str, int] = {}  # by what is the same for all links to an image
        self._texts: dict[str, str] = {}
        self._in_tree: list[int] = []
        self._in_buckets: dict[Location, list[int]] = {}  # by the bucket as a whole
        self._real: set[str] = set()
        self._manifests: list[tuple[int, str]] = []  # the number of the first row, and where it is

    def add(self, file: str, split: SplitName | None) -> int:
        """Add the rows of a manifest, all of one split unless that is None; how many there are."""
        where, folder, count, again = self._tree.at(file), file.rpartition("/")[0], 0, 0
        self._manifests.append((len(self.names), where))
        found: dict[str, NamedFiles] = {}
        for row in rows(self._tree.local(file), file, where):
            at = f"{where}, line {row.line}: {shown(row.image)}"
            if split and row.split and split != row.split:
                raise DataError(f"{at} is of the split {row.split}, and all of the manifest is of {split}")
            again += not self._add_row(row, row.split or split, folder, found, at)
            count += 1
        if not count:
            raise DataError(f"{where}: names no image")
        if again:
            _log.warning("%s: %d row(s) say again what earlier rows say", where, again)
        for files in found.values():
            self._real |= files.real
        if not self._tree.is_file:
            here = self._tree.root.folders[folder] if folder else self._tree.root
            self._real.add(here.path(file.rpartition("/")[2]))
        if file.lower().endswith(".csv"):
            self._log_other_readings(where)
        return count

    def _add_row(self, row: Row, split: SplitName | None, folder: str, found: dict[str, NamedFiles], at: str) -> bool:
        """Add the image of a row; False: it is there already."""
        image, folder, location = self._placed(row.image, folder, at)
        if location is None:
            if folder not in found:
                found[folder] = NamedFiles(self._files(), folder)
            path, identity = found[folder].find(image, at)
            name = f"{folder}/{path}" if folder else path
        else:
            name = identity = str(location)
        if (earlier := self._numbers.get(identity)) is not None:
            for what, mine, its in (
                ("label", row.label, self.labels[earlier]),
                ("split", split, self._splits[earlier]),
            ):
                if mine != its:
                    raise DataError(f"{at} has the {what} {mine}, and by {self._at(earlier)} {its}; an image has one")
            return False
        if len(self.names) >= MOST_NAMES:
            raise DataError(f"{at} is behind {MOST_NAMES} others, which are the most that are read; divide the data")
        number = self._numbers[identity] = len(self.names)
        self.names.append(name)
        self.labels.append(self._texts.setdefault(row.label, row.label))
        self._splits.append(split)
        self._lines.append(row.line)
        if location is None:
            self._in_tree.append(number)
        else:
            self._in_buckets.setdefault(Location(location.scheme, location.bucket, ""), []).append(number)
        return True

    def _placed(self, image: str, folder: str, at: str) -> tuple[str, str, Location | None]:
        """A path, the folder that it is relative to, and no location; or an object of a bucket elsewhere."""
        if "://" not in image:
            return image, folder, None
        if image.lower().startswith(("http://", "https://")):
            raise DataError(f"{at} is on the web, from where nothing is read; copy the images to a folder or bucket")
        try:
            location = parse_location(image.strip())
        except InputError as error:
            raise DataError(f"{at}: {error}") from error
        if not isinstance(location, Location) or not location.key:
            raise DataError(f"{at} names no object in a bucket; write paths relative to the manifest")
        if (uri := str(location)).startswith(self._base):
            return uri.removeprefix(self._base), "", None
        return image, folder, location

    def _files(self) -> FileTree:
        """The tree in which paths are found."""
        if self._around is None:
            self._around = self._tree.around()
            self._tree.stack.push(self._around)
        return self._around

    def _at(self, number: int) -> str:
        where = next(where for first, where in reversed(self._manifests) if first <= number)
        return f"{where}, line {self._lines[number]}"

    def _log_other_readings(self, where: str) -> None:
        """Say where pandas, and so datasets, would read other labels from the same CSV."""
        first = self._manifests[-1][0]
        counts = Counter(self.labels[first:])
        values = [label for label in counts if label not in _NO_VALUES]
        if none := [label for label in counts if label in _NO_VALUES]:
            rows_of = sum(counts[label] for label in none)
            _log.warning("%s: the label %s of %d row(s) is a class; pandas reads none", where, listed(none), rows_of)
        other = [label for label in values if not label.strip().isdecimal() or str(int(label)) != label]
        if other and all(map(_NUMBER.fullmatch, values)):
            _log.warning(
                "%s: labels are texts, as they are written, such as %s; pandas reads numbers", where, listed(other)
            )

    def by_split(self) -> dict[SplitName, list[int]]:
        """The numbers of the rows of each split: as rows say, else as the folders of their images; train always."""
        splits = self._splits
        if not any(splits):
            splits = self._splits_of_folders()
        elif unassigned := splits.count(None):
            _log.warning("%s: %d row(s) name no split, and are for training", self._tree.at(), unassigned)
        by_split: dict[SplitName, list[int]] = {}
        for number, split in enumerate(splits):
            by_split.setdefault(split or "train", []).append(number)
        if "train" not in by_split:
            raise DataError(f"{self._tree.at()}: all rows are of {' and '.join(by_split)}, and none is for training")
        return {split: by_split[split] for split in SPLITS if split in by_split}

    def _splits_of_folders(self) -> list[SplitName | None]:
        """The splits that the folders of images mean, where they mean several."""
        splits: list[SplitName | None] = []
        for name in self.names:
            folders = (name.split("/", 3)[3:] or [""])[0] if "://" in name else name
            splits.append(next((split for part in folders.split("/")[:-1] if (split := split_of(part))), None))
        meant = set(splits) - {None}
        if not meant or (set(splits) == {*meant} and len(meant) == 1):
            return [None] * len(splits)
        if None in splits:
            named, other = next(number for number, split in enumerate(splits) if split), splits.index(None)
            raise DataError(
                f"{self._at(other)}: {shown(self.names[other])} is in no folder of a split, and "
                f"{shown(self.names[named])} is in that of {splits[named]}; name the splits in a column split"
            )
        _log.info("%s: no row names a split; the folders of the images do", self._tree.at())
        return splits

    def reads(self) -> list[tuple[Numbers, Read]]:
        """For each place the numbers of its rows, and what hands out their images by positions in these.

        DataError: an object is not there.
        """
        reads = []
        if self._in_tree:
            reads.append((self._in_tree, self._files().read([self.names[number] for number in self._in_tree])))
        for bucket, numbers in self._in_buckets.items():
            ahead = self._tree.stack.enter_context(FetchAhead(bucket, os.environ.get(SCRATCH_VARIABLE)))
            objects = BucketImages(ahead, bucket)
            keys = [self.names[number].removeprefix(f"{bucket}/") for number in numbers]
            if missing := set(objects.find(keys)):
                first = next(number for number, key in zip(numbers, keys, strict=True) if key in missing)
                more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
                raise DataError(f"{self._at(first)}: {shown(self.names[first])}: there is no such object{more}")
            reads.append((numbers, objects.read(keys)))
        return [(np.array(numbers, dtype=np.int64), read) for numbers, read in reads]

    def count_left_out(self) -> LeftOut:
        """Count what no manifest names, where a folder is the data."""
        if self._tree.is_file:
            return LeftOut()
        unused = unused_images(self._tree, self._numbers)
        return count_left_out(self._tree.root, {"in no manifest": unused}, self._real)
