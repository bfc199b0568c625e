from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from components.data_prep.__main__ import main
from components.data_prep.prepare import prepare
from components.shared.artifacts.dataset import open_dataset
from tests.data_prep.building import params, params_json, prepared, tree


def test_the_log_the_manifest_and_the_result_count_by_split_and_class(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tree(tmp_path / "data", "cat/×10.png", "long-haired dachshund/×20.png")
    (data / "cat" / "3.png").write_bytes(b"damaged")
    options = ["--data", str(data), "--dataset", str(tmp_path / "out"), "--params", params_json(), "--json"]

    assert main([*options, "--set", "validation_fraction=0.25", "--set", "max_unreadable=0.1"]) == 0

    told = capsys.readouterr()
    counts = {
        "train": {"cat": 4, "long-haired dachshund": 8},
        "validation": {"cat": 1, "long-haired dachshund": 2},
        "test": {"cat": 4, "long-haired dachshund": 10},
    }
    assert [line.partition(" data-prep ")[2] for line in told.err.splitlines()[-7:-1]] == [
        "14 test images held out by manual_seed 0, test_fraction 0.5",
        "3 validation images held out by manual_seed 0, validation_fraction 0.25",
        "class                  train  validation  test",
        "cat                        4           1     4",
        "long-haired dachshund      8           2    10",
        "all                       12           3    14",
    ]
    assert json.loads(told.out)["report"]["class_counts"] == counts
    manifest = open_dataset(tmp_path / "out").manifest
    assert {
        split: dict(zip(manifest.classes, record.class_counts, strict=True))
        for split, record in manifest.splits.items()
    } == counts


def test_a_table_of_many_classes_is_cut(tmp_path: Path, log: Callable[[], str]) -> None:
    names = [f"class {number:02d}{' of a long name' * 10 if number == 7 else ''}" for number in range(25)]
    data = tree(tmp_path / "data", *(f"{name}/×2.png" for name in names))

    prepared(data, n_classes=25)

    lines = [line.partition(" data-prep ")[2] for line in log().splitlines()]
    assert [line.split() for line in lines[-3:]] == [
        ["class", "19", "1", "1"],
        ["and", "5", "more", "class(es)"],
        ["all", "25", "25"],
    ]
    assert max(map(len, lines)) < 80


def test_classes_that_a_split_lacks_are_named_in_a_warning(tmp_path: Path, log: Callable[[], str]) -> None:
    data = tree(tmp_path / "data", "train/cat/×2.png", "train/dog/×2.png", "train/eel/×2.png", "test/dog/0.png")
    (data / "test" / "eel").mkdir()

    assert prepared(data, n_classes=3).class_counts["test"] == {"cat": 0, "dog": 1, "eel": 0}
    assert "WARNING test has no image of 2 class(es): cat, eel" in log()


def test_a_dataset_that_is_replaced_is_named(tmp_path: Path, log: Callable[[], str]) -> None:
    first = tree(tmp_path / "first", "cat/×4.png", "dog/×4.png")
    other = tree(tmp_path / "other", "bus/×2.png", "car/×3.png")

    def told(data: Path) -> str:
        prepare(data=data, dataset=tmp_path / "out", params=params())
        return log()

    assert "replaced" not in told(first)
    assert f"data-prep {tmp_path / 'out'}: the earlier dataset is replaced; it was made from a folder per" in told(
        first
    )
    assert (
        f"WARNING {tmp_path / 'out'}: the earlier dataset, of other data, is replaced; it was made from a "
        "folder per class: 8 images in 2 classes (cat, dog)"
    ) in told(other)
    (tmp_path / "out" / "dataset.json").write_text("{}")
    assert "WARNING an earlier dataset is replaced, whose manifest cannot be read" in told(other)
