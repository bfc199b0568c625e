"""The images of a split's shards: listed with their labels in one pass, and read where they are in the shards."""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterator
from itertools import groupby

from components.data_prep.class_names import ClassNames, Label
from components.data_prep.contents import Block, Encoded, FilePart
from components.data_prep.file_tree import FileTree
from components.data_prep.samples import LARGEST_IMAGE, Unused, samples
from components.data_prep.shards import Member, open_shard, stem_of, unpacked
from components.data_prep.source import SourceSplit
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
            with open_shard(tree.local(file), tree.at(file)) as shard:
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
        for number, positions in groupby(sorted(wanted), self._numbers.__getitem__):
            file = self._shards[number]
            path = self._tree.local(file)
            if not self._is_compressed[number]:
                for position in positions:
                    part = FilePart(str(path), self._offsets[position], self._sizes[position])
                    yield _unpacked(Encoded(position, part), self.names[position])
                continue
            with open_shard(path, self._tree.at(file)) as shard:
                for position in positions:
                    content = shard.read(Member(self.names[position], self._offsets[position], self._sizes[position]))
                    yield _unpacked(Encoded(position, content), self.names[position])


def _unpacked(image: Encoded, name: str) -> Encoded:
    """An image that is compressed by itself, such as ``1.png.gz``, unpacked; any other as it is."""
    if not name.lower().endswith(".gz"):
        return image
    content = image.content
    if isinstance(content, FilePart):
        with open(content.path, "rb") as stream:  # noqa: PTH123 # a text
            stream.seek(content.offset)
            content = stream.read(content.length)
    unpacked_content = unpacked(content, LARGEST_IMAGE)
    if unpacked_content is None:
        return Encoded(image.position, b"", problem=f"cannot be unpacked, or to more than {LARGEST_IMAGE} bytes")
    return Encoded(image.position, unpacked_content)
