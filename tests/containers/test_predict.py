"""Prediction by ``docker run`` alone: hardened, without a network, and with nothing but a model and images."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from components.predict.predict import predict
from tests.containers.conftest import Images
from tests.containers.engine import HARDENED, Docker, flags_of
from tests.onnx_models import write_onnx_directory
from tests.peers.object_store import Bucket
from tests.shared.decoding.pictures import encoded, random_pixels, save

pytestmark = pytest.mark.containers


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for index in range(3):
        save(tmp_path / "photos" / f"{index}.png", random_pixels(20, 15, 3, seed=index))
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"x")
    (tmp_path / "photos").chmod(0o755)
    return tmp_path / "photos"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_onnx_directory(tmp_path / "model").path


def test_predicts_with_all_hardening_flags(docker_engine: Docker, images: Images, photos: Path, model: Path) -> None:
    flags = [*HARDENED, *flags_of(mounts={model: "/model:ro", photos: "/photos:ro"})]

    ended = docker_engine.run(images["predict"], "--model", "/model", "--images", "/photos", flags=flags)

    assert ended.code == 0, ended.err
    found = {row["file"]: row for row in csv.DictReader(ended.out.splitlines())}
    for expected in predict(model, photos):
        row = found[expected.file.replace(str(photos), "/photos")]
        assert row["error"] == expected.error
        if not expected.error:
            assert row["class"] == expected.classes[0][0]
            assert float(row["probability"]) == pytest.approx(expected.classes[0][1], abs=1e-5)
    assert "WARNING 1 of 4 files were not read" in ended.err


def test_predictions_may_be_a_file(
    docker_engine: Docker, images: Images, photos: Path, model: Path, runs: Path
) -> None:
    mounts = {model / "model.onnx": "/model.onnx:ro", photos: "/photos:ro", runs: "/runs"}
    options = ["--model", "/model.onnx", "--images", "/photos", "--output", "/runs/predictions.jsonl", "--json"]

    ended = docker_engine.run(images["predict"], *options, flags=[*HARDENED, *flags_of(mounts=mounts)])

    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["report"]["images"] == 3
    assert len((runs / "predictions.jsonl").read_text().splitlines()) == 4
    assert [file.name for file in runs.iterdir()] == ["predictions.jsonl"]


def test_images_may_be_in_a_bucket(docker_engine: Docker, images: Images, model: Path, gcs_bucket: Bucket) -> None:
    for index in range(20):
        gcs_bucket.write(f"photos/{index}.png", encoded(random_pixels(8, 8, 3, seed=index), "PNG"))
    flags = [*HARDENED, *flags_of(mounts={model: "/model:ro"}, environment=gcs_bucket.environment)]
    options = ["--model", "/model", "--images", f"{gcs_bucket.uri}/photos"]

    ended = docker_engine.run(images["predict"], *options, flags=flags, network="host")

    assert ended.code == 0, ended.err
    assert len(ended.out.splitlines()) == 21


def test_what_cannot_be_used_is_one_line(docker_engine: Docker, images: Images, photos: Path, model: Path) -> None:
    flags = [*HARDENED, *flags_of(mounts={model: "/model:ro", photos: "/photos:ro"})]
    for options, message in (
        (["--model", "/none", "--images", "/photos"], "/none: there is no such model directory"),
        (
            ["--model", "/model", "--images", "/photos/broken.jpg"],
            " failed: /photos/broken.jpg: ",
        ),
    ):
        ended = docker_engine.run(images["predict"], *options, flags=flags)
        assert ended.code == 2
        (error,) = [line for line in ended.err.splitlines() if "ERROR" in line]
        assert message in error
        assert "Traceback" not in ended.err
