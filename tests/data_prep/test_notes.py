from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.data_prep.prepare import prepare
from components.shared.artifacts.dataset import open_dataset
from tests.data_prep.building import params, prepared, stored
from tests.shared.decoding.pictures import save


def _shapes(folder: Path) -> Path:
    row, column = np.mgrid[:16, :16]
    shapes = {"circle": (row - 8) ** 2 + (column - 8) ** 2 < 36, "square": (abs(row - 8) < 6) & (abs(column - 8) < 6)}
    for name, inside in shapes.items():
        for index in range(4):
            picture = np.zeros((16, 16, 4), np.uint8)
            picture[..., 3] = np.where(inside, 255, 0)
            save(folder / name / f"{index}.png", picture)
    save(folder / "circle" / "empty.png", np.zeros((16, 16, 4), np.uint8))
    save(folder / "circle" / "opaque.png", np.full((16, 16, 4), 255, np.uint8))
    return folder


def test_data_prep_counts_what_is_composited(tmp_path: Path, log: Callable[[], str]) -> None:
    data = _shapes(tmp_path / "data")

    prepare(data=data, dataset=tmp_path / "white", params=params(image_height=16, image_width=16))

    logged = log()
    assert "WARNING 8 image(s) have transparent parts, which are composited on white (alpha_background)" in logged
    assert "WARNING 1 image(s) are wholly transparent: nothing but white (alpha_background) is left of them" in logged
    assert open_dataset(tmp_path / "white").manifest.noted == {"transparent": 8, "wholly transparent": 1}
    images = np.concatenate([stored(tmp_path / "white", split)[0] for split in ("train", "test")])
    assert all(np.unique(image).tolist() in ([0, 255], [255]) for image in images)

    changed = params(image_height=16, image_width=16, is_image_color=True, alpha_background=[0, 90, 200])
    prepare(data=data, dataset=tmp_path / "blue", params=changed)

    assert "composited on [0, 90, 200] (alpha_background)" in log()
    images = np.concatenate([stored(tmp_path / "blue", split)[0] for split in ("train", "test")])
    assert sorted(np.unique(images[..., 2]).tolist()) == [0, 200, 255]


def test_nothing_is_said_of_data_without_transparency(tmp_path: Path, log: Callable[[], str]) -> None:
    for name in ("a", "b"):
        for index in range(3):
            save(tmp_path / "data" / name / f"{index}.png", np.full((4, 4, 4), 255, np.uint8))

    prepared(tmp_path / "data")

    assert "image(s)" not in log()
    assert open_dataset(tmp_path / "out").manifest.noted == {}


@pytest.mark.parametrize(("first", "is_warned"), [(1.0, True), (2.0, False), (0.0, False)])
def test_two_scales_of_floating_point_values_are_a_warning(
    tmp_path: Path, log: Callable[[], str], first: float, is_warned: bool
) -> None:
    for index, value in enumerate([first, 200.0, 100.0, 30.0]):
        folder = tmp_path / "data" / ("cat" if index % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((6, 8), value, np.float32)).save(folder / f"{index}.tif")

    prepared(tmp_path / "data")

    logged = log()
    assert f"{4 - (first <= 1)} image(s) have floating-point values beyond 1, which are read as 0 to 255" in logged
    assert ("1 image(s) have floating-point values of at most 1, which are read as 0 to 1" in logged) == is_warned
    assert ("WARNING floating-point images are read by two scales" in logged) == is_warned
