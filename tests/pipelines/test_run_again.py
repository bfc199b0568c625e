"""`shutterline run --out DIR` once more: the same run goes on, another one is refused with what differs."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipelines.cli import main
from pipelines.params_files import EXAMPLE_DATA
from pipelines.targets.run_inputs import require_same_run, write_inputs
from tests.examples import small, write_params
from tests.train.checkpoints.test_identity import OTHERWISE

OPTIONS: dict[str, Any] = {"num_epochs": 1, "test_fraction": 0.2}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run of its own copy of the digits."""
    folder = tmp_path_factory.mktemp("done")
    write_params(folder / "params.json", **OPTIONS)
    shutil.copytree(EXAMPLE_DATA, folder / "digits")
    assert run_in(folder) == 0
    return folder


def run_in(folder: Path, *options: str, **changes: Any) -> int:
    """Run what lies in a folder."""
    params = write_params(folder / "params.json", **{**OPTIONS, **changes})
    words = ["--params", str(params), "--data", str(folder / "digits"), "--out", str(folder / "out")]
    return main(["run", *words, *options])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name[0] != "."}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        pytest.param(
            changes,
            told,
            id=told,
            marks=pytest.mark.mended(
                12,
                input=f"run --out DIR of another run, with {next(iter(changes))} changed",
                before="DIR's result was replaced, and training began anew",
                now="refused with what differs; --start-over",
            ),
        )
        for changes, told in (
            ({"learning_rate": 0.02}, "learning_rate: 0.01 there, 0.02 here"),
            ({"test_fraction": 0.3}, "test_fraction: 0.2 there, 0.3 here"),
            ({"manual_seed": 7}, "manual_seed: 0 there, 7 here"),
        )
    ],
)
@pytest.mark.slow
def test_other_params_are_refused_and_change_nothing(
    done: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], told: str
) -> None:
    before = contents(done / "out")
    capsys.readouterr()

    assert run_in(done, **changes) == 2

    said = capsys.readouterr().err
    assert f"error: --out {done}/out: holds another run; name another directory, or start over there" in said
    assert told in said
    assert "Traceback" not in said
    assert contents(done / "out") == before


@pytest.mark.mended(
    12,
    input="run --out DIR of another run, with other --data",
    before="DIR's result was replaced, and training began anew",
    now="refused with what differs; --start-over",
)
@pytest.mark.slow
def test_other_data_is_refused_and_changes_nothing(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(done / "out")
    capsys.readouterr()

    assert run_in(done, "--data", str(EXAMPLE_DATA)) == 2

    assert f"data: {done}/digits there, {EXAMPLE_DATA} here" in capsys.readouterr().err
    assert contents(done / "out") == before


@pytest.mark.mended(
    12,
    input="run --out DIR again with more epochs",
    before="training began anew",
    now="goes on from the checkpoint",
)
@pytest.mark.slow
def test_more_epochs_go_on_and_data_that_changed_is_refused(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_in(done, num_epochs=2) == 0
    result = json.loads((done / "out" / "result.json").read_text())
    assert result["training"]["resumed_from"] == "its end, after epoch 1"
    assert result["training"]["epochs"] == 2

    images = done / "digits" / "train-images-idx3-ubyte.gz"
    pixels = gzip.decompress(images.read_bytes())
    images.write_bytes(gzip.compress(pixels[:-1] + bytes([pixels[-1] ^ 1])))
    capsys.readouterr()
    assert run_in(done, num_epochs=2) == 2
    said = capsys.readouterr().err
    assert "holds checkpoints of another run" in said
    assert "the dataset: SHA-256 " in said

    assert run_in(done, "--start-over", num_epochs=2) == 0
    assert "going on" not in capsys.readouterr().err


def test_a_directory_in_which_nothing_was_made_is_taken(tmp_path: Path) -> None:
    write_inputs(tmp_path, small(), "/data")
    require_same_run(tmp_path, small(learning_rate=0.5), "/other")


@pytest.mark.parametrize("key", ["KAFKA_HOST", "device", "save_freq", "compile", "data_placement", "num_epochs"])
def test_what_does_not_change_the_result_may_differ(tmp_path: Path, key: str) -> None:
    write_inputs(tmp_path, small(), "/data")
    checkpoint = tmp_path / "checkpoints" / "0123" / "epoch-00002-batch-000000.json"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    changes: dict[str, Any] = {"num_epochs": 9} if key == "num_epochs" else {key: OTHERWISE[key]}
    if key == "KAFKA_HOST":
        changes["KAFKA_TOPIC"] = "runs"
    require_same_run(tmp_path, small(**changes), "/data")
