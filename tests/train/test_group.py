"""Two processes with half of each batch each do what one process does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from components.train.group import Group
from tests.train.group_cases import CASES, HELD_OUT, TRAINED, trained, write_uneven

TOLERANCE = 1e-6

WITHOUT_STATISTICS = ["flips, shuffled", "accumulation, class weights, layers computed again", "image by image"]


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_uneven(tmp_path_factory.mktemp("uneven") / "dataset")


@pytest.fixture(scope="module")
def by_two(uneven: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    results = tmp_path_factory.mktemp("results")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*torchrun, "-m", "tests.train.group_cases", str(uneven), str(results)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "SHUTTERLINE_MODULES": "tests.train.networks"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads((results / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("case", WITHOUT_STATISTICS)
def test_the_curves_are_those_of_one_process(case: str, uneven: Path, by_two: list[dict[str, Any]]) -> None:
    one = trained(uneven, Group(), **CASES[case])
    two = by_two[0][case]

    assert two["batches"] == one["batches"] == [32] * 9 + [13]
    assert len(two["history"]) == CASES[case]["num_epochs"]
    for ours, theirs in zip(two["history"], one["history"], strict=True):
        for name in ("train_loss", "loss"):
            assert ours[name] == pytest.approx(theirs[name], rel=TOLERANCE)
        counts = {name: value for name, value in ours.items() if name not in ("train_loss", "loss")}
        assert counts == {name: value for name, value in theirs.items() if name not in ("train_loss", "loss")}
        assert counts["train_accuracy"] * TRAINED == pytest.approx(round(counts["train_accuracy"] * TRAINED))


@pytest.mark.parametrize("case", list(CASES))
def test_all_processes_end_with_the_same_weights(case: str, by_two: list[dict[str, Any]]) -> None:
    first, second = (found[case] for found in by_two)

    assert first == second


def test_a_network_that_one_process_cannot_compile_is_compiled_in_none(by_two: list[dict[str, Any]]) -> None:
    first, second = (found["compiled in one process"] for found in by_two)
    assert first == second == by_two[0]["flips, shuffled"]


@pytest.mark.parametrize("case", list(CASES))
def test_evaluation_counts_no_image_twice_and_is_that_of_one_process(case: str, by_two: list[dict[str, Any]]) -> None:
    for found in by_two:
        assert found[case]["counted"] == HELD_OUT
        assert found[case]["as one process"]


def test_statistics_of_a_part_are_others_than_those_of_the_batch(uneven: Path, by_two: list[dict[str, Any]]) -> None:
    one = trained(uneven, Group(), **CASES["batch statistics"])

    last, theirs = by_two[0]["batch statistics"]["history"][-1], one["history"][-1]
    assert last["train_loss"] != pytest.approx(theirs["train_loss"], rel=100 * TOLERANCE)
    assert last["train_loss"] == pytest.approx(theirs["train_loss"], rel=0.2), "and not very different"


def test_mixup_pairs_images_within_a_part(uneven: Path, by_two: list[dict[str, Any]]) -> None:
    one = trained(uneven, Group(), **CASES["average, mixup"])

    ours, theirs = (history[-1]["train_loss"] for history in (by_two[0]["average, mixup"]["history"], one["history"]))
    assert ours != pytest.approx(theirs, rel=100 * TOLERANCE), "another neighbour at the ends of a part"
    assert ours == pytest.approx(theirs, rel=0.2)


def test_what_one_process_wants_all_learn_at_the_same_call_and_once(by_two: list[dict[str, Any]]) -> None:
    first, second = (found["agreed"] for found in by_two)

    assert first == second
    (call,) = first["leave"]
    assert 41 <= call <= 57, "asked at most 16 calls later, known one after that"
    assert first["save"] == [[False, True], [False, False]], "where each call asks"


def test_what_a_layer_remembers_between_steps_is_rank_0s(by_two: list[dict[str, Any]]) -> None:
    first, second = (found["remembered"] for found in by_two)

    assert first == second
    assert len(set(first)) == 10


def test_what_one_process_cannot_use_all_refuse_alike(by_two: list[dict[str, Any]]) -> None:
    first, second = by_two

    assert first["refused"] == second["refused"]
    assert "sync_batch_norm: needs GPUs" in first["refused"]["sync_batch_norm"]
    assert first["refused"]["no dataset"].startswith("ArtifactError: ")
    assert first["refused"]["no graph"].startswith(
        "ShutterlineError: the process that exports the network to ONNX ended"
    )
    assert "2 processes cannot share" in first["refused"]["too few images"]
    assert "rank 1, on node 0, is to train otherwise than rank 0, by num_epochs; " in first["refused"]["other params"]
    assert first["of one"] == second["of one"] == ["FileNotFoundError", "images"]
    assert first["of its params"] == second["of its params"] == [["net_arch[1]", "is no layer for ONNX"]]
    assert "set device to" in first["one GPU"]


def test_what_one_process_is_told_ends_the_evaluation_of_all(by_two: list[dict[str, Any]]) -> None:
    first, second = (found["left"] for found in by_two)

    assert first == second
    assert first == {"terminated": True, "evaluations": 2, "kept": ["epoch 2, batch 10"]}


def test_what_all_processes_would_warn_of_the_first_does(by_two: list[dict[str, Any]]) -> None:
    assert [found["warnings"] for found in by_two] == [["step: eager (there is no GPU)"], []]


def test_every_process_reports_the_models_place(by_two: list[dict[str, Any]]) -> None:
    first, second = (found["report"] for found in by_two)

    assert first == second
    assert Path(first["model"]).name == "staged"
    assert Path(first["checkpoints"]).name == "staged-checkpoints"
