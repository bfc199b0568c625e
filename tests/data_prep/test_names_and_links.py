from __future__ import annotations

import os
import socket
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from components.data_prep.__main__ import main
from components.data_prep.prepare import prepare
from components.shared.artifacts.dataset import open_dataset
from components.shared.errors import ArtifactError, DataError
from pipelines.cli import main as shutterline
from tests.data_prep.building import (
    TWO_OF_EACH,
    files_of,
    idx_folder,
    info_csv,
    params,
    params_json,
    prepared,
    refusal,
    tree,
    values_of,
)

NFC, NFD = "café", unicodedata.normalize("NFD", "café")


@pytest.mark.parametrize(("train", "held_out"), [(NFC, NFD), (NFD, NFC)])
def test_class_names_match_whatever_their_composition(tmp_path: Path, train: str, held_out: str) -> None:
    data = tree(tmp_path / "data", f"train/{train}/×2.png", "train/tea/×2.png")
    tree(data, f"test/{held_out}/0.png", "test/tea/0.png", f"val/{held_out}/0.png", first=100)

    assert prepared(data).class_counts == {
        "train": {NFC: 2, "tea": 2},
        "test": {NFC: 1, "tea": 1},
        "validation": {NFC: 1, "tea": 0},
    }
    assert open_dataset(tmp_path / "out").manifest.classes == [NFC, "tea"]


def test_two_folders_of_one_class_are_refused(tmp_path: Path) -> None:
    assert (
        r"the folders 'cafe\u0301' and 'caf\xe9' differ in Unicode composition alone, and so name one class"
    ) in refusal(tree(tmp_path / "data", f"{NFC}/×2.png", f"{NFD}/×2.png"))


def test_a_tables_files_and_types_match_whatever_their_composition(tmp_path: Path) -> None:
    rows = f"{NFC}/0.png,{NFC}\n{NFC}/{NFC}.png,{NFD}\n2.png,tea\n3.png,tea\n"
    data = info_csv(tmp_path / "data" / "train", f"files,type\n{rows}", ["2.png", "3.png"]).parent
    tree(data / "train", f"{NFD}/0.png", f"{NFD}/{NFD}.png")

    result = prepared(data)

    assert (result.manifest.classes, result.counts) == ([NFC, "tea"], {"train": 2, "test": 2})
    assert result.manifest.left_out.images == {}


def test_a_tables_file_that_may_be_two_is_refused(tmp_path: Path) -> None:
    # Neither composed nor decomposed as a whole, and so neither of the two.
    half, composed = "e\u0301\u00e9.png", "\u00e9\u00e9.png"
    data = info_csv(tmp_path / "data" / "train", f"files,type\n{half},a\n").parent
    tree(data / "train", composed, unicodedata.normalize("NFD", composed))

    assert (r"it may be 'e\u0301e\u0301.png' or '\xe9\xe9.png', alike but for Unicode composition: rename") in refusal(
        data
    )


@pytest.mark.parametrize("other", ["Cat", "CAT", " cat", "cat "])
def test_classes_that_differ_in_case_or_spaces_are_named_together(tmp_path: Path, other: str) -> None:
    message = refusal(tree(tmp_path / "data", "train/cat/×2.png", "train/dog/×2.png", f"test/{other}/0.png"))

    assert f"holds 1 class(es) that train does not have ({other})" in message
    assert f"{other} and cat of train differ in case or spaces alone: rename one of them" in message


def test_classes_alike_are_named_in_a_warning(tmp_path: Path, log: Callable[[], str]) -> None:
    data = tree(tmp_path / "data", "Cat/×2.png", "cat/×2.png", "dog/×2.png")

    assert prepared(data, n_classes=3).manifest.classes == ["Cat", "cat", "dog"]
    assert "WARNING 2 classes differ from another in case or spaces alone: Cat, cat" in log()


@pytest.mark.parametrize("dataset", ["data", "data/cat/deeper/out", "data/../data/out", "link/out", "into/out", "."])
def test_an_output_in_or_around_the_data_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], dataset: str
) -> None:
    monkeypatch.chdir(tmp_path)
    data = tree(Path("data"), *TWO_OF_EACH)
    Path("link").symlink_to("data")
    Path("into").symlink_to("data/cat")
    before = files_of(tmp_path)
    expected = "holds the data" if dataset == "." else "is in the data"

    with pytest.raises(SystemExit) as ended:
        main(["--data", str(data), "--dataset", dataset, "--params", params_json()])
    with pytest.raises(ArtifactError, match=expected):
        prepare(data=data, dataset=Path(dataset), params=params())

    told = capsys.readouterr().err
    assert (ended.value.code, told.count("error:"), told.count("\n")) == (2, 1, 1)
    assert f"--dataset {Path(dataset)}: {expected}" in told
    assert files_of(tmp_path) == before


