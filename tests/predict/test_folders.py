"""Which files of a folder are predicted, in which order, and what is said of the others."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

import pytest

from components.predict.image_files import ImageFiles
from components.predict.predict import predict
from components.predict.step import predict_staged
from components.shared.decoding.content import UnreadableImageError
from components.shared.decoding.images import NEEDS_HEIC
from components.shared.errors import DataError
from tests.shared.decoding.pictures import random_pixels, read_image, save

PICTURE = random_pixels(4, 4, 3)


def _found(model: Path, *places: Path, follow_links: bool = False) -> dict[str, str]:
    """Files in order, and why they were not read."""
    return {each.file: each.error for each in predict(model, places, follow_links=follow_links)}


def _left_out(model: Path, folder: Path, output: Path) -> dict[str, int]:
    return predict_staged(model=model, images=[folder], output=output).left_out


def test_a_folder_is_read_with_all_below_it_2_before_10(tmp_path: Path, model: Path) -> None:
    data = tmp_path / "data"
    names = ["1.png", "2.PNG", "10.png", "a9/1.png", "a10/x/y/z/1.jpg", "B.png", "b.png", "c/1.webp", "c.png"]
    for name in names:
        save(data / name, PICTURE, format="PNG")

    assert list(_found(model, data)) == [str(data / name) for name in names]
    assert list(_found(model, data / "c", data / "a9", data / "2.PNG")) == [
        str(data / name) for name in ("c/1.webp", "a9/1.png", "2.PNG")
    ]


def test_files_that_are_no_images_are_counted(tmp_path: Path, model: Path) -> None:
    data = tmp_path / "data"
    save(data / "1.png", PICTURE)
    for name in ("notes.txt", "more.TXT", "README", ".hidden.png", "._1.png", "Thumbs.db", "1.CR2", "desktop.ini"):
        (data / name).write_bytes(b"x")
    for name in (".git/1.png", "@eaDir/1.png", "__MACOSX/x/1.png"):
        save(data / name, PICTURE)

    assert _found(model, data) == {f"{data}/1.png": ""}
    assert _left_out(model, data, tmp_path / "out.csv") == {
        ".cr2": 1,
        ".txt": 2,
        "folders that are no data": 3,
        "hidden": 1,
        "no ending": 1,
        "system files": 3,
    }


def test_kinds_that_are_left_out_are_bounded(tmp_path: Path, model: Path) -> None:
    data = tmp_path / "data"
    save(data / "1.png", PICTURE)
    for index in range(50):
        (data / f"x.kind{index}").touch()

    left_out = _left_out(model, data, tmp_path / "out.csv")

    assert len(left_out) == 21
    assert (sum(left_out.values()), left_out["other endings"]) == (50, 30)


def test_what_cannot_be_read_is_listed_and_ends_nothing(tmp_path: Path, model: Path) -> None:
    data, elsewhere = tmp_path / "data", save(tmp_path / "elsewhere" / "1.png", PICTURE)
    save(data / "0.png", PICTURE)
    (data / "empty.png").touch()
    (data / "text.jpg").write_text("text")
    (data / "IMG_1.DNG").write_bytes(b"x")
    (data / "gone.png").symlink_to("nowhere")
    (data / "itself.png").symlink_to("itself.png")
    (data / "out.png").symlink_to(elsewhere)
    (data / "outside").symlink_to(elsewhere.parent)
    (data / "inner").mkdir()
    (data / "inner" / "again").symlink_to("..")
    (data / "same.png").symlink_to("0.png")
    os.mkfifo(data / "pipe.png")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(data / "socket.png"))

    nowhere = "is not a file, or a link that leads nowhere; remove it"
    expected = {
        "0.png": "",
        "empty.png": "is empty",
        "gone.png": nowhere,
        "IMG_1.DNG": "is a picture of a kind that is not read, .dng; convert it to JPEG or PNG",
        "inner/again": "is a link to a folder above it, which would be read without end; remove the link",
        "itself.png": "cannot be read: Too many levels of symbolic links",
        "out.png": f"is a link that leads out of {data}; copy the file, or give --follow-links",
        "outside": f"is a link that leads out of {data}; copy what it leads to, or give --follow-links",
        "pipe.png": nowhere,
        "same.png": "",
        "socket.png": nowhere,
        "text.jpg": "is not an image in a known format",
    }
    assert _found(model, data) == {f"{data}/{name}": error for name, error in expected.items()}

    followed = {**expected, "out.png": "", "outside/1.png": ""}
    del followed["outside"]
    found = _found(model, data, follow_links=True)
    assert found == {f"{data}/{name}": error for name, error in followed.items()}


def test_files_and_folders_that_vanish_meanwhile_are_listed(tmp_path: Path) -> None:
    for name in ("a.png", "b/1.png", "c.png"):
        save(tmp_path / name, PICTURE)
    with ImageFiles([tmp_path]) as files:
        found = iter(files)
        first = next(found)
        (tmp_path / "a.png").unlink()
        shutil.rmtree(tmp_path / "b")
        reasons = {}
        for file in (first, *found):
            try:
                with file.opened as path:
                    reasons[file.name] = str(read_image(path, (4, 4, 3)).shape)
            except UnreadableImageError as error:
                reasons[file.name] = str(error)
    assert reasons == {
        f"{tmp_path}/a.png": "cannot be read: No such file or directory",
        f"{tmp_path}/b": "cannot be read: No such file or directory",
        f"{tmp_path}/c.png": "(4, 4, 3)",
    }


def test_what_is_named_is_tried_whatever_its_name_is(tmp_path: Path, model: Path) -> None:
    hidden = save(tmp_path / ".hidden" / "1.txt", PICTURE, format="PNG")
    photo = tmp_path / "photo.HEIC"
    photo.write_text("text")

    assert _found(model, hidden, hidden.parent.parent / ".hidden", tmp_path / "nope.png", photo, tmp_path / "p") == {
        str(hidden): "",
        f"{tmp_path}/nope.png": "there is no such file or folder",
        str(photo): "is not an image in a known format",
        f"{tmp_path}/p": "there is no such file or folder",
    }
    assert NEEDS_HEIC not in str(_found(model, photo))


def test_names_of_any_bytes_are_one_printable_line(tmp_path: Path, model: Path) -> None:
    names = [b"\xff\n.png", "ünï.png".encode(), b"\x1b[2J.png", b"=1+1.png"]
    for name in names:
        save(tmp_path / "data" / os.fsdecode(name), PICTURE)
    (tmp_path / "data" / os.fsdecode(b"\xfe\r.jpg")).touch()

    found = _found(model, tmp_path / "data")

    assert {file.rpartition("/")[2]: error for file, error in found.items()} == {
        "=1+1.png": "",
        "\\udcff\\n.png": "",
        "\\udcfe\\r.jpg": "is empty",
        "\\x1b[2J.png": "",
        "ünï.png": "",
    }


def test_where_nothing_can_be_predicted_it_is_an_error(tmp_path: Path, model: Path) -> None:
    data, output = tmp_path / "data", tmp_path / "out.csv"
    data.mkdir()
    for files, message in (
        ((), f"{data}: no image is there"),
        (("a.txt", "b.txt"), f"{data}: no image is there; not images: 2 .txt"),
        (
            ("1.png", "2.png"),
            f"{data}: none of 2 files can be read; the first is {data}/1.png: is empty; not images: 2",
        ),
    ):
        for name in files:
            (data / name).touch()
        with pytest.raises(DataError) as caught:
            predict_staged(model=model, images=[data], output=output)
        assert str(caught.value).startswith(message)
        assert not output.exists()
