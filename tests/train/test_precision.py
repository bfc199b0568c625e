"""Precision, compiling and fused optimisers: nearly the same training, and the log says what was chosen and why."""

from __future__ import annotations

import logging
import math
import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from components.classifier.network import LayerTable, examine
from components.shared.artifacts.model import open_model
from components.shared.errors import DeviceError, ParamsError
from components.shared.params.types import LayerSpec
from components.train.checkpoints.resume import Found
from components.train.compiling import choose_compiling, flops_of_training
from components.train.group import Group
from components.train.measured_precision import measure, precision_of_run
from components.train.precision import (
    Measured,
    Precision,
    PrecisionName,
    best_of,
    candidates,
    choose_precision,
    unmeasured,
    without_tf32,
)
from components.train.start import start_trainer
from components.train.state import manifest_of, restore, state_of
from components.train.train import train
from tests.configs import layer
from tests.examples import small
from tests.train.interrupting import inputs_of
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


def measured(fp32: float, tf32: float, bf16: float, rounding: float = 0.02) -> dict[PrecisionName, Measured]:
    return {"fp32": Measured(fp32, 0.0), "tf32": Measured(tf32, rounding / 8), "bf16": Measured(bf16, rounding)}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (measured(174_900, 170_000, 126_600), "fp32"),  # an H100, small images
        (measured(756, 2_000, 3_470), "bf16"),  # a ResNet-50
        (measured(100, 195, 210), "tf32"),  # within a tenth of the fastest, and more exact
        (measured(100, 105, 110), "fp32"),
        (measured(100, 105, 112), "tf32"),
        (measured(100, 150, 300, rounding=1.1), "tf32"),
        (measured(100, 150, 300, rounding=9.0), "fp32"),
        (measured(100, 150, 300, rounding=math.nan), "fp32"),
        ({"fp32": Measured(100, 0.0), "bf16": Measured(300, 0.05)}, "bf16"),
    ],
)
def test_the_most_exact_of_the_fastest_is_taken(found: dict[PrecisionName, Measured], expected: str) -> None:
    precision = best_of(found)
    assert precision.name == expected
    assert all(f"{name} {each.rate:,.0f} images/s" in precision.reason for name, each in found.items())


def test_the_reason_has_rates_and_rounding() -> None:
    assert best_of(measured(756, 2_000, 3_470, rounding=1.2)).reason == (
        "measured: fp32 756 images/s, tf32 2,000 images/s, rounding 0.15 of what images differ by, "
        "bf16 3,470 images/s, rounding 1.2 of what images differ by, which is too much"
    )


class Clock:
    """Time as a measuring of precision sees it: each forward pass in a precision takes as long as the test says."""

    def __init__(self, network: nn.Module, fp32: float, bf16: float) -> None:
        self.now, self.passes = 0.0, {torch.float32: 0, torch.bfloat16: 0}
        self._seconds = {torch.float32: fp32, torch.bfloat16: bf16}
        network.register_forward_hook(self._count)

    def _count(self, module: nn.Module, given: Any, output: Tensor) -> None:
        self.passes[output.dtype] += 1
        self.now += self._seconds[output.dtype]

    def __deepcopy__(self, _: Any) -> Clock:
        return self  # the hook of a copy is the copy's

    def __call__(self, device: torch.device) -> float:
        return self.now


DRAWS: list[dict[str, Any]] = [*PLAIN_ARCH, layer("BatchNorm2d", num_features=8), layer("Dropout", p=0.5)]


@pytest.mark.parametrize("changes", [{}, {"gradient_checkpointing": True, "flip_images": True}])
def test_measuring_leaves_a_run_as_it_is(dataset: Path, changes: dict[str, Any]) -> None:
    plain, other = (trainer_of(dataset, net_arch=DRAWS, **changes) for _ in range(2))
    before = torch.get_rng_state()

    found = measure(other, ("fp32", "bf16"), 1_000, lambda _: time.perf_counter())

    assert torch.equal(torch.get_rng_state(), before)
    assert not isinstance(found, str)
    assert (found["fp32"].rounding, list(found)) == (0.0, ["fp32", "bf16"])
    assert 1e-4 < found["bf16"].rounding < 0.1
    assert found["bf16"].rate > 0 < found["fp32"].rate
    losses = []
    for trainer in (plain, other):
        torch.set_rng_state(before)
        losses.append(epochs(trainer, 2))
    assert losses[0] == losses[1]
    assert all(torch.equal(one, another) for one, another in zip(weights(plain), weights(other), strict=True))


