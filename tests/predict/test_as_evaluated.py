"""What evaluation found of an image of the data, prediction finds of its file."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from components.data_prep.prepare import prepare
from components.evaluate.evaluate import evaluate
from components.predict.predict import predict
from tests.evaluate.conftest import params_of, write_model
from tests.shared.decoding.pictures import random_pixels, save


def _photos(folder: Path) -> Path:
    """Photos of several kinds in each class."""
    for label, name in enumerate(("cat", "dog", "eel")):
        for index in range(12):
            pixels = random_pixels(30 + index, 20, 4 if index % 4 == 3 else 3, seed=100 * label + index)
            file = folder / name / f"{index}.{('png', 'jpg', 'webp', 'png')[index % 4]}"
            save(file, pixels, **({"quality": 95} if index % 4 == 1 else {}))
        exif = Image.Exif()
        exif[0x0112] = 6
        for index in (1, 5, 9):
            pixels = random_pixels(40, 25, 3, seed=1000 * label + index)
            Image.fromarray(pixels).save(folder / name / f"{index}.jpg", exif=exif)
    return folder


@pytest.mark.parametrize(
    "rendered",
    [
        {},
        {"alpha_background": [200, 10, 60], "image_fit": "pad"},
        {"image_fit": "crop", "image_interpolation": "lanczos"},
        {"image_fit": "crop", "stored_height": 11, "stored_width": 9, "image_interpolation": "nearest"},
        {"image_fit": "pad", "stored_height": 11, "stored_width": 9, "alpha_background": "black"},
    ],
    ids=str,
)
def test_a_held_out_file_is_predicted_as_it_was_evaluated(tmp_path: Path, rendered: dict[str, Any]) -> None:
    data = _photos(tmp_path / "photos")
    params = params_of(is_image_color=True, test_fraction=0.4, **rendered)
    prepare(data=data, dataset=tmp_path / "dataset", params=params)
    write_model(tmp_path / "model", params, dataset=tmp_path / "dataset")
    evaluate(model=tmp_path / "model", dataset=tmp_path / "dataset", evaluation=tmp_path / "evaluation", params=params)
    with (tmp_path / "evaluation" / "predictions.csv").open(encoding="utf-8", newline="") as stream:
        evaluated = {row["file"]: row for row in csv.DictReader(stream)}
    assert len(evaluated) == 15

    for model in (tmp_path / "model", tmp_path / "model" / "model.onnx"):
        found = list(predict(model, [data / name for name in evaluated]))

        assert [each.file for each in found] == [str(data / name) for name in evaluated]
        for each, row in zip(found, evaluated.values(), strict=True):
            assert each.classes[0][0] == row["predicted"]
            assert np.float32(each.classes[0][1]) == pytest.approx(float(row["confidence"]), abs=1e-6)
        assert len({each.classes for each in found}) == 15
