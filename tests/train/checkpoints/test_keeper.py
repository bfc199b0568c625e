"""Keeping checkpoints behind the training thread."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from components.shared.errors import HostMemoryError
from components.train.checkpoints.format import read_checkpoint_manifest, read_state
from components.train.checkpoints.writer import CheckpointWriter, Snapshot
from tests.train.checkpoints.making import manifest, names


def test_the_newest_are_kept(tmp_path: Path) -> None:
    with CheckpointWriter(tmp_path, keep=2) as keeper:
        for epoch in range(1, 6):
            keeper.save(manifest(epoch), {"epoch": epoch})
        keeper.wait()
        assert [found.epoch for found, _ in keeper.saved()] == [1, 2, 3, 4, 5]
        assert keeper.saved() == []
    assert [name for name in names(tmp_path) if name.endswith(".json")] == [
        "epoch-00004-batch-000000.json",
        "epoch-00005-batch-000000.json",
    ]


def test_what_is_saved_is_the_state_of_the_call_whatever_training_does_next(tmp_path: Path) -> None:
    go_on = threading.Event()

    def slow(path: Path) -> bool:
        return go_on.wait(30)

    weight, best = torch.zeros(1000), torch.ones(3)
    with CheckpointWriter(tmp_path, keep=9, on_saved=slow) as keeper:
        for epoch in (1, 2):
            keeper.save(manifest(epoch), {"network": {"weight": weight}, "best": {"weights": {"weight": best}}})
            weight += 1
        assert keeper.is_busy
        go_on.set()
        keeper.wait()
        assert not keeper.is_busy
        paths = [path for _, path in keeper.saved()]
    states = [read_state(path, read_checkpoint_manifest(path)) for path in paths]
    assert [state["network"]["weight"].unique().tolist() for state in states] == [[0.0], [1.0]]
    assert torch.equal(states[0]["best"]["weights"]["weight"], best)


def test_a_full_disk_is_told_where_the_training_is(tmp_path: Path) -> None:
    def full(path: Path) -> bool:
        raise OSError(28, "No space left on device", str(path))

    keeper = CheckpointWriter(tmp_path, keep=1, on_saved=full)
    keeper.__enter__()
    keeper.save(manifest(1), {})
    with pytest.raises(OSError, match="No space left"):
        keeper.wait()
    with pytest.raises(OSError, match="No space left"):
        keeper.save(manifest(2), {})
    with pytest.raises(OSError, match="No space left"):
        keeper.__exit__(None, None, None)
    assert "epoch-00002-batch-000000.pt" not in names(tmp_path)


def test_what_could_not_be_copied_elsewhere_is_not_told_of(tmp_path: Path) -> None:
    with CheckpointWriter(tmp_path, keep=1, on_saved=lambda path: False) as keeper:
        keeper.save(manifest(1), {})
        keeper.wait()
        assert keeper.saved() == []


def test_no_memory_for_a_copy_says_so_and_holds_nothing_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Snapshot, state: dict[str, object]) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    monkeypatch.setattr(Snapshot, "take", refuse)
    with CheckpointWriter(tmp_path, keep=1) as keeper:
        keeper.prepare({})  # no fault yet: nothing is lost
        with pytest.raises(HostMemoryError, match="no memory for a copy of the training's state"):
            keeper.save(manifest(1), {})
        keeper.wait()
    assert names(tmp_path) == []
