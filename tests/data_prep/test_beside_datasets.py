"""Parquet files and folders beside Hugging Face's datasets, by the rules that it was seen to follow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from components.data_prep.contents import Encoded
from components.data_prep.layouts.layout import open_source
from components.shared.errors import DataError
from tests.data_prep.beside import Seen, hf, ours, theirs
from tests.data_prep.building import prepared, stored, tree
from tests.data_prep.parquet_files import write_parquet

__all__ = ["hf"]  # a fixture
Log = Callable[[], str]


def loaded(hf: Any, data: Path, **options: Any) -> Any:
    """What datasets loads from a folder, as `load_dataset(DIR)` does."""
    kind = "parquet" if "data_files" in options else str(data)
    return hf.load_dataset(kind, cache_dir=f"{data.parent}/cache", **options)


def refusal_of(data: Path) -> str:
    with pytest.raises(DataError) as refused:
        ours(data)
    return str(refused.value).replace(f"{data}", "DATA")


def problems(data: Path) -> dict[int, str]:
    """Why images of the training split cannot be read, by position."""
    with open_source(data) as source:
        read = list(source.splits["train"].read(range(source.count)))
    return {each.position: each.problem for each in read if isinstance(each, Encoded) and each.problem}


def samples(stem: str, labels: str) -> list[tuple[str, bytes]]:
    return [(label, f"{stem} {row}".encode()) for row, label in enumerate(labels.split())]


@pytest.mark.parametrize(
    ("options", "is_image", "keeps_names"),
    [
        ({}, True, True),
        ({"images_type": pa.struct([("path", pa.string()), ("bytes", pa.binary())])}, False, True),
        ({"images_type": pa.struct([("bytes", pa.large_binary()), ("path", pa.string())])}, False, True),
        ({"images_type": pa.struct([("bytes", pa.binary_view()), ("path", pa.string_view())])}, False, True),
        ({"images_type": pa.struct([("bytes", pa.binary())])}, False, True),
        ({"images_type": pa.binary()}, False, True),
        ({"labels_type": pa.int32()}, True, False),
        ({"labels_type": pa.uint8()}, True, False),
        ({"labels": ["dog", "cat", "dog"], "labels_type": pa.large_string()}, True, False),
        ({"labels": ["dog", "cat", "dog"], "labels_type": pa.dictionary(pa.int8(), pa.string())}, True, False),
    ],
    ids=str,
)
def test_r10_names_are_kept_whatever_the_columns_types_are(
    options: dict[str, Any], is_image: bool, keeps_names: bool, hf: Any, tmp_path: Path
) -> None:
    """datasets takes columns for Image and ClassLabel in their exact types alone, and else loses the names."""
    write_parquet(tmp_path / "data/train.parquet", **{"labels": [1, 0, 1], **options})
    found = loaded(hf, tmp_path / "data")
    assert isinstance(found["train"].features["image"], hf.Image) is is_image
    beside = theirs(found)
    assert (beside.classes is not None) is keeps_names
    expected = Seen(["cat", "dog"], {"train": samples("train", "dog cat dog")})
    assert ours(tmp_path / "data") == expected
    assert [content for _, content in beside.splits["train"]] == [content for _, content in expected.splits["train"]]
    if keeps_names:
        assert beside == expected


def test_r10_numbers_without_names_are_classes_by_their_value(hf: Any, tmp_path: Path) -> None:
    """Neither has names where the file has none, as pandas writes it; the names in a README.md's head hold for both."""
    data = tmp_path / "data"
    write_parquet(data / "train.parquet", [10, 2, 10], names=None)
    assert theirs(loaded(hf, data)) == Seen(None, ours(data).splits)
    assert ours(data) == Seen(["2", "10"], {"train": samples("train", "10 2 10")})
    write_parquet(data / "train.parquet", [1, 0, 1], names=None)
    names = "\n".join(f"          '{number}': {name}" for number, name in enumerate(("cat", "dog")))
    labels = f"  - name: label\n    dtype:\n      class_label:\n        names:\n{names}"
    head = f"dataset_info:\n  features:\n  - name: image\n    dtype: image\n{labels}\n"
    (data / "README.md").write_text(f"---\n{head}---\n# Pets\n")
    assert theirs(loaded(hf, data)) == ours(data) == Seen(["cat", "dog"], {"train": samples("train", "dog cat dog")})