@pytest.mark.parametrize(
    ("fp32", "allowed", "passes"),
    [
        (1.5, 1_000, (10, 10)),  # one before the nine that are timed
        (10.0, 1_000, (4, 10)),  # far slower: no second turn
        (1.5, 8, (4, 4)),
        (10.0, 3, "it would take more than 1% of the run"),
    ],
)
def test_measuring_ends_in_time(dataset: Path, fp32: float, allowed: float, passes: tuple[int, int] | str) -> None:
    trainer = trainer_of(dataset)
    clock = Clock(trainer.network, fp32, 1.0)

    found = measure(trainer, ("fp32", "bf16"), allowed, clock)

    if isinstance(passes, str):
        assert found == passes
        return
    assert not isinstance(found, str)
    assert tuple(clock.passes.values()) == passes
    assert [each.rate for each in found.values()] == pytest.approx([32 / fp32, 32.0])


def test_what_does_not_fit_in_memory_is_not_measured(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_of(dataset)

    def full(*args: Any, **options: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(trainer, "read_batches", full)
    assert measure(trainer, ("fp32", "bf16"), 1_000, lambda _: 0.0) == "it does not fit in memory"


def test_tf32_on_the_cpu_is_refused(dataset: Path) -> None:
    with pytest.raises(
        DeviceError, match=r'"tf32" was asked for, and cpu has none; set precision to "auto" or one of "fp32", "bf16"'
    ):
        trainer_of(dataset, precision="tf32")


@pytest.mark.parametrize(
    ("capability", "bf16", "among", "auto"),
    [
        ((9, 0), True, ("fp32", "tf32", "bf16"), Precision("bf16", "this GPU has it; not measured: it is short")),
        ((8, 0), True, ("fp32", "tf32", "bf16"), Precision("bf16", "this GPU has it; not measured: it is short")),
        ((7, 5), False, ("fp32",), Precision("fp32", "this GPU has no bf16; not measured: it is short")),
    ],
)
def test_a_gpu_is_asked_for_what_it_has(
    capability: tuple[int, int],
    bf16: bool,
    among: tuple[PrecisionName, ...],
    auto: Precision,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)

    assert candidates(GPU) == among
    assert unmeasured(GPU, "it is short") == auto
    for name in ("tf32", "bf16"):
        if name in among:
            assert choose_precision(small(precision=name), GPU) == (name, "as precision says")
            continue
        with pytest.raises(DeviceError, match=f'"{name}" was asked for, and cuda has none; set precision to "auto"'):
            choose_precision(small(precision=name), GPU)


class Mixed(Group):
    """A group whose other process has a GPU without bf16."""

    def gathered(self, value: Any) -> list[Any]:
        return [value, ("fp32",)]


def test_a_group_computes_in_what_all_of_its_gpus_have(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_of(dataset)
    trainer.device, trainer.group = GPU, Mixed(size=2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)

    assert precision_of_run(trainer) == ("fp32", "the GPUs of other processes have no more")


@pytest.mark.parametrize("name", ["tf32", "fp32", "bf16"])
def test_the_flags_of_tf32_are_set_together(name: PrecisionName) -> None:
    with without_tf32():
        Precision(name, "").set_flags()
        flags: list[Any] = [torch.backends.cuda.matmul, torch.backends.cudnn]
        assert [each.allow_tf32 for each in flags] == [name == "tf32"] * 2
        assert torch.get_float32_matmul_precision() == ("high" if name == "tf32" else "highest")


@pytest.mark.parametrize(
    ("kept", "asked", "expected"),
    [
        ("bf16", "auto", Precision("bf16", "as in the checkpoint")),
        ("tf32", "auto", Precision("fp32", "the checkpoint's tf32 is not on this device")),
        ("bf16", "fp32", Precision("fp32", "as precision says")),
        (None, "auto", Precision("fp32", "on the CPU")),  # of 0.9 or earlier
    ],
)
def test_a_resumed_run_keeps_its_precision(
    dataset: Path, kept: PrecisionName | None, asked: str, expected: Precision
) -> None:
    first, then = (trainer_of(dataset, precision=asked) for _ in range(2))
    if kept is not None:
        first.training_step.precision = Precision(kept, "measured")
    state = state_of(first)
    if kept is None:
        del state["precision"]

    restore(then, Found(manifest_of(first, "0" * 64), state), logging.getLogger())

    assert then.precision == expected


@pytest.mark.parametrize("was", [True, False, None])  # None: of 0.9 or earlier
def test_a_run_that_goes_on_compiled_otherwise_says_so(
    dataset: Path, was: bool | None, caplog: pytest.LogCaptureFixture
) -> None:
    first, then = trainer_of(dataset), trainer_of(dataset)
    state = state_of(first) | {"compiled": was}
    if was is None:
        del state["compiled"]

    restore(then, Found(manifest_of(first, "0" * 64), state), logging.getLogger())

    message = (
        "the checkpoint is of a compiled network, the run goes on with a plain one: sums and random numbers may be"
    )
    assert [one for one in caplog.messages if one.startswith("the checkpoint")] == [
        f"{message} others from here on"
    ] * (was is True)


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


@pytest.mark.parametrize(
    ("changes", "end"),
    [
        ({}, "fp32 (on the CPU), not compiled (on the CPU)"),
        (
            {"precision": "bf16", "compile": "never"},
            "bf16 (as precision says), not compiled (as compile says)",
        ),
        ({"compile": "always"}, "fp32 (on the CPU), compiled (as compile says)"),
    ],
)
def test_the_log_says_what_was_chosen_and_why(
    few: Path, heard: pytest.LogCaptureFixture, changes: dict[str, Any], end: str
) -> None:
    start_trainer(inputs_of(few, small(**changes)), Group(), None, None)
    (line,) = (message for message in heard.messages if "parameters on" in message)
    assert line.endswith(end)


@pytest.mark.parametrize(
    ("compiles", "device", "expected"),
    [
        ("auto", CPU, (False, "on the CPU")),
        ("always", CPU, (True, "as compile says")),
        ("never", CPU, (False, "as compile says")),
        ("auto", GPU, (False, "the run is short: 4.1e+06 FLOP, and it pays from 5e+16")),
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
    assert choose_compiling(small(step="graph"), GPU, table_of(), images) == (True, "the run is long: 4.1e+17 FLOP")
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


def test_a_network_that_does_not_compile_is_trained_uncompiled_or_refused(
    dataset: Path, monkeypatch: pytest.MonkeyPatch, heard: pytest.LogCaptureFixture
) -> None:
    def failing(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("backend='inductor' raised:\nC++ compile error")

    monkeypatch.setattr(torch, "compile", lambda model, **options: failing)
    plain, other, must = (
        trainer_of(dataset, net_arch=DRAWS, compile=compiles) for compiles in ("auto", "auto", "always")
    )
    other.training_step.compiled = must.training_step.compiled = True
    before = torch.get_rng_state()
    for trainer in (plain, other):
        torch.set_rng_state(before)
        epochs(trainer, 1)

    assert not other.compiled
    assert all(map(torch.equal, plain.network.state_dict().values(), other.network.state_dict().values()))
    reason = "the network does not compile: backend='inductor' raised: C++ compile error"
    assert f"not compiled from here on, {reason}" in heard.messages
    with pytest.raises(ParamsError, match=f'compile: is "always", and {re.escape(reason)}; set "auto" or "never"'):
        epochs(must, 1)


@pytest.mark.slow
def test_one_compilation_serves_a_run_and_is_no_training(
    dataset: Path, tmp_path: Path, heard: pytest.LogCaptureFixture
) -> None:
    from torch._dynamo.utils import counters

    changes: dict[str, Any] = {"batch_size": 60, "num_epochs": 2}  # the last batch has 20 images
    changes |= {"mixup_alpha": 0.5, "cutmix_alpha": 0.5, "gradient_accumulation_steps": 2}
    train(dataset=dataset, model=tmp_path / "plain", params=small(compile="never", **changes))
    torch.compiler.reset()  # a network that was compiled in this process before would not be again
    before = counters["stats"]["unique_graphs"]
    train(dataset=dataset, model=tmp_path / "compiled", params=small(compile="always", **changes))
    assert counters["stats"]["unique_graphs"] == before + 1
    plain, compiled = (open_model(tmp_path / name).manifest for name in ("plain", "compiled"))
    for one, other in zip(compiled.history, plain.history, strict=True):
        assert one.train_loss == pytest.approx(other.train_loss, rel=1e-3)
        assert one.loss == pytest.approx(other.loss or 0.0, rel=5e-3)
    speed = compiled.provenance.speed
    assert speed is not None
    assert speed.shares["compiling"] > 0
    steps = sum(speed.shares[name] for name in ("data", "forward_backward", "optimiser")) * compiled.provenance.seconds
    assert speed.samples_per_second == pytest.approx(400 / steps, rel=1e-6)
    (line,) = (message for message in heard.messages if message.startswith("compiling took"))
    assert re.fullmatch(r"compiling took [\d.]+ s, and the steps [\d.]+ s; what it saved was not measured", line)
