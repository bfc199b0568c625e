from __future__ import annotations

import gzip
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from components.data_prep.prepare import prepare
from components.shared.artifacts.dataset import open_dataset
from components.shared.errors import DataError
from tests.data_prep.building import (
    IMAGES,
    LABELS,
    PLAIN,
    TWO_OF_EACH,
    class_folders,
    files_of,
    idx_bytes,
    idx_folder,
    info_csv,
    params,
    prepared,
    refusal,
    report,
    stored,
    tree,
    values_of,
)
from tests.shared.decoding.pictures import LUMA, as_rgb, plain, random_pixels, save


def test_a_folder_per_class_with_its_own_test_split(tmp_path: Path) -> None:
    class_folders(tmp_path / "data" / "train", {"cat": 3, "dog": 2})
    class_folders(tmp_path / "data" / "test", {"dog": 2, "cat": 1}, first=100)

    result = prepared(tmp_path / "data")

    counts = {"train": {"cat": 3, "dog": 2}, "test": {"cat": 1, "dog": 2}}
    assert result.report() == report(tmp_path / "out", counts, findings=PLAIN)
    assert values_of(tmp_path / "out", "train") == [0, 1, 2, 3, 4]
    assert stored(tmp_path / "out", "train")[1] == [0, 0, 0, 1, 1]
    assert values_of(tmp_path / "out", "test") == [102, 100, 101]
    assert stored(tmp_path / "out", "test")[1] == [0, 1, 1]


@pytest.mark.parametrize("color", [False, True])
def test_pixels_of_the_right_size_are_kept_exactly(tmp_path: Path, color: bool) -> None:
    pixels = random_pixels(4, 4, 3) if color else random_pixels(4, 4)
    for file in ("train/a/x.png", "train/b/x.png", "test/a/x.png"):
        save(tmp_path / "data" / file, pixels)

    prepared(tmp_path / "data", is_image_color=color)

    for image in stored(tmp_path / "out", "train")[0]:
        np.testing.assert_array_equal(image, pixels if color else as_rgb(pixels)[..., :1])


@pytest.mark.parametrize(
    ("names", "order"),
    [
        (["10", "9", "1"], ["1", "9", "10"]),
        (["007", "7", "08"], ["007", "7", "08"]),
        (["10", "9", "b"], ["10", "9", "b"]),
        (["b", "B", "ä"], ["B", "b", "ä"]),
        (["-1", "2", "10"], ["-1", "10", "2"]),
        (["²", "1", "10"], ["1", "10", "²"]),
    ],
)
def test_classes_are_ordered_by_number_where_all_are_numbers(
    tmp_path: Path, names: list[str], order: list[str]
) -> None:
    class_folders(tmp_path / "data", dict.fromkeys(names, 2))

    assert list(prepared(tmp_path / "data", n_classes=3).manifest.classes) == order


def test_images_in_deeper_folders_belong_to_the_class(tmp_path: Path) -> None:
    data = tree(tmp_path / "data", "train/a/0.png", "train/b/0.png", "train/a/2024/may/x.PNG", "test/a/0.png")

    prepared(data)

    assert values_of(tmp_path / "out", "train") == [0, 2, 1]


def test_folders_beside_those_of_splits_are_named_in_a_warning(tmp_path: Path, log: Callable[[], str]) -> None:
    data = tree(tmp_path / "data", "train/a/×2.png", "train/b/×2.png", "test/a/0.png", "test/b/0.png")
    tree(data, "more/a/×2.png", "more/b/×3.png", "train/loose.png")

    result = prepared(data)

    assert result.counts == {"train": 4, "test": 2}
    assert result.manifest.left_out.images == {"in no class folder": 1, "in no split's folder": 5}
    told = log()
    assert "not read, being no split: folder(s) more" in told
    assert "not read, being in no split's folder: 5 image(s), such as more/a/0.png" in told
    assert "not read, being in no class folder: 1 image(s), such as train/loose.png" in told


def test_links_inside_the_data_folder_and_to_it_are_followed(tmp_path: Path) -> None:
    data = tree(tmp_path / "elsewhere" / ".version-1", *TWO_OF_EACH).parent
    for name in ("cat", "dog"):
        (data / name).symlink_to(Path(".version-1") / name)  # as Kubernetes mounts a ConfigMap
    (data / "cat" / "again.png").symlink_to("1.png")
    (tmp_path / "data").symlink_to("elsewhere")

    assert prepared(tmp_path / "data").counts == {"train": 2, "test": 3}


