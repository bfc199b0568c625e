"""One checkpoint on disk: whole or nothing, and read without running anything."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from components.shared.files import Output
from components.train.checkpoints.format import (
    DamagedError,
    list_checkpoints,
    read_checkpoint_manifest,
    read_state,
    remove_leftovers,
    write_checkpoint,
)
from tests.train.checkpoints.making import manifest, names


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    lying = torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last)
    tensors = {"weight": lying, "steps": torch.tensor(7), "generator": torch.get_rng_state()}
    plain: dict[str, Any] = {
        "optimiser": {"state": {}, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.99), "foreach": None}]},
        "history": [{"epoch": 1, "loss": None}],
    }
    path = write_checkpoint(tmp_path / "new" / "run", manifest(3, 17), {**plain, "network": tensors})
    assert names(path.parent) == ["epoch-00003-batch-000017.json", "epoch-00003-batch-000017.pt"]

    found = read_checkpoint_manifest(path)
    assert found.model_copy(update={"state": None}) == manifest(3, 17)
    again = read_state(path, found)
    state = again.pop("network")
    assert again == plain
    assert {name: torch.equal(value, state[name]) for name, value in tensors.items()} == dict.fromkeys(tensors, True)
    assert state["weight"].is_contiguous(memory_format=torch.channels_last)


def test_they_follow_each_other_by_epoch_and_batch_and_not_by_name_or_time(tmp_path: Path) -> None:
    for epoch, batch in ((100_000, 0), (99_999, 3), (5, 0), (99_999, 1_000_000)):
        write_checkpoint(tmp_path, manifest(epoch, batch), {})
    assert [path.stem for path in list_checkpoints(tmp_path)] == [
        "epoch-00005-batch-000000",
        "epoch-99999-batch-000003",
        "epoch-99999-batch-1000000",
        "epoch-100000-batch-000000",
    ]


def test_a_failed_write_leaves_what_was_there_and_nothing_else(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, manifest(1), {"epoch": 1})
    with pytest.raises((AttributeError, TypeError, pickle.PicklingError)):
        write_checkpoint(tmp_path, manifest(2), {"epoch": lambda: 2})
    assert names(tmp_path) == ["epoch-00001-batch-000000.json", "epoch-00001-batch-000000.pt"]


def test_what_killed_writers_left_goes_and_files_of_other_names_stay(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, manifest(1), {})
    left = [".epoch-00002-batch-000000.pt.77.tmp", "epoch-00002-batch-000000.pt"]
    others = ["epoch-1.pt", "epoch-00001.pt.bak", "best.pt", "notes.json"]
    for name in (*left, *others):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    assert names(tmp_path) == sorted([*others, "epoch-00001-batch-000000.json", "epoch-00001-batch-000000.pt"])


class Intruder:
    """Runs code where it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("intruded",)


def test_reading_runs_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_checkpoint(tmp_path / "run", manifest(1), {"epoch": Intruder()})
    with pytest.raises(DamagedError, match=r"epoch-00001-batch-000000\.pt is no state of a training"):
        read_state(path, read_checkpoint_manifest(path))
    assert not (tmp_path / "intruded").exists()


def test_a_system_that_takes_less_than_it_is_given_is_given_the_rest(tmp_path: Path) -> None:
    taken = bytearray()

    class Sparing(io.RawIOBase):
        """As Linux is with more than 2 GiB at once."""

        def write(self, data: Any) -> int:
            piece = bytes(data[:7])
            taken.extend(piece)
            return len(piece)

    digest = hashlib.sha256()
    hashed = Output(Sparing(), digest)
    assert hashed.write(b"twenty-four bytes in all") == 24
    assert bytes(taken) == b"twenty-four bytes in all"
    assert (hashed.bytes, digest.hexdigest()) == (24, hashlib.sha256(taken).hexdigest())


def test_a_manifest_of_another_kind_is_damaged(tmp_path: Path) -> None:
    for text in ("[]", "1", "{}", ""):
        (tmp_path / "epoch-00001-batch-000000.json").write_text(text)
        with pytest.raises(DamagedError, match="no manifest of a checkpoint"):
            read_checkpoint_manifest(tmp_path / "epoch-00001-batch-000000.json")
