"""Out of memory in a step: answered with the batch size that fits, and the run can go on."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from components.classifier.device import is_out_of_memory
from components.shared.artifacts.dataset_writer import DatasetWriter
from components.shared.errors import ParamsError
from components.shared.params.params import Params
from components.train.group import Group
from components.train.memory import explaining_out_of_memory, step_problem
from components.train.train import train
from components.train.trainer import Trainer
from components.train.trials import find_learning_rate, smoke
from tests.configs import layer
from tests.examples import SMALL, digits, small
from tests.train.interrupting import weights_in
from tests.train.networks import ONE_PIXEL
from tests.train.trials import ONE_STEP, trainer_of

OF_GPU = "CUDA out of memory. Tried to allocate 2.00 GiB."
OF_CPU = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "134217728 bytes. Error code 12 (Cannot allocate memory)"
)
HERE = "in the memory of this machine"


def roomy(trainer: Trainer, room: int, tried: list[int]) -> Trainer:
    step = trainer.step_alone

    def limited(images: Tensor, labels: Tensor) -> Tensor:
        tried.append(len(images))
        if len(images) > room:
            raise RuntimeError(OF_CPU)
        return step(images, labels)

    trainer.step_alone = limited  # type: ignore[method-assign] # memory that is full cannot be had in a test
    return trainer


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (torch.OutOfMemoryError(OF_GPU), True),
        (RuntimeError(OF_CPU), True),
        (MemoryError(), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (RuntimeError("could not create a primitive"), False),
        (ValueError("DefaultCPUAllocator: can't allocate memory"), False),
    ],
    ids=str,
)
def test_what_is_out_of_memory(error: BaseException, is_one: bool) -> None:
    assert is_out_of_memory(error) is is_one


@pytest.mark.parametrize(
    ("changes", "room", "path", "message", "tries"),
    [
        (
            {"batch_size": 128},
            40,
            "batch_size",
            f"128 images do not fit {HERE}; 32 would (tried): set batch_size to 32, and gradient_accumulation_steps to "
            f"4 to keep steps of 128 images ({OF_GPU})",
            [64, 32, 32],  # the second step is the first in which the optimiser keeps something
        ),
        (
            {"batch_size": 64, "gradient_accumulation_steps": 3},
            20,
            "batch_size",
            f"64 images do not fit {HERE}; 16 would (tried): set batch_size to 16, and gradient_accumulation_steps to "
            f"12 to keep steps of 192 images ({OF_GPU})",
            [32, 16, 16],
        ),
        (
            {"batch_size": 4096},
            60,
            "batch_size",
            f"200 images do not fit {HERE}; 50 would (tried): set batch_size to 50, and gradient_accumulation_steps to "
            f"4 to keep steps of 200 images ({OF_GPU})",
            [100, 50, 50],
        ),
        (
            {"batch_size": 16},
            0,
            "net_arch",
            f"not even a step on one image fits {HERE} with this network; make it smaller ({OF_GPU})",
            [8, 4, 2, 1],
        ),
        (
            {**ONE_STEP, "batch_size": 1},
            0,
            "net_arch",
            f"a step on one image does not fit {HERE} with this network; make it smaller ({OF_GPU})",
            [],
        ),
        (
            {"batch_size": 4, "net_arch": ONE_PIXEL},
            1,
            "net_arch",
            f"not even a step on one image fits {HERE} with this network; make it smaller ({OF_GPU})",
            [2, 1],
        ),
    ],
    ids=["batches", "accumulated", "more than the data", "network", "one image", "statistics of one value"],
)
def test_the_answer_names_what_was_tried(
    dataset: Path, changes: dict[str, Any], room: int, path: str, message: str, tries: list[int]
) -> None:
    tried: list[int] = []
    trainer = roomy(trainer_of(dataset, **changes), room, tried)

    def refuse() -> None:
        raise torch.OutOfMemoryError(OF_GPU)

    with pytest.raises(ParamsError) as caught:
        explaining_out_of_memory(trainer, refuse)

    (problem,) = caught.value.problems
    assert (problem.path, problem.message, caught.value.exit_code) == (path, message, 2)
    assert tried == tries


def test_in_a_group_each_process_has_its_part(dataset: Path) -> None:
    trainer = roomy(trainer_of(dataset, batch_size=128), 16, [])
    trainer.group = Group(1, 2)
    problem = step_problem(trainer, "no more")
    assert problem.message.startswith("128 images shared by 2 processes do not fit")
    assert "32 would (tried): set batch_size to 32, and gradient_accumulation_steps to 4" in problem.message


def test_what_the_step_held_is_given_back_before_anything_is_tried(dataset: Path) -> None:
    trainer = trainer_of(dataset)
    held: list[weakref.ref[Tensor]] = []
    alive: list[bool] = []
    step = trainer.step_alone

    def looking(images: Tensor, labels: Tensor) -> Tensor:
        alive.append(held[0]() is not None)
        assert all(parameter.grad is None for parameter in trainer.network.parameters())
        return step(images, labels)

    trainer.step_alone = looking  # type: ignore[method-assign] # it looks, and does what it did

    def fill() -> None:
        activations = torch.zeros(1000)
        held.append(weakref.ref(activations))
        for parameter in trainer.network.parameters():
            parameter.grad = torch.ones_like(parameter)
        raise torch.OutOfMemoryError(OF_GPU)

    with pytest.raises(ParamsError, match="16 would"):
        explaining_out_of_memory(trainer, fill)
    assert alive == [False, False]


def test_other_errors_pass_as_they_are(dataset: Path) -> None:
    def fail() -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        explaining_out_of_memory(trainer_of(dataset), fail)


def test_a_run_goes_on_from_its_checkpoint_where_there_is_memory_again(
    dataset: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"model": tmp_path / "model", "checkpoints": tmp_path / "checkpoints"}
    # What AdamW computes a step by; torch.optim hides the module's name.
    module, steps = importlib.import_module("torch.optim.adam"), 0
    step = module.adam

    def failing(*arguments: Any, **options: Any) -> None:
        nonlocal steps
        steps += len(arguments[0]) > 1  # rehearsals have one parameter
        if steps == 10:  # in epoch 2; there are 7 in each
            raise torch.OutOfMemoryError(OF_GPU)
        step(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(module, "adam", failing)
        with pytest.raises(ParamsError, match="batch_size: 32 images do not fit"):
            train(dataset=dataset, params=small(save_freq=1), **options)
    result = train(dataset=dataset, params=small(save_freq=1), **options)

    assert result.resumed_from == "the beginning of epoch 2"
    assert weights_in(tmp_path) == weights_in(finished)


WIDE: dict[str, Any] = {
    **SMALL,
    "num_epochs": 1,
    "net_arch": [
        layer("Conv2d", in_channels=1, out_channels=512, kernel_size=3, padding=1),
        layer("ReLU"),
        layer("AdaptiveAvgPool2d", output_size=1),
    ],
}


@pytest.mark.slow
def test_under_a_real_limit_the_answer_is_true(tmp_path: Path) -> None:
    images, labels = digits()
    with DatasetWriter(tmp_path / "data", [str(digit) for digit in range(10)], (8, 8, 1)) as writer:
        writer.add("train", images[:1200], labels[:1200])
        writer.add("test", images[1200:1250], labels[1200:1250])
        writer.commit(source="IDX files", test_split="held out", manual_seed=0, unreadable=[])

    def limited(**changes: Any) -> subprocess.CompletedProcess[str]:
        options = ["--dataset", str(tmp_path / "data"), "--model", str(tmp_path / "model"), "--json"]
        options += ["--params", Params.from_dict({**WIDE, **changes}).to_json()]
        command = [sys.executable, "-m", "tests.train.out_of_memory", "300", *options]
        # Else glibc reserves 64 MiB of address space for each thread that happens to allocate while another does.
        environment = {**os.environ, "MALLOC_ARENA_MAX": "1"}
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    refused = limited(batch_size=1024)
    assert refused.returncode == 2, refused.stderr
    (problem,) = json.loads(refused.stdout)["error"]["problems"]
    assert problem["path"] == "batch_size"
    assert "Traceback" not in refused.stderr
    found = re.match(
        r"1024 images do not fit in the memory of this machine; (\d+) would \(tried\): set batch_size to \1, and "
        r"gradient_accumulation_steps to (\d+) to keep steps of 1024 images \((?:can't allocate|std|could not)",
        problem["message"],
    )
    assert found is not None, problem["message"]
    batch_size, steps = map(int, found.groups())
    assert batch_size * steps == 1024
    assert 1 <= batch_size < 1024

    trained = limited(batch_size=batch_size, gradient_accumulation_steps=steps)
    assert trained.returncode == 0, trained.stderr


def test_an_evaluation_that_does_not_fit_says_so(few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise RuntimeError(OF_CPU)

    monkeypatch.setattr("components.train.trainer.evaluated", full)
    with pytest.raises(ParamsError) as caught:
        train(dataset=few, model=tmp_path / "model", params=small())
    (problem,) = caught.value.problems
    assert problem.path == "net_arch"
    assert problem.message.startswith("evaluation puts 30 images at once through this network, which do not fit in")
    assert "(can't allocate memory: you tried to allocate 134217728 bytes" in problem.message


@pytest.mark.slow
@pytest.mark.parametrize("trial", [smoke, find_learning_rate])
def test_trials_answer_too(
    trial: Callable[[Path, Params], object], dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Tensor) -> None:
        raise RuntimeError(OF_CPU)

    monkeypatch.setattr(Tensor, "backward", full)
    with pytest.raises(ParamsError, match="net_arch: not even a step on one image fits"):
        trial(dataset, small())
