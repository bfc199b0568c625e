from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from components.data_prep.splits import assign_splits
from components.shared.artifacts.dataset import Labels, SplitName, open_dataset
from components.shared.errors import DataError
from tests.data_prep.building import class_folders, files_of, idx_folder, joined, prepared, stored, values_of
from tests.shared.decoding.pictures import Pixels, save


def _numbered(count: int) -> Pixels:
    return np.repeat(np.arange(count, dtype=np.uint8), 16).reshape(count, 4, 4)


def _counts(dataset: Path) -> dict[str, list[int]]:
    return {name: split.class_counts for name, split in open_dataset(dataset).manifest.splits.items()}


@pytest.mark.parametrize(
    ("counts", "test_fraction", "validation_fraction", "expected"),
    [
        ([10, 5], 0.2, 0.0, {"train": [8, 4], "test": [2, 1]}),
        ([10, 5], 0.5, 0.0, {"train": [5, 3], "test": [5, 2]}),
        ([2, 40], 0.01, 0.0, {"train": [1, 39], "test": [1, 1]}),
        ([2, 40], 0.99, 0.0, {"train": [1, 1], "test": [1, 39]}),
        ([10, 20], 0.2, 0.25, {"train": [6, 12], "validation": [2, 4], "test": [2, 4]}),
        ([3, 3], 0.9, 0.9, {"train": [1, 1], "validation": [1, 1], "test": [1, 1]}),
    ],
)
def test_every_class_is_held_out_by_its_share(
    tmp_path: Path, counts: list[int], test_fraction: float, validation_fraction: float, expected: dict[str, list[int]]
) -> None:
    idx_folder(tmp_path / "data", _numbered(sum(counts)), np.repeat([0, 1], counts))

    prepared(tmp_path / "data", test_fraction=test_fraction, validation_fraction=validation_fraction)

    assert _counts(tmp_path / "out") == expected


def test_splits_share_no_image_lose_none_and_keep_the_stored_order(tmp_path: Path) -> None:
    idx_folder(tmp_path / "data", _numbered(60), [index % 3 for index in range(60)])

    prepared(tmp_path / "data", n_classes=3, test_fraction=0.3, validation_fraction=0.3)

    parts = {name: values_of(tmp_path / "out", name) for name in ("train", "validation", "test")}
    assert sorted(value for values in parts.values() for value in values) == list(range(60))
    for name, values in parts.items():
        assert values == sorted(values)
        assert stored(tmp_path / "out", name)[1] == [value % 3 for value in values]


LABELS: Labels = np.arange(60) % 2
ALL = np.ones(60, np.bool_)


def _drawn(split: SplitName, fractions: dict[SplitName, float], seed: int = 0) -> tuple[int, ...]:
    return tuple(np.flatnonzero(assign_splits(LABELS, ALL, 2, fractions, seed)[split]).tolist())


def test_all_64_bits_of_the_seed_matter() -> None:
    seeds = [0, 1, 2, 2**31, 2**32, 2**32 + 1, 2**53, 2**53 + 1, 2**63, 2**64 - 1]

    assert len({_drawn("test", {"test": 0.5}, seed) for seed in seeds}) == len(seeds)


def test_validation_leaves_the_test_split_as_it_is_and_has_a_stream_of_its_own() -> None:
    test = _drawn("test", {"test": 0.5})

    assert _drawn("test", {"test": 0.5, "validation": 0.5}) == test
    # From one stream, equal draws from equal images would be equal.
    assert _drawn("validation", {"validation": 0.5}) != test


def test_a_given_test_split_is_left_alone_and_validation_comes_out_of_train(tmp_path: Path) -> None:
    idx_folder(tmp_path / "data", _numbered(20), [0, 1] * 10)
    idx_folder(tmp_path / "data", _numbered(4) + np.uint8(100), [0, 1, 1, 1], split="t10k")

    assert prepared(tmp_path / "data", validation_fraction=0.2).manifest.test_split == "given"
    assert _counts(tmp_path / "out") == {"train": [8, 8], "validation": [2, 2], "test": [1, 3]}
    assert values_of(tmp_path / "out", "test") == [100, 101, 102, 103]


def test_too_few_images_of_a_class_name_the_class(tmp_path: Path) -> None:
    class_folders(tmp_path / "data", {"cat": 2, "dog": 3})

    with pytest.raises(DataError, match=r"cat \(2\); every class needs 3, for train and test and validation"):
        prepared(tmp_path / "data", validation_fraction=0.1)


