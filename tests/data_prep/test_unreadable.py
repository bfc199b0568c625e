from __future__ import annotations

import json
from pathlib import Path

import pytest

from components.data_prep.prepare import prepare
from components.shared.artifacts.dataset import UnreadableImage, open_dataset
from components.shared.errors import DataError
from components.shared.logs import log_to_stderr
from tests.data_prep.building import class_folders, files_of, info_csv, params, plain, prepared, save, values_of


def _damage(*files: Path) -> None:
    for file in files:
        file.write_bytes(b"damaged")


def test_unreadable_images_are_set_aside_and_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log_to_stderr()
    data = class_folders(tmp_path / "data" / "train", {"a": 3, "b": 3}).parent
    class_folders(data / "test", {"a": 2, "b": 2}, first=100)
    _damage(data / "train" / "a" / "0001.png", data / "test" / "b" / "0000.png")

    result = prepared(data, max_unreadable=0.2)

    assert len(result.manifest.unreadable) == 2
    assert open_dataset(tmp_path / "out").manifest.unreadable == [
        UnreadableImage(file="train/a/0001.png", reason="is not an image in a known format"),
        UnreadableImage(file="test/b/0000.png", reason="is not an image in a known format"),
    ]
    assert values_of(tmp_path / "out", "train") == [0, 2, 3, 4, 5]
    assert values_of(tmp_path / "out", "test") == [100, 101, 103]
    told = capsys.readouterr().err
    assert told.count("WARNING set aside train/a/0001.png: is not an image in a known format") == 1


@pytest.mark.parametrize("validation_fraction", [0.0, 0.3])
def test_the_dataset_is_as_if_unreadable_images_were_not_there(tmp_path: Path, validation_fraction: float) -> None:
    for name in ("damaged", "removed"):
        class_folders(tmp_path / name, {"a": 12, "b": 9})
    gone = ["a/0000.png", "a/0007.png", "b/0008.png"]
    _damage(*(tmp_path / "damaged" / file for file in gone))
    for file in gone:
        (tmp_path / "removed" / file).unlink()

    made = {}
    for name in ("damaged", "removed"):
        prepare(
            data=tmp_path / name,
            dataset=tmp_path / f"out-{name}",
            params=params(max_unreadable=0.5, validation_fraction=validation_fraction),
        )
        made[name] = files_of(tmp_path / f"out-{name}")

    manifests = {name: json.loads(files.pop("dataset.json")) for name, files in made.items()}
    assert [image["file"] for image in manifests["damaged"].pop("unreadable")] == gone
    assert manifests["removed"].pop("unreadable") == []
    assert manifests["damaged"] == manifests["removed"]
    assert made["damaged"] == made["removed"]


@pytest.mark.parametrize(("allowed", "accepted"), [(0.03, True), (0.0299, False), (0.0, False), (1.0, True)])
def test_the_share_of_unreadable_images_is_bounded(tmp_path: Path, allowed: float, accepted: bool) -> None:
    data = class_folders(tmp_path / "data", {"a": 50, "b": 50})
    _damage(*(data / "b" / f"{index:04d}.png" for index in (7, 20, 21)))

    if accepted:
        assert len(prepared(data, max_unreadable=allowed).manifest.unreadable) == 3
    else:
        with pytest.raises(DataError) as caught:
            prepared(data, max_unreadable=allowed)
        assert str(caught.value).startswith(
            f"{data}: 3 of 100 images cannot be read (3.00%), and max_unreadable is {allowed:.2%}; "
            "the first is b/0007.png: is not an image in a known format"
        )
        assert not (tmp_path / "out" / "dataset.json").exists()


def test_many_unreadable_images_are_counted_after_the_first_ten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_to_stderr()
    data = class_folders(tmp_path / "data", {"a": 20, "b": 5})
    _damage(*(data / "a" / f"{index:04d}.png" for index in range(12)))

    prepared(data, max_unreadable=1)

    told = capsys.readouterr().err
    assert told.count("WARNING set aside a/") == 10
    assert told.count("WARNING set aside 12 images in all") == 1


def test_a_class_left_with_too_few_readable_images_is_named(tmp_path: Path) -> None:
    data = class_folders(tmp_path / "data", {"cat": 2, "dog": 5})
    _damage(data / "cat" / "0000.png")

    with pytest.raises(DataError, match=r"too few readable training images: cat \(1\)"):
        prepared(data, max_unreadable=1)
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_a_class_left_without_a_training_image_is_named_where_test_is_given(tmp_path: Path) -> None:
    data = class_folders(tmp_path / "data" / "train", {"cat": 1, "dog": 5}).parent
    class_folders(data / "test", {"cat": 1})
    _damage(data / "train" / "cat" / "0000.png")

    with pytest.raises(DataError, match=r"too few readable training images: cat \(0\)"):
        prepared(data, max_unreadable=1)


def test_a_given_test_split_without_a_readable_image_is_refused(tmp_path: Path) -> None:
    data = class_folders(tmp_path / "data" / "train", {"cat": 2, "dog": 5}).parent
    class_folders(data / "test", {"cat": 1})
    _damage(data / "test" / "cat" / "0000.png")

    with pytest.raises(DataError, match="no test image can be read"):
        prepared(data, max_unreadable=1)


def test_images_a_table_names_may_be_unreadable_but_must_be_there(tmp_path: Path) -> None:
    rows = "".join(f"{index}.png,{'ab'[index % 2]}\n" for index in range(8))
    data = info_csv(tmp_path / "data" / "train", f"files,type\n{rows}", [f"{index}.png" for index in range(8)]).parent
    _damage(data / "train" / "3.png")

    assert len(prepared(data, max_unreadable=0.2).manifest.unreadable) == 1

    (data / "train" / "3.png").unlink()
    with pytest.raises(DataError, match=r"info\.csv, line 5: there is no file 3\.png"):
        prepared(data, max_unreadable=0.2)


def test_whole_batches_may_be_unreadable(tmp_path: Path) -> None:
    data = class_folders(tmp_path / "data", {"a": 2, "b": 2})
    for index in range(1100):  # a batch is at most 1,024 images
        (data / "a" / f"x{index}.png").touch()

    assert len(prepared(data, max_unreadable=1).manifest.unreadable) == 1100


def test_what_pillow_only_warns_of_is_read(tmp_path: Path) -> None:
    data = class_folders(tmp_path / "data", {"a": 1, "b": 2})
    save(data / "a" / "x.jpg", plain(77), exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03")

    assert len(prepared(data).manifest.unreadable) == 0
