from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.evaluate.__main__ import main
from components.shared.artifacts.artifact import ImageShape
from components.shared.files import sha256_of
from tests.evaluate.conftest import CLASSES, Parts, params_of, write_dataset, write_model

Damage = Callable[[Parts], object]


def refused(parts: Parts, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    capsys.readouterr()
    assert main(parts.command(*more)) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Traceback" not in printed.err
    *earlier, last = printed.err.splitlines()
    assert "evaluate  ERROR failed: " in last
    assert not [line for line in earlier if "ERROR" in line]
    assert not (parts.evaluation / "evaluation.json").exists()
    assert not parts.evaluation.exists() or list(parts.evaluation.iterdir()) == []
    return last.partition("ERROR failed: ")[2]


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def flip_a_byte(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-10])


def cut_and_record(parts: Parts) -> None:
    file = parts.dataset / "test" / "images-00000.npy"
    cut(file)
    manifest = json.loads((parts.dataset / "dataset.json").read_text())
    record = manifest["splits"]["test"]["images"][0]
    record.update(bytes=file.stat().st_size, sha256=sha256_of(file))
    edit(parts.dataset / "dataset.json", **manifest)


def name_outside(parts: Parts, name: str) -> None:
    file = parts.model / "model.json"
    edit(file, onnx={**json.loads(file.read_text())["onnx"], "file": name})


def lead_outside(parts: Parts) -> None:
    inside, outside = parts.model / "model.onnx", parts.model.parent / "elsewhere"
    shutil.move(inside, outside)
    inside.symlink_to(outside)


def of_version_8(parts: Parts) -> None:
    edit(parts.model / "model.json", onnx=None)


def diverged(parts: Parts) -> None:
    write_model(parts.model, parts.params, nan=True)


