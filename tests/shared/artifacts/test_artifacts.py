"""Artifact directories: whole or not there, and never more than their manifest says."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.shared.artifacts.artifact import (
    WRITING_MARKER,
    ArtifactKind,
    ArtifactWriter,
    FileRecord,
    Manifest,
    read_manifest,
    verify_files,
)
from components.shared.errors import ArtifactError
from components.shared.files import sha256_of, write_atomically, write_json
from components.shared.strict_json import MAX_BYTES


class ParcelManifest(Manifest):
    """A small artifact of the tests' own."""

    label: FileRecord
    contents: dict[str, list[FileRecord]]


PARCEL = ArtifactKind("parcel", "parcel.json", ParcelManifest)
FILES = {"label.txt": b"to whom it may concern", "in/a.bin": b"a" * 1000, "in/b.bin": b""}


def fill(writer: ArtifactWriter, files: dict[str, bytes]) -> ParcelManifest:
    """Write the files and return the manifest that names them."""
    records = []
    for name, data in files.items():
        file = writer.new_file(name)
        file.write_bytes(data)
        records.append(writer.record(file))
    return ParcelManifest(created_by="a test", label=records[0], contents={"in": records[1:]})


def write_parcel(path: Path, files: dict[str, bytes] | None = None) -> ParcelManifest:
    with ArtifactWriter(path, PARCEL) as writer:
        manifest = fill(writer, FILES if files is None else files)
        writer.commit(manifest)
    return manifest


def open_parcel(path: Path) -> ParcelManifest:
    manifest: ParcelManifest = read_manifest(path, PARCEL)
    verify_files(path, manifest.files())
    return manifest


def contents(path: Path) -> dict[str, bytes]:
    """Every file below a directory."""
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def message_of(call: Callable[[Path], object], path: Path) -> str:
    with pytest.raises(ArtifactError) as caught:
        call(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def test_an_artifact_is_its_files_and_its_manifest(tmp_path: Path) -> None:
    path = tmp_path / "new" / "parcel"
    manifest = write_parcel(path)

    assert open_parcel(path) == manifest
    found = contents(path)
    document = json.loads(found.pop("parcel.json"))
    assert found == FILES
    assert document["schema_version"] == 1
    assert document["label"] == {
        "file": "label.txt",
        "bytes": 22,
        "sha256": hashlib.sha256(FILES["label.txt"]).hexdigest(),
    }


def test_nothing_opens_before_commit(tmp_path: Path) -> None:
    path = tmp_path / "parcel"
    with ArtifactWriter(path, PARCEL) as writer:
        assert "is not a complete parcel: parcel.json, which is written last, is missing" in message_of(
            open_parcel, path
        )
        manifest = fill(writer, FILES)
        message_of(open_parcel, path)
        writer.commit(manifest)
        assert open_parcel(path) == manifest
    assert open_parcel(path) == manifest


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "parcel"

    def interrupted() -> None:
        with ArtifactWriter(path, PARCEL) as writer:
            fill(writer, FILES)
            raise error

    with pytest.raises(error):
        interrupted()
    assert list(path.iterdir()) == []
    write_parcel(path)
    assert set(contents(path)) == {*FILES, "parcel.json"}


def test_what_a_step_left_beside_a_failed_artifact_does_not_bar_the_next_attempt(tmp_path: Path) -> None:
    path = tmp_path / "parcel"
    with ArtifactWriter(path, PARCEL) as writer:
        fill(writer, FILES)
        (path / "curves.log").write_text("1 2 3")
    assert {file.name for file in path.iterdir()} == {"curves.log", WRITING_MARKER}

    write_parcel(path)
    assert set(contents(path)) == {*FILES, "parcel.json", "curves.log"}


@pytest.mark.parametrize("name", ["precious.txt", ".hidden", "folder/file", "other.json"])
def test_a_directory_of_something_else_is_refused_and_untouched(tmp_path: Path, name: str) -> None:
    path = tmp_path / "home"
    (path / name).parent.mkdir(parents=True)
    (path / name).write_text("precious")
    before = contents(path)

    with (
        pytest.raises(ArtifactError, match="is not empty and holds no parcel to replace"),
        ArtifactWriter(path, PARCEL),
    ):
        raise AssertionError("was let in")
    assert contents(path) == before


def test_a_place_that_is_no_directory_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("precious")
    for path in (file, file / "below"):
        with pytest.raises(ArtifactError, match="cannot be written as a parcel: "), ArtifactWriter(path, PARCEL):
            raise AssertionError("was let in")
    assert file.read_text() == "precious"


@pytest.mark.parametrize("is_damaged", [False, True])
def test_an_earlier_artifact_is_replaced_and_what_is_beside_it_stays(tmp_path: Path, is_damaged: bool) -> None:
    path = tmp_path / "parcel"
    write_parcel(path)
    (path / "notes.txt").write_text("beside")
    if is_damaged:  # its manifest names nothing that may be removed
        (path / "parcel.json").write_text("{")
    new = {"label.txt": b"new", "in/c.bin": b"c"}
    with ArtifactWriter(path, PARCEL) as writer:
        assert "is not a complete parcel" in message_of(open_parcel, path)
        writer.commit(fill(writer, new))

    open_parcel(path)
    assert set(contents(path)) == {*new, "parcel.json", "notes.txt"} | (FILES.keys() if is_damaged else set())


def test_replacing_deletes_nothing_through_a_link(tmp_path: Path) -> None:
    path, elsewhere = tmp_path / "parcel", tmp_path / "elsewhere"
    write_parcel(path)
    (path / "in").rename(elsewhere)
    (path / "in").symlink_to(elsewhere)
    write_parcel(path, {"label.txt": b"new"})
    assert {file.name for file in elsewhere.iterdir()} == {"a.bin", "b.bin"}


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "../x", "a/../x", "a//b", "./a", ".a", "a/", "a\nb", "ü", "a b", "a\\b"]
)
def test_a_file_has_a_plain_name_inside_the_directory(tmp_path: Path, name: str) -> None:
    with (
        ArtifactWriter(tmp_path / "parcel", PARCEL) as writer,
        pytest.raises(ValueError, match="must be a plain path below the artifact's directory"),
    ):
        writer.new_file(name)


