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
    list_checkpoints,
    read_checkpoint_manifest,
    read_state,
    remove_checkpoint,
    write_checkpoint,
)
from components.train.checkpoints.resume import find_checkpoint
from tests.examples import SMALL, small
from tests.train.interrupting import LOG, at_step, ended, heard_of, steps_kept, trained, weights_in

BITS = 200
PARAMS: dict[str, Any] = {
    "net_arch": [*SMALL["net_arch"], {"class": "torch.nn.Dropout", "kwargs": {"p": 0.3}}],
    "num_epochs": 3,
    "save_freq": 1,
    "flip_images": True,
}


@pytest.fixture(scope="module")
def whole(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("whole")
    trained(dataset, folder, small(**PARAMS))
    return weights_in(folder)


@pytest.fixture(scope="module")
def left(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("left")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("components.train.progress.EVENT_EVERY_S", -1.0)
        ended(dataset, folder, small(**PARAMS), at_step(17))
    assert steps_kept(folder) == [7, 14, 17]
    return folder


@pytest.fixture
def broken(left: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(left, tmp_path / "broken"))


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    return heard_of(caplog, monkeypatch)


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


DAMAGES: list[Callable[[Path], None]] = [
    halved,
    emptied,
    one_byte_short,
    one_byte_long,
    one_bit_other,
    zeroed,
    Path.unlink,
]


def warnings_in(heard: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in heard.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("suffix", [".json", ".pt"])
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_the_one_before_is_gone_on_from(
    dataset: Path,
    broken: Path,
    whole: tuple[str, str],
    heard: pytest.LogCaptureFixture,
    suffix: str,
    damage: Callable[[Path], None],
) -> None:
    file = list_checkpoints(broken / "checkpoints")[-1].with_suffix(suffix)
    damage(file)

    result = trained(dataset, broken, small(**PARAMS))

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

        found = find_checkpoint(broken / "checkpoints", small(**PARAMS), digest_of(broken), LOG)

        assert found is not None
        assert found.manifest.name == before.stem, f"bit {bit} of {file.name}"
        assert file.name in "".join(warnings_in(heard))
        flip(file, bit)
    found = find_checkpoint(broken / "checkpoints", small(**PARAMS), digest_of(broken), LOG)
    assert found is not None
    assert found.manifest.name == newest.stem


def digest_of(folder: Path) -> str:
    return read_checkpoint_manifest(list_checkpoints(folder / "checkpoints")[0]).dataset_sha256


def test_when_all_are_damaged_the_run_begins_anew(
    dataset: Path, broken: Path, whole: tuple[str, str], heard: pytest.LogCaptureFixture
) -> None:
    kept = list_checkpoints(broken / "checkpoints")
    for path in kept:
        one_bit_other(path.with_suffix(".pt"))

    result = trained(dataset, broken, small(**PARAMS))

    assert result.resumed_from is None
    warned = warnings_in(heard)
    assert [path.with_suffix(".pt").name in line for path, line in zip(reversed(kept), warned, strict=False)] == [
        True
    ] * 3
    assert "begins anew" in warned[-1]
    assert weights_in(broken) == whole


@pytest.mark.parametrize("keep", [1, 2])
def test_a_damaged_one_does_not_take_the_place_of_one_that_is_whole(
    dataset: Path, broken: Path, whole: tuple[str, str], monkeypatch: pytest.MonkeyPatch, keep: int
) -> None:
    monkeypatch.setattr("components.train.progress.EVENT_EVERY_S", -1.0)
    one_bit_other(list_checkpoints(broken / "checkpoints")[-1].with_suffix(".pt"))

    ended(dataset, broken, small(**PARAMS, keep_checkpoints=keep), at_step(16))
    result = trained(dataset, broken, small(**PARAMS, keep_checkpoints=keep))

    assert result.resumed_from == "epoch 3, batch 2"
    assert weights_in(broken) == whole


def rewritten(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = read_checkpoint_manifest(path)
    state = read_state(path, manifest)
    change(state)
    remove_checkpoint(path)
    write_checkpoint(path.parent, manifest.model_copy(update={"state": None}), state)


@pytest.mark.parametrize("key", ["network", "average", "position.batch", "best.loss", "epoch.sums", "generators.flip"])
def test_a_checkpoint_of_another_state_is_refused_with_what_to_do(dataset: Path, broken: Path, key: str) -> None:
    outer, _, inner = key.partition(".")
    newest = list_checkpoints(broken / "checkpoints")[-1]
    rewritten(newest, lambda state: state[outer].pop(inner) if inner else state.pop(outer))

    with pytest.raises(
        CheckpointError, match=rf"is not one of this training \('{inner or outer}'\); remove it, or start"
    ):
        trained(dataset, broken, small(**PARAMS))


def test_a_checkpoint_of_other_values_is_refused_with_what_to_do(dataset: Path, broken: Path) -> None:
    rewritten(list_checkpoints(broken / "checkpoints")[-1], lambda state: state["network"].popitem())

    with pytest.raises(CheckpointError, match=r"is not one of this training \(.*Missing key.*\); remove it, or start"):
        trained(dataset, broken, small(**PARAMS))


def test_what_lies_there_besides_is_left_alone(dataset: Path, broken: Path, whole: tuple[str, str]) -> None:
    notes = [broken / "checkpoints" / name for name in ("notes.txt", "epoch-1.pt", "epoch-00001.json", "model.pt")]
    for note in notes:
        note.write_text("mine")

    trained(dataset, broken, small(**PARAMS))

    assert [note.read_text() for note in notes] == ["mine"] * 4
    assert weights_in(broken) == whole
