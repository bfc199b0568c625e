"""`shutterline run --out DIR` once more: the same run goes on, another one is refused with what differs."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from components.shared.errors import InputError
from components.shared.locks import locked
from components.train.checkpoints.format import CheckpointManifest, write_checkpoint
from components.train.checkpoints.resume import LOCK
from pipelines.cli import main
from pipelines.params_files import EXAMPLE_DATA
from pipelines.targets.run_directory import require_run_directory, require_same_run, write_inputs
from tests.examples import small, write_params
from tests.pipelines.conftest import Capsys
from tests.train.checkpoints.making import manifest
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
        pytest.param(changes, told, id=told)
        for changes, told in (
            ({"learning_rate": 0.02}, "learning_rate: 0.01 there, 0.02 here"),
            ({"test_fraction": 0.3}, "test_fraction: 0.2 there, 0.3 here"),
            ({"manual_seed": 7}, "manual_seed: 0 there, 7 here"),
        )
    ],
)
@pytest.mark.slow
def test_other_params_are_refused_and_change_nothing(
    done: Path, capsys: Capsys, changes: dict[str, Any], told: str
) -> None:
    before = contents(done / "out")
    capsys.readouterr()

    assert run_in(done, **changes) == 2

    said = capsys.readouterr().err
    assert f"error: --out {done}/out: holds another run; name another directory, or start over there" in said
    assert told in said
    assert "Traceback" not in said
    assert contents(done / "out") == before


@pytest.mark.slow
def test_other_data_is_refused_and_changes_nothing(done: Path, capsys: Capsys) -> None:
    before = contents(done / "out")
    capsys.readouterr()

    assert run_in(done, "--data", str(EXAMPLE_DATA)) == 2

    assert f"data: {done}/digits there, {EXAMPLE_DATA} here" in capsys.readouterr().err
    assert contents(done / "out") == before


@pytest.mark.slow
def test_more_epochs_go_on_and_data_that_changed_is_refused(done: Path, capsys: Capsys) -> None:
    assert run_in(done, num_epochs=2) == 0
    result = json.loads((done / "out" / "result.json").read_text())
    assert result["training"]["resumed_from"] == "its end, after epoch 1"
    assert result["training"]["epochs"] == 2
    assert (done / "out" / "model").samefile(result["artifacts"]["model"])
    assert (done / "out" / "report.html").samefile(result["artifacts"]["report"])

    before = contents(done / "out")
    capsys.readouterr()
    assert run_in(done, num_epochs=1) == 2
    assert "num_epochs: 1 here, and epoch 2 is trained there; ask for at least 2" in capsys.readouterr().err
    assert contents(done / "out") == before

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


COSINE = [{"class": "torch.optim.lr_scheduler.CosineAnnealingLR"}]


@pytest.mark.parametrize(
    ("there", "here", "told"),
    [
        pytest.param(there, here, told, id=told)
        for what, there, here, told in (
            ("num_epochs=2 after 4", {}, {"num_epochs": 2}, "num_epochs: 2 here, and epoch 4 is trained there"),
            (
                "num_epochs=6 after 4, of a schedule that lasts as long as the run",
                {"learning_rate_schedule": COSINE},
                {"learning_rate_schedule": COSINE, "num_epochs": 6},
                "learning_rate_schedule[0] (CosineAnnealingLR without T_max) lasts as long as the run",
            ),
            (
                "num_epochs=6 after 4, with eval_freq=3",
                {"eval_freq": 3},
                {"eval_freq": 3, "num_epochs": 6},
                "epoch 4 was evaluated as that run's last (eval_freq 3); no checkpoint of before is kept",
            ),
        )
    ],
)
def test_what_the_training_would_refuse_is_refused_before_anything_is_touched(
    tmp_path: Path, there: dict[str, Any], here: dict[str, Any], told: str
) -> None:
    params = small(num_epochs=4, **there)
    write_inputs(tmp_path, params, "/data")
    manifest = CheckpointManifest(
        created_by="shutterline",
        epoch=5,
        batch=0,
        step=8,
        finished=True,
        params=params.to_dict(),
        dataset_sha256="0" * 64,
        processes=1,
        device="cpu",
        torch="2",
    )
    write_checkpoint(tmp_path / "checkpoints" / "0123", manifest, {})

    with pytest.raises(InputError, match=re.escape(told)):
        require_same_run(tmp_path, small(**here), "/data")
    require_same_run(tmp_path, params, "/data")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name)
        for name in ("params.json", "data.json", "kfp.log", "result.json", "checkpoints/mine.pt", "events/mine.txt")
    ],
)
@pytest.mark.parametrize("options", [(), ("--start-over",)], ids=["plain", "start over"])
def test_files_that_no_run_made_are_refused_and_kept(
    tmp_path: Path, capsys: Capsys, name: str, options: tuple[str, ...]
) -> None:
    out = tmp_path / "out"
    (out / name).parent.mkdir(parents=True)
    write_params(out / name) if name == "params.json" else (out / name).write_text('{"mine": 1}')
    params = out / name if name == "params.json" else write_params(tmp_path / "params.json")
    before = contents(out)

    assert main(["run", "--params", str(params), "--data", str(EXAMPLE_DATA), "--out", str(out), *options]) == 2

    error = capsys.readouterr().err
    assert f"error: --out {out}: holds files that no run of Shutterline made ({name.partition('/')[0]})" in error
    assert "name a new or empty directory" in error
    assert "Traceback" not in error
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


@pytest.mark.parametrize("linked", [pytest.param(False, id="folder"), pytest.param(True, id="link")])
def test_starting_over_removes_our_checkpoints_alone(tmp_path: Path, capsys: Capsys, linked: bool) -> None:
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
    (kept / "4567" / "epoch-best.pt").touch()
    (kept / "other").mkdir()
    (kept / "other" / "weights.pt").touch()
    (kept / "notes.txt").touch()
    empty = tmp_path / "empty"  # so that data prep refuses, and no run is needed
    empty.mkdir()
    words = ["--params", str(write_params(tmp_path / "params.json")), "--data", str(empty), "--out", str(out)]

    with locked(kept / "0123" / LOCK):
        (out / "result.json").write_text("{}")
        assert main(["run", *words, "--start-over"]) == 2
        assert "is training there; wait for its end, end it, or name another --out" in capsys.readouterr().err
        assert (out / "result.json").exists()
        assert len(list(kept.glob("*/epoch-*.json"))) == 2

    main(["run", *words, "--start-over"])

    left = {str(path.relative_to(kept)) for path in kept.rglob("*")}
    assert left == {"4567", "4567/epoch-best.pt", "other", "other/weights.pt", "notes.txt"}
    assert kept.is_symlink() == linked
