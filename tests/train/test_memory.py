"""Out of memory in a step: answered with the batch size that fits, and the run can go on."""

from __future__ import annotations

import json
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
from components.shared.artifacts.dataset import DatasetWriter
from components.shared.errors import ParamsError
from components.shared.params.params import Params
from components.train.group import Group
from components.train.memory import (
    explaining_out_of_memory,
    largest_that_fits,
    step_problem,
)
from components.train.train import train
from components.train.trainer import Trainer
from components.train.trials import find_learning_rate, smoke
from tests.configs import layer
from tests.examples import SMALL, digits, small
from tests.train.trials import ONE_STEP, trainer_of

GPU_SAYS = "CUDA out of memory. Tried to allocate 2.00 GiB."
CPU_SAYS = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "134217728 bytes. Error code 12 (Cannot allocate memory)"
)


def refuse() -> None:
    raise torch.OutOfMemoryError(GPU_SAYS)


def roomy(trainer: Trainer, room: int, tried: list[int]) -> Trainer:
    step = trainer.step_alone

    def limited(images: Tensor, labels: Tensor) -> Tensor:
        tried.append(len(images))
        if len(images) > room:
            raise RuntimeError(CPU_SAYS)
        return step(images, labels)

    trainer.step_alone = limited  # type: ignore[method-assign] # memory that is full cannot be had in a test
    return trainer


def test_halves_are_tried_until_one_fits() -> None:
    tried: list[int] = []

    def fits(count: int) -> bool:
        tried.append(count)
        return count <= 100

    assert largest_that_fits(fits, 512) == 64
    assert tried == [256, 128, 64]
    assert largest_that_fits(lambda count: False, 300) is None
    assert largest_that_fits(lambda count: count == 1, 300) == 1
    assert largest_that_fits(lambda count: True, 1) is None


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (torch.OutOfMemoryError(GPU_SAYS), True),
        (RuntimeError(CPU_SAYS), True),
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


def answer(trainer: Trainer) -> tuple[str, str]:
    with pytest.raises(ParamsError) as caught:
        explaining_out_of_memory(trainer, refuse)
    (problem,) = caught.value.problems
    assert caught.value.exit_code == 2
    return problem.path, problem.message


@pytest.mark.slow
def test_the_answer_names_the_batch_size_that_was_tried(dataset: Path) -> None:
    tried: list[int] = []
    trainer = roomy(trainer_of(dataset, batch_size=128), 40, tried)
    assert answer(trainer) == (
        "batch_size",
        "128 images do not fit in the memory of this machine; 32 would (tried): set batch_size to 32, and "
        "gradient_accumulation_steps to 4 to keep steps of 128 images (CUDA out of memory. Tried to allocate 2.00 "
        "GiB.)",
    )
    assert tried == [64, 32, 32]  # the second step is the first in which the optimiser keeps something


@pytest.mark.slow
def test_batches_that_are_accumulated_already_are_counted(dataset: Path) -> None:
    trainer = roomy(trainer_of(dataset, batch_size=64, gradient_accumulation_steps=3), 20, [])
    path, message = answer(trainer)
    assert path == "batch_size"
    assert "16 would (tried)" in message
    assert "gradient_accumulation_steps to 12 to keep steps of 192 images" in message


@pytest.mark.slow
def test_a_batch_beyond_the_data_is_the_data(dataset: Path) -> None:
    _, message = answer(roomy(trainer_of(dataset, batch_size=4096), 60, []))
    assert message.startswith("200 images do not fit in the memory of this machine; 50 would")


def test_in_a_group_each_process_has_its_part(dataset: Path) -> None:
    trainer = roomy(trainer_of(dataset, batch_size=128), 16, [])
    trainer.group = Group(1, 2)
    problem = step_problem(trainer, "no more")
    assert problem.message.startswith("128 images shared by 2 processes do not fit")
    assert "32 would (tried): set batch_size to 32, and gradient_accumulation_steps to 4" in problem.message


@pytest.mark.slow
def test_where_nothing_fits_it_is_the_network(dataset: Path) -> None:
    tried: list[int] = []
    path, message = answer(roomy(trainer_of(dataset, batch_size=16), 0, tried))
    assert path == "net_arch"
    assert message.startswith("not even a step on one image fits in the memory of this machine with this network")
    assert tried == [8, 4, 2, 1]
    path, message = answer(roomy(trainer_of(dataset, **{**ONE_STEP, "batch_size": 1}), 0, []))
    assert (path, message.partition(" with")[0]) == (
        "net_arch",
        "a step on one image does not fit in the memory of this machine",
    )


