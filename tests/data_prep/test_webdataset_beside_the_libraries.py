"""What webdataset and Hugging Face's datasets read from shards, and what data prep reads from the same."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import webdataset
from PIL import Image

from components.data_prep.prepare import PrepareResult
from components.shared.artifacts.dataset import open_dataset
from tests.data_prep.beside import hf
from tests.data_prep.building import prepared, refusal, stored
from tests.data_prep.shards import content, listed_in, of_classes, shard
from tests.shared.decoding.pictures import encoded

# webdataset leaves shards open to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

__all__ = ["hf"]  # a fixture
Listed = list[tuple[str, Any]]
HuggingFace = Callable[..., list[dict[str, Any]]]
TEST = of_classes(0, 1, first=200)


@pytest.fixture(scope="module")
def hugging_face(hf: Any) -> HuggingFace:
    """What reads shards with datasets: a mapping for each sample, with images as their bytes."""

    def read(shards: list[Path]) -> list[dict[str, Any]]:
        files = {"train": [str(file) for file in shards]}
        loaded = hf.load_dataset("webdataset", data_files=files, split="train", streaming=True)
        return [dict(sample) for sample in loaded.decode(False)]

    return read


def wds(*shards: Path) -> list[dict[str, Any]]:
    """What webdataset reads, decoded but for images."""
    return list(webdataset.WebDataset([str(file) for file in shards], shardshuffle=False).decode())


def fields(sample: Mapping[str, Any]) -> dict[str, Any]:
    """A sample's key and fields, without what the libraries add."""
    return {"key": sample["__key__"]} | {
        name: value for name, value in sample.items() if not name.startswith("__") and value is not None
    }