@pytest.mark.parametrize("dataset", ["data-out", "dat", "out/data"])
def test_an_output_beside_the_data_is_written(tmp_path: Path, dataset: str) -> None:
    assert prepared(tree(tmp_path / "data", *TWO_OF_EACH), dataset).counts == {"train": 2, "test": 2}


def test_an_output_in_the_data_of_a_bucket_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--data", "gs://bucket/photos", "--dataset", "gs://bucket/photos/out", "--params", params_json()])

    assert ended.value.code == 2
    assert "--dataset gs://bucket/photos/out: is in the data, gs://bucket/photos" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--data", "data", "--out", "data/out"], "error: --out data/out: is in the data, data"),
        (["--data", "data", "--out", "link/out"], "error: --out link/out: is in the data, data"),
        (["--data", ".", "--out", "out"], "error: --out out: is in the data, ."),
        (["--data", "."], "error: --out runs: is in the data, ."),
        (["--data", "kept/checkpoints/data", "--out", "kept"], "kept/checkpoints, which the run writes"),
    ],
)
def test_a_run_in_the_data_is_refused_before_anything_is_written(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    expected: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for data in ("data", "kept/checkpoints/data"):
        tree(Path(data), *TWO_OF_EACH)
    Path("link").symlink_to("data")
    before = sorted(tmp_path.rglob("*"))

    code = shutterline(["run", *options, "--params", params_json()])

    told = capsys.readouterr().err
    assert (code, told.count("\n")) == (2, 1)
    assert expected in told
    assert sorted(tmp_path.rglob("*")) == before


def test_links_are_not_followed_into_containers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tree(tmp_path / "data", *TWO_OF_EACH)
    options = ["--data", str(data), "--out", str(tmp_path / "out"), "--params", params_json()]

    assert shutterline(["run", "--runner", "docker", "--follow-links", *options]) == 2

    assert "--follow-links: a container sees the data folder alone" in capsys.readouterr().err


def test_class_folders_linked_within_the_data_are_followed(tmp_path: Path) -> None:
    links = (f"train/{name}→../store/{name}" for name in ("cat", "dog"))
    data = tree(tmp_path / "data", "store/cat/×2.png", "store/dog/×2.png", "train/bee/×2.png", "test/bee/0.png", *links)

    result = prepared(data, n_classes=3)

    assert result.class_counts["train"] == {"bee": 2, "cat": 2, "dog": 2}
    assert result.manifest.left_out.images == {}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["cat/again→../.."], "DATA/cat/again: is a link that leads out of"),
        (["cat/again→."], "DATA/cat/again: is a link to a folder above it, which would be read without end; remove"),
        (
            ["cat/more→../dog", "dog/more→../cat"],
            "is by a link the same folder as cat, which is read already, and an image has one class and one split",
        ),
        (["puppy→dog"], "DATA/puppy: is by a link the same folder as dog, which is read already"),
        (
            ["train/cat/×2.png", "train/dog/×2.png", "test/cat→../train/cat"],
            "DATA/test/cat: is by a link the same folder as train/cat",
        ),
        (
            ["dog/x.png→../cat/0.png"],
            "DATA/dog/x.png: is by a link the same image as cat/0.png, and an image has one class and one split",
        ),
        (
            [".store/x.png", "dog/x.png→../.store/x.png", "cat/y.png→../.store/x.png"],
            "is by a link the same image as cat/y.png",
        ),
        (["fox→nowhere"], "DATA/fox: is a link that leads nowhere; remove it"),
    ],
    ids=["out", "itself", "round", "two classes", "two splits", "an image of two classes", "one target", "nowhere"],
)
def test_links_that_read_an_image_twice_or_without_end_are_refused(
    tmp_path: Path, files: list[str], expected: str
) -> None:
    classes = () if files[0].startswith("train") else TWO_OF_EACH

    assert expected in refusal(tree(tmp_path / "data", *classes, *files), n_classes=3 if "puppy→dog" in files else 2)


def test_hard_links_are_the_same_image(tmp_path: Path) -> None:
    data = tree(tmp_path / "data", *TWO_OF_EACH)
    os.link(data / "cat" / "0.png", data / "dog" / "x.png")

    assert "DATA/dog/x.png: is by a link the same image as cat/0.png, and an image has one class and" in refusal(data)


def test_images_linked_twice_in_a_class_are_counted_in_a_warning(tmp_path: Path, log: Callable[[], str]) -> None:
    data = tree(tmp_path / "data", *TWO_OF_EACH, "cat/2.png→1.png")
    os.link(data / "dog" / "0.png", data / "dog" / "2.png")
    os.link(data / "dog" / "1.png", tmp_path / "of a backup.png")

    prepared(data)

    assert "2 image(s) are links to others that are read, too" in log()


