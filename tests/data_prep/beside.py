"""Data as our reader and as another library see them: by split the classes, and of each sample class and content."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from components.data_prep.contents import Encoded, FilePart
from components.data_prep.layouts.layout import open_source


class Seen(NamedTuple):
    """What a reader makes of data; a sample is its class and its encoded bytes."""

    classes: list[str] | None  # None: labels have no names
    splits: dict[str, list[tuple[str, bytes]]]


def ours(data: Path, layout: str = "auto") -> Seen:
    splits: dict[str, list[tuple[str, bytes]]] = {}
    with open_source(data, layout=layout) as source:
        for name, split in source.splits.items():
            read = sorted(split.read(range(len(split.labels))), key=lambda each: getattr(each, "position", -1))
            assert [each.position for each in read if isinstance(each, Encoded)] == list(range(len(split.labels)))
            contents = [_content(each) for each in read]
            labels = [source.classes[label] for label in split.labels.tolist()]
            splits[name] = list(zip(labels, contents, strict=True))
    return Seen(list(source.classes), splits)


def _content(image: Any) -> bytes:
    assert isinstance(image, Encoded)
    assert not image.problem
    return Path(image.content.path).read_bytes() if isinstance(image.content, FilePart) else image.content


def theirs(splits: Any, images: str = "image", labels: str = "label") -> Seen:
    """What datasets makes of data, loaded as a DatasetDict; a label without a name is its number or text."""
    import datasets

    feature = next(iter(splits.values())).features.get(labels)
    names = feature.names if isinstance(feature, datasets.ClassLabel) else None
    seen = {}
    for name, split in splits.items():
        if isinstance(split.features[images], datasets.Image):
            split = split.cast_column(images, datasets.Image(decode=False))
        rows = split.to_list()
        given = [row.get(labels) for row in rows]
        numbered = range(len(names or ()))
        texts = [names[label] if names and label in numbered else str(label) for label in given]
        seen[name] = [(text, _bytes(row[images])) for text, row in zip(texts, rows, strict=True)]
    return Seen(names, seen)


def _bytes(image: Any) -> bytes:
    if not isinstance(image, dict):
        return bytes(image)
    return bytes(image["bytes"]) if image["bytes"] is not None else Path(image["path"]).read_bytes()


@pytest.fixture(scope="session")
def hf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The library datasets, offline and with a cache of its own."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("hf")
        for name, value in {"HF_HUB_OFFLINE": "1", "HF_HOME": f"{home}", "HF_DATASETS_CACHE": f"{home}/data"}.items():
            patch.setenv(name, value)
        import datasets

        datasets.disable_progress_bars()
        yield datasets
