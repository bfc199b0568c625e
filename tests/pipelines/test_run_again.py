"""`shutterline run --out DIR` once more: the same run goes on, another one is refused with what differs."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from components.shared.artifacts.model import open_model
from components.shared.errors import InputError
from components.shared.locks import locked
from components.train.checkpoints.format import write_checkpoint
from components.train.checkpoints.resume import LOCK
from pipelines.cli import main
from pipelines.params_files import EXAMPLE_DATA
from pipelines.targets.run_directory import require_run_directory, require_same_run, write_inputs
from tests.examples import small, write_params
from tests.pipelines.conftest import Refused, Shutterline
from tests.train.checkpoints.making import manifest
from tests.train.checkpoints.test_identity import OTHERWISE

OPTIONS: dict[str, Any] = {"num_epochs": 1, "test_fraction": 0.2}


def command(folder: Path, *options: object, **changes: Any) -> list[str]:
    """A run of what lies in a folder."""
    params = write_params(folder / "params.json", **{**OPTIONS, **changes})
    words = ["run", "--params", params, "--data", folder / "digits", "--out", folder / "out", *options]
    return [*map(str, words)]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run of its own copy of the digits."""
    folder = tmp_path_factory.mktemp("done")
    shutil.copytree(EXAMPLE_DATA, folder / "digits")
    assert main(command(folder)) == 0
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name[0] != "."}


@pytest.mark.slow
def test_another_run_is_refused_and_changes_nothing(done: Path, refused: Refused) -> None:
    before = contents(done / "out")
    changed: list[tuple[dict[str, Any], str]] = [
        ({"learning_rate": 0.02}, "learning_rate: 0.01 there, 0.02 here"),
        ({"test_fraction": 0.3}, "test_fraction: 0.2 there, 0.3 here"),
        ({"manual_seed": 7}, "manual_seed: 0 there, 7 here"),
    ]
    for changes, expected in changed:
        message = refused(*command(done, **changes), lines=2)
        start = f"--out {done}/out: holds another run; name another directory, or start over there"
        assert message.startswith(start)
        assert expected in message
    message = refused(*command(done, "--data", EXAMPLE_DATA), lines=2)
    assert f"data: {done}/digits there, {EXAMPLE_DATA} here" in message
    assert contents(done / "out") == before


@pytest.mark.slow
def test_more_epochs_go_on_and_what_changed_or_fails_leaves_the_earlier_model(
    done: Path, shutterline: Shutterline, refused: Refused
) -> None:
    out, images = done / "out", done / "digits" / "train-images-idx3-ubyte.gz"
    result = shutterline(*command(done, "--json", num_epochs=2)).document
    assert result == json.loads((out / "result.json").read_text())
    assert (result["training"]["resumed_from"], result["training"]["epochs"]) == ("its end, after epoch 1", 2)
    assert (out / "model").samefile(result["artifacts"]["model"])
    assert (out / "report.html").samefile(result["artifacts"]["report"])

    before = contents(out)
    message = refused(*command(done, num_epochs=1), lines=2)
    assert "num_epochs: 1 here, and epoch 2 is trained there; ask for at least 2" in message
    assert contents(out) == before

    pixels = gzip.decompress(images.read_bytes())
    images.write_bytes(gzip.compress(pixels[:-1] + bytes([pixels[-1] ^ 1])))
    ended = shutterline(*command(done, num_epochs=2))
    assert ended.code == 2
    assert "holds checkpoints of another run" in ended.err
    assert "the dataset: SHA-256 " in ended.err

    (done / "digits").rename(done / "elsewhere")
    ended = shutterline(*command(done, "--json", num_epochs=2))
    assert (ended.code, ended.document["status"]) == (2, "failed")
    assert ended.document["artifacts"].keys() <= {"checkpoints"}
    assert (out / "report.html").is_file()
    open_model(out / "model")
    ended = shutterline(*command(done, num_epochs=2))
    names = "dataset, quality.html, model, learning-curves.html, evaluation, report.html"
    assert f"{names} stay, of an earlier" in ended.err
    assert shutterline(*command(done, "--start-over", num_epochs=2)).code == 2
    assert not list(out.glob("*.html"))

    (done / "elsewhere").rename(done / "digits")
    ended = shutterline(*command(done, "--start-over", num_epochs=2))
    assert (ended.code, "going on" in ended.err) == (0, False)


def test_a_directory_in_which_nothing_was_made_is_taken(tmp_path: Path) -> None:
    write_inputs(tmp_path, small(), "/data")
    require_same_run(tmp_path, small(learning_rate=0.5), "/other")


