from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from components.data_prep.__main__ import main
from components.data_prep.prepare import prepare
from components.shared.artifacts.dataset import open_dataset
from components.shared.events.data import EventData, Succeeded
from components.shared.logs import log_to_stderr
from tests.data_prep.building import (
    NOTHING_LEFT_OUT,
    class_folders,
    idx_folder,
    info_csv,
    params,
    params_json,
    plain,
    prepared,
    refusal,
    save,
    tree,
    values_of,
)

TWO_OF_EACH = ("cat/×2.png", "dog/×2.png")
NO_HEIC = """
import sys

sys.modules["pillow_heif"] = None  # as if it were not installed
from components.data_prep.__main__ import main

sys.exit(main())
"""


def _without_heic(data: Path, dataset: Path, **changes: object) -> tuple[int, str]:
    ended = subprocess.run(
        [sys.executable, "-c", NO_HEIC, "--data", data, "--dataset", dataset, "--params", params_json(**changes)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    return ended.returncode, ended.stderr


def test_heic_without_a_decoder_is_refused_with_what_to_do(tmp_path: Path) -> None:
    data = tree(tmp_path / "data", "cat/×4.png", "dog/×4.png", "cat/IMG_×20.HEIC")

    code, told = _without_heic(data, tmp_path / "out")

    assert code == 2
    assert told.count(" ERROR ") == 1
    assert "Traceback" not in told
    assert (
        f"{data}: 20 picture(s) cannot be read, being 20 .heic in cat (such as cat/IMG_0.HEIC); they are 83.33% of "
        "cat, and max_unreadable is 1.00%; HEIC is read after pip install 'shutterline[heic]'; or convert them to JPEG "
        "or PNG, or raise max_unreadable to leave them out"
    ) in told
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_a_class_of_heic_alone_is_refused_with_what_to_do(tmp_path: Path) -> None:
    data = tree(tmp_path / "data", "cat/IMG_×3.heic", "dog/×4.png")

    code, told = _without_heic(data, tmp_path / "out", max_unreadable=1)

    assert code == 2
    assert "class folder(s) without an image: cat" in told
    assert "3 .heic in cat (such as cat/IMG_0.heic) cannot be read: HEIC is read after pip install" in told


@pytest.mark.parametrize(
    ("files", "changes", "expected"),
    [
        (
            (*TWO_OF_EACH, "cat/IMG_×3.NEF"),
            {},
            "3 picture(s) cannot be read, being 3 .nef in cat (such as cat/IMG_0.NEF); they are 60.00% of cat, and "
            "max_unreadable is 1.00%; convert them to JPEG or PNG, or raise max_unreadable to leave them out; the "
            "images are not opened yet, and those that cannot be decoded will count as well",

        ),
        (
            ("cat/×50.png", "dog/×50.png", "cat/0a.dng", "dog/a.jxl"),
            {},
            "2 picture(s) cannot be read, being 1 .dng in cat (such as cat/0a.dng), 1 .jxl in dog (such as dog/a.jxl); "
            "they are 1.96% of all",
        ),
        (
            (*TWO_OF_EACH, *(f"cat/a fairly long name of a picture{end}" for end in (".svg", ".cr2", ".jxl", ".dcm"))),
            {},
            "being 1 .cr2, 1 .dcm, 1 .jxl, 1 .svg in cat (such as cat/a fairly long name of a picture.cr2); they are",
        ),
        (
            ("train/cat/×50.png", "train/dog/×50.png", "test/cat/×2.png", "test/dog/0.png", "test/dog/a×3.cr2"),
            {"max_unreadable": 0.1},
            "being 3 .cr2 in test/dog (such as test/dog/a0.cr2); they are 75.00% of test/dog, and max_unreadable is",
        ),
        (
            ("train/cat/×2.png", "train/dog/×2.png", "test/cat/×2.arw"),
            {"max_unreadable": 1},
            "DATA/test: holds no image; remove the folder to have test images held out; 2 .arw in test/cat (such as "
            "test/cat/0.arw) cannot be read: convert them to JPEG or PNG",
        ),
    ],
    ids=["a class", "all", "long", "a class of a split", "a split"],
)  # fmt: skip
def test_pictures_without_a_decoder_count_as_unreadable(
    tmp_path: Path, files: tuple[str, ...], changes: dict[str, object], expected: str
) -> None:
    assert expected in refusal(tree(tmp_path / "data", *files), tmp_path / "out", **changes)


def test_pictures_within_max_unreadable_are_left_out_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_to_stderr()
    data = tree(tmp_path / "data", *TWO_OF_EACH, "cat/a×3.nef")

    result = prepared(data, max_unreadable=0.6)

    assert (result.counts, result.manifest.left_out.files) == (
        {"train": 2, "test": 2},
        {".nef": 3},
    )
    assert (
        "WARNING 3 picture(s) are not read: 3 .nef in cat (such as cat/a0.nef); convert them" in capsys.readouterr().err
    )


def test_unreadable_images_and_pictures_without_a_decoder_count_together(tmp_path: Path) -> None:
    data = tree(tmp_path / "data", "cat/×9.png", "dog/×9.png", "cat/a.cr3", "dog/b.cr3")
    (data / "cat" / "3.png").write_bytes(b"damaged")

    message = refusal(data, tmp_path / "out", max_unreadable=0.12)

    assert "3 of 20 images cannot be read (15.00%, 2 of them for their ending), and max_unreadable is 12.00%" in message


def test_a_raw_file_beside_its_image_is_only_counted(tmp_path: Path) -> None:
    data = tree(tmp_path / "data", "cat/×4.png", "dog/×4.png", "cat/×4.CR2", "dog/×4.cr2")

    result = prepared(data, max_unreadable=0)

    assert result.manifest.left_out.files == {".cr2": 8}


@pytest.mark.parametrize(("end", "counted"), [("", "3 no ending"), (".jpg_large", "3 .jpg_large"), (".001", "3 .001")])
def test_images_without_an_images_ending_are_known_by_content(tmp_path: Path, end: str, counted: str) -> None:
    data = tree(tmp_path / "data", *TWO_OF_EACH, "cat/labels.txt", f"cat/notes{end}")
    for index in range(3):
        save(data / "cat" / "x.png", plain(9)).rename(data / "cat" / f"photo {index}{end}")

    message = refusal(data, tmp_path / "out")

    assert f"3 picture(s) cannot be read, being {counted} in cat" in message
    assert "give those that are images the ending of their format, such as .jpg or .png" in message


def test_files_that_are_no_images_are_counted_by_ending(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tree(tmp_path / "data", *TWO_OF_EACH, "cat/labels.pdf", "cat/features.h5", "cat/clip.mpg", "README")
    tree(data, "cat/×3.DOCX", "dog/deeper/notes.pdf", ".hidden", "dog/._0.png", "dog/Thumbs.db", "cat/.DS_Store")
    told: list[EventData] = []

    log_to_stderr()
    result = prepare(data=data, dataset=tmp_path / "out", params=params(max_unreadable=0), emit=told.append)

    files = {".docx": 3, "system files": 3, ".pdf": 2, ".h5": 1, ".mpg": 1, "hidden": 1, "no ending": 1}
    assert result.report()["left_out"] == NOTHING_LEFT_OUT | {"files": files}
    assert open_dataset(tmp_path / "out").manifest.left_out.files == files
    done = result.event(1.0)
    assert isinstance(done, Succeeded)
    assert done.left_out == files
    assert (
        "INFO not read, by ending: 3 .docx, 3 system files, 2 .pdf, 1 .h5, 1 .mpg, 1 hidden, 1 no ending"
        in capsys.readouterr().err.replace("data-prep ", "INFO ")
    )


def test_folders_of_systems_are_left_out_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log_to_stderr()
    data = tree(tmp_path / "data", *TWO_OF_EACH, "$Recycle.Bin/S-1-5-21-1/$R1.png", "dog/#recycle/2.png")
    for name in ("cat", "dog"):
        tree(data / name, "@eaDir/0.png/SYNOPHOTO_THUMB_XL.png", "@EADIR/1.png/SYNOPHOTO_THUMB_XL.png")
    for name in ("__MACOSX", "System Volume Information", "lost+found", ".ipynb_checkpoints", ".git", "__pycache__"):
        tree(data, f"{name}/0.png")
        tree(data / "cat", f"{name}/0.png")

    result = prepared(data)

    assert (result.manifest.classes, result.counts) == (["cat", "dog"], {"train": 2, "test": 2})
    folders = {
        ".git": 2,
        ".ipynb_checkpoints": 2,
        "@EADIR": 2,
        "@eaDir": 2,
        "System Volume Information": 2,
        "__MACOSX": 2,
        "__pycache__": 2,
        "lost+found": 2,
        "#recycle": 1,
        "$Recycle.Bin": 1,
    }
    assert result.manifest.left_out.model_dump() == NOTHING_LEFT_OUT | {"folders": folders, "files_in_folders": 18}
    assert result.event(1.0).left_out == {f"{name}/": count for name, count in folders.items()}
    assert "left out, being no data: the folders .git (2), .ipynb_checkpoints (2)" in capsys.readouterr().err


def test_a_data_folder_may_itself_lie_in_such_a_folder(tmp_path: Path) -> None:
    data = tree(tmp_path / ".cache" / "@eaDir", *TWO_OF_EACH)

    assert prepared(data).counts == {"train": 2, "test": 2}


def test_what_is_counted_is_bounded(tmp_path: Path) -> None:
    data = tree(
        tmp_path / "data", *TWO_OF_EACH, *(f"cat/x.{'e' * 200 if number == 7 else number}" for number in range(60))
    )
    for number in range(40):
        tree(data, f".hidden-{number}/x.png")
    (data / "cat" / os.fsdecode(b"x.\xff\n")).write_text("text")

    result = prepared(data)

    assert len(result.manifest.left_out.files) == len(result.manifest.left_out.folders) == 21
    assert (result.manifest.left_out.files["other endings"], result.manifest.left_out.folders["other folders"]) == (
        41,
        20,
    )
    assert all(name.isprintable() and len(name) <= 20 for name in result.manifest.left_out.files)


def test_images_that_no_table_names_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log_to_stderr()
    names = [f"{number}.png" for number in range(6)]
    data = info_csv(tmp_path / "data" / "train", "files,type\n0.png,a\n1.png,a\n2.png,b\n3.png,b\n", names).parent
    tree(data, "train/notes.pdf")

    result = prepared(data)

    assert result.manifest.left_out.model_dump() == NOTHING_LEFT_OUT | {
        "files": {".pdf": 1},
        "images": {"in no table": 2},
    }
    assert result.event(1.0).left_out == {".pdf": 1, "images in no table": 2}
    assert "not read, being in no table: 2 image(s), such as train/4.png" in capsys.readouterr().err


def test_files_beside_idx_files_are_counted(tmp_path: Path) -> None:
    data = idx_folder(tmp_path / "data", np.stack([plain(index) for index in range(4)]), [0, 1, 0, 1])
    tree(data, "preview.png", "LICENSE", "emnist.mat")

    result = prepared(data)

    assert values_of(tmp_path / "out", "train") + values_of(tmp_path / "out", "test")
    assert result.manifest.left_out.files == {".mat": 1, "no ending": 1}
    assert result.manifest.left_out.images == {"beside IDX files": 1}


def test_an_image_beside_the_class_folders_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log_to_stderr()
    data = class_folders(tmp_path / "data", {"cat": 2, "dog": 2})
    save(data / "cover.png", plain(1))

    assert prepared(data).manifest.left_out.images == {"in no class folder": 1}

    assert "not read, being in no class folder: 1 image(s), such as cover.png" in capsys.readouterr().err


def test_the_last_status_event_says_what_was_left_out(tmp_path: Path) -> None:
    data = tree(tmp_path / "data", *TWO_OF_EACH, "cat/labels.pdf", "cat/@eaDir/x.png")

    assert main(["--data", str(data), "--dataset", str(tmp_path / "out"), "--params", params_json()]) == 0

    (spool,) = tmp_path.glob("*events*/**/*.jsonl")
    last = json.loads(spool.read_text().splitlines()[-1])
    assert last["type"] == "shutterline.step.succeeded"
    assert last["data"]["left_out"] == {".pdf": 1, "@eaDir/": 1}