def keys(samples: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    return [tuple(fields(sample).values())[:1] + tuple(sorted(fields(sample).keys() - {"key"})) for sample in samples]


def labels(samples: list[dict[str, Any]], image: str = "png", label: str = "cls") -> Listed:
    return [(f"{sample['__key__']}.{image}", sample[label]) for sample in samples]


def ours(folder: Path, classes: int = 2, **members: Mapping[str, Any] | list[tuple[str, Any]]) -> PrepareResult:
    """The dataset of shards: train-0.tar and so on of these members, and one to test on."""
    for number, of_shard in enumerate(members.values()):
        shard(folder / f"train-{number}.tar", of_shard)
    shard(folder / "test-0.tar", of_classes(*range(classes), first=200))
    return prepared(folder, n_classes=classes)


def as_numbers(listed: list[tuple[str, str]], start: str = "train-0/") -> Listed:
    return [(name.removeprefix(start), int(label)) for name, label in listed]


def test_r1_a_key_ends_at_the_first_dot_behind_the_last_slash(tmp_path: Path) -> None:
    members = [("a.b.png", 1), ("a.b.cls", 1), ("dir.x/1.png", 2), ("dir.x/1.cls", 0), ("./2.png", 3), ("./2.cls", 1)]
    result = ours(tmp_path / "data", one=[*members, ("README", "text")])

    file = tmp_path / "data" / "train-0.tar"
    assert keys(wds(file)) == [("a", "b.cls", "b.png"), ("dir.x/1", "cls", "png"), ("./2", "cls", "png")]
    assert as_numbers(listed_in(result.dataset)) == [("a.b.png", 1), ("dir.x/1.png", 0), ("2.png", 1)]
    assert result.manifest.left_out.files == {"no ending": 1}


@pytest.mark.parametrize(
    "members",
    [
        {"img_0.25.png": 1, "img_0.25.cls": 0, "img_0.5.png": 2, "img_0.5.cls": 1},
        {"img_0.png": 1, "img_0.cls": 0, "img_0.5.png": 2, "img_0.5.cls": 1},
        {"img_0.25.png": 1, "img_0.5.cls": 1},
        {"img_0.png": 1, "img_0.jpg": 1, "img_0.cls": 1},
    ],
)
def test_r1_keys_that_the_library_makes_one_are_refused(tmp_path: Path, members: dict[str, Any]) -> None:
    file = shard(tmp_path / "data" / "train-0.tar", members)

    assert [sample["__key__"] for sample in wds(file)] == ["img_0"], "all in one sample, without a warning"
    assert refusal(tmp_path / "data").startswith(
        f"DATA/train-0.tar: the sample img_0 is made of {', '.join(members)}, of which it is not clear what is its "
        "image and what its label; a key ends at its first dot"
    )


def test_r2_an_extension_in_capitals_is_the_same(tmp_path: Path, hugging_face: HuggingFace) -> None:
    result = ours(tmp_path / "data", one={"1.PNG": content("1.png", 1), "1.CLS": 1, "2.png": 2, "2.Cls": 0})

    file = tmp_path / "data" / "train-0.tar"
    assert labels(wds(file)) == [("1.png", 1), ("2.png", 0)]
    with pytest.raises(ValueError, match="don't share the same"):
        hugging_face([file])
    assert as_numbers(listed_in(result.dataset)) == [("1.PNG", 1), ("2.png", 0)]


@pytest.mark.parametrize("second", ["1.PNG", "1.png"])
def test_r2_r3_a_file_that_is_there_twice_is_refused(tmp_path: Path, second: str, hugging_face: HuggingFace) -> None:
    image = content("1.png", 1)
    file = shard(tmp_path / "data" / "train-0.tar", [("1.png", image), (second, image), ("1.cls", 1)])

    with pytest.raises(ValueError, match="duplicate file name"):
        wds(file)
    if second == "1.png":
        with pytest.raises(ValueError, match="Duplicate field"):
            hugging_face([file])
    both = "1.png" if second == "1.png" else "1.png and 1.PNG"
    assert refusal(tmp_path / "data") == (
        f"DATA/train-0.tar: the sample 1 has the file {both} twice; remove or rename one"
    )


@pytest.mark.parametrize(
    ("members", "read", "again"),
    [
        (
            [("1.png", 1), ("1.cls", 0), ("2.png", 2), ("2.cls", 1), ("1.png", 3), ("1.cls", 1)],
            [("1", "cls", "png"), ("2", "cls", "png"), ("1", "cls", "png")],
            "1 comes back after 2, with 1.png",
        ),
        (
            [("1.cls", 0), ("2.cls", 1), ("1.png", 1), ("2.png", 2)],
            [("1", "cls"), ("2", "cls"), ("1", "png"), ("2", "png")],
            "1 comes back after 2, with 1.png",
        ),
    ],
)
def test_r3_a_key_that_comes_back_is_refused(
    tmp_path: Path, members: list[tuple[str, Any]], read: list[tuple[str, ...]], again: str
) -> None:
    file = shard(tmp_path / "data" / "train-0.tar", members)

    assert keys(wds(file)) == read, "as another sample"
    assert refusal(tmp_path / "data").startswith(f"DATA/train-0.tar: the key {again}; the files of a sample stand side")


def test_r3_a_sample_ends_with_its_shard(tmp_path: Path, log: Callable[[], str]) -> None:
    result = ours(
        tmp_path / "data",
        one=[*of_classes(0, 1).items(), ("torn.png", 3)],
        two=[("torn.cls", 1), *of_classes(1, 0).items()],
    )

    shards = [tmp_path / "data" / f"train-{number}.tar" for number in range(2)]
    assert keys(wds(*shards))[2:4] == [("torn", "png"), ("torn", "cls")]
    whole = ["train-0/000.png", "train-0/001.png", "train-1/000.png", "train-1/001.png"]
    assert listed_in(result.dataset) == list(zip(whole, "0110", strict=True))
    assert result.manifest.left_out.images == {"without a label": 1}
    assert result.manifest.left_out.files == {"labels without an image": 1}
    told = log()
    assert "not read, being without a label: 1 image(s), such as train-0/torn.png" in told
    assert "not read, being labels without an image: 1, such as torn.cls" in told


def test_r4_a_sample_without_a_label_is_left_out_and_counted(tmp_path: Path, hugging_face: HuggingFace) -> None:
    members = of_classes(*[0, 1] * 3) | {"late.json": {"label": 1}, "late.png": 7, "none.png": 8}
    result = ours(tmp_path / "data", one=members)

    file = tmp_path / "data" / "train-0.tar"
    assert keys(wds(file))[6:] == [("late", "json", "png"), ("none", "png")]
    assert [fields(sample).keys() for sample in hugging_face([file])[6:]] == [{"key", "png"}] * 2, (
        "and its label is lost"
    )
    assert as_numbers(listed_in(result.dataset))[5:] == [("005.png", 1), ("late.png", 1)]
    assert result.manifest.left_out.images == {"without a label": 1}


def test_r5_cls_is_a_number_however_it_is_written(tmp_path: Path, hugging_face: HuggingFace) -> None:
    members: dict[str, Any] = {}
    for number, text in enumerate(("3\n", " 1 \r\n", "02", "+0")):
        members |= {f"{number}.png": number, f"{number}.cls": text}
    result = ours(tmp_path / "data", classes=4, one=members)

    file = tmp_path / "data" / "train-0.tar"
    expected = [("0.png", 3), ("1.png", 1), ("2.png", 2), ("3.png", 0)]
    assert labels(wds(file)) == labels(hugging_face([file])) == as_numbers(listed_in(result.dataset)) == expected


@pytest.mark.parametrize("ending", ["cls.gz", "x.cls"])
def test_r5_a_packed_or_prefixed_cls_is_a_number(tmp_path: Path, ending: str, hugging_face: HuggingFace) -> None:
    result = ours(tmp_path / "data", one=of_classes(1, 0, ending=ending))

    file = tmp_path / "data" / "train-0.tar"
    expected = [("000.png", 1), ("001.png", 0)]
    assert labels(wds(file), label=ending) == labels(hugging_face([file]), label=ending) == expected
    assert as_numbers(listed_in(result.dataset)) == expected


@pytest.mark.parametrize("ending", ["label", "class", "target", "cls.txt", "index", "id"])
def test_r5_other_endings_are_no_labels(tmp_path: Path, ending: str) -> None:
    file = shard(tmp_path / "data" / "train-0.tar", of_classes(1, 0, ending=ending))

    value = wds(file)[0][ending]
    assert value == {"cls.txt": "1", "index": 1, "id": 1}.get(ending, b"1")
    problem = "hold no image with a label" if ending == "cls.txt" else "holds no WebDataset shards"
    assert problem in refusal(tmp_path / "data", "--layout", "webdataset")


def test_r5_names_in_cls_are_classes_here_and_an_error_there(tmp_path: Path, hugging_face: HuggingFace) -> None:
    shard(tmp_path / "data" / "train-0.tar", of_classes("dog\n", "cat"))
    shard(tmp_path / "data" / "test-0.tar", of_classes("cat", "dog"))

    with pytest.raises(ValueError, match="invalid literal for int"):
        hugging_face([tmp_path / "data" / "train-0.tar"])
    with pytest.raises(webdataset.autodecode.DecodingError):
        wds(tmp_path / "data" / "train-0.tar")
    assert listed_in(prepared(tmp_path / "data").dataset) == [("train-0/000.png", "dog"), ("train-0/001.png", "cat")]


def test_r6_json_holds_the_label_by_a_known_key(tmp_path: Path, hugging_face: HuggingFace) -> None:
    values = [{"label": 1, "width": 4}, {"label": 0, "caption": "a cat"}, {"label": 0}]
    result = ours(tmp_path / "data", one=of_classes(*values, ending="json"))

    file = tmp_path / "data" / "train-0.tar"
    expected = [("000.png", 1), ("001.png", 0), ("002.png", 0)]
    for read in (wds(file), hugging_face([file])):
        assert [(f"{sample['__key__']}.png", sample["json"]["label"]) for sample in read] == expected
    assert as_numbers(listed_in(result.dataset)) == expected


def test_r7_what_systems_add_never_tears_a_sample(tmp_path: Path, hugging_face: HuggingFace) -> None:
    junk = b"\0\5\x16\7"
    members = [
        *(("d/._1.png", junk), ("d/1.png", 1), ("d/._1.cls", junk), ("d/1.cls", 1)),
        *(("__MACOSX/._2.png", junk), ("d/2.png", 2), ("d/2.cls", 0)),
    ]
    result = ours(tmp_path / "data", one=members)

    file = tmp_path / "data" / "train-0.tar"
    torn = webdataset.WebDataset(str(file), shardshuffle=False)
    assert [sample["__key__"] for sample in torn] == ["d/", "d/1", "d/", "d/1", "__MACOSX/", "d/2"]
    expected = [("d/1.png", 1), ("d/2.png", 0)]
    assert labels(hugging_face([file])) == as_numbers(listed_in(result.dataset)) == expected
    assert result.manifest.left_out.files == {"system files": 3}


def test_r7_folders_links_and_metadata_are_skipped_and_long_names_are_whole(tmp_path: Path) -> None:
    long, unicode = "folder/" * 30 + "é" * 60, "жук"
    link, folder, hard = tarfile.TarInfo("l.png"), tarfile.TarInfo("folder"), tarfile.TarInfo("h.png")
    link.type, link.linkname, folder.type, hard.type, hard.linkname = (
        *(tarfile.SYMTYPE, "1.png", tarfile.DIRTYPE, tarfile.LNKTYPE, "1.png"),
    )
    members = [
        *(("folder", folder), ("__meta__/a.png", 1), ("__info__", "text"), ("__z.png", 2), ("__z.cls", 1)),
        *((f"{long}.png", 3), (f"{long}.cls", 0), (f"{unicode}.png", 3), (f"{unicode}.cls", 0)),
        *(("l.png", link), ("h.png", hard)),
    ]
    for number, kind in enumerate((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)):
        data = tmp_path / str(number) / "data"
        file = shard(data / "train-0.tar", members, kind)
        result = ours(data)

        expected = [("__z.png", 1), (f"{long}.png", 0), (f"{unicode}.png", 0)]
        assert labels(wds(file)) == as_numbers(listed_in(result.dataset)) == expected
        assert result.manifest.left_out.files == {"links": 2, "metadata of shards": 2}


def test_r8_shards_are_read_in_the_order_of_their_names_compressed_or_not(
    tmp_path: Path, hugging_face: HuggingFace
) -> None:
    data = tmp_path / "data"
    for number, ending in ((10, ".tar"), (2, ".tgz"), (1, ".tar.gz")):
        shard(data / "train" / f"{number}{ending}", of_classes(1, 0, first=number))
    shard(data / "test" / "0.tar", TEST)
    result = prepared(data)

    files = [data / "train" / name for name in ("1.tar.gz", "10.tar", "2.tgz")]
    expected = [("001.png", 1), ("002.png", 0), ("010.png", 1), ("011.png", 0), ("002.png", 1), ("003.png", 0)]
    assert labels(wds(*files)) == labels(hugging_face(files)) == expected
    assert listed_in(result.dataset) == [
        (f"train/{shard_of}/{name}", str(label))
        for shard_of, (name, label) in zip(["1", "1", "10", "10", "2", "2"], expected, strict=True)
    ]


def test_r8_shards_without_a_sample_are_an_error(tmp_path: Path) -> None:
    file = shard(tmp_path / "data" / "train-0.tar", {})

    with pytest.raises(ValueError, match="No samples found"):
        wds(file)
    assert refusal(tmp_path / "data", "--layout", "webdataset").startswith(
        "DATA/train-0.tar: holds no WebDataset shards"
    )


def test_r9_images_are_brought_upright_as_in_hugging_face(tmp_path: Path, hf: Any, hugging_face: HuggingFace) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = Image.new("L", (8, 4))
    turned.paste(255, (0, 0, 4, 4))
    result = ours(tmp_path / "data", one={"1.png": encoded(turned, "PNG", exif=exif), "1.cls": 0, **of_classes(1)})
    file = tmp_path / "data" / "train-0.tar"

    (as_stored, *_) = webdataset.WebDataset(str(file), shardshuffle=False).decode("pil")
    assert (as_stored["png"].size, as_stored["png"].mode) == ((8, 4), "RGB"), "as it is stored"
    upright = hf.Image().decode_example(hugging_face([file])[0]["png"])
    assert (upright.size, upright.mode) == ((4, 8), "L")
    name = next(iter(open_dataset(result.dataset).splits["train"].names() or ()))
    assert (name.width, name.height) == (4, 8)
    assert stored(result.dataset, "train")[0][0, ::3, 0, 0].tolist() == [255, 0], "what was on the left is on top"
