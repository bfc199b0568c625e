"""Data in buckets: what is fetched, when, and what happens where the store or its objects are not as they should be."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.data_prep.contents import Encoded, FilePart
from components.data_prep.engine import chunks, feed, row_decoder
from components.data_prep.layouts.layout import open_source
from components.data_prep.step import prepare_staged
from components.shared.errors import DataError, ShutterlineError, StorageRefusedError
from components.shared.storage import fetch_ahead
from components.shared.storage.location import AnyPath, parse_location
from tests.data_prep.building import files_of, params
from tests.peers.gcs import GcsBucket
from tests.peers.http_faults import CutAnswer, FlipAnswerByte, Refuse
from tests.peers.object_store import Bucket
from tests.shared.decoding.pictures import encoded, plain


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setenv("SHUTTERLINE_SCRATCH", str(folder))
    monkeypatch.setenv("SHUTTERLINE_STORAGE_TIMEOUT", "20")
    return folder


def _photos(bucket: Bucket, count: int = 3) -> AnyPath:
    for value in range(2 * count):
        bucket.write(f"in/{('cat', 'dog')[value % 2]}/{value:04d}.png", encoded(plain(value), "PNG"))
    return parse_location(f"{bucket.uri}/in")


def test_a_store_that_recovers_changes_nothing_and_images_may_be_packed(
    gcs_bucket: GcsBucket, scratch: Path, tmp_path: Path
) -> None:
    data = _photos(gcs_bucket)
    prepare_staged(data=data, dataset=tmp_path / "1", params=params())
    gcs_bucket.write("in/cat/0000.png", gzip.compress(encoded(plain(0), "PNG")), "gzip")
    gcs_bucket.faults.inject(Refuse(503), "read", times=3)
    gcs_bucket.faults.inject(CutAnswer(100), "read", times=2)
    gcs_bucket.faults.inject(FlipAnswerByte(50), "read", times=2)
    prepare_staged(data=data, dataset=tmp_path / "2", params=params())
    assert files_of(tmp_path / "1") == files_of(tmp_path / "2")
    assert list(scratch.iterdir()) == []


def test_nothing_is_fetched_to_find_out_what_is_there_and_little_of_it_is_here_at_once(
    gcs_bucket: GcsBucket, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch_ahead, "AHEAD_FILES", 10)
    data = _photos(gcs_bucket, 40)
    most = 0
    with open_source(data) as source:
        assert gcs_bucket.faults.bytes_read("0000.png") == 0
        split, seen = source.splits["train"], []
        for each in split.read(range(4, 80)):
            assert isinstance(each, Encoded)
            assert isinstance(each.content, FilePart)
            assert each.release
            here = [path for path in scratch.rglob("*") if path.is_file()]
            most = max(most, len(here))
            seen.append((each.position, Path(each.content.path).read_bytes()))
            each.release()
    assert sorted(seen) == [
        (position, encoded(plain(int(split.names[position][4:8])), "PNG")) for position in range(4, 80)
    ]
    assert most <= 11
    assert gcs_bucket.faults.bytes_read("0000.png") == 0
    assert list(scratch.iterdir()) == []


def test_files_that_wait_to_be_decoded_are_few_where_they_are_large(
    gcs_bucket: GcsBucket, scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch_ahead, "AHEAD_FILES", 2)
    monkeypatch.setattr(feed, "_AHEAD_BYTES", 4 * 5)  # four files of 73 bytes, each of which counts as 5
    here: list[int] = []
    decode = chunks.decode_chunk

    def counted(*arguments: Any) -> Any:
        here.append(sum(path.is_file() for path in scratch.rglob("*")))
        return decode(*arguments)

    monkeypatch.setattr(row_decoder, "decode_chunk", counted)
    prepare_staged(data=_photos(gcs_bucket, 20), dataset=tmp_path / "out", params=params())
    assert max(here) <= 4 + 1 + 2, "those that wait, the next one, and those that are fetched"


@pytest.mark.parametrize("change", ["another", "gone"])
def test_an_object_that_changes_while_the_others_are_read_is_an_error(
    change: str, gcs_bucket: GcsBucket, scratch: Path
) -> None:
    with open_source(_photos(gcs_bucket)) as source:
        gcs_bucket.write("in/cat/0002.png", b"x") if change == "another" else gcs_bucket.delete("in/cat/0002.png")
        with pytest.raises(StorageRefusedError) as caught:
            list(source.splits["train"].read(range(6)))
    expected = f"{gcs_bucket.uri}/in/cat/0002.png: was removed or replaced while the others were read; start again"
    assert str(caught.value) == expected
    assert list(scratch.iterdir()) == []


REFUSED: list[tuple[dict[str, bytes], str, type[ShutterlineError], str]] = [
    ({}, "none", StorageRefusedError, "/none: nothing is there; check the name"),
    ({"in/cat/0.png/x.txt": b""}, "in", DataError, "/in/cat/0.png: is both a file and a folder; rename one of them"),
    ({"in/cat//x.png": b""}, "in", StorageRefusedError, "/in/cat//x.png: cannot become a file: it has an empty part"),
    ({"in/dog/x.txt": b""}, "in", DataError, "/in: class folder(s) without an image: dog; an image is a file with an"),
    ({"in/dog/1.png": b"x"}, "in", DataError, "/in: 1 class(es) have too few readable training images: dog (1)"),
    (
        {"in/train/info.csv": b"files,type\n1.png,cat\n"},
        "in",
        DataError,
        "/in: holds info.csv (--layout info-csv) and a folder per class (--layout folders)",
    ),
    ({"x/train/info.csv": b"files\n1.png"}, "x", DataError, "/x/train/info.csv: has no column(s) named type; there"),
    ({"x/photos.tar": b"text"}, "x/photos.tar", DataError, "/x/photos.tar: is no tar archive (truncated header); "),
    ({"x/photos.txt": b"text"}, "x/photos.txt", DataError, "/x/photos.txt: is a file of no kind that holds data; an "),
    ({"x/dataset.json": b"{}"}, "x", DataError, "/x: is a dataset directory already; give it to train as it is"),
]


@pytest.mark.parametrize(("objects", "key", "kind", "message"), REFUSED)
def test_messages_name_what_is_in_a_bucket_by_its_address(
    objects: dict[str, bytes],
    key: str,
    kind: type[ShutterlineError],
    message: str,
    gcs_bucket: GcsBucket,
    scratch: Path,
    log: Callable[[], str],
) -> None:
    for name, content in {"in/cat/0.png": encoded(plain(0), "PNG"), "in/cat/2.png": b"x", **objects}.items():
        gcs_bucket.write(name, content)
    with pytest.raises(kind) as caught:
        prepare_staged(data=parse_location(f"{gcs_bucket.uri}/{key}"), dataset=scratch.parent / "out", params=params())
    assert str(caught.value).startswith(gcs_bucket.uri + message), caught.value
    assert str(scratch) not in str(caught.value) + log()
    assert not (scratch.parent / "out").exists()
