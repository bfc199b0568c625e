"""Objects that are stored with a Content-Encoding, as `gsutil cp -Z` and `aws s3 cp --content-encoding gzip` do."""

from __future__ import annotations

import gzip
import random
from pathlib import Path

import pytest

from components.shared.errors import StorageRefusedError, StorageUnavailableError
from components.shared.storage import content as storage_encoding
from components.shared.storage.fetch import fetch_artifact, fetch_tree
from tests.peers.gcs import GcsBucket
from tests.peers.http_faults import CutAnswer, FlipAnswerByte
from tests.peers.object_store import Bucket
from tests.shared.storage.conftest import BOX, LARGE, at, box, tree

TEXT = b"files,type\n" + b"1.png,cat\n" * 1000


def test_what_is_stored_as_gzip_is_unpacked(bucket: Bucket, tmp_path: Path) -> None:
    bucket.write("raw/info.csv", gzip.compress(TEXT), "gzip")
    bucket.write("raw/in two parts", gzip.compress(TEXT[:99]) + gzip.compress(TEXT[99:]), "GZIP")
    bucket.write("raw/empty", gzip.compress(b""), "x-gzip")
    for encoding in ("", "utf-8", "identity", "aws-chunked", "aws-chunked,utf-8"):
        bucket.write(f"raw/plain {encoding}", b"plain", encoding)
    bucket.write("raw/gzip without an encoding", gzip.compress(TEXT, mtime=0))

    fetch_tree(at(bucket, "raw"), tmp_path / "raw")

    assert tree(tmp_path / "raw") == {
        "info.csv": TEXT,
        "in two parts": TEXT,
        "empty": b"",
        **{f"plain {encoding}": b"plain" for encoding in ("", "utf-8", "identity", "aws-chunked", "aws-chunked,utf-8")},
        "gzip without an encoding": gzip.compress(TEXT, mtime=0),
    }
    assert fetch_tree(at(bucket, "raw/info.csv"), tmp_path).read_bytes() == TEXT


def test_a_file_named_gz_stays_gzip(bucket: Bucket, tmp_path: Path) -> None:
    packed = gzip.compress(TEXT, mtime=0)
    bucket.write("raw/once.gz", packed, "gzip")
    bucket.write("raw/twice.GZ", gzip.compress(packed), "gzip")

    fetch_tree(at(bucket, "raw"), tmp_path)

    assert tree(tmp_path) == {"once.gz": packed, "twice.GZ": packed}


def test_a_large_one_comes_in_ranges_and_goes_on_where_it_broke(bucket: Bucket, tmp_path: Path) -> None:
    content = random.Random(1).randbytes(LARGE)  # noqa: S311
    packed = gzip.compress(content, compresslevel=0)
    bucket.write("raw/large", packed, "gzip")
    cut = bucket.faults.inject(CutAnswer(6_000_000), "read", "raw/large", times=1)

    fetch_tree(at(bucket, "raw"), tmp_path)

    assert cut.happened == 1
    assert tree(tmp_path) == {"large": content}
    assert len(packed) <= bucket.faults.bytes_read("large") < len(packed) * 1.1


def test_the_stores_checksum_is_of_what_is_stored(bucket: Bucket, tmp_path: Path) -> None:
    # The flipped byte is in the time that gzip notes, which unpacking does not look at.
    bucket.write("raw/x", gzip.compress(TEXT), "gzip")
    bucket.faults.inject(FlipAnswerByte(5), "read", "raw/x", times=1)

    fetch_tree(at(bucket, "raw"), tmp_path)

    assert tree(tmp_path) == {"x": TEXT}
    assert bucket.faults.count("read", "raw/x") == 2


def test_an_artifact_may_be_stored_packed(bucket: Bucket, tmp_path: Path) -> None:
    source = box(tmp_path / "source", 4, {"a": 100_000, "b/c": 20, "same": 30})
    for name, data in tree(source).items():
        bucket.write(
            f"copied/{name}", data if name == "same" else gzip.compress(data), "" if name == "same" else "gzip"
        )

    assert tree(fetch_artifact(at(bucket, "copied"), BOX, tmp_path / "fetched")) == tree(source)

    bucket.faults.clear()
    fetch_artifact(at(bucket, "copied"), BOX, tmp_path / "fetched")
    assert bucket.faults.count("read", "copied/a") == 0, "what is there is not fetched again"


@pytest.mark.parametrize(
    ("data", "encoding", "reason"),
    [
        pytest.param(
            TEXT,
            "gzip",
            r"is stored with Content-Encoding gzip, and its bytes are no whole gzip data \(Not a gzipped file",
        ),
        (gzip.compress(TEXT)[:-20], "gzip", "no whole gzip data"),
        (gzip.compress(TEXT) + b"more", "gzip", "no whole gzip data"),
        pytest.param(
            TEXT,
            "br",
            "is stored with Content-Encoding br, and gzip alone is unpacked; store it with gzip, or as it is",
        ),
        (TEXT, "gzip, zstd", "is stored with Content-Encoding gzip, zstd, and"),
    ],
    ids=["not gzip", "cut", "trailing", "br", "two"],
)
def test_what_cannot_be_unpacked_is_refused(
    bucket: Bucket, tmp_path: Path, data: bytes, encoding: str, reason: str
) -> None:
    bucket.write("raw/x", data, encoding)
    with pytest.raises(StorageRefusedError, match=reason) as refused:
        fetch_tree(at(bucket, "raw"), tmp_path)
    assert str(refused.value).startswith(f"{bucket.uri}/raw/x: ")
    assert tree(tmp_path) == {}


def test_what_unpacks_to_too_much_is_refused(
    gcs_bucket: GcsBucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_encoding, "ALWAYS_ALLOWED", 1_000_000)
    bomb = gzip.compress(bytes(10_000_000))
    gcs_bucket.write("raw/x", bomb, "gzip")
    with pytest.raises(StorageRefusedError, match=r"raw/x: its \d+ bytes of gzip unpack to more than 1000000"):
        fetch_tree(at(gcs_bucket, "raw"), tmp_path / "raw")
    assert not (tmp_path / "raw").exists()

    source = box(tmp_path / "source", 4, {"a": 1_000})
    for name, data in tree(source).items():
        gcs_bucket.write(f"copied/{name}", bomb if name == "a" else data, "gzip" if name == "a" else "")
    with pytest.raises(StorageRefusedError, match=r"copied/a: its \d+ bytes of gzip unpack to more than 1000"):
        fetch_artifact(at(gcs_bucket, "copied"), BOX, tmp_path / "box")


def test_other_content_than_the_manifest_says_is_no_part_of_an_artifact(gcs_bucket: GcsBucket, tmp_path: Path) -> None:
    source = box(tmp_path / "source", 4, {"a": 1_000})
    for name, data in tree(source).items():
        packed = gzip.compress(bytes(1_000)) if name == "a" else data
        gcs_bucket.write(f"copied/{name}", packed, "gzip" if name == "a" else "")
    with pytest.raises(StorageUnavailableError, match="with a wrong SHA-256 checksum"):
        fetch_artifact(at(gcs_bucket, "copied"), BOX, tmp_path / "box")
