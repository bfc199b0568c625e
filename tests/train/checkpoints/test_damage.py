"""The newest checkpoint is damaged in every way: the one before is gone on from, to the same weights."""

from __future__ import annotations

import logging
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.shared.errors import CheckpointError
from components.train.checkpoints.format import (
    CheckpointManifest,
    list_checkpoints,
    read_checkpoint_manifest,
    read_state,
    remove_checkpoint,
    write_checkpoint,
)
from components.train.checkpoints.resume import find_checkpoint
from tests.examples import small
from tests.train.interrupting import LOG, at_step, ended, steps_kept, trained, weights_in

BITS = 60
PARAMS: dict[str, Any] = {"num_epochs": 3, "save_freq": 1, "flip_images": True}


@pytest.fixture(scope="module")
def whole(few: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("whole")
    trained(few, folder, small(**PARAMS))
    return weights_in(folder)


@pytest.fixture(scope="module")
def left(few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("left")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("components.train.progress.EVENT_EVERY_S", -1.0)
        ended(few, folder, small(**PARAMS), at_step(5))
    assert steps_kept(folder) == [2, 4, 5]
    return folder


@pytest.fixture
def broken(left: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(left, tmp_path / "broken"))


def halved(file: Path) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def one_byte_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def one_byte_long(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"\n")


def one_bit_other(file: Path) -> None:
    flip(file, file.stat().st_size * 4)


def zeroed(file: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


def flip(file: Path, bit: int) -> None:
    data = bytearray(file.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    file.write_bytes(data)


DAMAGES: list[Callable[[Path], None]] = [halved, emptied, one_byte_short, one_byte_long, one_bit_other, zeroed]


def warnings_in(heard: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in heard.records if record.levelno >= logging.WARNING]


def found_in(folder: Path) -> CheckpointManifest | None:
    found = find_checkpoint(folder / "checkpoints", small(**PARAMS), digest_of(folder), LOG)
    return found.manifest if found is not None else None


def digest_of(folder: Path) -> str:
    return read_checkpoint_manifest(list_checkpoints(folder / "checkpoints")[0]).dataset_sha256


@pytest.mark.parametrize("suffix", [".json", ".pt"])
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_one_is_passed_over(
    broken: Path, heard: pytest.LogCaptureFixture, suffix: str, damage: Callable[[Path], None]
) -> None:
    file = list_checkpoints(broken / "checkpoints")[-1].with_suffix(suffix)
    damage(file)

    found = found_in(broken)

    assert found is not None
    assert found.position == "the beginning of epoch 3"
    (warned,) = warnings_in(heard)
    assert file.name in warned
    assert "passed over" in warned


@pytest.mark.parametrize("suffix", [".json", ".pt"])
def test_the_one_before_a_missing_one_is_gone_on_from(
    few: Path, broken: Path, whole: tuple[str, str], heard: pytest.LogCaptureFixture, suffix: str
) -> None:
    file = list_checkpoints(broken / "checkpoints")[-1].with_suffix(suffix)
    file.unlink()

    result = trained(few, broken, small(**PARAMS))

    assert result.resumed_from == "the beginning of epoch 3"
    (warned,) = warnings_in(heard)
    assert file.name in warned
    assert "passed over" in warned
    assert weights_in(broken) == whole


def test_no_single_bit_goes_unnoticed(broken: Path, heard: pytest.LogCaptureFixture) -> None:
    draws = random.Random(6)  # noqa: S311 - bits, not secrets
    *_, before, newest = list_checkpoints(broken / "checkpoints")
    files = [newest, newest.with_suffix(".pt")]
    for number in range(BITS):
        file = files[number % 2]
        bit = draws.randrange(8 * file.stat().st_size)
        flip(file, bit)
        heard.clear()

        found = found_in(broken)

        assert found is not None
        assert found.name == before.stem, f"bit {bit} of {file.name}"
        assert file.name in "".join(warnings_in(heard))
        flip(file, bit)
    found = found_in(broken)
    assert found is not None
    assert found.name == newest.stem


def test_when_all_are_damaged_the_run_begins_anew(
    few: Path, broken: Path, whole: tuple[str, str], heard: pytest.LogCaptureFixture
) -> None:
    kept = list_checkpoints(broken / "checkpoints")
    for path in kept:
        one_bit_other(path.with_suffix(".pt"))

    result = trained(few, broken, small(**PARAMS))

    assert result.resumed_from is None
    warned = warnings_in(heard)
    assert [path.with_suffix(".pt").name in line for path, line in zip(reversed(kept), warned, strict=False)] == [
        True
    ] * 3
    assert "begins anew" in warned[-1]
    assert weights_in(broken) == whole


@pytest.mark.usefixtures("every_step_reports")
@pytest.mark.parametrize("keep", [1, 2])
def test_a_damaged_one_does_not_take_the_place_of_one_that_is_whole(
    few: Path, broken: Path, whole: tuple[str, str], keep: int
) -> None:
    one_bit_other(list_checkpoints(broken / "checkpoints")[-1].with_suffix(".pt"))

    ended(few, broken, small(**PARAMS, keep_checkpoints=keep), at_step(5))
    result = trained(few, broken, small(**PARAMS, keep_checkpoints=keep))

    assert result.resumed_from == "epoch 3, batch 1"
    assert weights_in(broken) == whole


def rewritten(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = read_checkpoint_manifest(path)
    state = read_state(path, manifest)
    change(state)
    remove_checkpoint(path)
    write_checkpoint(path.parent, manifest.model_copy(update={"state": None}), state)


@pytest.mark.parametrize("key", ["network", "average", "position.batch", "best.loss", "epoch.sums", "generators.flip"])
def test_a_checkpoint_of_another_state_is_refused_with_what_to_do(few: Path, broken: Path, key: str) -> None:
    outer, _, inner = key.partition(".")
    newest = list_checkpoints(broken / "checkpoints")[-1]
    rewritten(newest, lambda state: state[outer].pop(inner) if inner else state.pop(outer))

    with pytest.raises(
        CheckpointError, match=rf"is not one of this training \('{inner or outer}'\); remove it, or start"
    ):
        trained(few, broken, small(**PARAMS))


def test_a_checkpoint_of_other_values_is_refused_with_what_to_do(few: Path, broken: Path) -> None:
    rewritten(list_checkpoints(broken / "checkpoints")[-1], lambda state: state["network"].popitem())

    with pytest.raises(CheckpointError, match=r"is not one of this training \(.*Missing key.*\); remove it, or start"):
        trained(few, broken, small(**PARAMS))


def test_other_files_there_are_left_alone(few: Path, broken: Path, whole: tuple[str, str]) -> None:
    notes = [broken / "checkpoints" / name for name in ("notes.txt", "epoch-1.pt", "epoch-00001.json", "model.pt")]
    for note in notes:
        note.write_text("mine")

    trained(few, broken, small(**PARAMS))

    assert [note.read_text() for note in notes] == ["mine"] * 4
    assert weights_in(broken) == whole
