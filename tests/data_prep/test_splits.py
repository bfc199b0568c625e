from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.data_prep.prepare import prepare
from components.data_prep.splits import assign_splits
from components.shared.artifacts.dataset import SplitName, open_dataset
from components.shared.errors import DataError
from tests.data_prep.building import Pixels, class_folders, idx_folder, params, prepared, stored, values_of


def _numbered(count: int) -> Pixels:
    return np.repeat(np.arange(count, dtype=np.uint8), 16).reshape(count, 4, 4)


def _counts(dataset: Path) -> dict[str, list[int]]:
    return {name: split.class_counts for name, split in open_dataset(dataset).manifest.splits.items()}


@pytest.mark.parametrize(
    ("counts", "test_fraction", "validation_fraction", "expected"),
    [
        ({"a": 10, "b": 5}, 0.2, 0.0, {"train": [8, 4], "test": [2, 1]}),
        ({"a": 10, "b": 5}, 0.5, 0.0, {"train": [5, 3], "test": [5, 2]}),
        ({"a": 2, "b": 40}, 0.01, 0.0, {"train": [1, 39], "test": [1, 1]}),
        ({"a": 2, "b": 40}, 0.99, 0.0, {"train": [1, 1], "test": [1, 39]}),
        ({"a": 10, "b": 20}, 0.2, 0.25, {"train": [6, 12], "validation": [2, 4], "test": [2, 4]}),
        ({"a": 3, "b": 3}, 0.9, 0.9, {"train": [1, 1], "validation": [1, 1], "test": [1, 1]}),
    ],
)
def test_every_class_is_held_out_by_its_share(
    tmp_path: Path,
    counts: dict[str, int],
    test_fraction: float,
    validation_fraction: float,
    expected: dict[str, list[int]],
) -> None:
    class_folders(tmp_path / "data", counts)
    changed = params(test_fraction=test_fraction, validation_fraction=validation_fraction)

    prepare(data=tmp_path / "data", dataset=tmp_path / "out", params=changed)

    assert _counts(tmp_path / "out") == expected


def test_splits_share_no_image_lose_none_and_keep_the_stored_order(tmp_path: Path) -> None:
    idx_folder(tmp_path / "data", _numbered(60), [index % 3 for index in range(60)])
    changed = params(n_classes=3, test_fraction=0.3, validation_fraction=0.3)

    prepare(data=tmp_path / "data", dataset=tmp_path / "out", params=changed)

    parts = {name: values_of(tmp_path / "out", name) for name in ("train", "validation", "test")}
    assert sorted(value for values in parts.values() for value in values) == list(range(60))
    for name, values in parts.items():
        assert values == sorted(values)
        assert stored(tmp_path / "out", name)[1] == [value % 3 for value in values]


def test_all_64_bits_of_the_seed_matter(tmp_path: Path) -> None:
    idx_folder(tmp_path / "data", _numbered(60), [index % 2 for index in range(60)])
    seeds = [0, 1, 2, 2**31, 2**32, 2**32 + 1, 2**53, 2**53 + 1, 2**63, 2**64 - 1]

    drawn = set()
    for seed in seeds:
        prepared(tmp_path / "data", manual_seed=seed)
        drawn.add(tuple(values_of(tmp_path / "out", "test")))

    assert len(drawn) == len(seeds)


def test_validation_leaves_the_test_split_as_it_is(tmp_path: Path) -> None:
    idx_folder(tmp_path / "data", _numbered(60), [index % 2 for index in range(60)])

    for fraction in (0.0, 0.5):
        prepare(
            data=tmp_path / "data",
            dataset=tmp_path / f"out-{fraction}",
            params=params(test_fraction=0.5, validation_fraction=fraction),
        )

    assert values_of(tmp_path / "out-0.0", "test") == values_of(tmp_path / "out-0.5", "test")


def test_validation_is_not_drawn_from_the_same_stream_as_test(tmp_path: Path) -> None:
    idx_folder(tmp_path / "data", _numbered(60), [index % 2 for index in range(60)])
    prepare(data=tmp_path / "data", dataset=tmp_path / "out-test", params=params(test_fraction=0.5))
    idx_folder(tmp_path / "data", _numbered(2), [0, 1], split="t10k")
    prepare(data=tmp_path / "data", dataset=tmp_path / "out-validation", params=params(validation_fraction=0.5))

    # From one stream, equal draws from equal images would be equal.
    assert values_of(tmp_path / "out-test", "test") != values_of(tmp_path / "out-validation", "validation")


def test_a_given_test_split_is_left_alone_and_validation_comes_out_of_train(tmp_path: Path) -> None:
    idx_folder(tmp_path / "data", _numbered(20), [0, 1] * 10)
    idx_folder(tmp_path / "data", _numbered(4) + np.uint8(100), [0, 1, 1, 1], split="t10k")

    result = prepared(tmp_path / "data", validation_fraction=0.2)

    assert result.manifest.test_split == "given"
    assert _counts(tmp_path / "out") == {"train": [8, 8], "validation": [2, 2], "test": [1, 3]}
    assert values_of(tmp_path / "out", "test") == [100, 101, 102, 103]


def test_too_few_images_of_a_class_name_the_class(tmp_path: Path) -> None:
    class_folders(tmp_path / "data", {"cat": 2, "dog": 3})

    with pytest.raises(DataError, match=r"cat \(2\); every class needs 3, for train and test and validation"):
        prepared(tmp_path / "data", validation_fraction=0.1)


@settings(deadline=None)
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
