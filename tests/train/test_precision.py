"""Precision, compiling and fused optimisers: nearly the same training, and the log says what was chosen and why."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from components.shared.errors import ParamsError
from components.train.precision import choose_compiling, choose_precision
from components.train.train import train
from tests.examples import small
from tests.train.trials import PLAIN_ARCH, epochs, trainer_of, weights

CPU = torch.device("cpu")


def _seen(layer: nn.Module) -> set[tuple[bool, torch.dtype]]:
    seen: set[tuple[bool, torch.dtype]] = set()

    def note(module: nn.Module, given: Any, output: Tensor) -> None:
        seen.add((module.training, output.dtype))

    layer.register_forward_hook(note)
    return seen


def test_bf16_trains_and_evaluates_near_fp32(dataset: Path) -> None:
    plain, half = (trainer_of(dataset, precision=name, num_epochs=5) for name in ("fp32", "bf16"))
    seen = {name: _seen(trainer.network.features[0]) for name, trainer in (("fp32", plain), ("bf16", half))}
    losses, near = epochs(plain, 5), epochs(half, 5)

    assert seen["fp32"] == {(True, torch.float32), (False, torch.float32)}
    assert seen["bf16"] == {(True, torch.bfloat16), (False, torch.bfloat16)}
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


def _line(caplog: pytest.LogCaptureFixture, dataset: Path, model: Path, **changes: Any) -> str:
    caplog.clear()
    logger = logging.getLogger("shutterline.train")
    logger.addHandler(caplog.handler)  # which an earlier test may have cut off from the root
    try:
        with caplog.at_level(logging.INFO, logger.name):
            train(dataset=dataset, model=model, params=small(num_epochs=1, **changes))
    finally:
        logger.removeHandler(caplog.handler)
    found = {message for message in caplog.messages if "parameters on" in message}
    caplog.clear()
    (line,) = found
    return line


def test_the_log_says_what_was_chosen_and_why(dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    line = _line(caplog, dataset, tmp_path / "one")
    assert line.endswith("fp32 (on the CPU), not compiled (on the CPU)")
    line = _line(caplog, dataset, tmp_path / "two", precision="bf16", compile="never")
    assert line.endswith("bf16 (as precision says), not compiled (as compile says)")


def test_compiling_is_off_where_it_does_not_pay() -> None:
    auto = choose_compiling(small(), CPU, 1e30)
    assert (auto.is_on, auto.reason) == (False, "on the CPU")
    assert choose_compiling(small(compile="always"), CPU, 1.0).is_on
    assert not choose_compiling(small(compile="never"), CPU, 1e30).is_on
    gpu = torch.device("cuda")
    assert choose_compiling(small(), gpu, 1e12).reason == "the run is short: 1.0e+12 FLOP, and it pays from 1e+16"
    assert choose_precision(small(), CPU).name == "fp32"


def test_compiling_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ParamsError, match=r'compile: is "always", and there is no C\+\+ compiler.*"auto" or "never"'):
        choose_compiling(small(compile="always"), CPU, 1.0)


@pytest.mark.slow
def test_a_compiled_network_learns_the_same(dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from torch._dynamo.utils import counters

    from components.shared.artifacts.model import open_model

    train(dataset=dataset, model=tmp_path / "plain", params=small(compile="never", num_epochs=1))
    before = counters["stats"]["unique_graphs"]
    line = _line(caplog, dataset, tmp_path / "compiled", compile="always")
    assert counters["stats"]["unique_graphs"] > before
    assert line.endswith("compiled (as compile says)")
    plain, compiled = (open_model(tmp_path / name).manifest.history[0] for name in ("plain", "compiled"))
    assert compiled.train_loss == pytest.approx(plain.train_loss, rel=1e-3)
    assert compiled.loss == pytest.approx(plain.loss or 0.0, rel=1e-3)
