from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from components.data_prep.__main__ import main
from components.data_prep.prepare import prepare
from components.shared.artifacts.dataset import UnreadableImage, open_dataset
from components.shared.events.data import EventData
from tests.data_prep.building import (
    NOTHING_LEFT_OUT,
    TWO_OF_EACH,
    idx_folder,
    info_csv,
    params,
    params_json,
    prepared,
    refusal,
    tree,
)
from tests.shared.decoding.pictures import encoded, plain, random_pixels, save

NO_HEIC = """
import sys

sys.modules["pillow_heif"] = None  # as if it were not installed
from components.data_prep.__main__ import main

sys.exit(main())
"""
NEEDS_HEIC = "is HEIC, which is read after pip install 'shutterline[heic]'; or convert it to JPEG"


def test_without_the_extra_heic_counts_as_unreadable_and_the_reason_says_what_to_do(tmp_path: Path) -> None:
    data = tree(tmp_path / "data", "cat/×4.png", "dog/×4.png", "cat/IMG_×20.HEIC")
    (data / "dog" / "of another ending.jpg").write_bytes(encoded(random_pixels(8, 8, 3), "HEIF"))
    options = ["--data", str(data), "--dataset", str(tmp_path / "out"), "--params", params_json(max_unreadable=0.9)]

    done = subprocess.run([sys.executable, "-c", NO_HEIC, *options], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert done.stderr.count(f"WARNING set aside cat/IMG_0.HEIC: {NEEDS_HEIC}") == 1
    unreadable = open_dataset(tmp_path / "out").manifest.unreadable
    assert (len(unreadable), {image.reason for image in unreadable}) == (21, {NEEDS_HEIC})


@pytest.mark.parametrize(
    ("files", "changes", "expected"),
    [
        (
            (*TWO_OF_EACH, "cat/IMG_×3.NEF"),
            {},
            "3 of 7 images cannot be read (42.86%), and max_unreadable is 1.00%; the first is cat/IMG_0.NEF: is a "
            "picture of a kind that is not read, .nef; convert it to JPEG or PNG; mend or remove them, or raise",
        ),
        (
            ("cat/×50.png", "dog/×50.png", "cat/0a.dng", "dog/a.jxl"),
            {},
            "2 of 102 images cannot be read (1.96%), and max_unreadable is 1.00%; the first is cat/0a.dng",
        ),
        (
            ("train/cat/×50.png", "train/dog/×50.png", "test/cat/×2.png", "test/dog/0.png", "test/dog/a×3.cr2"),
            {"max_unreadable": 0.1},
            "3 of 4 images of dog in test cannot be read (75.00%), and max_unreadable is 10.00%; the first is "
            "test/dog/a0.cr2",
        ),
        (
            ("train/cat/×2.png", "train/dog/×2.png", "test/cat/×2.arw"),
            {"max_unreadable": 1},
            "DATA: no test image can be read; mend them, or remove the test split to have one held out",
        ),
        (
            ("cat/×3.nef", "dog/×4.CR3"),
            {},
            "cat/0.nef is a picture of a kind that is not read, .nef; convert it to JPEG or PNG",
        ),
        (("cat/×3.svg", "dog/×4.png"), {"max_unreadable": 1}, "too few readable training images: cat (0)"),
    ],
    ids=["a class", "all", "a class of a split", "a split", "all but none", "a whole class"],
)
def test_pictures_without_a_decoder_count_as_unreadable(
    tmp_path: Path, files: tuple[str, ...], changes: dict[str, object], expected: str
) -> None:
    assert expected in refusal(tree(tmp_path / "data", *files), **changes)


def test_pictures_within_max_unreadable_are_set_aside_with_those_that_are_damaged(
    tmp_path: Path, log: Callable[[], str]
) -> None:
    data = tree(tmp_path / "data", *TWO_OF_EACH, "cat/a×3.nef")
    (data / "cat" / "9.png").write_bytes(b"damaged")

    result = prepared(data, max_unreadable=0.7)

    reason = "is a picture of a kind that is not read, .nef; convert it to JPEG or PNG"
    assert result.manifest.unreadable == [
        UnreadableImage(file="cat/9.png", reason="is not an image in a known format"),
        *(UnreadableImage(file=f"cat/a{number}.nef", reason=reason) for number in range(3)),
    ]
    assert (result.counts, result.manifest.left_out.files) == ({"train": 2, "test": 2}, {})
    assert result.event(1.0).left_out == {"unreadable images": 4}
    assert f"WARNING set aside cat/a0.nef: {reason}" in log()


def test_a_raw_file_beside_its_image_is_only_counted(tmp_path: Path) -> None:
    data = tree(tmp_path / "data", "cat/×4.png", "dog/×4.png", "cat/×4.CR2", "dog/×4.cr2")

    assert prepared(data, max_unreadable=0).manifest.left_out.files == {".cr2": 8}


@pytest.mark.parametrize(("end", "named"), [("", "no ending"), (".jpg_large", ".jpg_large"), (".001", ".001")])
def test_images_without_an_images_ending_are_known_by_content(tmp_path: Path, end: str, named: str) -> None:
    data = tree(tmp_path / "data", *TWO_OF_EACH, "cat/labels.txt", f"cat/notes{end}")
    for index in range(3):
        save(data / "cat" / "x.png", plain(9)).rename(data / "cat" / f"photo {index}{end}")

    assert (
        f"3 of 7 images cannot be read (42.86%), and max_unreadable is 1.00%; the first is cat/photo 0{end}: is an "
        f"image by its content, and its name has {named}; give it the ending of its format, such as .jpg or .png"
    ) in refusal(data)


def test_files_that_are_no_images_are_counted_by_ending(tmp_path: Path, log: Callable[[], str]) -> None:
    data = tree(tmp_path / "data", *TWO_OF_EACH, "cat/labels.pdf", "cat/features.h5", "cat/clip.mpg", "README")
    tree(data, "cat/×3.DOCX", "dog/deeper/notes.pdf", ".hidden", "dog/._0.png", "dog/Thumbs.db", "cat/.DS_Store")
    os.mkfifo(data / "cat" / "queue.txt")
    told: list[EventData] = []

    result = prepare(data=data, dataset=tmp_path / "out", params=params(max_unreadable=0), emit=told.append)

    files = {".docx": 3, "system files": 3, ".pdf": 2, ".h5": 1, ".mpg": 1, "hidden": 1, "no ending": 1}
    files["no plain files"] = 1
    assert result.report()["left_out"] == NOTHING_LEFT_OUT | {"files": files}
    assert open_dataset(tmp_path / "out").manifest.left_out.files == result.event(1.0).left_out == files
    assert "data-prep not read, by ending: 3 .docx, 3 system files, 2 .pdf, 1 .h5, 1 .mpg, 1 hidden, 1 no" in log()


def test_folders_of_systems_are_left_out_and_counted(tmp_path: Path, log: Callable[[], str]) -> None:
    data = tree(tmp_path / "data", *TWO_OF_EACH, "$Recycle.Bin/S-1-5-21-1/$R1.png", "dog/#recycle/2.png")
    for name in ("cat", "dog"):
        tree(data / name, "@eaDir/0.png/SYNOPHOTO_THUMB_XL.png", "@EADIR/1.png/SYNOPHOTO_THUMB_XL.png")
    twice = (".git", ".ipynb_checkpoints", "System Volume Information", "__MACOSX", "__pycache__", "lost+found")
    for name in twice:
        tree(data, f"{name}/0.png", f"cat/{name}/0.png")

    result = prepared(data)

    assert (result.manifest.classes, result.counts) == (["cat", "dog"], {"train": 2, "test": 2})
    folders = dict.fromkeys((*twice, "@EADIR", "@eaDir"), 2) | {"#recycle": 1, "$Recycle.Bin": 1}
    assert result.manifest.left_out.model_dump() == NOTHING_LEFT_OUT | {"folders": folders, "files_in_folders": 18}
    assert result.event(1.0).left_out == {f"{name}/": count for name, count in folders.items()}
    assert "left out, being no data: the folders .git (2), .ipynb_checkpoints (2)" in log()


def test_a_data_folder_may_itself_lie_in_such_a_folder(tmp_path: Path) -> None:
    assert prepared(tree(tmp_path / ".cache" / "@eaDir", *TWO_OF_EACH)).counts == {"train": 2, "test": 2}


def test_what_is_counted_is_bounded(tmp_path: Path) -> None:
    names = [f"cat/x.{'e' * 200 if number == 7 else number}" for number in range(60)]
    data = tree(tmp_path / "data", *TWO_OF_EACH, *names, *(f".hidden-{number}/x.png" for number in range(40)))
    (data / "cat" / os.fsdecode(b"x.\xff\n")).write_text("text")

    left_out = prepared(data).manifest.left_out

    assert len(left_out.files) == len(left_out.folders) == 21
    assert (left_out.files["other endings"], left_out.folders["other folders"]) == (41, 20)
    assert all(name.isprintable() and len(name) <= 20 for name in left_out.files)


def _table(data: Path) -> None:
    names = [f"{number}.png" for number in range(6)]
    info_csv(data / "train", "files,type\n0.png,a\n1.png,a\n2.png,b\n3.png,b\n", names)
    tree(data, "train/notes.pdf")


@pytest.mark.parametrize(
    ("make", "files", "images", "logged"),
    [
        (_table, {".pdf": 1}, {"in no table": 2}, "in no table: 2 image(s), such as train/4.png"),
        (
            lambda data: tree(idx_folder(data), "preview.png", "LICENSE", "emnist.mat"),
            {".mat": 1, "no ending": 1},
            {"beside IDX files": 1},
            "beside IDX files: 1 image(s), such as preview.png",
        ),
        (
            lambda data: tree(data, *TWO_OF_EACH, "cover.png"),
            {},
            {"in no class folder": 1},
            "in no class folder: 1 image(s), such as cover.png",
        ),
    ],
    ids=["table", "IDX", "class folders"],
)
def test_images_that_are_not_used_are_counted(
    tmp_path: Path,
    log: Callable[[], str],
    make: Callable[[Path], object],
    files: dict[str, int],
    images: dict[str, int],
    logged: str,
) -> None:
    make(tmp_path / "data")

    result = prepared(tmp_path / "data")

    assert result.manifest.left_out.model_dump() == NOTHING_LEFT_OUT | {"files": files, "images": images}
    assert result.event(1.0).left_out == files | {f"images {reason}": count for reason, count in images.items()}
    assert f"not read, being {logged}" in log()


def test_the_last_status_event_says_what_was_left_out(tmp_path: Path) -> None:
    data = tree(tmp_path / "data", *TWO_OF_EACH, "cat/labels.pdf", "cat/@eaDir/x.png")

    assert main(["--data", str(data), "--dataset", str(tmp_path / "out"), "--params", params_json()]) == 0

    (spool,) = tmp_path.glob("*events*/**/*.jsonl")
    last = json.loads(spool.read_text().splitlines()[-1])
    assert last["type"] == "shutterline.step.succeeded"
    assert last["data"]["left_out"] == {".pdf": 1, "@eaDir/": 1}