def rewritten(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """The manifest, after `change` did something to it."""
    document = json.loads((path / "parcel.json").read_text())
    change(document)
    (path / "parcel.json").write_text(json.dumps(document))


def test_a_missing_directory_or_manifest_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    assert "there is no such parcel directory" in message_of(open_parcel, tmp_path / "nowhere")
    assert "there is no such parcel directory" in message_of(open_parcel, tmp_path / "file")
    assert "is not a complete parcel" in message_of(open_parcel, tmp_path / "empty")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not JSON (Expecting value: line 1 column 1 (char 0)); the file is damaged"),
        (b"{", "is not JSON"),
        (b"\xff\xfe", "cannot be read: 'utf-8' codec can't decode byte 0xff"),
        (b"[" * 100_000, "is not JSON"),
        (b"9" * 5000, "is not JSON"),
        (b"[]", "has schema_version None, and this version reads 1; make the parcel again"),
        (b'{"schema_version": 2}', "has schema_version 2, and this version reads 1"),
        (b'{"schema_version": "1"}', "has schema_version 1, and this version reads 1"),
        (b'{"schema_version": 1}', "created_by: Field required; the file is damaged"),
        (b'{"schema_version": 1.0}', "has schema_version 1.0, and this version reads 1"),
        (b'{"schema_version": 2, "schema_version": 1}', "is not JSON (has the key 'schema_version' twice"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_a_manifest_that_is_none_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    write_parcel(tmp_path)
    (tmp_path / "parcel.json").write_bytes(content)
    assert message in message_of(open_parcel, tmp_path)


def sparse(file: Path) -> None:
    """A large file that takes no room."""
    with file.open("wb") as stream:
        stream.truncate(MAX_BYTES + 1)


@pytest.mark.parametrize(
    ("put", "message"),
    [
        (os.mkfifo, "cannot be read: is a pipe, not a file"),
        (lambda file: file.symlink_to("/dev/zero"), "cannot be read: is a device, not a file"),
        (Path.mkdir, "cannot be read: Is a directory"),
        (sparse, "cannot be read: is larger than 67,108,864 bytes"),
    ],
    ids=["pipe", "device", "directory", "large"],
)
def test_a_manifest_that_is_no_file_of_a_manifests_size_is_refused(
    tmp_path: Path, put: Callable[[Path], object], message: str
) -> None:
    (tmp_path / "parcel").mkdir()
    put(tmp_path / "parcel" / "parcel.json")
    assert message in message_of(open_parcel, tmp_path / "parcel")


def test_a_manifest_that_no_reader_would_take_is_not_written(tmp_path: Path) -> None:
    with ArtifactWriter(tmp_path / "parcel", PARCEL) as writer:
        manifest = fill(writer, FILES).model_copy(update={"created_by": "x" * MAX_BYTES})
        with pytest.raises(ArtifactError, match=r"parcel.json: would have 67,.* bytes, and a manifest has at most 67,"):
            writer.commit(manifest)
    assert list((tmp_path / "parcel").iterdir()) == []


def change_label(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda document: document["label"].update(changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_label(file="../label.txt"), "label.file: Value error, must be a plain path below"),
        (change_label(file="other.txt"), "other.txt: is missing, though the manifest names it"),
        (change_label(file="in"), "in: is missing, though the manifest names it"),
        (change_label(sha256="0" * 64), "label.txt: its SHA-256 is not the manifest's; it is damaged"),
        (change_label(sha256="zz"), "label.sha256: String should match pattern"),
        (change_label(bytes=23), "label.txt: has 22 bytes, and the manifest says 23; it is damaged"),
        (change_label(bytes=-1), "label.bytes: Input should be greater than or equal to 0"),
        (change_label(mode=0o777), "label.mode: Extra inputs are not permitted"),
        (lambda document: document.update(note="x"), "note: Extra inputs are not permitted; the file is damaged"),
        (lambda document: document.pop("contents"), "contents: Field required"),
        (lambda document: document["contents"]["in"][1].update(file="in/z.bin"), "in/z.bin: is missing"),
        (lambda document: document.update({"a\nb" * 50: 1}), "Extra inputs are not permitted"),
    ],
)
def test_a_tampered_manifest_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    write_parcel(tmp_path)
    rewritten(tmp_path, change)
    assert message in message_of(open_parcel, tmp_path)


def test_tampered_files_are_found(tmp_path: Path) -> None:
    write_parcel(tmp_path)
    for name, data in FILES.items():
        file = tmp_path / name
        file.write_bytes(data + b"x")
        assert f"{file}: has {len(data) + 1} bytes" in message_of(open_parcel, tmp_path)
        if data:
            file.write_bytes(b"x" * len(data))
            assert f"{file}: its SHA-256 is not the manifest's" in message_of(open_parcel, tmp_path)
        file.unlink()
        assert f"{file}: is missing" in message_of(open_parcel, tmp_path)
        file.mkdir()
        assert f"{file}: is missing" in message_of(open_parcel, tmp_path)
        file.rmdir()
        file.write_bytes(data)
    open_parcel(tmp_path)


def test_a_link_that_leads_out_is_refused_and_one_inside_is_not(tmp_path: Path) -> None:
    path, outside = tmp_path / "parcel", tmp_path / "outside"
    write_parcel(path)
    shutil.copy(path / "label.txt", outside)
    (path / "label.txt").unlink()
    (path / "label.txt").symlink_to(outside)
    assert "label.txt: leads out of the artifact's directory" in message_of(open_parcel, path)

    shutil.copy(outside, path / "inside")
    (path / "label.txt").unlink()
    (path / "label.txt").symlink_to("inside")
    open_parcel(path)
    (tmp_path / "link").symlink_to(path)
    open_parcel(tmp_path / "link")


def test_a_file_is_replaced_at_once_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "file"
    write_atomically(file, b"one")
    reader = file.open("rb")
    write_atomically(file, b"two")
    with reader:
        assert reader.read() == b"one"
    assert file.read_bytes() == b"two"

    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(file, {"a": float("nan")})
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(OSError, match="directory"):
        write_atomically(folder, b"three")
    assert file.read_bytes() == b"two"
    assert {path.name for path in tmp_path.iterdir()} == {"file", "folder"}
    assert sha256_of(file) == hashlib.sha256(b"two").hexdigest()
