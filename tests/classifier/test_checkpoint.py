"""Checkpoints: whole, the newest few, and read without running anything."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch

from components.classifier.checkpoint import (
    checkpoint_directory,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    tensors = {"weight": torch.rand(3, 2), "steps": torch.tensor(7), "generator": torch.get_rng_state()}
    plain = {
        "optimiser": {"state": {}, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.99), "foreach": None}]},
        "history": [{"epoch": 1, "loss": None}],
    }
    path = save_checkpoint(tmp_path / "new" / "run", 3, {**plain, "network": tensors}, keep=1)
    assert path == tmp_path / "new" / "run" / "epoch-00003.pt"

    again = load_checkpoint(path)
    found = again.pop("network")
    assert again == plain
    assert {name: torch.equal(value, found[name]) for name, value in tensors.items()} == dict.fromkeys(tensors, True)


def test_the_newest_are_kept(tmp_path: Path) -> None:
    for epoch in range(1, 6):
        save_checkpoint(tmp_path, epoch, {"epoch": epoch}, keep=2)
    assert names(tmp_path) == ["epoch-00004.pt", "epoch-00005.pt"]
    assert [load_checkpoint(path)["epoch"] for path in list_checkpoints(tmp_path)] == [4, 5]

    save_checkpoint(tmp_path, 6, {}, keep=5)
    assert names(tmp_path) == ["epoch-00004.pt", "epoch-00005.pt", "epoch-00006.pt"]


def test_newest_is_by_epoch_and_not_by_name_or_time(tmp_path: Path) -> None:
    for epoch in (100_000, 99_999, 5):
        save_checkpoint(tmp_path, epoch, {"epoch": epoch}, keep=3)
    assert [path.name for path in list_checkpoints(tmp_path)] == [
        "epoch-00005.pt",
        "epoch-99999.pt",
        "epoch-100000.pt",
    ]
    save_checkpoint(tmp_path, 99_998, {}, keep=2)
    assert names(tmp_path) == ["epoch-100000.pt", "epoch-99999.pt"]


def test_files_of_other_names_are_left_alone(tmp_path: Path) -> None:
    others = ["epoch-1.pt", "epoch-00001.pt.bak", "epoch-abcde.pt", "best.pt"]
    for name in others:
        (tmp_path / name).touch()
    for epoch in (1, 2):
        save_checkpoint(tmp_path, epoch, {}, keep=1)
    assert names(tmp_path) == sorted([*others, "epoch-00002.pt"])


def test_an_epoch_saved_again_replaces_the_file_in_one_go(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 1, {"run": "first"}, keep=1)
    held = path.open("rb")
    save_checkpoint(tmp_path, 1, {"run": "second"}, keep=1)
    with held:
        assert torch.load(held, weights_only=True) == {"run": "first"}  # a reader keeps the old one whole
    assert load_checkpoint(path) == {"run": "second"}
    assert names(tmp_path) == ["epoch-00001.pt"]


def test_a_failed_save_leaves_what_was_there(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, {"epoch": 1}, keep=1)
    with pytest.raises((AttributeError, TypeError, pickle.PicklingError)):
        save_checkpoint(tmp_path, 2, {"epoch": lambda: 2}, keep=1)
    assert names(tmp_path) == ["epoch-00001.pt"]


class Intruder:
    """Runs code where it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("intruded",)


def test_loading_runs_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = save_checkpoint(tmp_path / "run", 1, {"epoch": Intruder()}, keep=1)
    with pytest.raises(pickle.UnpicklingError):
        load_checkpoint(path)
    assert not (tmp_path / "intruded").exists()


def test_a_run_has_a_directory_of_its_own(tmp_path: Path) -> None:
    params, dataset = "a" * 64, "b" * 64
    assert checkpoint_directory(tmp_path, params, dataset) == tmp_path / "aaaaaaaaaaaa-bbbbbbbbbbbb"
    assert checkpoint_directory(tmp_path, dataset, params) != checkpoint_directory(tmp_path, params, dataset)