@settings(max_examples=50)
@given(
    counts=st.lists(st.integers(3, 40), min_size=1, max_size=6),
    fractions=st.fixed_dictionaries(
        {"test": st.floats(0.001, 0.999)}, optional={"validation": st.floats(0.001, 0.999)}
    ),
    seed=st.integers(0, 2**64 - 1),
    order=st.randoms(use_true_random=False),
)
def test_any_split_is_a_partition_with_something_of_every_class_everywhere(
    counts: list[int], fractions: dict[SplitName, float], seed: int, order: np.random.Generator
) -> None:
    labels = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
    order.shuffle(labels)
    readable = np.ones(len(labels), dtype=np.bool_)

    masks = assign_splits(labels, readable, len(counts), fractions, seed)

    assert sum(mask.astype(int) for mask in masks.values()).tolist() == [1] * len(labels)  # type: ignore[union-attr]
    for mask in masks.values():
        assert np.bincount(labels[mask], minlength=len(counts)).min() >= 1
    if len(fractions) == 1:
        held_out = np.bincount(labels[masks["test"]], minlength=len(counts)).tolist()
        assert held_out == [min(max(1, round(count * fractions["test"])), count - 1) for count in counts]


@settings(max_examples=100)
@given(
    copies=st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=12), min_size=1, max_size=4),
    fractions=st.fixed_dictionaries({"test": st.floats(0.01, 0.9)}, optional={"validation": st.floats(0.01, 0.9)}),
    seed=st.integers(0, 2**64 - 1),
    order=st.randoms(use_true_random=False),
)
def test_copies_of_an_image_are_held_out_together(
    copies: list[list[int]], fractions: dict[SplitName, float], seed: int, order: np.random.Generator
) -> None:
    sized = [(label, group, size) for label, sizes in enumerate(copies) for group, size in enumerate(sizes)]
    groups = [(label, group) for label, group, size in sized for _ in range(size)]
    order.shuffle(groups)
    labels = np.array([label for label, _ in groups], dtype=np.int64)
    counts = np.bincount(labels).tolist()
    assume(min(counts) > len(fractions))
    same = np.array([groups.index(each) for each in groups], dtype=np.int64)

    masks = assign_splits(labels, np.ones(len(labels), dtype=np.bool_), len(copies), fractions, seed, same)

    split_of = np.argmax(np.stack([*masks.values()]), axis=0)
    assert sum(mask.astype(int) for mask in masks.values()).tolist() == [1] * len(labels)  # type: ignore[union-attr]
    for label, sizes in enumerate(copies):
        assert all(mask[labels == label].any() for mask in masks.values())
        # With fewer different images than splits, copies are all that can be shared out.
        if len(sizes) > len(fractions):
            assert len({(same[at], split_of[at]) for at in np.flatnonzero(labels == label)}) == len(sizes)
        wanted = min(max(1, round(counts[label] * fractions["test"])), counts[label] - len(fractions))
        assert np.count_nonzero(masks["test"][labels == label]) < 2 * wanted + max(sizes) * (max(sizes) > wanted)


@pytest.mark.parametrize("layout", ["folders", "idx"])
def test_copies_leak_nowhere_and_parts_join_to_the_same(tmp_path: Path, layout: str) -> None:
    values = np.array([value for value in range(24) for _ in range(1 + value % 4)])  # 60 images, 24 of them different
    if layout == "idx":
        idx_folder(tmp_path / "data", _numbered(24)[values], values % 2)
    for index, value in enumerate(values.tolist() if layout == "folders" else ()):
        save(tmp_path / "data" / "ab"[value % 2] / f"{index % 7}-{index:02d}.png", _numbered(24)[value])
    changes: dict[str, Any] = {"test_fraction": 0.3, "validation_fraction": 0.3, "on_leakage": "fail"}

    prepared(tmp_path / "data", **changes)

    parts = {name: values_of(tmp_path / "out", name) for name in ("train", "validation", "test")}
    assert sorted(value for part in parts.values() for value in part) == values.tolist()
    assert sum(len(set(part)) for part in parts.values()) == 24
    single, merged = joined(tmp_path / "data", 3, **changes)
    assert merged == single == files_of(tmp_path / "out")
