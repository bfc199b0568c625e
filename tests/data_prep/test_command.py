from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from components.data_prep.__main__ import main
from components.data_prep.prepare import prepare
from components.shared.artifacts.dataset import open_dataset
from components.shared.artifacts.dataset_writer import DatasetWriter
from components.shared.errors import ArtifactError
from tests.data_prep.building import (
    PLAIN,
    TWO_OF_EACH,
    class_folders,
    files_of,
    params,
    params_json,
    prepared,
    report,
    tree,
)


def test_the_command_writes_a_dataset_and_reports_it_as_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class_folders(tmp_path / "data", {"a": 4, "b": 4})
    (tmp_path / "params.json").write_text(params_json())
    arguments = ["--data", str(tmp_path / "data"), "--dataset", str(tmp_path / "out")]

    assert main([*arguments, "--params", str(tmp_path / "params.json"), "--set", "test_fraction=0.25", "--json"]) == 0

    record = json.loads(capsys.readouterr().out)
    assert (record["step"], record["status"]) == ("data-prep", "succeeded")
    counts = {"train": {"a": 3, "b": 3}, "test": {"a": 1, "b": 1}}
    assert record["report"] == report(tmp_path / "out", counts, test_split="held out", findings=PLAIN)
    assert open_dataset(tmp_path / "out").manifest.splits["train"].count == 6


def test_the_same_data_and_params_give_the_same_bytes(tmp_path: Path) -> None:
    changed = params(validation_fraction=0.25, max_unreadable=0.5, manual_seed=2**64 - 1)
    for name in ("first", "second"):
        data = class_folders(tmp_path / name / "data", {"a": 9, "b": 9})
        (data / "a" / "0003.png").write_bytes(b"damaged")
        prepare(data=data, dataset=tmp_path / name / "out", params=changed)

    assert files_of(tmp_path / "first" / "out") == files_of(tmp_path / "second" / "out")


def test_an_earlier_dataset_is_replaced_whole_and_named(tmp_path: Path, log: Callable[[], str]) -> None:
    data = class_folders(tmp_path / "data", {"a": 9, "b": 9})
    prepared(data, validation_fraction=0.25)
    prepared(data, "new")
    assert "is replaced" not in log()
    prepared(data)
    assert f"{tmp_path / 'out'}: the earlier dataset is replaced" in log()

    assert files_of(tmp_path / "out") == files_of(tmp_path / "new")


def test_a_directory_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    data, other = tree(tmp_path / "data", *TWO_OF_EACH), tree(tmp_path / "other", "a/0.png")

    with pytest.raises(ArtifactError, match="is not empty and holds no dataset to replace"):
        prepare(data=data, dataset=other, params=params())
    with pytest.raises(ArtifactError, match="cannot be written as a dataset"):
        prepare(data=data, dataset=other / "a" / "0.png", params=params())
    assert len(files_of(other)) == 1


def test_an_interruption_leaves_nothing_that_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tree(tmp_path / "data", *TWO_OF_EACH)

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(DatasetWriter, "commit", interrupt)

    assert main(["--data", str(data), "--dataset", str(tmp_path / "out"), "--params", params_json()]) == 130
    assert files_of(tmp_path / "out") == {}


def test_bad_params_end_before_the_data_is_looked_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--data", str(tmp_path / "none"), "--dataset", str(tmp_path / "out"), "--params", params_json()]

    assert main([*arguments, "--set", "n_classes=1"]) == 2

    assert "n_classes" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_every_path_is_required(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([])

    assert ended.value.code == 2
    assert "the following arguments are required: --dataset, --params" in capsys.readouterr().err


def test_data_prep_loads_only_what_it_needs() -> None:
    code = (
        "import sys; from components.data_prep.__main__ import main\n"
        "assert main(['--data', 'd', '--dataset', 'o', '--params', '{}']) == 2\n"
        "assert not {'numpy', 'PIL', 'torch', 'kfp'} & set(sys.modules), 'for wrong params'\n"
        "import components.data_prep.prepare\n"
        "assert 'numpy' in sys.modules and not {'torch', 'kfp', 'torchvision'} & set(sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


def test_the_log_the_manifest_and_the_result_count_by_split_and_class(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tree(tmp_path / "data", "cat/×10.png", "long-haired dachshund/×20.png")
    (data / "cat" / "3.png").write_bytes(b"damaged")
    options = ["--data", str(data), "--dataset", str(tmp_path / "out"), "--params", params_json(), "--json"]

    assert main([*options, "--set", "validation_fraction=0.25", "--set", "max_unreadable=0.1"]) == 0

    told = capsys.readouterr()
    counts = {
        "train": {"cat": 4, "long-haired dachshund": 8},
        "validation": {"cat": 1, "long-haired dachshund": 2},
        "test": {"cat": 4, "long-haired dachshund": 10},
    }
    assert [line.partition(" data-prep ")[2] for line in told.err.splitlines()[-7:-1]] == [
        "14 test images held out by manual_seed 0, test_fraction 0.5",
        "3 validation images held out by manual_seed 0, validation_fraction 0.25",
        "class                  train  validation  test",
        "cat                        4           1     4",
        "long-haired dachshund      8           2    10",
        "all                       12           3    14",
    ]
    assert json.loads(told.out)["report"]["class_counts"] == counts
    manifest = open_dataset(tmp_path / "out").manifest
    assert {
        split: dict(zip(manifest.classes, record.class_counts, strict=True))
        for split, record in manifest.splits.items()
    } == counts


def test_a_table_of_many_classes_is_cut(tmp_path: Path, log: Callable[[], str]) -> None:
    names = [f"class {number:02d}{' of a long name' * 10 if number == 7 else ''}" for number in range(25)]
    data = tree(tmp_path / "data", *(f"{name}/×2.png" for name in names))

    prepared(data, n_classes=25)

    lines = [line.partition(" data-prep ")[2] for line in log().splitlines()]
    assert [line.split() for line in lines[-3:]] == [
        ["class", "19", "1", "1"],
        ["and", "5", "more", "class(es)"],
        ["all", "25", "25"],
    ]
    assert max(map(len, lines[-23:])) < 80


def test_classes_that_a_split_lacks_are_named_in_a_warning(tmp_path: Path, log: Callable[[], str]) -> None:
    data = tree(tmp_path / "data", "train/cat/×2.png", "train/dog/×2.png", "train/eel/×2.png", "test/dog/0.png")
    (data / "test" / "eel").mkdir()

    assert prepared(data, n_classes=3).class_counts["test"] == {"cat": 0, "dog": 1, "eel": 0}
    assert "WARNING test has no image of 2 class(es): cat, eel" in log()
