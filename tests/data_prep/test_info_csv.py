from __future__ import annotations

from pathlib import Path

import pytest

from tests.data_prep.building import info_csv, plain, prepared, save, stored, values_of

FOUR = ["0.png", "1.png", "2.png", "3.png"]


def test_a_table_in_train_and_one_in_test(tmp_path: Path) -> None:
    info_csv(tmp_path / "data" / "train", "files,type\n2.png,dog\n0.png,cat\n1.png,dog\n", FOUR)
    info_csv(tmp_path / "data" / "test", "type,files\ncat,3.png\n", FOUR)

    manifest = prepared(tmp_path / "data").manifest

    assert (manifest.source, manifest.classes, manifest.test_split) == ("info.csv", ["cat", "dog"], "given")
    assert values_of(tmp_path / "out", "train") == [2, 0, 1]
    assert stored(tmp_path / "out", "train")[1] == [1, 0, 1]
    assert values_of(tmp_path / "out", "test") == [3]
    assert stored(tmp_path / "out", "test")[1] == [0]


@pytest.mark.parametrize(
    "text",
    [
        "files,type\n0.png,a\n1.png,a\n2.png,b\n3.png,b\n",
        "\ufefffiles,type\r\n0.png,a\r\n1.png,a\r\n\r\n2.png,b\r\n3.png,b",
        'id,files,type,note\n1,0.png,a,\n2,1.png,a,"two\nlines"\n3,2.png,b,x\n4,3.png,b,"1,2"\n',
        " files , type \n0.png, a\n 1.png,a \n2.png,b\n./3.png,b\n",
        '"files","type"\n"0.png","a"\n"1.png","a"\n"2.png","b"\n"3.png","b"\n',
        "files,type\n0.png,a\n1.png,a\n2.png,b\n3.png,b\n3.png,b\n",
    ],
    ids=["simple", "as Excel writes it", "more columns", "spaces", "quoted", "a row twice"],
)
def test_one_table_in_many_spellings(tmp_path: Path, text: str) -> None:
    info_csv(tmp_path / "data" / "train", text, FOUR)

    result = prepared(tmp_path / "data")

    assert (result.manifest.classes, result.manifest.test_split) == (["a", "b"], "held out")
    assert result.counts == {"train": 2, "test": 2}


def test_files_may_lie_in_folders_and_have_any_ending(tmp_path: Path) -> None:
    rows = "images/x.png,0\nimages/../y.png,0\nz,1\nlink,1\n"
    folder = info_csv(tmp_path / "data" / "train", f"files,type\n{rows}", ["images/x.png", "y.png", "z.png"])
    (folder / "z.png").rename(folder / "z")
    save(folder / "linked.png", plain(3))
    (folder / "link").symlink_to("linked.png")
    info_csv(tmp_path / "data" / "test", "files,type\n0.png,0\n", ["0.png"])

    prepared(tmp_path / "data")

    assert values_of(tmp_path / "out", "train") == [0, 1, 2, 3]


def test_folders_of_images_below_train_are_no_classes_where_a_table_is(tmp_path: Path) -> None:
    files = ["cat/0.png", "cat/1.png", "dog/2.png", "dog/3.png"]
    rows = "".join(f"{file},{'feline' if file.startswith('cat') else 'canine'}\n" for file in files)
    info_csv(tmp_path / "data" / "train", f"files,type\n{rows}", files)

    assert prepared(tmp_path / "data").manifest.classes == ["canine", "feline"]
