from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from playwright.sync_api import Browser

from components.data_prep.prepare import prepare
from components.shared.artifacts.dataset import open_dataset
from components.shared.events.data import DataFinding, EventData
from tests.data_prep.building import files_of, params, refusal, tree
from tests.data_prep.scenes import reencoded, scenes
from tests.pages import DESKTOP, PHONE, Page, assert_harmless, needs_browser, shown

SIDE = {"image_height": 32, "image_width": 32}
Picture = Image.Image


def put(file: Path, picture: Picture) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    picture.save(file)


def quality(data: Path, out: str = "out", emit: Callable[[EventData], None] | None = None, **changes: Any) -> Any:
    dataset = data.parent / out
    prepare(data=data, dataset=dataset, params=params(**SIDE | changes), emit=emit or (lambda data: None))
    return json.loads((dataset / "quality.json").read_text(encoding="utf-8"))


def found(report: Any) -> dict[str, tuple[int, dict[str, int]]]:
    return {one["kind"]: (one["count"], one["splits"]) for one in report["findings"]}


@pytest.fixture
def flawed(tmp_path: Path) -> Path:
    """Two classes with one case of nearly everything that there is to find."""
    data, pictures = tmp_path / "data", scenes(42, 64)
    for index, picture in enumerate(pictures[:40]):
        put(data / "train" / ("cat" if index % 2 else "dog") / f"{index}.png", picture)
    test = data / "test" / "cat"
    test.mkdir(parents=True)
    shutil.copy(data / "train" / "cat" / "1.png", test / "copy.png")
    put(test / "again.png", pictures[3])  # the same pixels in other bytes
    (test / "again.png").write_bytes((test / "again.png").read_bytes() + b"more")
    put(test / "smaller.png", reencoded(pictures[5], 60).resize((40, 40)))
    put(test / "new.png", pictures[40])
    shutil.copy(data / "train" / "dog" / "0.png", data / "train" / "cat" / "conflict.png")
    put(data / "train" / "dog" / "turned.png", ImageOps.mirror(pictures[7]))
    for value, name in enumerate(("a", "b")):
        put(test / f"{name}.png", Image.new("L", (3, 3), value))
    (test / "notes.txt").write_text("text")
    (test / "damaged.png").write_bytes(b"damaged")
    return data


def test_what_is_wrong_with_data_is_found_once_counted_and_emitted(flawed: Path, log: Callable[[], str]) -> None:
    events: list[EventData] = []
    report = quality(flawed, emit=events.append, max_unreadable=0.1)

    assert found(report) == {
        "leakage": (2, {"test": 2}),
        "near_leakage": (1, {"test": 1}),
        "label_conflict": (2, {"train": 2}),
        "duplicates": (1, {"train": 1}),
        "constant": (2, {"test": 2}),
        "tiny": (2, {"test": 2}),
        "missing_classes": (1, {}),
        "unreadable": (1, {}),
        "left_out": (1, {}),
    }
    assert report["kinds"] == {"PNG L": 48}
    assert report["splits"]["train"] == {"count": 42, "class_counts": [21, 21], "origin": "given"}
    assert report["sizes"]["most_common"][0] == {"width": 64, "height": 64, "count": 45}
    leakage = next(one for one in report["findings"] if one["kind"] == "leakage")
    assert [[image["file"] for image in example["images"]] for example in leakage["examples"]] == [
        ["test/cat/again.png", "train/cat/3.png"],
        ["test/cat/copy.png", "train/cat/1.png"],
    ]
    findings = [event for event in events if isinstance(event, DataFinding)]
    assert {one.kind: (one.count, one.splits) for one in findings} == found(report)
    assert findings[0].examples[1] == ["test/cat/copy.png", "train/cat/1.png"]
    lines = log()
    assert "WARNING leakage: 2 images (test 2)." in lines
    assert "test/cat/copy.png = train/cat/1.png. Remove them from one of the splits" in lines
    manifest = open_dataset(flawed.parent / "out").manifest
    assert [record.file for record in manifest.reports] == ["quality.json", "quality.html"]


def test_leakage_may_fail_data_prep(flawed: Path) -> None:
    assert refusal(flawed, **SIDE, on_leakage="fail", max_unreadable=0.1) == (
        "DATA: leakage between the splits: 2 images (test 2) (leakage) and 1 image (test 1) (near leakage), such as "
        "test/cat/again.png = train/cat/3.png, test/cat/copy.png = train/cat/1.png; keep images that show the same in "
        "one split, or set on_leakage to warn, which goes on and shows them in quality.html"
    )
    shutil.rmtree(flawed / "test")
    quality(flawed, on_leakage="fail")  # drawn splits of images that differ do not leak


