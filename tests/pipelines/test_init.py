"""``shutterline init``, and ``run`` without params: what data get to start with, and that it learns them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from components.data_prep.prepare import prepare
from components.data_prep.survey import Survey
from components.evaluate.evaluate import evaluate
from components.shared.params.params import Params, parse
from components.train.train import train
from pipelines.params_files import check_params, read_params
from pipelines.starting_params import Choice, Machine, starting_params
from tests.data_prep.building import class_folders, idx_folder, tree
from tests.data_prep.parquet_files import write_parquet
from tests.data_prep.shards import shard
from tests.painted import SHAPES, Files, paint, painted, write_archive, write_files
from tests.peers.object_store import Bucket
from tests.pipelines.conftest import Refused, Shutterline

CLASSES = SHAPES[:3]


def pictures(start: str = "", *, of_each: int = 14, size: tuple[int, int] = (12, 12), **options: Any) -> Files:
    """A folder of each class with so many pictures, each with a number of its own."""
    first = sum(map(ord, start)) * 1000
    ending = options.get("kind", "PNG").lower()
    return {
        f"{start}{shape}/{number}.{ending}": painted(shape, size, first + number, **options)
        for shape in CLASSES
        for number in range(of_each)
    }


def labelled(files: Files) -> list[tuple[str, str, bytes]]:
    """Name, class and content of each, all classes mixed."""
    rows = [(name.replace("/", "-"), name.split("/")[-2], content) for name, content in files.items()]
    return sorted(rows, key=lambda row: (row[0].rpartition("-")[2], row[0]))


def table(folder: Path, files: Files, columns: tuple[str, str], name: str) -> None:
    rows = labelled(files)
    write_files(folder, {file: content for file, _, content in rows})
    text = io.StringIO()
    csv.writer(text).writerows([columns, *((file, shape) for file, shape, _ in rows)])
    (folder / name).write_text(text.getvalue())


def folders(data: Path) -> Path:
    return write_files(data, pictures())


def split_folders(data: Path) -> Path:
    splits = ("Training/", 30), ("VALID_set/", 5), ("Test Data/", 10)
    files = [pictures(name, of_each=count, color=True) for name, count in splits]
    return write_files(data, {name: content for each in files for name, content in each.items()})


def info_csv(data: Path) -> Path:
    table(data / "train", pictures("train/", kind="JPEG"), ("files", "type"), "info.csv")
    table(data / "test", pictures("test/", kind="JPEG", of_each=10), ("files", "type"), "info.csv")
    return data


def idx(data: Path) -> Path:
    images = np.stack(
        [np.asarray(paint(shape, (12, 12), seed, color=False)) for seed in range(16) for shape in CLASSES]
    )
    return idx_folder(data, images, [*range(3)] * 16, end=".gz")


def tar_gz(data: Path) -> Path:
    files = {
        f"{shape}/{number}.png": painted(shape, (16 + number % 9, 24 - number % 9), number, color=True)
        for shape in CLASSES
        for number in range(40)
    }
    return write_archive(data.with_suffix(".tar.gz"), files)


def uneven_zip(data: Path) -> Path:
    many = {name: content for name, content in pictures(of_each=40).items() if "disc" in name}
    return write_archive(data.with_suffix(".zip"), {**pictures(of_each=9), **many})


def shards(data: Path) -> Path:
    rows = labelled(pictures(kind="JPEG", color=True, size=(150, 136), of_each=40))
    for number in range(3):
        members = [
            (f"{index:04d}.{end}", value)
            for index, (_, shape, content) in list(enumerate(rows))[number::3]
            for end, value in (("jpg", content), ("cls", CLASSES.index(shape)))
        ]
        shard(data / f"train-{number:06d}.tar", members)
    return data


def parquet(data: Path) -> Path:
    for split, count in (("train", 30), ("test", 10)):
        rows = labelled(pictures(f"{split}/", of_each=count, color=True))
        write_parquet(
            data / f"{split}-00000-of-00001.parquet",
            [CLASSES.index(shape) for _, shape, _ in rows],
            names=CLASSES,
            images=[content for _, _, content in rows],
        )
    return data


def metadata_csv(data: Path) -> Path:
    table(data / "train", pictures("train/"), ("file_name", "label"), "metadata.csv")
    table(data / "test", pictures("test/", of_each=10), ("file_name", "label"), "metadata.csv")
    return data


def json_lines(data: Path) -> Path:
    rows = labelled(pictures(kind="JPEG"))
    lines = [json.dumps({"uri": f"images/{file}", "class": shape}) for file, shape, _ in rows]
    write_files(data, {f"images/{file}": content for file, _, content in rows})
    (data / "photos.jsonl").write_text("\n".join(lines))
    return data


class Known(NamedTuple):
    """What is known of a source: what builds it, and what init is to find."""

    make: Callable[[Path], Path]
    layout: str
    chosen: Mapping[str, object]


SOURCES = {
    "folders": Known(folders, "a folder per class", {"image_height": 12, "test_fraction": 0.3}),
    "split-folders": Known(split_folders, "a folder per class", {"image_height": 12, "is_image_color": True}),
    "info-csv": Known(info_csv, "info.csv", {"image_width": 12, "is_image_color": False, "validation_fraction": 0.0}),
    "idx": Known(idx, "IDX files", {"image_width": 12, "is_image_color": False, "batch_size": 8}),
    "tar.gz": Known(tar_gz, "a folder per class", {"image_width": 19, "image_fit": "pad", "is_image_color": True}),
    "zip": Known(uneven_zip, "a folder per class", {"class_weights": "balanced", "image_fit": "stretch"}),
    "webdataset": Known(shards, "WebDataset", {"image_width": 119, "stored_width": 136, "is_image_color": True}),
    "metadata.csv": Known(metadata_csv, "manifest", {"image_width": 12, "is_image_color": False}),
    "json-lines": Known(json_lines, "manifest", {"image_height": 12, "is_image_color": False, "test_fraction": 0.3}),
    "parquet": Known(parquet, "Parquet", {"image_width": 12, "is_image_color": True}),
}  # fmt: skip


@pytest.mark.parametrize("name", SOURCES)
def test_params_are_written_for_any_source_with_what_was_found(name: str, here: Path, shutterline: Shutterline) -> None:
    known = SOURCES[name]
    data = known.make(here / "data")

    done = shutterline("init", "--data", data, "--json")

    assert done.code == 0, done.err
    assert known.layout in done.document["facts"][0]
    assert "3 classes" in done.document["facts"][0]
    assert {key: done.document["params"].get(key) for key in known.chosen} == known.chosen
    written = read_params("params.yaml", ())
    assert written.params == Params.from_dict(done.document["params"])
    assert not check_params(written).warnings


def test_data_may_be_in_a_bucket(gcs_bucket: Bucket, here: Path, shutterline: Shutterline) -> None:
    files = pictures("photos/")
    for name, content in files.items():
        gcs_bucket.write(name, content)
    write_archive(here / "photos.zip", {name.removeprefix("photos/"): content for name, content in files.items()})

    for number, data in enumerate((f"{gcs_bucket.uri}/photos", "photos.zip")):
        assert shutterline("init", "--data", data, "-o", f"{number}.yaml").code == 0
    assert Params.load("0.yaml") == Params.load("1.yaml")


# Of what params are written above, those that differ in what is trained. The run without params trains on folders.
@pytest.mark.slow
@pytest.mark.parametrize("name", ["split-folders", "tar.gz", "zip", "webdataset"])
def test_a_run_of_what_init_writes_beats_chance_without_an_edit(
    name: str, here: Path, shutterline: Shutterline
) -> None:
    data = SOURCES[name].make(here / "data")
    assert shutterline("init", "--data", data).code == 0
    params = Params.load("params.yaml")

    prepare(data=data, dataset=here / "dataset", params=params)
    train(dataset=here / "dataset", model=here / "model", params=params)
    found = evaluate(model=here / "model", dataset=here / "dataset", evaluation=here / "evaluation", params=params)

    # Chance is a third: recall, since one class may have most of the images.
    assert found.manifest.metrics["recall_macro"] > 0.5, found.manifest.metrics


@pytest.mark.slow
def test_run_without_params_takes_those_that_init_writes(here: Path, shutterline: Shutterline) -> None:
    data = folders(here / "data")

    done = shutterline("run", "--data", data, "--out", "out", "--json")

    assert shutterline("init", "--data", data).code == 0
    assert json.loads(Path("out/params.json").read_text()) == Params.load("params.yaml").to_dict()
    assert f"no params are given; `shutterline init --data {data}` writes these" in done.err
    assert done.document["metrics"]["recall_macro"] > 0.6


def test_run_says_what_data_get_that_come_without_params(here: Path, shutterline: Shutterline) -> None:
    data = folders(here / "data")

    # Refused once the params are known, so that nothing is trained.
    done = shutterline("run", "--data", data, "--set", "num_epochs=7", "--require-gate")

    # A command before it, in the same process, may have begun to log.
    first, second, last = (line for line in done.err.splitlines() if " data-prep " not in line)
    assert (done.code, last) == (2, f"error: {GATELESS}")
    assert first.startswith("a folder per class: 42 train images in 3 classes, 14 training images each; all 12×12 pix")
    assert "n_classes 3, image_height 12, image_width 12, is_image_color false" in second


GATELESS = "--require-gate: the params have no gate; add one, such as --set gate.accuracy.min=0.97"


def surveyed(*sizes: tuple[int, int], counts: Mapping[str, list[int]] | None = None, **more: Any) -> Survey:
    """Of two classes of 500 color images."""
    known: dict[str, Any] = {"layout": "a folder per class", "classes": ("cat", "dog"), "colored": len(sizes)}
    return Survey(**known | {"counts": counts or {"train": [500, 500]}, "sizes": list(sizes)} | more)


WIDE, TALL, PANORAMA = (4000, 3000), (1080, 1440), (4000, 900)
HERE, THERE = Machine("processors"), Machine("a GPU")
MIRROR = {"class": "torchvision.transforms.v2.RandomHorizontalFlip"}


@pytest.mark.parametrize(
    ("survey", "machine", "chosen"),
    [
        (surveyed(WIDE, TALL), HERE, {"image_height": 224, "stored_width": 256, "image_fit": "crop"}),
        (surveyed(WIDE, PANORAMA), HERE, {"image_fit": "pad"}),
        (surveyed((180, 140)), HERE, {"image_height": 119, "stored_width": 136, "image_fit": "stretch"}),
        (surveyed((20, 30), (30, 20)), HERE, {"image_height": 20, "image_width": 20, "image_fit": "pad"}),
        (surveyed((2000, 40), (2100, 42)), HERE, {"image_height": 36, "image_width": 1810, "image_fit": "stretch"}),
        (surveyed((3, 2)), HERE, {"image_height": 2, "image_width": 3}),
        (surveyed(WIDE, colored=0), HERE, {"is_image_color": False}),
        (surveyed(WIDE), THERE, {"batch_size": 32, "num_epochs": 30}),
        (surveyed(WIDE, counts={"train": [90_000, 90_000]}), HERE, {"test_fraction": 0.1, "num_epochs": 3}),
        (surveyed((8, 8), counts={"train": [3, 900], "test": [1, 9]}), HERE, {"class_weights": "balanced"}),
        (surveyed((8, 8), counts={"train": [3, 3], "test": [1, 9]}), HERE, {"batch_size": 8, "num_epochs": 400}),
        (surveyed((8, 8), counts={"train": [3, 3], "test": [1, 9], "validation": [1, 1]}), HERE, {"eval_freq": 13}),
    ],
)
def test_choices_follow_from_what_is_there(survey: Survey, machine: Machine, chosen: dict[str, object]) -> None:
    params = {choice.key: choice.value for choice in starting_params(survey, machine)}

    assert {key: params.get(key) for key in chosen} == chosen
    assert ("test_fraction" in params, "validation_fraction" in params) == (
        "test" not in survey.counts,
        "validation" not in survey.counts,
    )
    assert not check_params(parse(params)).warnings


def test_what_is_mirrored_are_colored_photographs_whose_classes_name_no_side() -> None:
    def transforms(*classes: str, **more: Any) -> list[Any]:
        return list(value(starting_params(surveyed(WIDE, classes=classes, **more), HERE), "additional_transforms"))

    assert MIRROR in transforms("cat", "dog")
    assert MIRROR not in transforms("Left hand", "right hand")
    assert MIRROR not in transforms("cat", "dog", colored=0)


def value(choices: list[Choice], key: str) -> Any:
    return next((choice.value for choice in choices if choice.key == key), None)


def test_weights_that_torchvision_keeps_here_are_started_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for device, name in (("processors", "resnet18"), ("a GPU", "resnet50")):
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        file = tmp_path / f"hub/checkpoints/{name}-abc.pth"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
        machine = Machine(device, file) if device == "a GPU" else Machine.this()

        choices = starting_params(surveyed(WIDE, counts={"train": [9000, 9000]}), machine)

        assert value(choices, "net_arch") == [{"class": f"torchvision.models.{name}"}]
        assert (value(choices, "initial_weights"), value(choices, "recipe")) == (str(file), "finetune")
        # Processors take too long for all of it.
        assert value(choices, "frozen_layers") == (1 if device == "processors" else None)
        assert not check_params(parse({choice.key: choice.value for choice in choices})).warnings
        assert value(starting_params(surveyed((32, 32)), machine), "initial_weights") is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda data: class_folders(data, {"cat": 4}), "DATA: holds 1 class(es) (cat), and a run needs 2 or more"),
        (lambda data: class_folders(data, {"cat": 4, "dog": 1}), "DATA: 1 class(es) have too few training images: dog"),
        (lambda data: write_files(data, dict.fromkeys(("cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png"), b"no")),
         "DATA: none of 4 images can be read; the first is cat/1.png: is not an image in a known format"),
        (lambda data: tree(data, "notes.txt"), "DATA: holds no images in a layout that is known"),
        (lambda data: None, "DATA: there is no such data folder"),
    ],
    ids=["one class", "one image of a class", "no image", "no layout", "nothing"],
)  # fmt: skip
def test_wrong_data_are_refused_as_by_data_prep(
    make: Callable[[Path], object], message: str, here: Path, refused: Refused
) -> None:
    make(here / "data")

    for command in ("init", "run"):
        found = refused(command, "--data", here / "data", "--json")
        assert found.replace(f"{here / 'data'}", "DATA").startswith(message)
    assert not Path("params.yaml").exists()


def test_a_file_that_is_there_is_not_replaced(here: Path, refused: Refused) -> None:
    folders(here / "data")
    Path("params.yaml").write_text("mine")

    assert "is there already" in refused("init", "--data", "data")
    assert "must end in .yaml" in refused("init", "--data", "data", "-o", "params.json")
    assert Path("params.yaml").read_text() == "mine"
