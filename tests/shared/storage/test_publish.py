from __future__ import annotations

import threading
from pathlib import Path

import pytest

from components.shared.artifacts.artifact import CONTENTS
from components.shared.errors import ArtifactError, StorageRefusedError
from components.shared.storage.fetch import fetch_artifact, fetch_tree
from components.shared.storage.location import Location
from components.shared.storage.publish import Publication, delete, write_file
from components.shared.storage.transfer import TransferProgress
from tests.peers.http_faults import Hold
from tests.peers.object_store import Bucket
from tests.shared.storage.conftest import BOX, LARGE, at, box, publish, published, tree

MARKER = "runs/7/box/.shutterline-writing"


@pytest.mark.parametrize("store", ["gcs_bucket", "s3_bucket", "moto_bucket"])
def test_what_is_published_is_fetched(request: pytest.FixtureRequest, tmp_path: Path, store: str) -> None:
    bucket, folder = request.getfixturevalue(store), tmp_path
    source = box(folder / "source", 1, {"small.bin": 1_000, "empty": 0, "folder/medium": 300_000, "large": LARGE})
    (source / "tensorboard").mkdir()
    (source / "tensorboard/events").write_bytes(b"curves")
    publish(bucket, source)
    everything = tree(source)
    assert bucket.objects() == published(everything)
    contents = next(iter(CONTENTS.findall("\n".join(bucket.names()))))
    assert tree(fetch_tree(at(bucket, f"runs/7/box/{contents}"), folder / "tree")) == everything
    del everything["tensorboard/events"]  # the manifest does not name it
    for key in ("runs/7/box", f"runs/7/box/{contents}"):
        assert tree(fetch_artifact(at(bucket, key), BOX, folder / key)) == everything


@pytest.mark.parametrize("copied", [False, True], ids=["published", "as versions up to 0.7 have it"])
def test_an_earlier_artifact_is_replaced_and_others_are_left_alone(
    bucket: Bucket, tmp_path: Path, copied: bool
) -> None:
    first = box(tmp_path / "1", 1, {"a": 10, "gone": 10})
    if copied:
        for name, data in tree(first).items():
            bucket.write(f"runs/7/box/{name}", data)
    else:
        (first / "tensorboard").mkdir()
        (first / "tensorboard/old").write_bytes(b"old")
        publish(bucket, first)
    # Another artifact below the same prefix, and what somebody put there.
    publish(bucket, box(tmp_path / "other", 9, {"a": 5}), "runs/7/box/other")
    bucket.write("runs/7/box/notes.txt", b"notes")
    kept = bucket.objects("runs/7/box/other") | {"runs/7/box/notes.txt": b"notes"}
    second = box(tmp_path / "2", 2, {"a": 20, "new/b": 10})

    publish(bucket, second)

    assert bucket.objects() == published(tree(second)) | kept


def test_a_location_with_other_things_is_refused(bucket: Bucket, tmp_path: Path) -> None:
    bucket.write("runs/7/box/notes.txt", b"notes")
    with pytest.raises(StorageRefusedError, match=r"box: holds other objects, such as .*/notes.txt, and no box"):
        publish(bucket, tmp_path)
    bucket.write("runs/7/box/box.json", b'{"name": "of something else"}')
    with pytest.raises(StorageRefusedError, match=r"box.json: is no manifest of a box; name an empty or new location"):
        publish(bucket, tmp_path)
    assert bucket.names() == ["runs/7/box/box.json", "runs/7/box/notes.txt"]


def test_a_missing_bucket_is_an_error_before_the_work(bucket: Bucket) -> None:
    nowhere = Location(at(bucket).scheme, "no-such-bucket-here", "a")
    with pytest.raises(StorageRefusedError, match="there is no bucket no-such-bucket-here"):
        Publication(nowhere, BOX).__enter__()


def test_readers_have_the_earlier_artifact_while_a_newer_one_is_written(bucket: Bucket, tmp_path: Path) -> None:
    with (
        Publication(at(bucket), BOX),
        pytest.raises(StorageRefusedError, match=r"is being written by a writer on .* since 20"),
    ):
        fetch_artifact(at(bucket), BOX, tmp_path / "x")
    first = box(tmp_path / "1", 1, {"a": 10})
    publish(bucket, first)
    with Publication(at(bucket), BOX):
        assert tree(fetch_artifact(at(bucket), BOX, tmp_path / "x")) == tree(first)


