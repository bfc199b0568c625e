"""Manifests: what they name, where that is, and what is refused; beside Hugging Face's datasets what is theirs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.data_prep.contents import Encoded, FilePart
from components.data_prep.layouts.layout import open_source
from components.data_prep.prepare import prepare
from components.data_prep.step import prepare_staged
from components.shared.errors import DataError
from components.shared.storage.location import parse_location
from tests.data_prep.beside import hf
from tests.data_prep.building import class_folders, params, prepared, refusal, tree, values_of
from tests.data_prep.shards import listed_in
from tests.peers.object_store import Bucket

__all__ = ["hf"]  # a fixture
# datasets and pandas leave files open to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def lines(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def written(folder: Path, name: str, text: str | bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def listed(data: Any, n_classes: int | None = None) -> dict[str, list[tuple[str, str]]]:
    """By split the name and class of each image, without decoding any."""
    with open_source(data, n_classes) as source:
        return {
            name: [(file, source.classes[label]) for file, label in zip(split.names, split.labels, strict=True)]
            for name, split in source.splits.items()
        }


CSV = "file_name,label\nb/2.png,dog\na.png,cat\nb/3.png,cat\n"
IMAGES = ("a.png", "b/2.png", "b/3.png", "b/unlisted.png")
LISTED = {"train": [("b/2.png", "dog"), ("a.png", "cat"), ("b/3.png", "cat")]}


def test_r20_rows_rule_and_what_they_do_not_name_is_counted(tmp_path: Path, hf: Any, log: Callable[[], str]) -> None:
    rows = [{"file_name": file, "label": label} for file, label in LISTED["train"]]
    for name, text in (("metadata.csv", CSV), ("metadata.jsonl", lines(*rows))):
        data = written(tree(tmp_path / name / "data", *IMAGES), name, text)

        theirs = hf.load_dataset("imagefolder", data_dir=str(data), cache_dir=f"{tmp_path}/cache", split="train")
        theirs = theirs.cast_column("image", hf.Image(decode=False))
        assert [(Path(row["image"]["path"]).relative_to(data).as_posix(), row["label"]) for row in theirs] == LISTED[
            "train"
        ]
        assert listed(data) == LISTED
        assert f"{name} with 3 row(s)" in (told := log())
        assert "not read, being in no manifest: 1 image(s), such as b/unlisted.png" in told


def hf_labels(hf: Any, data: Path) -> list[Any]:
    files = hf.load_dataset("imagefolder", data_dir=str(data), cache_dir=f"{data.parent}/cache", split="train")
    return list(files["label"])


@pytest.mark.parametrize(
    ("labels", "theirs", "warning"),
    [
        (["01", "2", "01"], [1, 2, 1], "labels are texts, as they are written, such as 01; pandas reads numbers"),
        (["01", "NA", "2"], [1.0, None, 2.0], "the label NA of 1 row(s) is a class; pandas reads none"),
        ([" dog", "cat", "cat"], [" dog", "cat", "cat"], ""),
        (["None", "cat", "None"], [None, "cat", None], "the label None of 2 row(s) is a class; pandas reads none"),
    ],
)
def test_r20_labels_of_csv_are_texts_as_they_are_written(
    tmp_path: Path, hf: Any, log: Callable[[], str], labels: list[str], theirs: list[Any], warning: str
) -> None:
    data = tree(tmp_path / "data", "0.png", "1.png", "2.png")
    written(data, "metadata.csv", "file_name,label\n" + "".join(f"{i}.png,{text}\n" for i, text in enumerate(labels)))

    assert hf_labels(hf, data) == theirs
    assert [label for _, label in listed(data)["train"]] == labels
    assert warning in log()


def test_r20_one_manifest_above_folders_of_splits_counts(tmp_path: Path, hf: Any) -> None:
    data = tree(tmp_path / "data", "train/cat/0.png", "train/dog/1.png", "test/cat/2.png", "test/dog/3.png")
    rows = "train/cat/0.png,b\ntrain/dog/1.png,a\ntest/cat/2.png,b\ntest/dog/3.png,a\n"
    written(data, "metadata.csv", "file_name,label\n" + rows)

    loaded = hf.load_dataset("imagefolder", data_dir=str(data), cache_dir=f"{tmp_path}/cache")
    assert loaded["train"].features["label"].names == ["cat", "dog"], "as if it were not there"
    assert listed(data) == {
        "train": [("train/cat/0.png", "b"), ("train/dog/1.png", "a")],
        "test": [("test/cat/2.png", "b"), ("test/dog/3.png", "a")],
    }


def test_r20_each_split_may_have_its_own(tmp_path: Path, hf: Any) -> None:
    data = tree(tmp_path / "data", "train/×2.png", "test/0.png")
    written(data / "train", "metadata.csv", "file_name,label\n1.png,a\n0.png,b\n")
    written(data / "test", "metadata.csv", "file_name,label\n0.png,b\n")

    loaded = hf.load_dataset("imagefolder", data_dir=str(data), cache_dir=f"{tmp_path}/cache")
    assert {split: list(rows["label"]) for split, rows in loaded.items()} == {"train": ["a", "b"], "test": ["b"]}
    assert listed(data) == {"train": [("train/1.png", "a"), ("train/0.png", "b")], "test": [("test/0.png", "b")]}


@pytest.mark.parametrize(
    ("files", "theirs", "problem"),
    [
        (
            {"metadata.csv": CSV, "metadata.jsonl": lines({"file_name": "a.png", "label": "cat"})},
            "different extensions",
            "DATA: metadata.csv, metadata.jsonl all name images, and it is not clear which counts",
        ),
        ({"metadata.csv": "name,label\na.png,cat\n"}, "must be present", "DATA/metadata.csv: has no column for images"),
        (
            {"metadata.csv": CSV.replace("a.png", "gone.png")},
            "",
            "DATA/metadata.csv, line 3: gone.png: there is no such file in DATA",
        ),
        (
            {"metadata.jsonl": lines({"file_name": "a.png", "label": "cat"}, {"file_name": "b/2.png", "label": None})},
            "",
            "DATA/metadata.jsonl, line 2: has no label; write one, or remove the row",
        ),
        ({"metadata.csv": "file_name,label\na.png,\n"}, "", "DATA/metadata.csv, line 2: has no label; write one"),
        (
            {"metadata.csv": "file_name,label\n../a.png,cat\n"},
            "",
            "DATA/metadata.csv, line 2: ../a.png leads out of DATA",
        ),
    ],
)
def test_r20_what_is_unclear_is_refused(
    tmp_path: Path, hf: Any, files: dict[str, str], theirs: str, problem: str
) -> None:
    data = tree(tmp_path / "data", *IMAGES)
    for name, text in files.items():
        written(data, name, text)

    if theirs:
        with pytest.raises(ValueError, match=theirs):
            hf_labels(hf, data)
    assert refusal(data).startswith(problem)


@pytest.mark.parametrize("name", ["labels.csv", "train_labels.jsonl", "index.NDJSON"])
@pytest.mark.parametrize("as_file", [False, True])
def test_a_manifest_may_be_the_data_or_in_its_folder(tmp_path: Path, name: str, as_file: bool) -> None:
    data = tree(tmp_path / "data", *(f"images/{i}.png" for i in range(8)))
    rows = [(f"images/{i}.png", "ab"[i % 2], ("train", "validation", "TEST", "training")[i // 2]) for i in range(8)]
    text = lines(*({"Image Path": image, "category": label, "subset": split} for image, label, split in rows))
    if name.endswith("csv"):
        text = "\ufeffImage Path,category,subset\r\n" + "".join(f"{','.join(row)}\r\n" for row in rows)
    written(data, name, text)

    dataset = prepared_of(data / name if as_file else data)

    assert listed_in(dataset, "train") == [(f"images/{i}.png", "ab"[i % 2]) for i in (0, 1, 6, 7)]
    assert listed_in(dataset, "test") == [("images/4.png", "a"), ("images/5.png", "b")]


def prepared_of(data: Any, out: Path | None = None) -> Path:
    dataset = out or (data if data.is_dir() else data.parent).parent / "out"
    return prepare(data=data, dataset=dataset, params=params()).dataset


def test_manifests_named_after_splits_are_theirs(tmp_path: Path) -> None:
    data = tree(tmp_path / "data", "x/×4.png")
    written(data, "train.csv", "image,label\nx/0.png,a\nx/1.png,b\n")
    written(data, "test.csv", "image,label\nx/2.png,a\n")

    assert listed(data) == {"train": [("x/0.png", "a"), ("x/1.png", "b")], "test": [("x/2.png", "a")]}
    written(data, "more.csv", "image,label\nx/3.png,a\n")
    assert "more.csv, test.csv, train.csv all name images, and it is not clear which counts" in refusal(data)


def test_class_folders_beside_a_manifest_must_be_told_apart(tmp_path: Path) -> None:
    data = class_folders(tmp_path / "data", {"cat": 2, "dog": 2})
    written(data, "labels.csv", "image,label\ncat/0000.png,x\ndog/0000.png,y\n")

    assert "holds a manifest (--layout manifest) and a folder per class (--layout folders)" in refusal(data)
    (data / "labels.csv").write_text("image,size\ncat/0000.png,x\n")
    assert prepared(data).manifest.source == "a folder per class"
    (splits := tmp_path / "splits").mkdir()
    data.rename(splits / "train")
    written(splits, "labels.csv", "image,label\ntrain/cat/0000.png,x\ntrain/dog/0000.png,y\n")
    with pytest.raises(DataError, match=r"holds a manifest \(.* and a folder per class \("):
        listed(splits)
    (splits / "labels.csv").rename(splits / "metadata.csv")
    with pytest.raises(DataError, match=r"has no column for images.*; where the folders are the classes, give"):
        listed(written(splits, "metadata.csv", "name,label\n"))


def test_uris_in_any_mixture_are_read_where_they_are(
    tmp_path: Path, gcs_bucket: Bucket, s3_bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (gcs_bucket.environment | s3_bucket.environment).items():
        monkeypatch.setenv(name, value)
    images = tree(tmp_path / "data", *(f"{number}.png" for number in range(60)))
    for number in range(60):
        for bucket in (gcs_bucket, s3_bucket):
            bucket.write(f"photos/{number}.png", (images / f"{number}.png").read_bytes())
    starts = ("", f"{gcs_bucket.uri}/photos/", f"{s3_bucket.uri}/photos/")
    names = [f"{starts[number % 3]}{number}.png" for number in range(60)]
    label_of = {name: "ab"[number % 2] for number, name in enumerate(names)}
    written(images, "all.csv", "image_uri,label\n" + "".join(f"{name},{label_of[name]}\n" for name in names))

    dataset = prepared_of(images / "all.csv", tmp_path / "out")

    for split in ("train", "test"):
        of_split = listed_in(dataset, split)
        numbers = [int(name.rpartition("/")[2][:-4]) for name, _ in of_split]
        assert numbers == sorted(numbers)
        assert [label_of[name] for name, _ in of_split] == [label for _, label in of_split]
        assert values_of(dataset, split) == numbers, "each row has the pixels of its own image"
    with open_source(images / "all.csv") as source:
        some = {each.position: each for each in source.splits["train"].read([1, 5, 6, 44]) if isinstance(each, Encoded)}
        contents = {number: Path(FilePart(*each.content).path).read_bytes() for number, each in some.items()}
    assert contents == {number: (images / f"{number}.png").read_bytes() for number in (1, 5, 6, 44)}
    gone = [f"{gcs_bucket.uri}/photos/{number}.png" for number in (7, 70, 71)]
    written(images, "all.csv", "image,label\n" + "".join(f"{uri},a\n" for uri in gone))
    with pytest.raises(
        DataError, match=r"all.csv, line 3: gs://.*/photos/70.png: there is no such object \(and 1 more\)"
    ):
        listed(images / "all.csv")


def of_vertex(name: str, start: str) -> str:
    """An import file of Vertex AI: a line of CSV may leave out its first value, and of JSON the resource labels."""
    uses = ("training", "TRAIN", "UNASSIGNED", "", "validation", "test")
    if name.endswith(".csv"):
        cells = (
            (*((use,) if use else ()), f"{start}{number}.png", "ba"[number % 2]) for number, use in enumerate(uses)
        )
        return "".join(f"{','.join(row)}\n" for row in cells)
    return lines(
        *(
            {
                "imageGcsUri": f"{start}{number}.png",
                "classificationAnnotation": {"displayName": "ba"[number % 2], "annotationResourceLabels": {"x": "y"}},
                **({"dataItemResourceLabels": {"aiplatform.googleapis.com/ml_use": use}} if use else {}),
            }
            for number, use in enumerate(uses)
        )
    )


@pytest.mark.parametrize("name", ["import.csv", "import.jsonl"])
def test_import_files_of_vertex_ai(tmp_path: Path, name: str, gcs_bucket: Bucket, log: Callable[[], str]) -> None:
    images = tree(tmp_path / "images", "×6.png")
    for file in images.iterdir():
        gcs_bucket.write(f"photos/i/{file.name}", file.read_bytes())
    gcs_bucket.write(f"photos/{name}", of_vertex(name, f"{gcs_bucket.uri}/photos/i/").encode())

    for data in (f"{gcs_bucket.uri}/photos/{name}", f"{gcs_bucket.uri}/photos"):
        assert listed(parse_location(data)) == {
            "train": [("i/0.png", "b"), ("i/1.png", "a"), ("i/2.png", "b"), ("i/3.png", "a")],
            "test": [("i/5.png", "a")],
            "validation": [("i/4.png", "b")],
        }
        assert "2 row(s) name no split, and are for training" in log()
    prepare_staged(data=parse_location(f"{gcs_bucket.uri}/photos/{name}"), dataset=tmp_path / "out", params=params())
    assert listed_in(tmp_path / "out", "validation") == [("i/4.png", "b")]
    assert values_of(tmp_path / "out", "train") == [0, 1, 2, 3]


HOSTILE = {
    "m.csv": {
        b"image,label\n/etc/passwd,a\n": "line 2: /etc/passwd is an absolute path",
        b"image,label\n../out.png,a\n": "line 2: ../out.png leads out of DATA",
        b"image,label\nx/../../out.png,a\n": "line 2: x/../../out.png leads out of DATA",
        b"image,label\nout.png,a\n": "line 2: out.png is a link that leads out of DATA; copy the file",
        b"image,label\nx,a\n": "line 2: x is not a file",
        b"image,label\nfile:///etc/passwd,a\n": "line 2: file:///etc/passwd names no object in a bucket",
        b"image,label\nhttps://a.example/0.png,a\n": "line 2: https://a.example/0.png is on the web",
        b"image,label\nftp://a/0.png,a\n": "line 2: ftp://a/0.png: ftp://a/0.png: ftp:// is not known here",
        b"image,label\ngs://b,a\n": "line 2: gs://b: gs://b: that is no bucket's name",
        b"image,label\nx\\0.png,a\n": "line 2: x\\0.png: there is no such file in DATA; its parts are separated by /",
        b"image,label\n0.png,a\n0.png,b\n": "line 3: 0.png has the label b, and by DATA/m.csv, line 2 a; an image has",
        b"image,label,split\n0.png,a,train\n./0.png,a,val\n": "line 3: ./0.png has the split validation, and by DATA",
        b"image,label,split\n0.png,a,fold1\n": "line 2: the split is the text 'fold1', and may be train, validation",
        b"image,label,split\n0.png,a,test\n": "DATA/m.csv: all rows are of test, and none is for training",
        b"image,label\n0.png,a\x00\n": "line 2: holds a NUL byte",
        b"image,label\n0.png,\xff\n": "line 2: is not UTF-8; save it as UTF-8",
        "image,label\n0.png,a\n".encode("utf-16"): "is UTF-16; save it as UTF-8",
        b'image,label\n0.png,"a\n1.png,b\n': "line 3: is not CSV: unexpected end of data",
        b'image,label\n0.png,"' + b"a\n" * 100_000 + b'"\n': "is not CSV: field larger than field limit (131072)",
        b"image,label\n0.png\n": "line 2: has 1 value(s), and the header has 2",
        b"image,label\n0.png,a,b\n": "line 2: has 3 value(s), and the header has 2",
        b"image,label\n,a\n": "line 2: image is empty; it names an image",
        b"image,label\n0.png," + b"a" * 300 + b"\n": "line 2: the label has 300 characters, and a class name may have",
        b"image,label\n0.png," + b"a" * (10 << 20) + b"\n": "line 2: is longer than 1048576 bytes",
        b"image,label\n": "DATA/m.csv: names no image",
        b"": "DATA/m.csv: has no column for images; there are none",
        b"image,label,label\n0.png,a,b\n": "DATA/m.csv: has two columns named label; rename one",
        b"image,label,class\n0.png,a,b\n": "DATA/m.csv: has label, class for labels",
        b"gs://bucket/0.png,a,b\n": "line 1: has 3 value(s), and may be ML_USE,gs://bucket/image.png,label; one label",
        b"gs://bucket/0.png\n": "line 1: has 1 value(s), and may be ML_USE,gs://bucket/image.png,label; one label",
        b"fold,gs://bucket/0.png,a\n": "line 1: the split is the text 'fold'",
    },
    "m.jsonl": {
        b'{"image": "0.png", "label": "a", "label": "b"}\n': "line 1: is not JSON: has the key 'label' twice",
        b'{"image": "0.png", "label": "a"}\n\n{"image": \n': "line 3: is not JSON",
        b"[" * 200_000: "line 1: is not JSON: is nested too deep",
        b'{"image": "0.png", "label": "1"}\n{"image": "x/1.png", "label": 1}\n': "line 2: the label is 1, and that",
        b'{"image": "0.png", "label": 1.5}\n': "line 1: the label is 1.5, and must be a text or a whole number",
        b'{"image": "0.png", "label": true}\n': "line 1: the label is true, and must be a text or a whole number",
        b'{"image": "0.png", "label": ["a"]}\n': "line 1: the label is a list, and must be a text or a whole number",
        b'{"image": ["0.png"], "label": "a"}\n': "line 1: image is a list; it names an image",
        b'{"image": "0.png", "label": "a"}\n{"label": "a"}\n': "line 2: image is empty; it names an image",
        b'"0.png"\n': "line 1: is the text '0.png', and a line is a mapping",
        b'{"image": "0.png", "label": "a", "x": "' + b"a" * (10 << 20) + b'"}\n': "line 1: is longer than 1048576",
    },
}


def test_hostile_manifests_are_refused_with_their_line(tmp_path: Path) -> None:
    data = tree(tmp_path / "data", "0.png", "x/1.png", "out.png→../out.png")
    tree(tmp_path, "out.png")
    for name, cases in HOSTILE.items():
        for text, problem in cases.items():
            file = written(data, name, text) / name
            with pytest.raises(DataError) as refused:
                listed(file)
            message = str(refused.value).replace(str(data), "DATA")
            assert problem in message, (text[:80], message)
            assert message.startswith(f"DATA/{name}"), (text[:80], message)
            assert message.isprintable()
        file.unlink()


def test_a_link_to_a_manifest_elsewhere_is_not_followed(tmp_path: Path) -> None:
    data = tree(tmp_path / "data", "0.png", "metadata.csv→../out.csv")
    (tmp_path / "out.csv").write_text("file_name,label\n0.png,a\n")

    assert "is a link that leads out of DATA" in refusal(data)


def test_rows_that_say_the_same_again_are_counted(tmp_path: Path, log: Callable[[], str]) -> None:
    data = written(tree(tmp_path / "data", "0.png", "1.png"), "m.csv", "path,type\n0.png,a\n./0.png,a\n1.png,b\n")

    assert listed(data) == {"train": [("0.png", "a"), ("1.png", "b")]}
    assert "1 row(s) say again what earlier rows say" in log()