def test_a_dataset_directory_below_the_data_is_no_class(tmp_path: Path) -> None:
    data = tree(tmp_path / "data", *TWO_OF_EACH)
    prepared(data)
    (tmp_path / "out").rename(data / "prepared")

    result = prepared(data)

    assert result.manifest.classes == ["cat", "dog"]
    assert result.manifest.left_out.folders == {"a dataset directory": 1}


def test_a_file_name_of_any_bytes_is_read(tmp_path: Path) -> None:
    data = tree(tmp_path / "data", *TWO_OF_EACH)
    (data / "cat" / "0.png").rename(data / "cat" / os.fsdecode(b"\xff\n.png"))
    (data / "dog" / os.fsdecode(b"\xfe\n.png")).write_bytes(b"")

    assert prepared(data, max_unreadable=0.5).counts == {"train": 2, "test": 2}
    assert [image.file for image in open_dataset(tmp_path / "out").manifest.unreadable] == ["dog/\\udcfe\\n.png"]


def test_test_images_that_are_training_images_are_counted(tmp_path: Path, log: Callable[[], str]) -> None:
    data = tree(tmp_path / "data", "train/cat/×3.png", "train/dog/×2.png")
    tree(data, "test/cat/×3.png", "test/dog/×2.png", first=3)
    shutil.copy(data / "train" / "cat" / "1.png", data / "test" / "cat" / "1.png")
    shutil.copytree(data / "train", data / "val")

    prepared(data)

    assert "leakage: 7 images (validation 5, test 2)" in log()


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


