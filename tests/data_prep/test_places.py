"""The same data at every place and in every archive make the same dataset, byte for byte."""

from __future__ import annotations

import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from components.data_prep.step import prepare_staged
from components.shared.storage.location import AnyPath, parse_location
from tests.data_prep.building import files_of, idx_folder, info_csv, params, tree
from tests.data_prep.parquet_files import write_parquet
from tests.data_prep.shards import of_classes, shard
from tests.peers.object_store import Bucket
from tests.shared.decoding.pictures import encoded, plain

PACKINGS = ("plain", ".tar", ".tar.gz", ".zip")
PLACES = ("local", "gs", "s3")


def _class_folders(data: Path) -> Path:
    tree(data, "train/cat/×5.png", "train/dog/a/×4.png", "test/dog/×2.png", "test/cat/0.png")
    tree(data, "train/cat/._0.png", ".DS_Store", "__MACOSX/x.png", "notes.txt", first=99)
    (data / "train" / "cat" / "nameless").write_bytes((data / "train" / "cat" / "0.png").read_bytes())
    (data / "train" / "dog" / "broken.png").write_bytes(b"no picture")
    return data


def _table(data: Path) -> Path:
    rows = "".join(f"images/{value}.png,{('cat', 'dog')[value % 2]}\n" for value in range(8))
    info_csv(data / "train", f"files,type\n{rows}", [f"images/{value}.png" for value in range(8)])
    return data


def _parquet(data: Path) -> Path:
    images = [encoded(plain(value), "PNG") for value in range(8)]
    for split, part in (("train", slice(0, 6)), ("test", slice(6, 8))):
        write_parquet(data / "data" / f"{split}-00000-of-00001.parquet", ([0, 1] * 4)[part], images=images[part])
    return data


def _shards(data: Path) -> Path:
    for split, labels in (("train", [0, 1] * 4), ("test", [1, 0])):
        for number, ending in enumerate((".tar", ".tar.gz")):
            shard(data / f"photos-{split}-{number:06d}{ending}", of_classes(*labels, first=10 * number))
    (data / "classnames.txt").write_text("cat\ndog\n")
    return data


def _manifest(data: Path) -> Path:
    tree(data, "images/×8.png", "images/unlisted.png")
    rows = [{"file_name": f"images/{number}.png", "label": ("cat", "dog")[number % 2]} for number in range(8)]
    (data / "metadata.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return data


SOURCES: dict[str, Callable[[Path], Path]] = {
    "class folders": _class_folders,
    "info.csv": _table,
    "IDX": lambda data: idx_folder(data, end=".gz"),
    "Parquet": _parquet,
    "shards": _shards,
    "manifest": _manifest,
}
# Each source, place and packing at least once; with the slow ones, each pair of them.
DIAGONAL = {
    ("class folders", "local", ".zip"),
    ("class folders", "gs", "plain"),
    ("info.csv", "gs", ".tar.gz"),
    ("info.csv", "local", ".tar"),
    ("IDX", "local", ".zip"),
    ("Parquet", "gs", ".tar"),
    ("shards", "gs", "plain"),
    ("shards", "local", ".zip"),
    ("manifest", "s3", "plain"),
    ("manifest", "local", ".tar.gz"),
}
PAIRS = {
    ("class folders", "s3", ".tar"),
    ("class folders", "local", ".tar.gz"),
    ("info.csv", "s3", ".zip"),
    ("info.csv", "gs", "plain"),
    ("IDX", "s3", ".tar.gz"),
    ("IDX", "gs", "plain"),
    ("IDX", "local", ".tar"),
    ("Parquet", "s3", "plain"),
    ("Parquet", "local", ".tar.gz"),
    ("Parquet", "local", ".zip"),
    ("shards", "s3", ".tar"),
    ("shards", "local", ".tar.gz"),
    ("manifest", "gs", ".zip"),
    ("manifest", "local", ".tar"),
}
CELLS = [
    *(pytest.param(*cell, id=" ".join(cell)) for cell in sorted(DIAGONAL)),
    *(pytest.param(*cell, marks=pytest.mark.slow, id=" ".join(cell)) for cell in sorted(PAIRS)),
]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, dict[str, bytes]]]:
    """The local folder of a source, and the dataset that it makes."""
    made: dict[str, tuple[Path, dict[str, bytes]]] = {}

    def of(source: str) -> tuple[Path, dict[str, bytes]]:
        if source not in made:
            folder = tmp_path_factory.mktemp("source")
            data = SOURCES[source](folder / "photos")
            made[source] = data, _prepared(data, folder / "dataset")
        return made[source]

    return of


@pytest.mark.parametrize(("source", "place", "packing"), CELLS)
def test_a_dataset_does_not_depend_on_where_its_data_are(
    source: str,
    place: str,
    packing: str,
    expected: Callable[[str], tuple[Path, dict[str, bytes]]],
    tmp_path: Path,
    request: pytest.FixtureRequest,
    log: Callable[[], str],
) -> None:
    data, dataset = expected(source)
    where: AnyPath = data
    if packing != "plain":
        where = packed(data, tmp_path / f"photos{packing}")
    if place != "local":
        where = _uploaded(request.getfixturevalue({"gs": "gcs_bucket", "s3": "s3_bucket"}[place]), where)
    log()

    assert _prepared(where, tmp_path / "dataset") == dataset
    kinds = {".tar": "a tar archive", ".tar.gz": "a gzip-compressed tar archive", ".zip": "a zip archive"}
    kind = kinds.get(packing, f"a {place}:// bucket")
    lines = log().splitlines()
    assert [line for line in lines if f" data-prep {where}: " in line and line.endswith(f"), in {kind}")], lines


def _prepared(data: AnyPath, dataset: Path) -> dict[str, bytes]:
    prepare_staged(data=data, dataset=dataset, params=params(max_unreadable=0.5))
    return files_of(dataset)


def packed(data: Path, file: Path) -> Path:
    """An archive of a folder, with it as the one folder in it, except for zip files."""
    if file.suffix == ".zip":
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(data.rglob("*")):
                archive.write(path, path.relative_to(data))
        return file
    with tarfile.open(file, "w:gz" if file.suffix == ".gz" else "w") as tar:
        tar.add(data, data.name)
    return file


def _uploaded(bucket: Bucket, data: AnyPath) -> AnyPath:
    assert isinstance(data, Path)
    for path in sorted(data.rglob("*")) if data.is_dir() else [data]:
        if path.is_file():
            bucket.write(f"in/{path.relative_to(data.parent).as_posix()}", path.read_bytes())
    return parse_location(f"{bucket.uri}/in/{data.name}")