@pytest.mark.parametrize("key", ["KAFKA_HOST", "device", "save_freq", "compile", "data_placement", "num_epochs"])
def test_what_does_not_change_the_result_may_differ(tmp_path: Path, key: str) -> None:
    write_inputs(tmp_path, small(), "/data")
    checkpoint = tmp_path / "checkpoints" / "0123" / "epoch-00002-batch-000000.json"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    changes: dict[str, Any] = {key: OTHERWISE[key]} if key != "num_epochs" else {key: 9}
    require_same_run(tmp_path, small(**changes, **({"KAFKA_TOPIC": "runs"} if key == "KAFKA_HOST" else {})), "/data")


COSINE = {"learning_rate_schedule": [{"class": "torch.optim.lr_scheduler.CosineAnnealingLR"}]}


@pytest.mark.parametrize(
    ("there", "here", "reported"),
    [
        ({}, {"num_epochs": 2}, "num_epochs: 2 here, and epoch 4 is trained there"),
        (
            COSINE,
            {**COSINE, "num_epochs": 6},
            "learning_rate_schedule[0] (CosineAnnealingLR without T_max) lasts as long as the run",
        ),
        (
            {"eval_freq": 3},
            {"eval_freq": 3, "num_epochs": 6},
            "epoch 4 was evaluated as that run's last (eval_freq 3); no checkpoint of before is kept",
        ),
    ],
)
def test_what_the_training_would_refuse_is_refused_before_anything_is_touched(
    tmp_path: Path, there: dict[str, Any], here: dict[str, Any], reported: str
) -> None:
    params = small(num_epochs=4, **there)
    write_inputs(tmp_path, params, "/data")
    trained = manifest(5, 0, finished=True, params=params.to_dict())
    write_checkpoint(tmp_path / "checkpoints" / "0123", trained, {})

    with pytest.raises(InputError, match=re.escape(reported)):
        require_same_run(tmp_path, small(**here), "/data")
    require_same_run(tmp_path, params, "/data")


@pytest.mark.parametrize(
    "name", ["params.json", "data.json", "kfp.log", "result.json", "checkpoints/mine.pt", "events/mine.txt"]
)
@pytest.mark.parametrize("options", [(), ("--start-over",)], ids=["plain", "start over"])
def test_files_that_no_run_made_are_refused_and_kept(
    tmp_path: Path, refused: Refused, name: str, options: tuple[str, ...]
) -> None:
    out = tmp_path / "out"
    (out / name).parent.mkdir(parents=True)
    write_params(out / name) if name == "params.json" else (out / name).write_text('{"mine": 1}')
    params = out / name if name == "params.json" else write_params(tmp_path / "params.json")
    before = contents(out)

    message = refused("run", "--params", params, "--data", EXAMPLE_DATA, "--out", out, *options)

    assert message.startswith(f"--out {out}: holds files that no run of Shutterline made ({name.partition('/')[0]})")
    assert "name a new or empty directory" in message
    assert contents(out) == before
    assert {path.name for path in out.iterdir()} == {name.partition("/")[0]}


def test_other_files_an_empty_folder_and_linked_checkpoints_may_be_there(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    (tmp_path / "events").mkdir()
    (tmp_path / "elsewhere" / "mine").mkdir(parents=True)
    (tmp_path / "checkpoints").symlink_to("elsewhere")
    require_run_directory(tmp_path)
    require_run_directory(tmp_path / "none")

    write_inputs(tmp_path, small(), "/data")
    (tmp_path / "kfp.log").touch()
    require_run_directory(tmp_path)


@pytest.mark.parametrize("linked", [False, True], ids=["folder", "link"])
def test_starting_over_removes_our_checkpoints_alone(
    tmp_path: Path, shutterline: Shutterline, refused: Refused, linked: bool
) -> None:
    out, kept = tmp_path / "out", tmp_path / "out" / "checkpoints"
    out.mkdir()
    if linked:
        (tmp_path / "disk").mkdir()
        kept.symlink_to(tmp_path / "disk")
    write_inputs(out, small(), "/data")
    for name in ("0123", "4567"):
        write_checkpoint(kept / name, manifest(2, 7), {})
        (kept / name / LOCK).touch()
        (kept / name / ".epoch-00003-batch-000000.pt.0123abcd.tmp").touch()
    (kept / "other").mkdir()
    for name in ("4567/epoch-best.pt", "other/weights.pt", "notes.txt"):
        (kept / name).touch()
    (tmp_path / "digits").mkdir()  # empty, so that data prep refuses, and no run is needed

    with locked(kept / "0123" / LOCK):
        (out / "result.json").write_text("{}")
        message = refused(*command(tmp_path, "--start-over"))
        assert "is training there; wait for its end, end it, or name another --out" in message
        assert (out / "result.json").exists()
        assert len(list(kept.glob("*/epoch-*.json"))) == 2

    shutterline(*command(tmp_path, "--start-over"))

    left = {str(path.relative_to(kept)) for path in kept.rglob("*")}
    assert left == {"4567", "4567/epoch-best.pt", "other", "other/weights.pt", "notes.txt"}
    assert kept.is_symlink() == linked