def test_files_may_be_in_folders_and_have_any_ending(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("end", ["", ".gz"])
def test_images_and_labels_keep_every_value_and_their_order(tmp_path: Path, end: str) -> None:
    train, test = random_pixels(6, 4, 5), random_pixels(3, 4, 5, seed=1)
    idx_folder(tmp_path / "data", train, LABELS, end=end)
    idx_folder(tmp_path / "data", test, [1, 0, 1], split="t10k", end=end)

    result = prepared(tmp_path / "data", image_width=5)

    counts = {"train": {"0": 3, "1": 3}, "test": {"0": 1, "1": 2}}
    assert result.report() == report(tmp_path / "out", counts, source="IDX files", image_shape=[4, 5, 1])
    for split, pixels, labels in (("train", train, LABELS.tolist()), ("test", test, [1, 0, 1])):
        images, stored_labels = stored(tmp_path / "out", split)
        np.testing.assert_array_equal(images, pixels[..., None])
        assert stored_labels == labels


def test_plain_and_compressed_files_give_the_same_bytes(tmp_path: Path) -> None:
    for end in ("", ".gz"):
        prepare(data=idx_folder(tmp_path / f"in{end}", end=end), dataset=tmp_path / f"out{end}", params=params())

    assert files_of(tmp_path / "out") == files_of(tmp_path / "out.gz")


def test_files_by_another_name(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for split, count, value in (("train", 4, 0), ("test", 2, 100), ("validation", 2, 50)):
        idx_folder(data, np.stack([plain(value + index) for index in range(count)]), [0, 1] * (count // 2), split)
    for file in data.glob("train-*"):
        file.rename(data / file.name.upper())
    (data / "test-labels-idx1-ubyte").rename(data / "test-labels.idx1-ubyte")

    assert prepared(data, validation_fraction=0.1).counts == {"train": 4, "validation": 2, "test": 2}
    assert values_of(tmp_path / "out", "validation") == [50, 51]


@pytest.mark.parametrize(("stored_channels", "color"), [(0, False), (0, True), (1, False), (3, True), (3, False)])
def test_four_dimensions_hold_channels(tmp_path: Path, stored_channels: int, color: bool) -> None:
    train = random_pixels(6, 4, 4, stored_channels) if stored_channels else random_pixels(6, 4, 4)
    idx_folder(tmp_path / "data", train)
    idx_folder(tmp_path / "data", train, split="t10k")

    prepared(tmp_path / "data", is_image_color=color)

    images = stored(tmp_path / "out", "train")[0]
    match stored_channels, color:
        case 0, _:
            np.testing.assert_array_equal(images, as_rgb(train) if color else train[..., None])
        case 3, False:
            np.testing.assert_allclose(images[..., 0], train @ LUMA, atol=1)
        case _:
            np.testing.assert_array_equal(images, train)


def test_another_size_is_resized_image_by_image(tmp_path: Path) -> None:
    train = np.repeat(np.arange(6, dtype=np.uint8) * 40, 14 * 12).reshape(6, 14, 12)
    idx_folder(tmp_path / "data", train)
    idx_folder(tmp_path / "data", train, split="t10k")

    prepared(tmp_path / "data", image_height=7, image_width=5)

    images, labels = stored(tmp_path / "out", "train")
    assert images.shape == (6, 7, 5, 1)
    assert [np.unique(image).tolist() for image in images] == [[index * 40] for index in range(6)]
    assert labels == LABELS.tolist()


@pytest.mark.parametrize("end", ["", ".gz"])
def test_more_images_than_one_batch_holds(tmp_path: Path, end: str) -> None:
    train = random_pixels(18, 600, 500)  # 5.4 MB, in batches of 4 MiB
    idx_folder(tmp_path / "data", train, [0, 1] * 9, end=end)
    idx_folder(tmp_path / "data", train[:2], [0, 1], split="t10k", end=end)

    prepared(tmp_path / "data", image_height=600, image_width=500)

    images, labels = stored(tmp_path / "out", "train")
    np.testing.assert_array_equal(images[..., 0], train)
    assert labels == [0, 1] * 9


def test_a_file_compressed_in_several_members_is_read_whole(tmp_path: Path) -> None:
    idx_folder(tmp_path / "data", end=".gz")
    parts = gzip.compress(idx_bytes(IMAGES)[:50]) + gzip.compress(idx_bytes(IMAGES)[50:])
    (tmp_path / "data" / "train-images-idx3-ubyte.gz").write_bytes(parts)

    assert prepared(tmp_path / "data").counts == {"train": 2, "test": 4}


def test_mean_and_std_are_of_the_training_images_alone(tmp_path: Path) -> None:
    train = random_pixels(6, 4, 4)
    idx_folder(tmp_path / "data", train)
    idx_folder(tmp_path / "data", np.full((2, 4, 4), 255, np.uint8), [0, 1], split="t10k")

    prepared(tmp_path / "data")

    normalisation = open_dataset(tmp_path / "out").manifest.normalisation
    assert normalisation.mean == pytest.approx([train.mean() / 255])
    assert normalisation.std == pytest.approx([train.std() / 255])


def test_a_gzip_bomb_is_not_inflated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    idx_folder(tmp_path / "data")
    (tmp_path / "data" / "train-images-idx3-ubyte").unlink()
    bomb = gzip.compress(idx_bytes(IMAGES) + bytes(16 * 1024**2))
    (tmp_path / "data" / "train-images-idx3-ubyte.gz").write_bytes(bomb)
    inflated = 0
    read = gzip.GzipFile.read

    def counting_read(self: gzip.GzipFile, size: int | None = -1) -> bytes:
        nonlocal inflated
        data = read(self, size)
        inflated += len(data)
        return data

    monkeypatch.setattr(gzip.GzipFile, "read", counting_read)
    with pytest.raises(DataError, match="goes on after the 6×4×4 values"):
        prepared(tmp_path / "data")

    assert inflated < 500


def test_a_layout_that_is_named_counts_whatever_else_is_there(tmp_path: Path, log: Callable[[], str]) -> None:
    data = idx_folder(tree(tmp_path / "data", "cat/×3.png", "dog/×3.png"))

    by_option = prepare(data=data, dataset=tmp_path / "1", params=params(data_layout="idx"), layout="folders")
    assert "a folder per class (2 folders with 6 images), in a folder" in log()
    by_params = prepare(data=data, dataset=tmp_path / "2", params=params(data_layout="idx"))
    assert (by_option.manifest.source, by_params.manifest.source) == ("a folder per class", "IDX files")
    assert "holds no info.csv, which --layout info-csv" in refusal(data, "--layout", "info-csv")