ROWS = "files,type\n0.png,a\n1.png,a\n2.png,b\n3.png,b\n"
LINKED = {
    "cat": ("outside/×2.png", "data/dog/×2.png", "data/cat→../outside"),
    "train": ("outside/cat/×2.png", "outside/dog/×2.png", "data/train→../outside"),
    "cat/x.png": ("outside/x.png", "data/cat/0.png", "data/dog/×2.png", "data/cat/x.png→../../outside/x.png"),
    "train/info.csv": ("data/train/×4.png", "data/train/info.csv→../../outside/info.csv"),
    "train/info.csv, line 3: x.png": ("data/train/×4.png", "outside/x.png", "data/train/x.png→../../outside/x.png"),
    "train-labels-idx1-ubyte": ("data/train-labels-idx1-ubyte→../labels",),
}


def _linked(folder: Path, link: str) -> Path:
    """Data of two classes with a link to what is outside of it."""
    data = tree(folder, *LINKED[link]) / "data"
    if link == "train/info.csv":
        info_csv(folder / "outside", ROWS)
    elif "line" in link:
        info_csv(data / "train", ROWS.replace("1.png", "x.png"))
    elif link.startswith("train-"):
        (idx_folder(folder / "idx") / link).rename(folder / "labels")
        (folder / "idx" / "train-images-idx3-ubyte").rename(data / "train-images-idx3-ubyte")
    return data


@pytest.mark.parametrize("link", LINKED)
@pytest.mark.parametrize("how", ["option", "variable"])
def test_what_leaves_the_data_needs_follow_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, link: str, how: str
) -> None:
    data = _linked(tmp_path, link)
    arguments = ["--data", str(data), "--dataset", str(tmp_path / "out"), "--params", params_json()]

    message = refusal(data)
    monkeypatch.setenv("SHUTTERLINE_FOLLOW_LINKS", "1" if how == "variable" else "0")

    assert message.startswith(f"DATA/{link}")
    assert "is a link that leads out of" in message
    assert main([*arguments, "--follow-links"] if how == "option" else arguments) == 0
    assert len(values_of(tmp_path / "out", "train")) >= 2


def test_links_out_of_the_data_and_back_end(tmp_path: Path) -> None:
    data = _linked(tmp_path, "cat")
    (tmp_path / "outside" / "back").symlink_to(data)

    with pytest.raises(DataError, match="is by a link the same folder as"):
        prepare(data=data, dataset=tmp_path / "out", params=params(), follow_links=True)


def test_a_path_of_a_table_never_leads_out(tmp_path: Path) -> None:
    tree(tmp_path, "secret.png", "elsewhere/secret.png", "elsewhere/images/0.png")
    data = info_csv(tmp_path / "data" / "train", "files,type\n../../secret.png,a\n").parent

    assert "../../secret.png leads out of" in refusal(data, "--follow-links")

    (data / "train" / "images").symlink_to(tmp_path / "elsewhere" / "images")
    info_csv(data / "train", "files,type\nimages/../secret.png,a\n")

    assert "images/../secret.png: there is no such file in" in refusal(data, "--follow-links")


def test_a_wrong_value_of_the_variable_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHUTTERLINE_FOLLOW_LINKS", "yes")

    assert "SHUTTERLINE_FOLLOW_LINKS: must be 1 or 0, got yes" in refusal(tree(tmp_path / "data", *TWO_OF_EACH))


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        before = Path.cwd()
        os.chdir(path.parent)  # its name may have 108 bytes
        try:
            made.bind(path.name)
        finally:
            os.chdir(before)


@pytest.mark.parametrize("make", [os.mkfifo, _socket, lambda path: path.symlink_to("/dev/zero")])
@pytest.mark.parametrize(
    "file", ["cat/x.png", "train/info.csv", "train-images-idx3-ubyte", "train/cat/x.jpg", "test/cat/x.png"]
)
def test_pipes_sockets_and_devices_are_refused_at_once(
    tmp_path: Path, file: str, make: Callable[[Path], object]
) -> None:
    folder = file.rpartition("/")[0].removesuffix("cat").rstrip("/")
    data = tree(tmp_path / "data", *(f"train/{name}" for name in TWO_OF_EACH)) if folder else tmp_path / "data"
    if file.startswith("train-"):
        (idx_folder(data) / file).unlink()
    else:
        tree(data / folder, *TWO_OF_EACH)
    make(data / file)

    assert refusal(data).startswith(f"DATA/{file}: is ")


@pytest.mark.slow
def test_a_run_follows_links_out_of_the_data_if_asked_to(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = _linked(tmp_path, "cat")
    (data / "cat" / "9.png").write_bytes(b"no image")  # with which the run ends, once it has looked there
    monkeypatch.delenv("SHUTTERLINE_FOLLOW_LINKS", raising=False)
    options = ["--data", str(data), "--out", str(tmp_path / "run"), "--params", params_json()]

    assert shutterline(["run", *options]) == 2
    refused = capfd.readouterr().err
    assert shutterline(["run", *options, "--follow-links"]) == 2
    followed = capfd.readouterr().err

    assert "cat: is a link that leads out of" in refused
    assert "9.png" not in refused
    assert "cat/9.png: is not an image" in followed
    assert "SHUTTERLINE_FOLLOW_LINKS" not in os.environ