def test_r11_each_files_numbers_mean_its_own_names(hf: Any, tmp_path: Path, log: Log) -> None:
    """datasets keeps a second file's numbers under the first file's names, without a warning."""
    data = tmp_path / "data"
    write_parquet(data / "train-0.parquet", [0, 1])
    write_parquet(data / "train-1.parquet", [0, 1, 2], names=["ant", "cat", "dog"])
    write_parquet(data / "train-2.parquet", ["dog"], names=None)
    right = samples("train-0", "cat dog") + samples("train-1", "ant cat dog") + samples("train-2", "dog")
    assert ours(data) == Seen(["cat", "dog", "ant"], {"train": right})
    assert "1 file(s) have other names of classes" in log()
    mixed = samples("train-0", "cat dog") + samples("train-1", "cat dog 2") + samples("train-2", "dog")
    assert theirs(loaded(hf, data)) == Seen(["cat", "dog"], {"train": mixed})


def test_r11_another_splits_names_count_by_name(hf: Any, tmp_path: Path) -> None:
    """A class that train lacks is refused, where datasets takes it for the train class of the same number."""
    data = tmp_path / "data"
    write_parquet(data / "train.parquet", [0, 1])
    write_parquet(data / "test.parquet", [1, 2], names=["ant", "cat", "dog"])
    assert ours(data).splits["test"] == samples("test", "cat dog")
    assert theirs(loaded(hf, data)).splits["test"] == samples("test", "dog 2")
    write_parquet(data / "test.parquet", [0], names=["ant", "cat", "dog"])
    assert "test: holds 1 class(es) that train does not have (ant)" in refusal_of(data)
    write_parquet(data / "test.parquet", [1], names=None)
    assert "test.parquet, column label: holds numbers without names of classes, and DATA/train" in refusal_of(data)


def test_r12_bytes_count_and_a_path_is_never_opened(hf: Any, tmp_path: Path, log: Log) -> None:
    """datasets opens paths, wherever they lead, relative to its working folder; its null image and ours is none."""
    data, secret = tmp_path / "data", tmp_path / "secret.png"
    secret.write_bytes(b"elsewhere")
    images = [{"bytes": b"here", "path": f"{secret}"}, {"bytes": None, "path": f"{secret}"}, None]
    write_parquet(data / "train.parquet", [0, 1, 1], images=images)
    found = loaded(hf, data)["train"].cast_column("image", hf.Image(decode=False)).to_list()
    assert [row["image"] for row in found] == images
    assert theirs({"train": loaded(hf, data)["train"].select([1])}).splits["train"] == [("dog", b"elsewhere")]
    assert problems(data) == {1: "the row holds no bytes", 2: "the row holds no bytes"}
    write_parquet(data / "train.parquet", [0, 1], images=[{"bytes": None, "path": f"{secret}"}] * 2)
    assert "train.parquet, column image: holds no image, at most paths to where they were" in refusal_of(data)


@pytest.mark.parametrize(
    ("label", "theirs_is", "problem"),
    [
        (-1, "-1", "row 2: there is no label (-1, or null), as in 1 of train's rows; remove them"),
        (None, "None", "row 2: there is no label (-1, or null), as in 1 of train's rows; remove them"),
        (-7, "-7", "row 2: -7 is the number of none of its 2 classes (cat, dog); correct it, or remove the row"),
        (2, "2", "row 2: 2 is the number of none of its 2 classes (cat, dog); correct it, or remove the row"),
    ],
)
def test_r13_labels_that_are_none_are_refused(
    label: int | None, theirs_is: str, problem: str, hf: Any, tmp_path: Path, log: Log
) -> None:
    """datasets takes them; a held-out split without any label, as competitions have it, is left out by ours."""
    data = tmp_path / "data"
    write_parquet(data / "train.parquet", [0, 1, label])
    assert theirs(loaded(hf, data)).splits["train"] == samples("train", f"cat dog {theirs_is}")
    assert refusal_of(data) == f"DATA/train.parquet, column label, {problem}"
    if label in (-1, None):
        write_parquet(data / "train.parquet", [0, 1])
        write_parquet(data / "test.parquet", [label, label], labels_type=pa.int64())
        assert ours(data).splits == {"train": samples("train", "cat dog")}
        assert "data: the test split is not read, as none of its 2 rows has a label (-1, or null)" in log()