# How an image may come back, and the least share of such ones that is found, among photographs and among digits.
CHANGES: dict[str, tuple[Callable[[Picture], Picture], float, float]] = {
    "in other bytes": (lambda picture: picture, 1.0, 1.0),
    "as a JPEG of quality 75": (lambda picture: reencoded(picture, 75), 0.95, 0.98),
    "as a JPEG of quality 40": (lambda picture: reencoded(picture, 40), 0.9, 0.95),
    "half as large": (lambda picture: picture.resize((picture.width // 2, picture.height // 2)), 0.98, 0.98),
    "twice as large": (lambda picture: picture.resize((picture.width * 2, picture.height * 2)), 0.98, 0.98),
    "darker": (lambda picture: ImageEnhance.Brightness(picture).enhance(0.7), 0.98, 0.98),
    "with less contrast": (lambda picture: ImageEnhance.Contrast(picture).enhance(0.6), 0.98, 0.98),
}
# What counts as another image: hardly any are taken for the same.
OTHERS: dict[str, Callable[[Picture], Picture]] = {
    "mirrored": ImageOps.mirror,
    "turned": lambda picture: picture.rotate(90),
    "cropped by a tenth": lambda picture: picture.crop((picture.width // 10, picture.height // 10, *picture.size)),
}


def digits(count: int) -> list[Picture]:
    from sklearn.datasets import load_digits  # a second, and not for whoever only collects tests

    images = load_digits().images[:count]
    return [Image.fromarray((each * 15).astype(np.uint8)).resize((64, 64), Image.Resampling.BICUBIC) for each in images]


@pytest.mark.parametrize(("name", "column"), [("photographs", 1), pytest.param("digits", 2, marks=pytest.mark.slow)])
def test_near_duplicates_are_found_among_images_that_resemble_each_other(
    tmp_path: Path, name: str, column: int
) -> None:
    pictures = scenes(300, 64) if name == "photographs" else digits(400)
    for index, picture in enumerate(pictures):
        put(tmp_path / "data" / "train" / str(index % 2) / f"{index}.png", picture)
    planted = 40
    everything: dict[str, Callable[[Picture], Picture]] = {what: change[0] for what, change in CHANGES.items()} | OTHERS
    for what, change in everything.items():
        data = tmp_path / what
        shutil.copytree(tmp_path / "data" / "train", data / "train", copy_function=os.link)
        for index, picture in enumerate(pictures[:planted]):
            put(data / "test" / str(index % 2) / f"{index}.png", change(picture))
        report = quality(data, out=f"{what} out")
        assert found(report).keys().isdisjoint({"near_duplicates", "label_conflict"}), "of different images none"
        leaking = [one for one in report["findings"] if one["kind"] in ("leakage", "near_leakage")]
        share = sum(one["count"] for one in leaking) / planted
        assert share >= CHANGES[what][column] if what in CHANGES else share <= 0.02, (what, share)
        for example in (example for one in leaking for example in one["examples"]):
            one, other = (image["file"].rpartition("/")[2] for image in example["images"])
            assert one == other, "it is the image that was planted"


def test_a_page_shows_all_of_it_to_everyone_and_stays_small(flawed: Path, tmp_path: Path) -> None:
    quality(flawed, max_unreadable=0.1)
    page = Page((tmp_path / "out" / "quality.html").read_text(encoding="utf-8"))
    assert_harmless(page)
    assert "3 problems found" in page.text()
    assert "12 of 21" in page.text()
    assert "damaged.png: is not an image in a known format" in page.text()
    assert all(image["alt"] for image in page.every("img"))
    assert len(page.source) < 100_000


@pytest.mark.slow
def test_a_page_of_many_classes_and_of_noise_is_bounded(tmp_path: Path) -> None:
    random, data = np.random.default_rng(0), tmp_path / "data"
    for label in range(130):
        for index in range(14):
            noise = random.integers(0, 256, (48, 48, 3), dtype=np.uint8)
            put(data / f"{label:03}{'&' * 190}" / f"{index}.png", Image.fromarray(noise))
    for index in range(2):
        quality(data, out=f"out {index}", image_height=48, image_width=48, is_image_color=True, n_classes=130)
    text = (tmp_path / "out 0" / "quality.html").read_text(encoding="utf-8")
    assert len(text) < 5_000_000
    assert "more classes are not shown" in Page(text).text()
    assert files_of(tmp_path / "out 0") == files_of(tmp_path / "out 1")


@needs_browser
@pytest.mark.parametrize(("size", "scheme"), [(DESKTOP, "light"), (PHONE, "dark")], ids=["desktop", "phone"])
def test_the_page_is_for_everyone(browser: Browser, flawed: Path, size: tuple[int, int], scheme: Any) -> None:
    quality(flawed, max_unreadable=0.1)
    with shown(browser, flawed.parent / "out" / "quality.html", size, color_scheme=scheme) as page:
        assert page.findings() == []
        assert (page.complaints, page.requests, page.scrolls_sideways) == ([], [], False)


def test_nothing_is_found_in_data_without_faults(tmp_path: Path) -> None:
    for index, picture in enumerate(scenes(40, 64)):
        put(tmp_path / "data" / ("cat" if index % 2 else "dog") / f"{index}.png", picture)
    assert found(quality(tmp_path / "data", test_fraction=0.2)) == {}
    assert "No problem found" in (tmp_path / "out" / "quality.html").read_text(encoding="utf-8")


def test_classes_are_compared(tmp_path: Path) -> None:
    data = tree(tmp_path / "data", "train/Cat/×120.png", "train/cat /×3.png", "test/Cat/0.png")
    report = quality(data)
    assert {
        kind: count for kind, (count, _) in found(report).items() if kind.endswith(("classes", "names", "nce"))
    } == {
        "similar_class_names": 2,
        "missing_classes": 1,
        "small_classes": 1,
        "imbalance": 1,
    }