@pytest.mark.slow
def test_statistics_of_one_value_do_not_fit(dataset: Path) -> None:
    arch = [layer("Conv2d", in_channels=1, out_channels=4, kernel_size=8), layer("BatchNorm2d", num_features=4)]
    tried: list[int] = []
    trainer = roomy(trainer_of(dataset, batch_size=4, net_arch=arch), 1, tried)
    assert answer(trainer)[0] == "net_arch"
    assert tried == [2, 1]


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
        raise torch.OutOfMemoryError(GPU_SAYS)

    with pytest.raises(ParamsError, match="16 would"):
        explaining_out_of_memory(trainer, fill)
    assert alive == [False, False]


def test_other_errors_pass_as_they_are(dataset: Path) -> None:
    trainer = trainer_of(dataset)

    def fail() -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        explaining_out_of_memory(trainer, fail)


def test_a_run_goes_on_from_its_checkpoint_where_there_is_memory_again(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = small(num_epochs=4, save_freq=1)
    train(dataset=dataset, model=tmp_path / "whole", params=params)
    step, steps = torch.optim.AdamW.step, 0

    def failing(self: Any, closure: Any = None) -> Any:
        nonlocal steps
        steps += 1
        if steps == 17:  # in epoch 3; there are 7 in each
            raise torch.OutOfMemoryError(GPU_SAYS)
        return step(self, closure)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", failing)
        with pytest.raises(ParamsError, match="batch_size: 32 images do not fit"):
            train(dataset=dataset, model=tmp_path / "model", params=params, checkpoints=tmp_path / "kept")
    result = train(dataset=dataset, model=tmp_path / "model", params=params, checkpoints=tmp_path / "kept")

    assert result.resumed_from is not None
    for file in ("model.safetensors", "last.safetensors"):
        assert (tmp_path / "model" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


WIDE: dict[str, Any] = {
    **SMALL,
    "num_epochs": 1,
    "net_arch": [
        layer("Conv2d", in_channels=1, out_channels=512, kernel_size=3, padding=1),
        layer("ReLU"),
        layer("AdaptiveAvgPool2d", output_size=1),
    ],
}


def limited(dataset: Path, model: Path, mebibytes: int, **changes: Any) -> subprocess.CompletedProcess[str]:
    place = ["--dataset", str(dataset), "--model", str(model)]
    options = [*place, "--params", Params.from_dict({**WIDE, **changes}).to_json(), "--json"]
    command = [sys.executable, "-m", "tests.train.out_of_memory", str(mebibytes), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def write_many(path: Path) -> Path:
    images, labels = digits()
    with DatasetWriter(path, [str(digit) for digit in range(10)], (8, 8, 1)) as writer:
        writer.add("train", images[:1200], labels[:1200])
        writer.add("test", images[1200:1250], labels[1200:1250])
        writer.commit(source="IDX files", test_split="held out", manual_seed=0, unreadable=[])
    return path


@pytest.mark.slow
def test_under_a_real_limit_the_answer_is_true(tmp_path: Path) -> None:
    data = write_many(tmp_path / "data")
    refused = limited(data, tmp_path / "model", 450, batch_size=1024)
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

    trained = limited(data, tmp_path / "model", 450, batch_size=batch_size, gradient_accumulation_steps=steps)
    assert trained.returncode == 0, trained.stderr


def test_an_evaluation_that_does_not_fit_says_so(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise RuntimeError(CPU_SAYS)

    monkeypatch.setattr("components.train.trainer.evaluated", full)
    with pytest.raises(ParamsError) as caught:
        train(dataset=dataset, model=tmp_path / "model", params=small())
    (problem,) = caught.value.problems
    assert problem.path == "net_arch"
    assert problem.message.startswith("evaluation puts 100 images at once through this network, which do not fit in")
    assert "(can't allocate memory: you tried to allocate 134217728 bytes" in problem.message


@pytest.mark.slow
@pytest.mark.parametrize("trial", [smoke, find_learning_rate])
def test_trials_answer_too(trial: Callable[[Path, Params], object], dataset: Path) -> None:
    def full(self: Tensor) -> None:
        raise RuntimeError(CPU_SAYS)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tensor, "backward", full)
        with pytest.raises(ParamsError, match="net_arch: not even a step on one image fits"):
            trial(dataset, small())
