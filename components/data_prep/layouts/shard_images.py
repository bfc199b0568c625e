"""The images of a split's shards: listed with their labels in one pass, and read where they are in the shards."""

from __future__ import annotations

import threading
from array import array
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path

from components.data_prep.contents import Block, Encoded, FilePart
from components.data_prep.layouts.class_names import ClassNames, Label
from components.data_prep.layouts.samples import LARGEST_IMAGE, Unused, samples
from components.data_prep.layouts.shards import Member, open_shard, stem_of, unpacked
from components.data_prep.layouts.source import SourceSplit
from components.data_prep.trees.file_tree import FileTree
from components.shared.artifacts.dataset import Labels, UnreadableImage
from components.shared.errors import DataError
from components.shared.text import shown


class ShardImages:
    """The labelled images of one split, in the order of its shards and of each shard.

    Args:
        tree: Where the shards are.
        shards: Their paths.
        class_names: Those that are beside the shards; a ``.txt`` that holds one of them is a label.
        unused: Gets what the shards hold beside images and labels.

    Attributes:
        names: ``shard/member``, the shard without its ending, so that a compressed one gives the same.
        labels: As many numbers or names of classes.
        unlabelled: The names of images without a label, which are none of them.
    """

    def __init__(self, tree: FileTree, shards: list[str], class_names: ClassNames | None, unused: Unused) -> None:
        self.names: list[str] = []
        self.labels: list[Label] = []
        self.unlabelled: list[str] = []
        self._tree, self._shards = tree, shards
        # By position: the number of the shard, and where in it the image is.
        self._numbers, self._offsets, self._sizes = array("i"), array("q"), array("q")
        self._is_compressed: list[bool] = []
        self._unreadable: dict[int, UnreadableImage] = {}
        kept = {name: name for name in class_names.names} if class_names else {}  # one text for each name
        by_text: dict[bool, str] = {}
        for number, file in enumerate(shards):
            with tree.borrowed(file) as path, open_shard(path, tree.at(file)) as shard:
                self._is_compressed.append(shard.is_compressed)
                for image, label, text, problem in samples(shard, unused):
                    name = f"{stem_of(file)}/{image.name}"
                    is_text = label is None and class_names is not None and text in kept
                    label = text if is_text else label
                    if label is None:
                        self.unlabelled.append(name)
                        continue
                    by_text.setdefault(is_text, name)
                    if problem:
                        self._unreadable[len(self.names)] = UnreadableImage(file=shown(name), reason=problem)
                    self.names.append(name)
                    self.labels.append(kept.setdefault(label, label) if isinstance(label, str) else label)
                    self._numbers.append(number)
                    self._offsets.append(image.offset)
                    self._sizes.append(image.size)
        if len(by_text) > 1:
            raise DataError(
                f"{tree.at()}: {shown(by_text[True])} has its class in a .txt, and {shown(by_text[False])} in a .cls "
                "or .json; give all of them a .cls"
            )

    def split(self, folder: str, labels: Labels) -> SourceSplit:
        """The split with these labels."""
        return SourceSplit(folder, labels, self.names, self._read, self._unreadable)

    def _read(self, wanted: Collection[int]) -> Iterator[Encoded | Block]:
        for number, group in groupby(sorted(wanted), self._numbers.__getitem__):
            positions, file = list(group), self._shards[number]
            with ExitStack() as stack:
                path = stack.enter_context(self._tree.borrowed(file))
                if self._is_compressed[number]:
                    shard = stack.enter_context(open_shard(path, self._tree.at(file)))
                    for position in positions:
                        yield self._image(position, shard.read(self._member(position)))
                    continue
                use = _Use(stack.pop_all(), len(positions))  # the parts are read after this has gone on
            for position in positions:
                _, offset, size = self._member(position)
                yield self._image(position, FilePart(str(path), offset, size), use.end)

    def _member(self, position: int) -> Member:
        return Member(self.names[position], self._offsets[position], self._sizes[position])

    def _image(self, position: int, content: FilePart | bytes, release: Callable[[], None] | None = None) -> Encoded:
        """An image as it is; one that is compressed by itself, such as ``1.png.gz``, unpacked."""
        if not self.names[position].lower().endswith(".gz"):
            return Encoded(position, content, release)
        if isinstance(content, FilePart):
            with Path(content.path).open("rb") as stream:
                stream.seek(content.offset)
                content = stream.read(self._sizes[position])
        unpacked_content = unpacked(content, LARGEST_IMAGE)
        problem = "" if unpacked_content else f"cannot be unpacked, or to more than {LARGEST_IMAGE} bytes"
        return Encoded(position, unpacked_content or b"", release, problem)


class _Use:
    """Ends what several users share, once the last of them has ended."""

    def __init__(self, shared: ExitStack, users: int) -> None:
        self._shared, self._users, self._lock = shared, users, threading.Lock()

    def end(self) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                self._shared.close()