def test_r13_texts_are_the_names_and_digits_sort_by_value(hf: Any, tmp_path: Path) -> None:
    """class_encode_column sorts 0, 1, 10, 2; ours by value. A text that is a number is never an index in ours."""
    data = tmp_path / "data"
    write_parquet(data / "train.parquet", ["10", "2", "0", "1"], names=None)
    found = loaded(hf, data)
    found["train"] = found["train"].class_encode_column("label")
    assert theirs(found) == Seen(["0", "1", "10", "2"], ours(data).splits)
    assert ours(data).classes == ["0", "1", "2", "10"]
    write_parquet(data / "train.parquet", ["cat", " dog", "1"])
    indexed = loaded(hf, data)["train"].cast_column("label", hf.ClassLabel(names=["cat", "dog"]))
    assert theirs({"train": indexed}).splits["train"] == samples("train", "cat dog dog")
    assert refusal_of(data) == "DATA/train.parquet, column label, row 2: 1 is none of its 2 classes (cat, dog)"


def test_r14_files_are_read_by_name_and_their_names_say_the_split(hf: Any, tmp_path: Path, log: Log) -> None:
    """In order of code points, train-10 before train-2; what is of no split is left out by both, and logged by ours."""
    data = tmp_path / "data"
    for stem, labels in {"train-10": [0], "train-2": [1], "pets_dev": [1], "eval1": [0], "notes": [1]}.items():
        write_parquet(data / f"{stem}.parquet", labels)
    seen = ours(data)
    assert seen == theirs(loaded(hf, data))
    assert list(seen.splits) == ["train", "test", "validation"], "our order of splits; theirs: train, validation, test"
    assert seen.splits["train"] == samples("train-10", "cat") + samples("train-2", "dog")
    assert "not read, being of no split: 1 file(s), such as notes.parquet" in log()


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        (
            ["train-00000-of-00003", "train-00002-of-00003"],
            "DATA/train: 1 of 3 shards are missing, such as 00001-of-00003; fetch them",
        ),
        (
            ["data/test/train-0"],
            "DATA/data/test/train-0.parquet: its path names test and train; an image has one split",
        ),
        (["a/train", "b/train"], "DATA: holds Parquet files in a, b, which may be several datasets; give --data"),
    ],
)
def test_r14_what_datasets_reads_without_a_question_is_refused(
    files: list[str], problem: str, hf: Any, tmp_path: Path
) -> None:
    """It reads the shards that are there, a folder test's files as train, and folders of several datasets as one."""
    for file in files:
        write_parquet(tmp_path / f"data/{file}.parquet", [0, 1])
    assert loaded(hf, tmp_path / "data")
    assert refusal_of(tmp_path / "data").startswith(problem)


def test_r22_files_without_bytes_are_refused_and_what_the_error_says_helps(hf: Any, tmp_path: Path) -> None:
    """`to_parquet` of a folder's dataset writes absolute paths alone; saved to disk and loaded before, the images."""
    data = tmp_path / "data"
    tree(tmp_path / "images", *(f"{split}/{name}/×3.png" for split in ("train", "test") for name in ("cat", "dog")))
    found = hf.load_dataset("imagefolder", data_dir=f"{tmp_path}/images", cache_dir=f"{tmp_path}/cache")
    data.mkdir()
    for split in found:
        found[split].to_parquet(f"{data}/{split}.parquet")
    assert "holds no image, at most paths" in refusal_of(data)
    found.save_to_disk(f"{tmp_path}/disk")
    assert refusal_of(tmp_path / "disk").startswith("DATA/test: was written by save_to_disk of datasets, which is not")
    for split, saved in hf.load_from_disk(f"{tmp_path}/disk").items():
        saved.to_parquet(f"{data}/{split}.parquet")
    assert ours(data) == theirs(found) == ours(tmp_path / "images")
    made = [
        stored(prepared(of, f"{of.name}-out").dataset, split) for of in (tmp_path / "images", data) for split in found
    ]
    assert [labels for _, labels in made] == [[0, 0, 0, 1, 1, 1]] * 4
    assert all(np.array_equal(pixels, others) for (pixels, _), (others, _) in zip(made[:2], made[2:], strict=True))
