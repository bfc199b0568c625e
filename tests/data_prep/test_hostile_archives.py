"""Archives that are damaged or made to harm are refused, or their images set aside, with a reason."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.data_prep.engine import row_decoder
from components.data_prep.trees import name_tree, tar_files
from tests.data_prep.building import idx_folder, prepared, refusal
from tests.data_prep.shards import of_classes, shard
from tests.shared.decoding.pictures import encoded, plain

GOOD = {f"{name}/{index}.png": encoded(plain(index), "PNG") for name in ("cat", "dog") for index in range(3)}
Make = Callable[[], bytes]


def _info(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, link
    return info


def _tar(*extra: tarfile.TarInfo | str, ends: bool = True) -> bytes:
    """Good images, and after them members that hold zeros."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in GOOD.items():
            tar.addfile(_info(name, len(data)), io.BytesIO(data))
        for each in extra:
            info = _info(each, 4) if isinstance(each, str) else each
            tar.addfile(info, io.BytesIO(bytes(max(0, info.size))) if info.isreg() else None)
        end = tar.offset
    return out.getvalue() if ends else out.getvalue()[:end]


def _after_good(*blocks: bytes) -> bytes:
    """Good images, and then raw blocks in place of a member."""
    return b"".join((_tar(ends=False), *(block + bytes(-len(block) % 512) for block in blocks), bytes(1024)))


def _header(kind: bytes, size: int, name: str = "x.png") -> bytes:
    return _info(name, size, kind).tobuf(tarfile.GNU_FORMAT)