DAMAGES: dict[str, tuple[Damage, str]] = {
    "no model": (lambda parts: shutil.rmtree(parts.model), "there is no such model directory"),
    "no dataset": (lambda parts: shutil.rmtree(parts.dataset), "there is no such dataset directory"),
    "model without manifest": (lambda parts: (parts.model / "model.json").unlink(), "is not a complete model"),
    "dataset without manifest": (lambda parts: (parts.dataset / "dataset.json").unlink(), "is not a complete dataset"),
    "model.onnx with a flipped byte": (
        lambda parts: flip_a_byte(parts.model / "model.onnx"),
        "its SHA-256 is not the manifest's",
    ),
    "model.onnx gone": (lambda parts: (parts.model / "model.onnx").unlink(), "is missing, though the manifest"),
    "a model without model.onnx": (of_version_8, "has no model.onnx, being of version 0.8 or earlier"),
    "model.onnx of another model": (
        lambda parts: edit(parts.model / "model.json", classes=["a", "b", "c"]),
        "calls class 0 'a'",
    ),
    "a stored image smaller than the model's": (
        lambda parts: edit(parts.model / "model.json", stored_image={"height": 9, "width": 7, "channels": 1}),
        "its stored_image is smaller than its image, or of other channels; the file is damaged",
    ),
    "images cut short and recorded": (cut_and_record, "is not a NumPy array file"),
    "path above the directory": (lambda parts: name_outside(parts, "../elsewhere"), "must be a plain path below"),
    "link out of the directory": (lead_outside, "leads out of the artifact's directory"),
    "values that are not finite": (diverged, "gives values that are not finite for 50 of 50 images"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_artifacts(parts: Parts, capsys: pytest.CaptureFixture[str], name: str) -> None:
    damage, message = DAMAGES[name]
    damage(parts)
    assert message in refused(parts, capsys)


def renamed(parts: Parts, classes: list[str]) -> None:
    write_dataset(parts.dataset, classes=classes)


PAIRINGS: dict[str, tuple[Damage, str]] = {
    "number of classes": (
        lambda parts: renamed(parts, [*CLASSES, "fox"]),
        "has 3 classes, and the dataset {dataset} has 4",
    ),
    "order of classes": (
        lambda parts: renamed(parts, CLASSES[::-1]),
        "has the classes of the dataset {dataset} in another order",
    ),
    "another class": (
        lambda parts: renamed(parts, ["cat", "d'og", "eel"]),
        "calls class 1 'dog', and the dataset {dataset} calls it \"d'og\"",
    ),
    "image size": (
        lambda parts: write_dataset(parts.dataset, shape=(8, 9, 1)),
        "takes images of 8×8 pixels with 1 channel(s), and the dataset {dataset} has images of 8×9 pixels",
    ),
    "fit": (
        lambda parts: write_dataset(parts.dataset, image_fit="pad"),
        "was trained with image_fit stretch, and the dataset {dataset} was prepared with pad; evaluate the model on",
    ),
    "image channels": (
        lambda parts: write_dataset(parts.dataset, shape=(8, 8, 3)),
        "has images of 8×8 pixels with 3 channel(s)",
    ),
    "stored image size": (
        lambda parts: write_model(parts.model, params_of(stored_height=12, stored_width=11)),
        "takes images of 12×11 pixels with 1 channel(s), of which it takes the middle 8×8, and the dataset {dataset} "
        "has images of 8×8 pixels with 1 channel(s)",
    ),
    "params without the model's stored size": (
        lambda parts: (
            write_model(parts.model, params_of(stored_height=12, stored_width=8)),
            write_dataset(parts.dataset, shape=(12, 8, 1)),
        ),
        "stored_height: is null, and the model {model} has 12",
    ),
    "dataset without test split": (
        lambda parts: write_dataset(parts.dataset, splits=("train", "validation")),
        "has no test split to evaluate on",
    ),
    "model without classes": (
        lambda parts: write_model(parts.model, parts.params, classes=[]),
        "has 0 classes, and the dataset {dataset} has 3",
    ),
    "model of another image shape than its network": (
        lambda parts: (
            write_model(parts.model, parts.params, image=ImageShape(height=9, width=8, channels=1)),
            write_dataset(parts.dataset, shape=(9, 8, 1)),
        ),
        "image_height: is 8, and the model {model} has 9",
    ),
}


@pytest.mark.parametrize("name", PAIRINGS)
def test_artifacts_that_do_not_fit_each_other(parts: Parts, capsys: pytest.CaptureFixture[str], name: str) -> None:
    change, message = PAIRINGS[name]
    change(parts)
    assert message.format(dataset=parts.dataset, model=parts.model) in refused(parts, capsys)


def test_class_names_may_differ_in_unicode_composition(parts: Parts) -> None:
    write_model(parts.model, parts.params, dataset=parts.dataset, classes=["cat", "caf\u0065\u0301", "eel"])
    renamed(parts, ["cat", "caf\u00e9", "eel"])

    assert main(parts.command()) == 0


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("image_height", "9", "image_height: is 9, and the model {model} has 8"),
        ("image_width", "7", "image_width: is 7, and the model {model} has 8"),
        ("n_classes", "10", "n_classes: is 10, and the model {model} has 3"),
        ("is_image_color", "true", "is_image_color: means 3 channel(s), and the model {model} has 1"),
    ],
)
def test_params_of_another_model(
    parts: Parts, capsys: pytest.CaptureFixture[str], key: str, value: str, message: str
) -> None:
    assert message.format(model=parts.model) in refused(parts, capsys, "--set", f"{key}={value}")


def test_a_directory_that_cannot_be_made(parts: Parts, capsys: pytest.CaptureFixture[str]) -> None:
    parts.evaluation.write_text("a file in the way")
    assert main(parts.command()) == 2
    assert (
        f"ERROR failed: {parts.evaluation}: cannot be written as an evaluation: File exists" in capsys.readouterr().err
    )
    assert parts.evaluation.read_text() == "a file in the way"
