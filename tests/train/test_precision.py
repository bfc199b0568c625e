"""Precision, compiling and fused optimisers: nearly the same training, and the log says what was chosen and why."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from components.classifier.network import LayerTable, examine
from components.shared.artifacts.model import open_model
from components.shared.errors import ParamsError
from components.shared.params.types import LayerSpec
from components.train.compiling import choose_compiling, flops_of_training
from components.train.train import train
from tests.configs import layer
from tests.examples import small
from tests.train.trials import PLAIN_ARCH, epochs, trainer_of, weights

CPU, GPU = torch.device("cpu"), torch.device("cuda")
ARCH = [
    layer("Conv2d", in_channels=1, out_channels=4, kernel_size=3, bias=False),  # 6×6×4 values of 9 products
    layer("ReLU"),
    layer("Conv2d", in_channels=4, out_channels=8, kernel_size=3, bias=False),  # 4×4×8 of 36
]
FIRST, SECOND, LAST = 6 * 6 * 4 * 9, 4 * 4 * 8 * 36, 4 * 4 * 8 * 10


def table_of(frozen: int = 0) -> LayerTable:
    return examine([LayerSpec.model_validate(entry) for entry in ARCH], (8, 8, 1), 10, frozen_layers=frozen)


@pytest.mark.parametrize(
    ("frozen", "products"),
    [
        (0, 2 * FIRST + 3 * SECOND + 3 * LAST),  # nobody needs the gradient of the images
        (1, 1 * FIRST + 2 * SECOND + 3 * LAST),
        (3, 1 * FIRST + 1 * SECOND + 2 * LAST),
    ],
)
def test_what_is_not_computed_is_not_counted(frozen: int, products: int) -> None:
    assert flops_of_training(table_of(frozen)) == 2 * products


def seen_dtypes(network_layer: nn.Module) -> set[tuple[bool, torch.dtype]]:
    seen: set[tuple[bool, torch.dtype]] = set()

    def note(module: nn.Module, given: Any, output: Tensor) -> None:
        seen.add((module.training, output.dtype))

    network_layer.register_forward_hook(note)
    return seen


def test_bf16_trains_and_evaluates_near_fp32(dataset: Path) -> None:
    plain, half = (trainer_of(dataset, precision=name, num_epochs=5) for name in ("fp32", "bf16"))
    of_plain, of_half = (seen_dtypes(trainer.network.features[0]) for trainer in (plain, half))
    losses, near = epochs(plain, 5), epochs(half, 5)

    assert of_plain == {(True, torch.float32), (False, torch.float32)}
    assert of_half == {(True, torch.bfloat16), (False, torch.bfloat16)}
    assert near == pytest.approx(losses, rel=0.05)
    assert near != losses
    assert all(weight.dtype is torch.float32 for weight in weights(half))
    assert half.best.accuracy == pytest.approx(plain.best.accuracy, abs=0.05)


@pytest.mark.parametrize(
    ("optimiser", "kwargs"),
    [
        ("SGD", {"momentum": 0.9, "weight_decay": 0.01}),
        ("Adam", {}),
        ("AdamW", {"weight_decay": 0.1}),
        ("Adagrad", {}),
    ],
)
def test_a_fused_optimiser_makes_the_same_steps(dataset: Path, optimiser: str, kwargs: dict[str, Any]) -> None:
    common: dict[str, Any] = {"optim_class": f"torch.optim.{optimiser}", "num_epochs": 2, "net_arch": PLAIN_ARCH}
    fused = trainer_of(dataset, **common, optim_kwargs=kwargs)
    plain = trainer_of(dataset, **common, optim_kwargs={**kwargs, "foreach": False})
    assert fused.optimiser.param_groups[0]["fused"] is True
    assert not plain.optimiser.param_groups[0]["fused"]
    assert epochs(fused, 2) == pytest.approx(epochs(plain, 2), rel=1e-3)
    for one, other in zip(weights(fused), weights(plain), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-3)


def chosen(heard: pytest.LogCaptureFixture, dataset: Path, model: Path, **changes: Any) -> str:
    heard.clear()
    train(dataset=dataset, model=model, params=small(**{"num_epochs": 1, **changes}))
    (line,) = (message for message in heard.messages if "parameters on" in message)
    return line


def test_the_log_says_what_was_chosen_and_why(dataset: Path, tmp_path: Path, heard: pytest.LogCaptureFixture) -> None:
    line = chosen(heard, dataset, tmp_path / "one")
    assert line.endswith("fp32 (on the CPU), not compiled (on the CPU)")
    line = chosen(heard, dataset, tmp_path / "two", precision="bf16", compile="never")
    assert line.endswith("bf16 (as precision says), not compiled (as compile says)")


@pytest.mark.parametrize(
    ("compiles", "device", "expected"),
    [
        ("auto", CPU, (False, "on the CPU")),
        ("always", CPU, (True, "as compile says")),
        ("never", CPU, (False, "as compile says")),
        ("auto", GPU, (False, "the run is short: 4.1e+06 FLOP, and it pays from 1e+16")),
    ],
)
def test_compiling_is_off_where_it_does_not_pay(
    compiles: str, device: torch.device, expected: tuple[bool, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)  # as where triton is
    assert choose_compiling(small(compile=compiles), device, table_of(), 100) == expected


def test_of_a_long_run_the_steps_must_be_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    images = 1e13
    bound = "the host is the bound of so small a step: 1.3e+06 FLOP, below 3e+11"
    assert choose_compiling(small(), GPU, table_of(), images) == (False, bound)
    large = small(batch_size=10_000_000)
    assert choose_compiling(large, GPU, table_of(), images) == (True, "the run is long: 4.1e+17 FLOP")
    checkpointed = large.model_copy(update={"gradient_checkpointing": True})
    assert choose_compiling(checkpointed, GPU, table_of(), images) == (
        False,
        "gradient_checkpointing is true, whose recomputed layers are not compiled",
    )


def test_compiling_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ParamsError, match=r'compile: is "always", and there is no C\+\+ compiler.*"auto" or "never"'):
        choose_compiling(small(compile="always"), CPU, table_of(), 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"mixup_alpha": 0.5, "cutmix_alpha": 0.5, "gradient_accumulation_steps": 2}])
def test_one_compilation_serves_a_run_and_is_no_training(
    dataset: Path, tmp_path: Path, heard: pytest.LogCaptureFixture, changes: dict[str, Any]
) -> None:
    from torch._dynamo.utils import counters

    changes |= {"batch_size": 60, "num_epochs": 2}  # the last batch has 20 images
    train(dataset=dataset, model=tmp_path / "plain", params=small(compile="never", **changes))
    torch.compiler.reset()  # a network that was compiled in this process before would not be again
    before = counters["stats"]["unique_graphs"]
    line = chosen(heard, dataset, tmp_path / "compiled", compile="always", **changes)
    assert counters["stats"]["unique_graphs"] == before + 1
    assert line.endswith("compiled (as compile says)")
    plain, compiled = (open_model(tmp_path / name).manifest for name in ("plain", "compiled"))
    for one, other in zip(compiled.history, plain.history, strict=True):
        assert one.train_loss == pytest.approx(other.train_loss, rel=1e-3)
        assert one.loss == pytest.approx(other.loss or 0.0, rel=5e-3)
    speed = compiled.provenance.speed
    assert speed is not None
    assert speed.shares["compiling"] > 0
    steps = sum(speed.shares[name] for name in ("data", "forward_backward", "optimiser")) * compiled.provenance.seconds
    assert speed.samples_per_second == pytest.approx(400 / steps, rel=1e-6)
    (told,) = (message for message in heard.messages if message.startswith("compiling took"))
    assert re.fullmatch(r"compiling took [\d.]+ s, and the steps [\d.]+ s; what it saved was not measured", told)
