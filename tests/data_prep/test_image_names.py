"""The dataset says of each image where it came from and how large it was."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.shared.artifacts.dataset import SplitName, open_dataset
from components.shared.artifacts.names import ImageName
from tests.data_prep.building import class_folders, idx_folder, info_csv, prepared, tree, values_of
from tests.shared.decoding.pictures import plain, random_pixels, save


def _names(dataset: Path, split: SplitName) -> list[ImageName]:
    names = open_dataset(dataset).splits[split].names()
    assert names is not None
    return [ImageName(*name[:3]) for name in names]


def _files(dataset: Path, split: SplitName) -> list[str]:
    return [name.file for name in _names(dataset, split)]


def test_of_class_folders_also_what_is_held_out_and_without_what_cannot_be_read(tmp_path: Path) -> None:
    data = class_folders(tmp_path / "data", {"a/deeper": 20, "b": 20})
    (data / "b" / "0002.png").write_bytes(b"damaged")
    (data / "a" / "deeper" / "0005.png").unlink()

    prepared(data, max_unreadable=0.5, validation_fraction=0.2, test_fraction=0.3)

    found: dict[str, int] = {}
    for split in ("train", "validation", "test"):
        values, files = values_of(tmp_path / "out", split), _files(tmp_path / "out", split)
        found |= dict(zip(files, values, strict=True))
        assert len(files) > 2
    expected = {f"a/deeper/{index:04d}.png": index for index in range(20) if index != 5}
    expected |= {f"b/{index:04d}.png": 20 + index for index in range(20) if index != 2}
    assert found == expected


def test_of_split_folders_and_more_images_than_a_batch_holds(tmp_path: Path) -> None:
    data = class_folders(tmp_path / "data" / "Training", {"a": 120, "b": 3}).parent
    class_folders(data / "val", {"a": 1, "b": 2}, first=200)

    prepared(data, image_height=256, image_width=256, is_image_color=True)

    files = _files(tmp_path / "out", "train") + _files(tmp_path / "out", "test")
    assert sorted(files) == sorted(
        [f"Training/a/{index:04d}.png" for index in range(120)] + [f"Training/b/{index:04d}.png" for index in range(3)]
    )
    assert _names(tmp_path / "out", "validation") == [
        ImageName("val/a/0000.png", 4, 4),
        ImageName("val/b/0000.png", 4, 4),
        ImageName("val/b/0001.png", 4, 4),
    ]


def test_sizes_are_of_the_upright_image_before_it_is_resized(tmp_path: Path) -> None:
    data = tree(tmp_path / "data" / "train", "a/×2.png", "b/×2.png").parent
    exif = Image.Exif()
    exif[0x0112] = 6
    (data / "test" / "a").mkdir(parents=True)
    Image.fromarray(random_pixels(6, 9, 3)).save(data / "test" / "a" / "turned.jpg", exif=exif)
    save(data / "test" / "b" / "wide.png", plain(3, height=5, width=50))

    prepared(data)

    assert _names(tmp_path / "out", "test") == [
        ImageName("test/a/turned.jpg", width=6, height=9),
        ImageName("test/b/wide.png", width=50, height=5),
    ]


def test_of_tables_in_the_order_of_their_rows(tmp_path: Path) -> None:
    rows = "files,type\n./z.png,cat\ninner/../a.png,dog\nb.png,cat\nc.png,dog\n"
    (tmp_path / "data" / "train" / "inner").mkdir(parents=True)
    info_csv(tmp_path / "data" / "train", rows, ["z.png", "a.png", "b.png", "c.png"])
    info_csv(tmp_path / "data" / "test", "files,type\nx.png,dog\n", ["x.png"])

    prepared(tmp_path / "data")

    assert _files(tmp_path / "out", "train") == ["train/z.png", "train/a.png", "train/b.png", "train/c.png"]
    assert _files(tmp_path / "out", "test") == ["test/x.png"]


@pytest.mark.parametrize("has_test_split", [True, False])
def test_of_idx_files_by_split_and_index(tmp_path: Path, has_test_split: bool) -> None:
    images = np.arange(300 * 20, dtype=np.uint16).astype(np.uint8).reshape(300, 4, 5)
    images[:, 0, 0] = np.arange(300) % 256
    data = idx_folder(tmp_path / "data", images, [0, 1] * 150)
    if has_test_split:
        idx_folder(data, images[:10], [0, 1] * 5, split="t10k")

    prepared(data, image_height=4, image_width=5)

    test = _names(tmp_path / "out", "test")
    if has_test_split:
        assert test == [ImageName(f"test/{index}", 5, 4) for index in range(10)]
        assert _names(tmp_path / "out", "train") == [ImageName(f"train/{index}", 5, 4) for index in range(300)]
    else:
        assert {name.file.partition("/")[0] for name in test} == {"train"}
        assert [int(name.file.partition("/")[2]) % 256 for name in test] == values_of(tmp_path / "out", "test")


def test_a_name_of_any_bytes_is_one_printable_line_that_finds_the_file(tmp_path: Path) -> None:
    data = tree(tmp_path / "data" / "train", "cat/0.png", "dog/1.png").parent
    names = [b"\xff\n.png", "ünï \u2028.png".encode(), b"\"',\t\x00.png".replace(b"\x00", b"\\"), b"l" * 251 + b".png"]
    long = "/".join(["d" * 200] * 5)
    for index, name in enumerate(sorted(names)):
        save(data / "test" / "cat" / os.fsdecode(name), plain(index))
    save(data / "test" / "dog" / long / "0.png", plain(9))

    prepared(data)

    files = _files(tmp_path / "out", "test")
    assert files[-1] == f"test/dog/{long}/0.png"
    shown = [file.removeprefix("test/cat/") for file in files[:-1]]
    assert sorted(shown) == sorted(["\\udcff\\n.png", "\\xfcn\\xef \\u2028.png", "\"',\\t\\\\.png", "l" * 251 + ".png"])
    assert all(file.isprintable() for file in files)
    found = {os.fsencode(name.encode().decode("unicode_escape")) for name in shown}
    assert found == set(names)
