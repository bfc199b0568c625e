from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tifffile
from PIL import Image

from components.predict.predict import Prediction, predict
from components.shared.errors import ArtifactError, InputError, ShutterlineError
from tests.onnx_models import onnx_model, write_onnx_directory
from tests.predict.conftest import CLASSES, SIDES, ByHand, Pixels, check
from tests.shared.decoding.pictures import as_rgb, encoded, on_background, random_pixels, save

COLOR = random_pixels(*SIDES, 3)
GREY = random_pixels(*SIDES, seed=1)
ALPHA = np.where(GREY > 127, 255, 0).astype(np.uint8)


def _turned(orientation: int, kind: str) -> bytes:
    """A file that is stored turned, and says so: upright it is COLOR."""
    stored = {
        1: COLOR,
        2: COLOR[:, ::-1],
        3: COLOR[::-1, ::-1],
        4: COLOR[::-1],
        5: COLOR.transpose(1, 0, 2),
        6: np.rot90(COLOR, 1),
        7: np.rot90(COLOR, 2).transpose(1, 0, 2),
        8: np.rot90(COLOR, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(np.ascontiguousarray(stored), kind, exif=exif)


def _palette_with_transparency() -> bytes:
    image = Image.fromarray(GREY // 16).convert("P")
    image.putpalette([value for entry in range(16) for value in (entry * 16, 255 - entry * 16, 90)])
    return encoded(image, "PNG", transparency=bytes([0] * 8 + [255] * 8))


def _as_palette(background: tuple[int, int, int] = (255, 255, 255)) -> Pixels:
    entries = GREY // 16
    colors = np.stack([entries * 16, 255 - entries * 16, np.full_like(entries, 90)], axis=-1)
    return np.where((entries < 8)[..., None], np.array(background, np.uint8), colors).astype(np.uint8)


def _animation() -> bytes:
    first = Image.fromarray(GREY)
    return encoded(first, "GIF", save_all=True, append_images=[Image.fromarray(255 - GREY)], duration=50)


# What is in the file, and which upright pixels it stands for, of the model's size.
FILES: dict[str, Callable[[], tuple[bytes, Pixels]]] = {
    **{f"turned-{n}.png": lambda n=n: (_turned(n, "PNG"), COLOR) for n in range(1, 9)},  # type: ignore[misc]
    "turned-6.tiff": lambda: (_turned(6, "TIFF"), COLOR),
    "turned-8.webp": lambda: (encoded(_rotated(), "WEBP", lossless=True, exif=_exif(8)), COLOR),
    "cmyk.tif": lambda: (
        encoded(Image.fromarray(COLOR).convert("CMYK"), "TIFF"),
        np.asarray(Image.fromarray(COLOR).convert("CMYK").convert("RGB")),
    ),
    "16-bit.png": lambda: (encoded(Image.fromarray(GREY.astype(np.uint16) * 257), "PNG"), as_rgb(GREY)),
    "palette.png": lambda: (_palette_with_transparency(), _as_palette()),
    "alpha.png": lambda: (encoded(np.dstack([COLOR, ALPHA]), "PNG"), on_background(COLOR, ALPHA)),
    "animated.gif": lambda: (_animation(), as_rgb(GREY)),
    "grey.png": lambda: (encoded(GREY, "PNG"), as_rgb(GREY)),
    "bilevel.png": lambda: (encoded(Image.fromarray(ALPHA).convert("1"), "PNG"), as_rgb(ALPHA)),
    "another.ending.jpg": lambda: (encoded(COLOR, "BMP"), COLOR),
}


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def _rotated() -> Pixels:
    return np.ascontiguousarray(np.rot90(COLOR, -1))


@pytest.mark.parametrize("name", FILES)
def test_a_file_in_an_odd_format_is_predicted_as_its_upright_pixels(
    tmp_path: Path, model: Path, by_hand: ByHand, name: str
) -> None:
    data, pixels = FILES[name]()
    (tmp_path / name).write_bytes(data)

    (prediction,) = predict(model, tmp_path / name, top_k=4)

    assert prediction.file == str(tmp_path / name)
    check(prediction, by_hand(pixels))


@pytest.mark.parametrize(("orientation", "kind"), [(6, "JPEG"), (1, "HEIF"), (6, "HEIF"), (3, "AVIF")])
def test_lossy_files_too(tmp_path: Path, model: Path, by_hand: ByHand, orientation: int, kind: str) -> None:
    smooth = np.add.outer(np.arange(40) * 4, np.arange(60) * 2).astype(np.uint8)
    picture = np.stack([smooth, 255 - smooth, smooth // 2], axis=-1)
    image = Image.fromarray(picture)
    if kind == "JPEG" or (kind == "AVIF"):
        data = encoded(image, kind, exif=_exif(orientation), quality=98)
        degrees = {1: 0, 3: 180, 6: -90}[orientation]
    else:  # what HEIF's EXIF says of orientation turns nothing
        data, degrees = encoded(image, kind, quality=98), 0
    (tmp_path / "x").write_bytes(data)
    upright = image.rotate(degrees, expand=True).resize((SIDES[1], SIDES[0]), Image.Resampling.BILINEAR)

    (prediction,) = predict(model, tmp_path / "x", top_k=4)

    expected = by_hand(np.asarray(upright))
    assert dict(prediction.classes) == pytest.approx(expected, abs=0.05)
    other = by_hand(np.asarray(upright)[::-1, :, ::-1])
    assert max(abs(other[name] - expected[name]) for name in CLASSES) > 0.1, "else this shows nothing"


@pytest.mark.parametrize("size", [(1, 1), (1500, 1000), (8000, 3), (2, 6000)])
def test_any_size_is_resized_as_by_pillow(tmp_path: Path, model: Path, by_hand: ByHand, size: tuple[int, int]) -> None:
    pixels = random_pixels(*size[::-1], 3)
    save(tmp_path / "x.png", pixels, compress_level=1)

    (prediction,) = predict(model, tmp_path / "x.png", top_k=4)

    check(
        prediction, by_hand(np.asarray(Image.fromarray(pixels).resize((SIDES[1], SIDES[0]), Image.Resampling.BILINEAR)))
    )


def test_color_becomes_grey_for_a_model_of_grey_images(tmp_path: Path, grey_model: Path) -> None:
    save(tmp_path / "color.png", COLOR)
    save(tmp_path / "grey.png", np.asarray(Image.fromarray(COLOR).convert("L")))
    tifffile.imwrite(tmp_path / "wide.tif", GREY.astype(np.uint16) * 257, photometric="minisblack")
    save(tmp_path / "wide.png", GREY)

    found = {Path(each.file).name: each.classes for each in predict(grey_model, tmp_path)}

    assert found["color.png"] == found["grey.png"]
    assert found["wide.tif"] == found["wide.png"] != found["grey.png"]


def test_transparent_parts_are_on_the_background_that_the_model_was_trained_on(
    tmp_path: Path, model: Path, by_hand: ByHand
) -> None:
    (tmp_path / "x.png").write_bytes(_palette_with_transparency())
    document = json.loads((model / "model.json").read_text())
    for name, background in (("named", "black"), ("list", [10, 200, 30]), ("grey", [77]), ("none", None)):
        changed = tmp_path / name
        changed.mkdir()
        (changed / "model.onnx").write_bytes((model / "model.onnx").read_bytes())
        document["provenance"]["params"] = {} if background is None else {"alpha_background": background}
        (changed / "model.json").write_text(json.dumps(document))

    found = {
        name: next(predict(tmp_path / name, tmp_path / "x.png", top_k=4)) for name in ("named", "list", "grey", "none")
    }
    alone = next(predict(model / "model.onnx", tmp_path / "x.png", top_k=4))

    check(found["named"], by_hand(_as_palette((0, 0, 0))))
    check(found["list"], by_hand(_as_palette((10, 200, 30))))
    check(found["grey"], by_hand(_as_palette((77, 77, 77))))
    check(found["none"], by_hand(_as_palette()))
    check(alone, by_hand(_as_palette()))


def test_an_image_for_which_the_network_gives_no_numbers_is_named(tmp_path: Path) -> None:
    network = onnx_model(CLASSES, (*SIDES, 3))
    network.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.array(3e38, np.float32), "scale"))
    content = network.SerializeToString()
    model = write_onnx_directory(tmp_path / "model", content, classes=CLASSES, shape=(*SIDES, 3)).path
    save(tmp_path / "photos" / "black.png", np.zeros((*SIDES, 3), np.uint8))
    save(tmp_path / "photos" / "white.png", np.full((*SIDES, 3), 255, np.uint8))

    black, white = predict(model, tmp_path / "photos")
    (alone,) = predict(model, tmp_path / "photos" / "black.png")

    assert (black.error, black.classes) == ("", alone.classes)
    assert white.classes == ()
    assert white.error == (
        "the network gives values for it that are not finite; train it again, with a smaller learning rate"
    )


def test_a_model_may_be_its_directory_a_runs_or_its_file(tmp_path: Path, model: Path) -> None:
    save(tmp_path / "x.png", COLOR)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model").symlink_to(model)

    found = [list(predict(each, tmp_path / "x.png")) for each in (model, tmp_path / "run", model / "model.onnx")]

    assert found[0] == found[1] == found[2]
    assert len(found[0][0].classes) == 3


@pytest.mark.parametrize("top_k", [1, 2, 4, 100])
def test_the_most_probable_classes_come_first(tmp_path: Path, model: Path, by_hand: ByHand, top_k: int) -> None:
    save(tmp_path / "x.png", COLOR)
    expected = sorted(by_hand(COLOR).items(), key=lambda item: -item[1])[:top_k]

    (prediction,) = predict(model, tmp_path / "x.png", top_k=top_k)

    assert [name for name, _ in prediction.classes] == [name for name, _ in expected]
    assert all(np.float32(ours) == np.float32(str(ours)) for _, ours in prediction.classes)


def test_of_equal_probabilities_the_first_class_counts(tmp_path: Path) -> None:
    names = [f"class {index}" for index in range(300)]
    content = onnx_model(names, (4, 4, 1))
    for tensor in content.graph.initializer:
        if tensor.name in ("linear", "bias"):
            tensor.raw_data = bytes(len(tensor.raw_data))
    directory = write_onnx_directory(tmp_path / "model", content.SerializeToString(), classes=names, shape=(4, 4, 1))
    save(tmp_path / "x.png", GREY)

    (prediction,) = predict(directory.path, tmp_path / "x.png")

    assert [name for name, _ in prediction.classes] == names[:3]


def test_more_files_than_a_batch_holds_are_each_their_own(tmp_path: Path, model: Path, by_hand: ByHand) -> None:
    pixels = random_pixels(1300, *SIDES, 3)
    for index, each in enumerate(pixels):
        if index % 100 == 7:
            (tmp_path / f"{index}.bmp").write_bytes(b"damaged")
        else:
            save(tmp_path / f"{index}.bmp", each)

    found = list(predict(model, tmp_path, top_k=4))

    assert [Path(each.file).name for each in found] == [f"{index}.bmp" for index in range(1300)]
    assert [index for index, each in enumerate(found) if each.error] == list(range(7, 1300, 100))
    for index in (0, 6, 8, 255, 256, 511, 512, 513, 1023, 1024, 1299):
        check(found[index], by_hand(pixels[index]))


def test_files_are_read_as_predictions_are_asked_for(tmp_path: Path, model: Path) -> None:
    save(tmp_path / "x.png", COLOR)
    asked = itertools.count()

    def endless() -> Iterator[Path]:
        for _ in asked:
            yield tmp_path / "x.png"

    predictions = predict(model, endless())
    assert next(asked) == 0
    found = list(itertools.islice(predictions, 700))
    predictions.close()  # type: ignore[attr-defined]

    assert len({each.classes for each in found}) == 1
    assert 700 <= next(asked) < 700 + 5 * 512


def _refusal(call: Callable[[], Any], kind: type[ShutterlineError]) -> str:
    with pytest.raises(kind) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_no_model_is_refused(tmp_path: Path, model: Path) -> None:
    save(tmp_path / "x.png", COLOR)

    def refusal(place: Path, kind: type[ShutterlineError] = ArtifactError, **options: Any) -> str:
        return _refusal(lambda: predict(place, tmp_path / "x.png", **options), kind)

    assert refusal(tmp_path / "none") == f"{tmp_path}/none: there is no such model directory"
    assert "model.json" in refusal(tmp_path)
    assert refusal(model / "model.json", InputError) == f"{model}/model.json: is a model's manifest; name its directory"
    assert "x.png: cannot be run: " in refusal(tmp_path / "x.png")
    assert refusal(model, InputError, top_k=0) == "top_k: must be 1 or more, got 0"
    (tmp_path / "exported").mkdir()
    (tmp_path / "exported" / "model.onnx").write_bytes((model / "model.onnx").read_bytes())
    assert refusal(tmp_path / "exported", InputError).endswith(f"name {tmp_path}/exported/model.onnx itself")

    document = json.loads((model / "model.json").read_text())
    for name, changes, message in (
        ("old", {"onnx": None}, "has no model.onnx, being of version 0.8 or earlier; train it again"),
        (
            "color",
            {"provenance": {**document["provenance"], "params": {"alpha_background": [1, 2]}}},
            "the file is damaged",
        ),
        (
            "text",
            {"provenance": {**document["provenance"], "params": {"alpha_background": "red"}}},
            "the file is damaged",
        ),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.onnx").write_bytes((model / "model.onnx").read_bytes())
        (tmp_path / name / "model.json").write_text(json.dumps(document | changes))
        assert message in refusal(tmp_path / name)


def test_a_damaged_model_is_refused(tmp_path: Path, model: Path) -> None:
    for name in ("model.json", "model.onnx"):
        (tmp_path / name).write_bytes((model / name).read_bytes())
    (tmp_path / "model.onnx").write_bytes((tmp_path / "model.onnx").read_bytes()[:-1] + b"x")

    assert "its SHA-256 is not the manifest's" in _refusal(lambda: predict(tmp_path, tmp_path), ArtifactError)


def test_a_prediction_is_data() -> None:
    assert Prediction("a", (("cat", 0.5),)) == Prediction("a", (("cat", 0.5),), "")
    with pytest.raises(AttributeError):
        Prediction("a").file = "b"  # type: ignore[misc]


def test_files_are_named_as_they_were_given(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save(Path("x.png"), COLOR)
    assert [each.file for each in predict(model, Path("x.png"))] == ["x.png"]
    assert [each.file for each in predict(model, Path())] == ["./x.png"]
    assert [file.name for file in tmp_path.iterdir()] == ["x.png"]


def test_paths_may_be_texts(tmp_path: Path, model: Path) -> None:
    file = save(tmp_path / "x.png", COLOR)
    (expected,) = predict(model, file)
    assert list(predict(str(model), str(file))) == [expected]
    assert list(predict(str(model), [str(file), file])) == [expected, expected]