def test_a_publication_that_comes_to_nothing_leaves_everything_as_it_was(bucket: Bucket, tmp_path: Path) -> None:
    with Publication(at(bucket), BOX):
        assert bucket.names() == [MARKER]
    assert bucket.names() == []
    publish(bucket, box(tmp_path / "1", 1, {"a": 10}))
    before = bucket.objects()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtifactError, match="is not a complete box"):
        publish(bucket, tmp_path / "empty")
    assert bucket.objects() == before


def test_a_damaged_directory_is_not_published(bucket: Bucket, tmp_path: Path) -> None:
    source = box(tmp_path / "1", 1, {"a": 10, "b": 10})
    (source / "b").write_bytes(bytes(10))
    with pytest.raises(ArtifactError, match="its SHA-256 is not the manifest's"):
        publish(bucket, source)
    (source / "b").unlink()
    with pytest.raises(ArtifactError, match="b: is missing, though the manifest names it"):
        publish(bucket, source)
    with pytest.raises(StorageRefusedError, match=r"nothing is there|is no complete box"):
        fetch_artifact(at(bucket), BOX, tmp_path / "nothing")
    whole = box(tmp_path / "2", 2, {"a": 10, "b": 10})
    publish(bucket, whole)
    assert bucket.objects() == published(tree(whole))


def test_the_writer_who_begins_last_wins(bucket: Bucket, tmp_path: Path) -> None:
    first, second = (box(tmp_path / str(seed), seed, {"a": 1_000, f"only-{seed}": 10}) for seed in (1, 2))
    with Publication(at(bucket), BOX) as loser:
        publish(bucket, second)
        with pytest.raises(StorageRefusedError, match="was taken over by another writer, who has finished"):
            loser.publish(first)
    assert tree(fetch_artifact(at(bucket), BOX, tmp_path / "x")) == tree(second)


@pytest.mark.parametrize("size", [1_000, pytest.param(LARGE, marks=pytest.mark.slow)], ids=["small", "large"])
def test_a_slow_writer_who_is_overtaken_changes_nothing(bucket: Bucket, tmp_path: Path, size: int) -> None:
    publish(bucket, box(tmp_path / "0", 0, {"a": size}))
    first, second = (box(tmp_path / str(seed), seed, {"a": size}) for seed in (1, 2))
    hold = Hold()
    bucket.faults.inject(hold, "write", "/a$")
    errors: list[BaseException] = []

    def lose() -> None:
        try:
            publish(bucket, first)
        except BaseException as error:
            errors.append(error)

    slow = threading.Thread(target=lose)
    slow.start()
    assert hold.reached.wait(30)
    publish(bucket, second)
    hold.release.set()
    slow.join()

    (error,) = errors
    assert isinstance(error, StorageRefusedError)
    assert "was taken over by" in str(error)
    assert tree(fetch_artifact(at(bucket), BOX, tmp_path / "x")) == tree(second)


def test_progress_ends_with_all(bucket: Bucket, tmp_path: Path) -> None:
    source = box(tmp_path / "1", 1, {"a": 10, "large": LARGE})
    seen: list[TransferProgress] = []
    with Publication(at(bucket), BOX) as publication:
        publication.publish(source, seen.append)
    total = sum(map(len, published(tree(source)).values()))  # the manifest is there twice
    last = seen[-1]
    assert (last.done, last.total, last.files_done, last.files) == (total, total, 4, 4)


def test_one_file(bucket: Bucket, tmp_path: Path) -> None:
    for data in (b"first", b"second", bytes(LARGE)):
        (tmp_path / "file").write_bytes(data)
        write_file(at(bucket, "checkpoints/1"), tmp_path / "file")
        assert bucket.objects() == {"checkpoints/1": data}
    delete(at(bucket, "checkpoints/1"))
    delete(at(bucket, "checkpoints/1"))
    assert bucket.objects() == {}
    with pytest.raises(StorageRefusedError, match="is a whole bucket"):
        delete(at(bucket, ""))
