"""The captured step on the device: the same bytes twice and after a restart, losses and draws of the eager one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from components.train.checkpoints.format import write_checkpoint
from components.train.checkpoints.resume import find_checkpoint
from components.train.group import Group
from components.train.start import TrainingInputs, start_trainer
from components.train.state import manifest_of, state_of
from components.train.trainer import Trainer
from tests.examples import SMALL
from tests.gpu.settings import EVERYTHING, ON_GPU, VARIANTS, settings
from tests.train.interrupting import LOG, Interrupted, differing, inputs_of, timeless

STEPS = 200
EPOCHS = STEPS // 7 + 1


def started(inputs: TrainingInputs, checkpoints: Path | None = None) -> Trainer:
    """The trainer of a run, as it goes on from the newest of its checkpoints, if there is one."""
    found = None
    if checkpoints is not None:
        found = find_checkpoint(checkpoints, inputs.params, inputs.dataset_sha256, LOG)
    return start_trainer(inputs, Group(), found, None)


def trained(trainer: Trainer, epochs: int | None = None, after_step: Callable[[], None] = lambda: None) -> Trainer:
    """Trained to its end, or for so many epochs."""
    while not trainer.is_finished and epochs != 0:
        trainer.train_epoch(after_step)
        trainer.end_epoch()
        epochs = None if epochs is None else epochs - 1
    return trainer


def state(trainer: Trainer) -> dict[str, Any]:
    """All but how long it took, and how steps were made."""
    return {key: value for key, value in timeless(state_of(trainer)).items() if key != "step"}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_run_made_twice_and_a_run_made_in_three_parts_are_equal_to_the_bit(
    dataset: Path, tmp_path: Path, name: str
) -> None:
    inputs = inputs_of(dataset, settings("graph", **VARIANTS[name]))
    whole = state(trained(started(inputs)))

    assert differing(whole, state(trained(started(inputs)))) == []

    for last in (2, 7 + 6):  # in the middle of the first epoch, and before the last, smaller batch of the second
        trainer = started(inputs, tmp_path)

        def leave(trainer: Trainer = trainer, last: int = last) -> None:
            if trainer.position.step * inputs.params.gradient_accumulation_steps >= last:
                raise Interrupted

        with pytest.raises(Interrupted):
            trained(trainer, after_step=leave)
        write_checkpoint(tmp_path, manifest_of(trainer, inputs.dataset_sha256), state_of(trainer))
    assert differing(whole, state(trained(started(inputs, tmp_path)))) == []


@pytest.mark.parametrize("name", VARIANTS)
def test_captured_and_eager_runs_agree_over_200_steps(dataset: Path, name: str) -> None:
    # Rounding that differs once is enlarged from step to step: a low rate keeps that in bounds.
    changes = VARIANTS[name] | {"num_epochs": EPOCHS, "eval_freq": EPOCHS, "learning_rate": 0.001}
    runs = {step: trained(started(inputs_of(dataset, settings(step, **changes)))) for step in ("graph", "eager")}

    assert runs["graph"].position == runs["eager"].position
    losses = {step: np.array([record.train_loss for record in run.history]) for step, run in runs.items()}
    tolerance = 3e-2 if name == "bf16" else 1e-2
    np.testing.assert_allclose(losses["graph"], losses["eager"], rtol=tolerance)
    np.testing.assert_allclose(losses["graph"][0], losses["eager"][0], rtol=tolerance / 10)
    draws = {step: state(run)["generators"] for step, run in runs.items()}
    assert differing(draws["graph"], draws["eager"]) == []


@pytest.mark.parametrize("step", ["graph", "eager"])
def test_a_run_goes_on_where_the_other_kind_of_step_left_it(dataset: Path, tmp_path: Path, step: str) -> None:
    other = {"graph": "eager", "eager": "graph"}[step]
    changes = EVERYTHING | {"num_epochs": 6, "learning_rate": 0.001}
    begun = inputs_of(dataset, settings(other, **changes))
    whole = state(trained(started(begun)))
    trainer = trained(started(begun), epochs=3)
    write_checkpoint(tmp_path, manifest_of(trainer, begun.dataset_sha256), state_of(trainer))

    going_on = trained(started(inputs_of(dataset, settings(step, **changes)), tmp_path))

    found = state(going_on)
    assert differing(found["generators"], whole["generators"]) == []
    ours, theirs = ([record["train_loss"] for record in each["history"]] for each in (found, whole))
    np.testing.assert_allclose(ours, theirs, rtol=1e-2)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_captured_and_eager_evaluation_are_equal(dataset: Path, tmp_path: Path, precision: str) -> None:
    inputs = inputs_of(dataset, settings("graph", precision=precision, ema_decay=0.9))
    trainer = trained(started(inputs))
    write_checkpoint(tmp_path, manifest_of(trainer, inputs.dataset_sha256), state_of(trainer))
    eager = started(inputs_of(dataset, settings("eager", precision=precision, ema_decay=0.9)), tmp_path)

    one, other = trainer.predict_with_best(), eager.predict_with_best()

    assert np.array_equal(one.predicted, other.predicted)
    np.testing.assert_allclose(one.losses, other.losses, rtol=1e-6, atol=1e-9)
    assert one.probabilities is not None
    assert other.probabilities is not None
    np.testing.assert_allclose(one.probabilities, other.probabilities, rtol=1e-6, atol=1e-9)


class ReadsAValue(torch.nn.Module):
    """What no capture survives: the host asks the device for a number."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values if values.is_meta or values.sum().item() != 0 else values + 0


