"""Writing checkpoints behind the training thread."""

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
    with CheckpointWriter(tmp_path, keep=2) as writer:
        for epoch in range(1, 6):
            writer.save(manifest(epoch), {"epoch": epoch})
        writer.wait()
        assert [found.epoch for found, _ in writer.saved()] == [1, 2, 3, 4, 5]
        assert writer.saved() == []
    assert [name for name in names(tmp_path) if name.endswith(".json")] == [
        "epoch-00004-batch-000000.json",
        "epoch-00005-batch-000000.json",
    ]


def test_what_is_saved_is_the_state_of_the_call_whatever_training_does_next(tmp_path: Path) -> None:
    go_on = threading.Event()

    def slow(path: Path) -> bool:
        return go_on.wait(600)

    weight, best = torch.zeros(1000), torch.ones(3)
    with CheckpointWriter(tmp_path, keep=9, on_saved=slow) as writer:
        for epoch in (1, 2):
            writer.save(manifest(epoch), {"network": {"weight": weight}, "best": {"weights": {"weight": best}}})
            weight += 1
        assert writer.is_busy
        go_on.set()
        writer.wait()
        assert not writer.is_busy
        paths = [path for _, path in writer.saved()]
    states = [read_state(path, read_checkpoint_manifest(path)) for path in paths]
    assert [state["network"]["weight"].unique().tolist() for state in states] == [[0.0], [1.0]]
    assert torch.equal(states[0]["best"]["weights"]["weight"], best)


def test_a_full_disk_is_told_where_the_training_is(tmp_path: Path) -> None:
    def full(path: Path) -> bool:
        raise OSError(28, "No space left on device", str(path))

    writer = CheckpointWriter(tmp_path, keep=1, on_saved=full)
    writer.__enter__()
    writer.save(manifest(1), {})
    with pytest.raises(OSError, match="No space left"):
        writer.wait()
    with pytest.raises(OSError, match="No space left"):
        writer.save(manifest(2), {})
    with pytest.raises(OSError, match="No space left"):
        writer.__exit__(None, None, None)
    assert "epoch-00002-batch-000000.pt" not in names(tmp_path)


def test_what_could_not_be_copied_elsewhere_is_not_told_of(tmp_path: Path) -> None:
    with CheckpointWriter(tmp_path, keep=1, on_saved=lambda path: False) as writer:
        writer.save(manifest(1), {})
        writer.wait()
        assert writer.saved() == []


def test_no_memory_for_a_copy_says_so_and_holds_nothing_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Snapshot, state: dict[str, object]) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    monkeypatch.setattr(Snapshot, "take", refuse)
    with CheckpointWriter(tmp_path, keep=1) as writer:
        writer.prepare({})  # no fault yet: nothing is lost
        with pytest.raises(HostMemoryError, match="no memory for a copy of the training's state"):
            writer.save(manifest(1), {})
        writer.wait()
    assert names(tmp_path) == []
