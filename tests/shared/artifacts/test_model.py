"""model.json: what it says is read back, of this version and of those before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from components.shared.artifacts.artifact import ArtifactWriter
from components.shared.artifacts.model import LEARNING_CURVES, MODEL, TIME_SHARES, Speed, open_model
from components.shared.errors import ArtifactError
from tests.train.manifests import SPEED, history_of, manifest_of

FILES = ("model.safetensors", "model.onnx", LEARNING_CURVES)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model directory of this version, its weights a few letters."""
    with ArtifactWriter(tmp_path / "model", MODEL) as writer:
        records = []
        for name in FILES:
            file = writer.new_file(name)
            file.write_text(name)
            records.append(writer.record(file))
        weights, onnx, learning_curves = records
        files = {"weights": weights, "onnx": onnx, "learning_curves": learning_curves}
        writer.commit(manifest_of(history_of(3), speed=SPEED, **files))
    return tmp_path / "model"


def change(model: Path, edit: Any) -> None:
    document = json.loads((model / "model.json").read_text())
    edit(document)
    (model / "model.json").write_text(json.dumps(document))


def test_speed_and_throughput_are_read_back(model: Path) -> None:
    manifest = open_model(model).manifest

    assert manifest.provenance.speed == SPEED
    assert [record.images_per_second for record in manifest.history] == [
        record.images_per_second for record in history_of(3)
    ]
    assert [record.file for record in manifest.files()] == list(FILES)


def test_a_model_of_an_earlier_version_opens(model: Path) -> None:
    def earlier(document: dict[str, Any]) -> None:
        del document["learning_curves"], document["provenance"]["speed"]
        for record in document["history"]:
            del record["images_per_second"]

    change(model, earlier)
    (model / LEARNING_CURVES).unlink()

    manifest = open_model(model).manifest

    assert manifest.learning_curves is None
    assert manifest.provenance.speed is None
    assert {record.images_per_second for record in manifest.history} == {None}


def test_the_speed_of_version_0_6_is_read_back(model: Path) -> None:
    def earlier(document: dict[str, Any]) -> None:
        speed = document["provenance"]["speed"]
        for name in ("of_constant_tensor_range", "rounds", "why_not"):
            del speed[name]
        speed |= {"of_constant_tensor": 25.92, "of_matmul": 0.5}  # which later versions do not measure

    change(model, earlier)

    speed = open_model(model).manifest.provenance.speed
    assert speed is not None
    assert (speed.of_constant_tensor, speed.of_constant_tensor_range, speed.rounds, speed.why_not) == (
        25.92,
        None,
        0,
        {},
    )


@pytest.mark.parametrize("wrong", [{"processes": 0}, {"precision": None}])
def test_a_damaged_speed_is_refused_by_name(model: Path, wrong: dict[str, Any]) -> None:
    change(model, lambda document: document["provenance"]["speed"].update(wrong))

    with pytest.raises(ArtifactError, match=rf"model\.json: provenance\.speed\.{next(iter(wrong))}: "):
        open_model(model)


def test_the_example_of_these_tests_is_whole() -> None:
    assert tuple(SPEED.shares) == TIME_SHARES
    assert sum(SPEED.shares.values()) == pytest.approx(1)
    assert Speed.model_validate_json(SPEED.model_dump_json()) == SPEED
    assert all(field.description for name, field in Speed.model_fields.items())
