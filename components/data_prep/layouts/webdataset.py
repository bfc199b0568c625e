"""WebDataset: tar files, the shards, of samples ``key.jpg`` and ``key.cls`` or ``key.json``, sorted by their names."""

from __future__ import annotations

from collections import Counter

from components.data_prep.layouts.class_names import is_name_file, numbered, read_class_names
from components.data_prep.layouts.samples import LABEL_KEYS, Unused, looks_like_samples
from components.data_prep.layouts.shard_images import ShardImages
from components.data_prep.layouts.shards import open_shard, stem_of
from components.data_prep.layouts.source import Source, listed, reading
from components.data_prep.splits import SPLITS, split_in
from components.data_prep.trees.file_tree import FileTree
from components.data_prep.trees.folder_tree import count_left_out, images_below, joined, paths_below
from components.shared.artifacts.dataset import SplitName
from components.shared.errors import DataError
from components.shared.files import read_regular
from components.shared.logs import step_logger
from components.shared.text import shown

_log = step_logger("data-prep")

_COUNT_FILE = "nshards.txt"  # how many shards its folder has, as CLIP's benchmark writes it
_TRIED_SHARDS = 3


def find_webdataset(tree: FileTree) -> list[str] | None:
    """The tar files of a tree, sorted, if the first hold samples; where nothing else is there, also damaged ones."""
    shards = sorted(filter(stem_of, _others(tree)))
    for file in shards[:_TRIED_SHARDS]:
        try:
            with open_shard(tree.local(file), tree.at(file)) as shard:
                if looks_like_samples(shard):
                    return shards
        except DataError:
            if not any(images_below(tree.root)):
                raise
    return None


def open_webdataset(tree: FileTree, shards: list[str], n_classes: int | None) -> Source:
    """The source made of shards: all are read once for names and labels.

    Raises:
        DataError: The shards' names leave it open what is trained on, or what a shard holds is not clear.
    """
    others = _others(tree)
    named = sorted(filter(is_name_file, others))
    counted = [file for file in others if file.rpartition("/")[2] == _COUNT_FILE]
    names = read_class_names(tree, named)
    splits = _by_split(tree, shards)
    _check_counts(tree, shards, counted)
    unused = Unused()
    images = {split: ShardImages(tree, files, names, unused) for split, files in splits.items()}
    for split, of_split in images.items():
        if not of_split.labels:
            raise DataError(
                f"{tree.at()}: the {split} shards ({listed(splits[split])}) hold no image with a label: beside it must "
                f"be a .cls with its class's number or name, a .json with it as {' or '.join(LABEL_KEYS)}, or, with "
                f"classnames.txt beside the shards, a .txt with one of these names"
            )
    labels = {split: of_split.labels for split, of_split in images.items()}
    classes, numbers = numbered(
        tree, labels, {split: of_split.names for split, of_split in images.items()}, names, n_classes
    )
    aside = {
        "without a label": [name for of_split in images.values() for name in of_split.unlabelled],
        "beside shards": [path for path, _, _ in images_below(tree.root)],
    }
    left_out = count_left_out(tree.root, aside, {others[file] for file in (*shards, *named, *counted)})
    if unused.without_image:
        first = shown(unused.without_image[0])
        _log.warning("not read, being labels without an image: %d, such as %s", len(unused.without_image), first)
        unused.files["labels without an image"] = len(unused.without_image)
    if unused.files:
        _log.info("not used of the shards: %s", ", ".join(f"{n} {name}" for name, n in unused.files.most_common(20)))
    why = f"{len(shards)} tar file(s) hold samples, such as {shown(shards[0])}; read in the order of their names"
    return Source(
        tree,
        "WebDataset shards",
        classes,
        {split: of_split.split(_folder(splits[split]), numbers[split]) for split, of_split in images.items()},
        left_out.model_copy(update={"files": dict(Counter(left_out.files) + unused.files)}),
        why,
    )


def _others(tree: FileTree) -> dict[str, str]:
    """The real path of every file that has no image's ending, by its path."""
    return {joined(path, name): folder.path(name) for path, folder in paths_below(tree.root) for name in folder.others}


def _by_split(tree: FileTree, shards: list[str]) -> dict[SplitName, list[str]]:
    """Shards by the split that their folders or their own names mean; without any all are for training."""
    by_split: dict[SplitName | None, list[str]] = {}
    stems: dict[str, str] = {}
    for file in shards:
        stem = stem_of(file)
        if stem in stems:
            raise DataError(f"{tree.at(file)}: is beside {shown(stems[stem])}; remove one of the two")
        stems[stem] = file
        meant = {split for part in stem.split("/") if (split := split_in(part))}
        if len(meant) > 1:
            raise DataError(f"{tree.at(file)}: its path names the splits {' and '.join(sorted(meant))}; rename it")
        by_split.setdefault(next(iter(meant), None), []).append(file)
    unclear = by_split.pop(None, [])
    if not by_split:
        return {"train": unclear}
    if unclear:
        raise DataError(
            f"{tree.at()}: {listed(unclear)} name(s) no split, and {shown(next(iter(by_split.values()))[0])} does; put "
            "each into a folder train, test or val, or have its name say so, or remove it"
        )
    found = {split: by_split[split] for split in SPLITS if split in by_split}
    if "train" not in found:
        raise DataError(
            f"{tree.at()}: has shards of the split(s) {' and '.join(found)} ({listed(next(iter(found.values())))}), "
            "and none for training; add or rename some; or, if these are to be trained on, give --data their folder "
            "alone"
        )
    return found


def _folder(shards: list[str]) -> str:
    folders = {file.rpartition("/")[0] for file in shards}
    return folders.pop() if len(folders) == 1 else ""


def _check_counts(tree: FileTree, shards: list[str], counted: list[str]) -> None:
    for file in counted:
        folder = file.rpartition("/")[0]
        there = sum(shard.rpartition("/")[0] == folder for shard in shards)
        with reading(tree.at(file)):
            text = read_regular(tree.local(file), 100).strip()
        if text.isdigit() and int(text) != there:
            raise DataError(f"{tree.at(file)}: says {int(text)} shards, and {there} are there; fetch the others")
