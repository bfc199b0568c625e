from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from components.data_prep.prepare import prepare
from components.shared.artifacts.dataset import UnreadableImage, open_dataset
from tests.data_prep.building import class_folders, files_of, params, prepared, refusal, tree, values_of
from tests.shared.decoding.pictures import plain, save


def _damage(*files: Path) -> None:
    for file in files:
        file.write_bytes(b"damaged")


def test_unreadable_images_are_set_aside_and_listed(tmp_path: Path, log: Callable[[], str]) -> None:
    data = class_folders(tmp_path / "data" / "train", {"a": 3, "b": 3}).parent
    class_folders(data / "test", {"a": 2, "b": 2}, first=100)
    _damage(data / "train" / "a" / "0001.png", data / "test" / "b" / "0000.png")

    prepared(data, max_unreadable=0.5)

    assert open_dataset(tmp_path / "out").manifest.unreadable == [
        UnreadableImage(file="train/a/0001.png", reason="is not an image in a known format"),
        UnreadableImage(file="test/b/0000.png", reason="is not an image in a known format"),
    ]
    assert values_of(tmp_path / "out", "train") == [0, 2, 3, 4, 5]
    assert values_of(tmp_path / "out", "test") == [100, 101, 103]
    assert log().count("WARNING set aside train/a/0001.png: is not an image in a known format") == 1


@pytest.mark.parametrize("validation_fraction", [0.0, 0.3])
def test_the_dataset_is_as_if_unreadable_images_were_not_there(tmp_path: Path, validation_fraction: float) -> None:
    gone = ["a/0000.png", "a/0007.png", "b/0008.png"]
    made = {}
    for name in ("damaged", "removed"):
        data = class_folders(tmp_path / name, {"a": 12, "b": 9})
        for file in gone:
            _damage(data / file) if name == "damaged" else (data / file).unlink()
        changed = params(max_unreadable=0.5, validation_fraction=validation_fraction)
        prepare(data=data, dataset=tmp_path / f"out-{name}", params=changed)
        made[name] = files_of(tmp_path / f"out-{name}")
        made[name].pop("quality.html")  # which names the unreadable ones, as the next does

    manifests = {name: json.loads(files.pop("dataset.json")) for name, files in made.items()}
    assert [image["file"] for image in manifests["damaged"].pop("unreadable")] == gone
    assert manifests["removed"].pop("unreadable") == []
    assert [report["file"] for manifest in manifests.values() for report in manifest.pop("reports")] == [
        "quality.json",
        "quality.html",
    ] * 2
    quality = {name: json.loads(files.pop("quality.json")) for name, files in made.items()}
    assert quality["damaged"].pop("unreadable") == 3
    assert quality["damaged"]["findings"].pop(-1)["kind"] == "unreadable"
    assert quality["damaged"] | {"unreadable": 0} == quality["removed"]
    assert manifests["damaged"] == manifests["removed"]
    assert made["damaged"] == made["removed"]


@pytest.mark.parametrize(("allowed", "accepted"), [(0.15, True), (0.1499, False), (0.0, False), (1.0, True)])
def test_the_share_of_unreadable_images_is_bounded(tmp_path: Path, allowed: float, accepted: bool) -> None:
    data = class_folders(tmp_path / "data", {"a": 10, "b": 10})
    _damage(*(data / "b" / f"{index:04d}.png" for index in (3, 5, 8)))

    if accepted:
        assert len(prepared(data, max_unreadable=allowed).manifest.unreadable) == 3
    else:
        assert refusal(data, max_unreadable=allowed).startswith(
            f"DATA: 3 of 20 images cannot be read (15.00%), and max_unreadable is {allowed:.2%}; "
            "the first is b/0003.png: is not an image in a known format"
        )


def test_many_unreadable_images_are_counted_after_the_first_ten(tmp_path: Path, log: Callable[[], str]) -> None:
    data = class_folders(tmp_path / "data", {"a": 20, "b": 5})
    _damage(*(data / "a" / f"{index:04d}.png" for index in range(12)))

    prepared(data, max_unreadable=1)

    told = log()
    assert told.count("WARNING set aside a/") == 10
    assert told.count("WARNING set aside 12 images in all") == 1


@pytest.mark.parametrize(
    ("files", "damaged", "expected"),
    [
        (("cat/×2.png", "dog/×5.png"), "cat/0.png", "too few readable training images: cat (1)"),
        (
            ("train/cat/0.png", "train/dog/×5.png", "test/cat/0.png"),
            "train/cat/0.png",
            "too few readable training images: cat (0)",
        ),
        (("train/cat/×2.png", "train/dog/×5.png", "test/cat/0.png"), "test/cat/0.png", "no test image can be read"),
    ],
)
def test_a_class_or_split_left_with_too_few_readable_images_is_named(
    tmp_path: Path, files: tuple[str, ...], damaged: str, expected: str
) -> None:
    data = tree(tmp_path / "data", *files)
    _damage(data / damaged)

    assert expected in refusal(data, max_unreadable=1)


def test_whole_batches_may_be_unreadable(tmp_path: Path) -> None:
    data = class_folders(tmp_path / "data", {"a": 2, "b": 2})
    for index in range(1100):  # a batch is at most 1,024 images
        (data / "a" / f"x{index}.png").touch()

    assert len(prepared(data, max_unreadable=1).manifest.unreadable) == 1100


def test_what_pillow_only_warns_of_is_read(tmp_path: Path) -> None:
    data = class_folders(tmp_path / "data", {"a": 1, "b": 2})
    save(data / "a" / "x.jpg", plain(77), exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03")

    assert prepared(data).manifest.unreadable == []