class CountsOnTheHost(torch.nn.Module):
    """The same through a shape that depends on values."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values if values.is_meta else values * (1 + 0 * len(values.nonzero()))


@pytest.mark.parametrize("kind", [ReadsAValue, CountsOnTheHost])
def test_what_cannot_be_captured_is_trained_as_eager_with_a_warning(
    dataset: Path, monkeypatch: pytest.MonkeyPatch, heard: pytest.LogCaptureFixture, kind: type
) -> None:
    monkeypatch.setenv("SHUTTERLINE_MODULES", __name__)
    changes = EVERYTHING | {"net_arch": [{"class": f"{__name__}.{kind.__name__}", "kwargs": {}}, *SMALL["net_arch"]]}
    eager = state(trained(started(inputs_of(dataset, settings("eager", **changes)))))
    heard.clear()

    found = state(trained(started(inputs_of(dataset, settings("graph", **changes)))))

    assert differing(found, eager) == []
    assert "eager" in heard.text, "the log says why the step is not captured"


def test_a_replayed_step_takes_no_more_memory(dataset: Path) -> None:
    if not ON_GPU:
        pytest.skip("memory of a GPU")
    trainer = trained(started(inputs_of(dataset, settings("graph", **EVERYTHING, num_epochs=8))), epochs=3)
    before = torch.cuda.memory_allocated()

    trained(trainer)

    assert torch.cuda.memory_allocated() <= before + 2**16


PRODUCTS = {"fp32": (0.0, 1e-5), "tf32": (2e-5, 2e-3), "bf16": (1e-4, 2e-2)}


@pytest.mark.parametrize("precision", PRODUCTS)
def test_a_precision_is_what_it_says(dataset: Path, precision: str) -> None:
    if not ON_GPU:
        pytest.skip("a CPU has one precision")
    trainer = started(inputs_of(dataset, settings("graph", precision=precision)))
    draws = torch.Generator("cuda").manual_seed(0)
    layers = [torch.nn.Linear(512, 512, device="cuda"), torch.nn.Conv2d(64, 64, 3, device="cuda")]
    inputs = [torch.randn(size, device="cuda", generator=draws) for size in ((256, 512), (16, 64, 32, 32))]
    lowest, highest = PRODUCTS[precision]

    for each, given in zip(layers, inputs, strict=True):
        with torch.no_grad():
            exact = each.double()(given.double())
            with trainer.precision.autocast(torch.device("cuda")):
                found = each.float()(given).double()
        error = float((found - exact).norm() / exact.norm())
        assert lowest < error < highest, f"{type(each).__name__}: {error:.1e}"
