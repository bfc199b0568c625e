"""Images, models and predictions in buckets."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from components.predict.__main__ import main
from components.predict.image_files import ImageFiles
from components.predict.predict import predict
from components.predict.step import predict_staged
from components.shared.decoding.content import UnreadableImageError
from components.shared.errors import DataError, InputError, StorageRefusedError
from components.shared.staging import SCRATCH_VARIABLE
from components.shared.storage import fetch_ahead
from components.shared.storage.location import Location, parse_location
from tests.peers.gcs import GcsBucket
from tests.peers.http_faults import CutAnswer, FlipAnswerByte, Hold, Refuse
from tests.peers.object_store import Bucket
from tests.predict.conftest import SIDES
from tests.shared.decoding.pictures import encoded, random_pixels, read_image

PIXELS = random_pixels(30, *SIDES, 3)


def _at(bucket: Bucket, key: str) -> Location:
    location = parse_location(f"{bucket.uri}/{key}")
    assert isinstance(location, Location)
    return location


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setenv(SCRATCH_VARIABLE, str(folder))
    monkeypatch.setenv("SHUTTERLINE_STORAGE_TIMEOUT", "20")
    return folder


def test_predictions_are_those_of_the_same_files_here(
    bucket: Bucket, model: Path, tmp_path: Path, scratch: Path
) -> None:
    for index in range(6):
        data = encoded(PIXELS[index], "PNG")
        bucket.write(f"photos/x{index}/{index}.png", data)
        (tmp_path / "photos" / f"x{index}").mkdir(parents=True)
        (tmp_path / "photos" / f"x{index}" / f"{index}.png").write_bytes(data)
    for name, data in (
        ("photos/a.txt", b"x"),
        ("photos/.hidden/1.png", b"x"),
        ("photos/bad.jpg", b"x"),
        ("photos/", b""),
    ):
        bucket.write(name, data)
    bucket.write("photos/empty.png", b"")
    bucket.write("photoshop/other.png", b"x")

    found = list(predict(model, _at(bucket, "photos"), top_k=4))
    one = list(predict(model, [_at(bucket, "photos/x3/3.png"), tmp_path / "photos" / "x3"], top_k=4))

    expected = list(predict(model, tmp_path / "photos", top_k=4))
    assert {each.file: each.classes for each in found if not each.error} == {
        each.file.replace(str(tmp_path), bucket.uri): each.classes for each in expected
    }
    assert {each.file.removeprefix(bucket.uri): each.error for each in found if each.error} == {
        "/photos/bad.jpg": "is not an image in a known format",
        "/photos/empty.png": "is empty",
    }
    assert one[0].classes == one[1].classes == expected[3].classes
    assert list(scratch.iterdir()) == []


def test_model_and_predictions_may_be_in_a_bucket(bucket: Bucket, model: Path, tmp_path: Path, scratch: Path) -> None:
    for name in ("model.json", "model.onnx"):
        bucket.write(f"runs/model/{name}", (model / name).read_bytes())
    bucket.write("served/model.onnx", (model / "model.onnx").read_bytes())
    bucket.write("photos/1.png", encoded(PIXELS[0], "PNG"))

    made = {}
    for name in ("runs/model", "served/model.onnx"):
        output = _at(bucket, f"made/{name}.csv")
        result = predict_staged(model=_at(bucket, name), images=[_at(bucket, "photos")], output=output)
        assert (result.predictions, result.images) == (str(output), 1)
        made[name] = bucket.read(f"made/{name}.csv").decode()

    assert made["runs/model"] == made["served/model.onnx"]
    (row,) = csv.DictReader(made["runs/model"].splitlines())
    assert row["file"] == f"{bucket.uri}/photos/1.png"
    (local,) = predict(model, _at(bucket, "photos/1.png"))
    assert (row["class"], float(row["probability"])) == local.classes[0]


def test_predictions_that_cannot_be_written_are_an_error_before_the_first(
    bucket: Bucket, model: Path, scratch: Path
) -> None:
    bucket.write("photos/1.png", encoded(PIXELS[0], "PNG"))
    bucket.faults.clear()
    for output, message in (
        (bucket.uri, "is a whole bucket; add a key for the predictions"),
        (f"{bucket.uri}-none/out.csv", "there is no bucket"),
    ):
        with pytest.raises(InputError, match=message):
            predict_staged(model=model, images=[_at(bucket, "photos")], output=parse_location(output))
    assert bucket.faults.bytes_read("1.png") == 0
    assert list(scratch.iterdir()) == []


def test_what_is_not_there_is_an_error_in_one_line(bucket: Bucket, model: Path, scratch: Path) -> None:
    bucket.write("photos/a.txt", b"x")
    for key, kind, message in (
        ("none", StorageRefusedError, "nothing is there; check the name"),
        ("photos", DataError, "no image is there; not images: 1 .txt"),
        ("photos/a.txt", DataError, "is not an image in a known format"),
    ):
        with pytest.raises(kind) as caught:
            predict_staged(model=model, images=[_at(bucket, key)], output=scratch / "out.csv")
        assert str(caught.value).startswith(f"{bucket.uri}/{key}: {message}")
    assert list(scratch.iterdir()) == []


def test_objects_that_change_meanwhile_are_listed(bucket: Bucket, scratch: Path) -> None:
    for name in ("1.png", "2.png", "3.png", "4.png"):
        bucket.write(f"photos/{name}", encoded(PIXELS[0], "PNG"))
    with ImageFiles([_at(bucket, "photos")]) as files:
        found = iter(files)
        first = next(found)  # they are all listed now
        bucket.write("photos/2.png", encoded(PIXELS[1], "PNG"))
        bucket.delete("photos/3.png")
        reasons = []
        for file in (first, *found):
            try:
                with file.opened as path:
                    reasons.append(str(read_image(path, (4, 4, 3)).shape))
            except UnreadableImageError as error:
                reasons.append(str(error))
    changed = "was removed or replaced while the others were read; start again"
    assert reasons == ["(4, 4, 3)", changed, changed, "(4, 4, 3)"]


def test_little_is_on_this_machine_at_once_however_many_objects_there_are(
    gcs_bucket: GcsBucket, model: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch_ahead, "AHEAD_FILES", 20)
    data = [encoded(each, "PNG") for each in PIXELS]
    for index in range(210):
        gcs_bucket.write(f"photos/{index:04d}.png", data[index % 30])
    expected = [next(predict(model, _at(gcs_bucket, f"photos/{index:04d}.png"))).classes for index in range(30)]

    most, found = 0, []
    for each in predict(model, _at(gcs_bucket, "photos")):
        found.append(each)
        most = max(most, sum(1 for file in scratch.rglob("*") if file.is_file()))

    assert [each.classes for each in found] == expected * 7
    assert [each.file for each in found] == [f"{gcs_bucket.uri}/photos/{index:04d}.png" for index in range(210)]
    assert most <= 20
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("limit", [1, 1000])
def test_bytes_on_this_machine_are_bounded_too(
    gcs_bucket: GcsBucket, model: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(fetch_ahead, "AHEAD_BYTES", limit)  # of one image, which is fetched when it is alone
    for index in range(30):
        gcs_bucket.write(f"photos/{index}.png", encoded(PIXELS[index], "PNG"))

    assert len([each for each in predict(model, _at(gcs_bucket, "photos")) if not each.error]) == 30


def test_predictions_that_are_given_up_leave_nothing(gcs_bucket: GcsBucket, model: Path, scratch: Path) -> None:
    for index in range(30):
        gcs_bucket.write(f"photos/{index}.png", encoded(PIXELS[index], "PNG"))

    predictions = predict(model, _at(gcs_bucket, "photos"))
    next(predictions)
    predictions.close()  # type: ignore[attr-defined]

    assert list(scratch.iterdir()) == []


def test_a_store_that_recovers_loses_nothing(bucket: Bucket, model: Path, scratch: Path) -> None:
    for index in range(12):
        bucket.write(f"photos/{index:02d}.png", encoded(PIXELS[index], "PNG"))
    expected = list(predict(model, _at(bucket, "photos")))
    bucket.faults.inject(Refuse(503), "read", times=5)
    bucket.faults.inject(CutAnswer(100), "read", times=5)
    bucket.faults.inject(FlipAnswerByte(50), "read", times=2)

    assert list(predict(model, _at(bucket, "photos"))) == expected
    assert {each.error for each in expected} == {""}


@pytest.mark.slow
@pytest.mark.parametrize("effect", [Refuse(503), Hold()])
def test_a_store_that_does_not_recover_ends_it_with_one_message(
    bucket: Bucket,
    model: Path,
    scratch: Path,
    effect: Refuse | Hold,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SHUTTERLINE_STORAGE_TIMEOUT", "1")
    for index in range(40):
        bucket.write(f"photos/{index:02d}.png", encoded(PIXELS[index % 30], "PNG"))
    bucket.faults.inject(effect, "read", skip=20, times=None)
    output = scratch.parent / "out.csv"

    assert main(["--model", str(model), "--images", f"{bucket.uri}/photos", "--output", str(output)]) == 1

    (error,) = [line for line in capsys.readouterr().err.splitlines() if "ERROR" in line]
    assert "gave up after" in error
    assert not output.exists()
    assert list(scratch.iterdir()) == []