def _zip(*extra: tuple[zipfile.ZipInfo | str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in (*GOOD.items(), *extra):
            archive.writestr(name, data)
    return out.getvalue()


def _zip_link() -> bytes:
    info = zipfile.ZipInfo("cat/x.png")
    info.external_attr = 0o120777 << 16
    return _zip((info, b"/etc/passwd"))


def _last_entry(data: bytes, offset: int, value: bytes) -> bytes:
    """A zip archive with other bytes in the last entry of its directory, and in the local header where it has them."""
    at = data.rindex(b"PK\1\2") + offset
    return data[:at] + value + data[at + len(value) :]


def _overlapping() -> bytes:
    """The last entry has the first one's place."""
    return _last_entry(_zip(), 42, bytes(4))


LONG = "deep/" * 1000 + "x.png"
HOSTILE: list[tuple[str, str, Make, str]] = [
    ("absolute", ".tar", lambda: _tar("/etc/x.png"), "/etc/x.png leads out of"),
    ("leads out", ".tar", lambda: _tar("cat/../../x.png"), "cat/../../x.png leads out of"),
    (
        "symbolic link",
        ".tar",
        lambda: _tar(_info("cat/x.png", kind=tarfile.SYMTYPE, link="0.png")),
        "/cat/x.png: is a link, which is not followed in an archive; put the file in its place",
    ),
    ("hard link", ".tar", lambda: _tar(_info("dog/x.png", kind=tarfile.LNKTYPE, link="cat/0.png")), "is a link"),
    ("class by a link", ".tar", lambda: _tar(_info("eel", kind=tarfile.SYMTYPE, link="cat")), "/eel: is a link"),
    ("device", ".tar", lambda: _tar(_info("cat/x.png", kind=tarfile.BLKTYPE)), "/cat/x.png: is not a file"),
    ("sparse", ".tar", lambda: _tar(_info("cat/x.png", kind=tarfile.GNUTYPE_SPARSE)), "/cat/x.png: is a sparse file"),
    ("twice", ".tar", lambda: _tar("./cat//0.png"), "/cat/0.png: is there twice, and it is not clear which counts"),
    ("file and folder", ".tar", lambda: _tar("cat"), "/cat: is both a file and a folder; rename one of them"),
    ("below a file", ".tar", lambda: _tar("x", "x/0.png"), "/x: is both a file and a folder"),
    ("long name", ".tar", lambda: _tar(LONG), "a name of 5005 characters is not read; 4096 is most"),
    ("cut", ".tar", lambda: _tar()[:3000], "DATA: ends early, after 3000 bytes; fetch it again"),
    ("cut between members", ".tar", lambda: _tar()[:3072], "DATA: ends without the mark that a whole tar archive"),
    ("no archive", ".tar", lambda: b"text" * 1000, "DATA: is no tar archive (invalid header); fetch it again"),
    ("empty", ".tar", lambda: b"", "DATA: is no tar archive (empty file)"),
    ("damaged", ".tar", lambda: _after_good(b"x" * 512), "DATA: is damaged at byte 6144 (invalid header)"),
    ("two in one", ".tar", lambda: _tar() + _tar(), "DATA: goes on after its end mark"),
    ("xz", ".tar", lambda: lzma.compress(_tar()), "DATA: is compressed by xz, which is not read here"),
    (
        "huge header",
        ".tar.gz",
        lambda: gzip.compress(_after_good(_header(tarfile.GNUTYPE_LONGNAME, 2**33), bytes(2**20))),
        "DATA: has a header of 8589934592 bytes, and 65536 are read at most",
    ),
    (
        "header of digits",
        ".tar",
        lambda: _after_good(_header(tarfile.XHDTYPE, 60000), b"1" * 60000),
        "DATA: has a header with a number of more than 255 digits",
    ),
    (
        "headers without end",
        ".tar.gz",
        lambda: gzip.compress(_after_good(*[_header(tarfile.XGLTYPE, 0)] * 5000)),
        "DATA: is damaged at byte 6144 (maximum recursion depth exceeded",
    ),
    ("leads back", ".tar", lambda: _after_good(_header(tarfile.REGTYPE, -2048)), "DATA: is damaged: its headers lead"),
    ("size of more", ".tar", lambda: _after_good(_header(tarfile.REGTYPE, 2**40)), "DATA: ends early, after 7680"),
    ("cut", ".tar.gz", lambda: gzip.compress(_tar())[:-20], "DATA: ends early, after"),
    ("cut", ".tar.bz2", lambda: bz2.compress(_tar())[:-20], "DATA: ends early, after"),
    ("checksum", ".tgz", lambda: gzip.compress(_tar())[:-8] + bytes(8), "DATA: is damaged: its gzip data cannot be"),
    (
        "bomb",
        ".tar.gz",
        lambda: gzip.compress(_tar(_info("x", 2**20))),
        "unpack to more than 132100, 100 times as many",
    ),
    ("too many", ".tar", lambda: _tar(*map(str, range(50))), "DATA: holds more than 50 files and folders"),
    ("absolute", ".zip", lambda: _zip(("/x.png", b"")), "//x.png: is an absolute path in an archive"),
    ("leads out", ".zip", lambda: _zip(("../x.png", b"")), "/../x.png: leads out of the archive by its name"),
    ("of Windows", ".zip", lambda: _zip(("cat\\x.png", b"")), "cat\\x.png: has \\ in its name, and / is between"),
    ("link", ".zip", _zip_link, "/cat/x.png: is a link, which is not followed in an archive"),
    ("folder and file", ".zip", lambda: _zip(("cat", b"")), "/cat: is both a file and a folder"),
    ("encrypted", ".zip", lambda: _last_entry(_zip(), 8, b"\1\0"), "/dog/2.png: is encrypted; make the archive again"),
    ("method", ".zip", lambda: _zip(method=zipfile.ZIP_LZMA), "/cat/0.png: is compressed by LZMA, and deflate alone"),
    ("deflate64", ".zip", lambda: _last_entry(_zip(), 10, b"\x09\0"), "/dog/2.png: is compressed by deflate64"),
    ("overlapping", ".zip", _overlapping, "DATA: is damaged, or made to harm: its members overlap"),
    (
        "cut",
        ".zip",
        lambda: _zip()[:-30],
        "DATA: is no zip archive, or damaged (File is not a zip file); fetch it again",
    ),
    ("beginning lost", ".zip", lambda: _zip()[100:], "DATA: is damaged at byte -100, or lacks a part; fetch it again"),
    ("other name", ".zip", lambda: _zip().replace(b"dog/2.png", b"dog/3.png", 1), "DATA: is damaged: a member has two"),
    ("size of more", ".zip", lambda: _last_entry(_zip(), 20, b"\xff\xff\xff\0"), "DATA: is damaged: the sizes of its"),
    (
        "size of less",
        ".zip",
        lambda: _last_entry(_zip(), 24, struct.pack("<I", 9)),
        "1 of 6 images cannot be read (16.67%), and max_unreadable is 1.00%; the first is dog/2.png: ",
    ),
    ("checksum", ".zip", lambda: _last_entry(_zip(), 16, bytes(4)), "the first is dog/2.png: is damaged: its archive"),
    (
        "damaged image",
        ".zip",
        lambda: (data := _zip())[: (at := data.index(b"cat/1.png")) + 9] + b"\xff" * 8 + data[at + 17 :],
        "1 of 6 images cannot be read (16.67%), and max_unreadable is 1.00%; the first is cat/1.png: ",
    ),
    ("nested", ".zip", lambda: _only("x.zip", _zip()), "holds no images in a layout that is known (it holds x.zip)"),
]


def _only(name: str, data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(name, data)
    return out.getvalue()


@pytest.mark.parametrize(
    ("ending", "make", "message"),
    [case[1:] for case in HOSTILE],
    ids=[f"{ending} {name}" for name, ending, *_ in HOSTILE],
)
def test_hostile_archives_are_refused_with_a_reason(
    ending: str, make: Make, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(name_tree, "MOST_NAMES", 50)
    monkeypatch.setattr(tar_files, "ALWAYS_ALLOWED", 1 << 16)
    data = tmp_path / f"photos{ending}"
    data.write_bytes(make())

    assert message in refusal(data)


def test_names_of_any_bytes_are_those_of_the_files(tmp_path: Path) -> None:
    names = {"cat/größe.png".encode(), b"cat/caf\xe9.png"}
    archives = {"1.tar": _tar(*(_info(os_name(name), 0) for name in names)), "2.zip": _zip_of_bytes(names)}
    found = []
    for file, content in archives.items():
        (tmp_path / file).write_bytes(content)
        result = prepared(tmp_path / file, out=f"out-{file}", max_unreadable=1)
        found.append(sorted(image.file for image in result.manifest.unreadable))
    assert found == [["cat/caf\\udce9.png", "cat/größe.png"]] * 2


def os_name(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _zip_of_bytes(names: set[bytes]) -> bytes:
    """Names that are not marked as UTF-8, as Info-ZIP and file managers write them."""
    stand_ins = {f"cat/{'x' * (len(name) - 8)}.png".encode(): name for name in names}
    data = _zip(*((stand_in.decode(), b"") for stand_in in stand_ins))
    for stand_in, name in stand_ins.items():
        data = data.replace(stand_in, name)
    return data


def test_archives_side_by_side_are_splits_by_their_names_or_refused(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "train.tar").write_bytes(_tar())
    (data / "Test.zip").write_bytes(_zip())
    assert prepared(data, "made").counts == {"train": 6, "test": 6}
    (data / "test.tar.gz").write_bytes(gzip.compress(_tar()))
    assert "DATA: holds the archives Test.zip, test.tar.gz, train.tar, and no label follows from" in refusal(data)
    (data / "train.7z").write_bytes(b"")
    assert "DATA/train.7z: is an archive of a kind that is not read" in refusal(data)


@pytest.mark.parametrize("file", ["photos.tar", "photos.tar.gz", "shards/0.tar", "idx/train-images-idx3-ubyte"])
@pytest.mark.parametrize("options", [[], ["--shard", "0/2"]], ids=["whole", "part"])
def test_what_changes_between_being_listed_and_read_is_refused(
    file: str, options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / file
    idx_folder(tmp_path / "idx")
    shard(tmp_path / "shards" / "0.tar", of_classes(0, 1, 0, 1))
    if path.parent == tmp_path:
        path.write_bytes(gzip.compress(_tar()) if file.endswith(".gz") else _tar())
    decode = row_decoder.RowDecoder.decode

    def changed(*given: Any) -> None:
        os.utime(path, ns=(0, 0))
        decode(*given)

    monkeypatch.setattr(row_decoder.RowDecoder, "decode", changed)

    message = refusal(path if path.parent == tmp_path else path.parent, *options)
    assert "was changed while it was read, so that images may have got labels of others; run again" in message
