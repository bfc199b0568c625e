"""Steps replayed from graphs: the same bytes as plain steps, resumed too; and plain steps where they cannot be.

Graphs are those of :class:`RecordedGraphs`, which replays on the CPU what was captured.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from components.classifier.batched_transforms import as_on_gpu
from components.classifier.graphs import GraphedCall, Graphs, Replay
from components.shared.params.params import Params
from components.train import speed
from components.train.checkpoints.format import write_checkpoint
from components.train.checkpoints.resume import find_checkpoint
from components.train.group import Group
from components.train.start import start_trainer
from components.train.state import manifest_of, state_of
from components.train.trainer import Trainer
from tests.configs import layer, schedule, transform
from tests.examples import SMALL, small
from tests.train.interrupting import LOG, differing, inputs_of, timeless
from tests.train.recorded_graphs import RecordedGraphs

DROPOUT = {"net_arch": [*SMALL["net_arch"], {"class": "torch.nn.Dropout", "kwargs": {"p": 0.3}}]}
SGD = {"optim_class": "torch.optim.SGD", "optim_kwargs": {"momentum": 0.9}, "learning_rate": 0.05}
ADAM = {"optim_class": "torch.optim.Adam", "optim_kwargs": {"amsgrad": True, "weight_decay": 0.01}}
LR = "learning_rate_schedule"
COSINE = {LR: [schedule("CosineAnnealingLR") | {"interval": "batch"}]}
MIXED = {"mixup_alpha": 0.4, "cutmix_alpha": 1.0}


def run(
    dataset: Path,
    params: Params,
    graphs: Graphs | None = None,
    until: int | None = None,
    checkpoints: Path | None = None,
) -> Trainer:
    """A training up to a step, or to its end; it goes on from the newest checkpoint, and leaves one."""
    inputs = inputs_of(dataset, params)
    found = find_checkpoint(checkpoints, params, inputs.dataset_sha256, LOG) if checkpoints is not None else None
    trainer = start_trainer(inputs, Group(), found, None, is_trial=True, graphs=graphs)
    if isinstance(graphs, RecordedGraphs) and trainer.average is not None:
        graphs.host = (trainer.average.n_averaged,)

    class Enough(Exception):  # noqa: N818 - no fault
        pass

    def after_step() -> None:
        if trainer.position.step == until:
            raise Enough

    try:
        while not trainer.is_finished:
            trainer.train_epoch(after_step)
            trainer.end_epoch()
    except Enough:
        pass
    if checkpoints is not None:
        write_checkpoint(checkpoints, manifest_of(trainer, inputs.dataset_sha256), state_of(trainer))
    return trainer


def state(trainer: Trainer) -> dict[str, Any]:
    kept = timeless(state_of(trainer))
    del kept["step"]
    return kept


CASES: dict[str, dict[str, Any]] = {
    "AdamW": {},
    "SGD, schedule by batch, flips": SGD | COSINE | {"flip_images": True},
    "Adam, warm-up, averages, dropout": ADAM | DROPOUT | {"warmup_epochs": 1.5, "ema_decay": 0.9},
    "mixup, schedule by epoch": {"mixup_alpha": 0.4, LR: [schedule("StepLR", step_size=1, gamma=0.5)]},
    "cutmix, class weights": {"cutmix_alpha": 1.0, "class_weights": "balanced"},
    "both, accumulation, clipping": SGD
    | MIXED
    | {"gradient_accumulation_steps": 3, "max_grad_norm": 0.5, "batch_size": 16, "class_weights": "balanced"},
    "images on the host": MIXED | {"data_placement": "host", "flip_images": True, "gradient_accumulation_steps": 2},
    "bfloat16": SGD | {"precision": "bf16", "learning_rate": 0.2},
    "two rates": {"backbone_learning_rate": 0.001, "decay_biases_and_norms": False} | COSINE,
    "batched transforms": {
        "flip_images": True,
        "additional_transforms": [
            transform("RandomResizedCrop", size=8, scale=[0.5, 1.0]),
            transform("RandAugment"),
            transform("RandomErasing", p=0.5),
            transform("ColorJitter", brightness=0.3, contrast=0.2),
        ],
    },
    "parts of stored images, mixed": MIXED
    | {"image_height": 6, "image_width": 6, "stored_height": 8, "stored_width": 8, "data_placement": "host"},
    "layers computed again, bf16": {
        "gradient_checkpointing": True,
        "precision": "bf16",
        "net_arch": [
            *SMALL["net_arch"],
            *[layer("Conv2d", in_channels=8, out_channels=8, kernel_size=1), layer("BatchNorm2d", num_features=8)] * 3,
        ],
    },
    "another loss": {"loss": {"class": "torch.nn.BCEWithLogitsLoss"}, "shuffle_dataset": False, "batch_size": 60},
}


@pytest.mark.parametrize("name", CASES)
def test_replayed_steps_make_the_same_bytes_as_plain_ones(few: Path, name: str) -> None:
    changes = {"num_epochs": 3, **CASES[name]}
    graphs = RecordedGraphs()
    with as_on_gpu():
        plain = run(few, small(step="eager", **changes))
        captured = run(few, small(step="graph", **changes), graphs)

    assert captured.is_captured
    assert graphs.replays > captured.position.step - 1
    assert differing(state(plain), state(captured)) == []
    assert captured.timing.seconds["captured_step"] > 0 == plain.timing.seconds["captured_step"]


EVERYTHING = SGD | COSINE | DROPOUT | MIXED | {"ema_decay": 0.9, "flip_images": True, "warmup_epochs": 0.5}


def test_two_hundred_steps_with_a_smaller_last_one(dataset: Path) -> None:
    changes = EVERYTHING | {"num_epochs": 29, "eval_freq": 8}
    graphs = RecordedGraphs()
    plain = run(dataset, small(step="eager", **changes))
    captured = run(dataset, small(step="graph", **changes), graphs)

    assert captured.position.step == 203
    assert graphs.captures == 3  # one is of the third evaluation
    assert differing(state(plain), state(captured)) == []


def test_a_run_ended_at_any_step_goes_on_to_the_same_bytes(few: Path, tmp_path: Path) -> None:
    params = small(step="graph", num_epochs=3, **EVERYTHING)
    whole = run(few, params, RecordedGraphs())
    for step in range(1, 6):
        assert run(few, params, RecordedGraphs(), until=step, checkpoints=tmp_path).position.step == step
    last = run(few, params, RecordedGraphs(), checkpoints=tmp_path)

    assert last.is_captured
    assert differing(state(whole), state(last)) == []


class Failing(RecordedGraphs):
    """Graphs of which the one of that number fails as it is captured."""

    def __init__(self, error: Exception, number: int = 1) -> None:
        super().__init__()
        self._error, self._number = error, number

    def capture(self, work: Callable[[], object], generators: Sequence[torch.Generator] = ()) -> Replay:
        replay = super().capture(work, generators)
        if self.captures == self._number:
            raise self._error
        return replay


class Wrong(RecordedGraphs):
    """Graphs whose replay does something else than what was captured."""

    def __init__(self, wrong: Callable[[Replay], object]) -> None:
        super().__init__()
        self._wrong = wrong

    def capture(self, work: Callable[[], object], generators: Sequence[torch.Generator] = ()) -> Replay:
        replay = super().capture(work, generators)
        return lambda: self._wrong(replay)


class Forgetful(RecordedGraphs):
    """Graphs that have none of the generators."""

    def capture(self, work: Callable[[], object], generators: Sequence[torch.Generator] = ()) -> Replay:
        return super().capture(work)


NOT_PERMITTED = RuntimeError("CUDA error: operation not permitted when stream is capturing\nand more")
WITHOUT_VALUE = {
    "net_arch": [
        SMALL["net_arch"][0],
        {"class": "torch.nn.BatchNorm2d", "kwargs": {"num_features": 8, "momentum": None}},
        *SMALL["net_arch"][2:],
    ]
}
FAILURES: dict[str, tuple[Callable[[], RecordedGraphs], dict[str, Any], str]] = {
    "capture": (lambda: Failing(NOT_PERMITTED), {}, "CUDA error: operation not permitted when stream is capturing"),
    "second capture": (lambda: Failing(NOT_PERMITTED, 2), {}, "CUDA error: operation not permitted"),
    "memory": (lambda: Failing(torch.OutOfMemoryError("CUDA out of memory")), {}, "there is not enough memory"),
    "nothing replayed": (lambda: Wrong(lambda replay: None), {}, "its weights differ from those of the plain step"),
    "replayed twice": (lambda: Wrong(lambda replay: (replay(), replay())), {}, "its weights differ"),
    "drawn once more": (
        lambda: Wrong(lambda replay: (replay(), torch.rand(1))),
        {"net_arch": SMALL["net_arch"]},
        "it draws other random numbers than the plain step",
    ),
    "generators": (Forgetful, {}, "rand draws from a generator that the graph does not have"),
    "a value read": (RecordedGraphs, WITHOUT_VALUE, "operation not permitted when stream is capturing"),
    "an optimiser's check": (RecordedGraphs, {"optim_class": "torch.optim.NAdam"}, "If capturable=True"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_where_a_graph_cannot_be_relied_on_the_run_is_one_of_plain_steps(
    few: Path, tmp_path: Path, heard: pytest.LogCaptureFixture, name: str
) -> None:
    graphs, changes, reason = FAILURES[name]
    options = {**EVERYTHING, "optim_kwargs": {}, "optim_class": "torch.optim.AdamW", "num_epochs": 3} | changes
    plain = run(few, small(step="eager", **options))
    heard.clear()
    params, made = small(step="graph", **options), graphs()
    run(few, params, made, until=3, checkpoints=tmp_path)
    (warning,) = [record.getMessage() for record in heard.records if record.levelno == logging.WARNING]
    captures = made.captures
    last = run(few, params, made, checkpoints=tmp_path)

    assert warning.startswith(f"step: eager from here on, a captured step could not be relied on: {reason}")
    assert made.captures == captures  # it is not tried again
    assert not last.is_captured
    assert differing(state(plain), state(last)) == []
    assert last.timing.seconds["captured_step"] == 0


RELU: dict[str, Any] = {"class": "torch.nn.ReLU", "kwargs": {}}
RECOMPUTED = {
    "net_arch": [*DROPOUT["net_arch"], *[RELU] * 8],
    "gradient_checkpointing": True,
}
COMPRESSED = {"additional_transforms": [transform("JPEG", quality=[50, 90])]}
CYCLE = SGD | {LR: [schedule("OneCycleLR", max_lr=0.1) | {"interval": "batch"}]}
REASONS: dict[str, tuple[dict[str, Any], bool, str]] = {
    "asked": ({"step": "eager"}, True, "as step says"),
    "auto": ({"step": "auto"}, True, "auto: not yet tried on a GPU"),
    "auto, the CPU": ({"step": "auto"}, False, "on the CPU"),
    "the CPU": ({}, False, "there is no GPU"),
    "Adafactor": ({"optim_class": "torch.optim.Adafactor"}, True, "reads values from the GPU at each step"),
    "SGD, not fused": (SGD | {"optim_kwargs": {"fused": False}}, True, "has a rate on the GPU only where it is fused"),
    "momentum": (CYCLE, True, "learning_rate_schedule[0] (OneCycleLR) moves the momentum, which a graph keeps"),
    "image by image": (COMPRESSED, True, "JPEG in additional_transforms run image by image"),
    "accumulation": ({"gradient_accumulation_steps": 33}, True, "a graph has at most 32 batches"),
    "checkpointing": (RECOMPUTED, True, "draws the random numbers of its layers again"),
}


@pytest.mark.parametrize("name", REASONS)
def test_why_steps_are_not_captured_is_in_the_log(few: Path, heard: pytest.LogCaptureFixture, name: str) -> None:
    changes, has_graphs, reason = REASONS[name]
    inputs = inputs_of(few, small(**{"step": "graph", **changes}))
    trainer = start_trainer(inputs, Group(), None, None, graphs=RecordedGraphs() if has_graphs else None)

    (record,) = [record for record in heard.records if record.getMessage().startswith("step: ")]
    assert record.getMessage().startswith("step: eager (")
    assert reason in record.getMessage()
    assert (record.levelno == logging.WARNING) == (inputs.params.step == "graph")
    assert trainer.captured is None


@pytest.mark.parametrize("is_possible", [True, False])
def test_the_bound_of_replayed_steps_is_a_replayed_step(
    dataset: Path, monkeypatch: pytest.MonkeyPatch, is_possible: bool
) -> None:
    monkeypatch.setattr(speed, "SHORTEST_S", 0.0)
    graphs = RecordedGraphs() if is_possible else Failing(NOT_PERMITTED, 3)
    trainer = run(dataset, small(step="graph", ema_decay=0.9, num_epochs=1), graphs)
    trainer.timing.seconds["other"] = 100.0
    before = [parameter.clone() for parameter in trainer.network.parameters()]
    replays = graphs.replays

    found = speed.measure_speed(trainer)

    assert found.captured
    assert "captured step" in speed.speed_lines(found)[1]
    assert ", captured, images" in speed.speed_lines(found)[0]
    assert all(map(torch.equal, before, trainer.network.parameters()))
    if is_possible:
        assert graphs.replays > replays + 20
        assert graphs.captures == 3
    else:
        why = "CUDA error: operation not permitted when stream is capturing"
        assert found.why_not == {"of_constant_tensor": f"not measurable here (its step is not captured: {why})"}


def test_where_evaluation_is_not_captured_it_is_as_before(few: Path, heard: pytest.LogCaptureFixture) -> None:
    plain = run(few, small(step="eager", num_epochs=3))
    heard.clear()
    captured = run(few, small(step="graph", num_epochs=3), Failing(NOT_PERMITTED, 3))

    assert captured.is_captured
    (warning,) = [record.getMessage() for record in heard.records if record.levelno == logging.WARNING]
    assert warning == f"evaluation: eager, it is not captured: {str(NOT_PERMITTED).splitlines()[0]}"
    assert differing(state(plain), state(captured)) == []


def test_a_graphed_call_gives_what_the_function_gives() -> None:
    graphs, layer = RecordedGraphs(), torch.nn.Linear(3, 2)
    with torch.no_grad():
        call = GraphedCall(graphs, lambda one, other: layer(one) + other.sum(), torch.ones(4, 3), torch.zeros(4, 3))
        one, other = torch.rand(4, 3), torch.rand(4, 3)
        first, second = call(one, other), call(other, one)

        assert torch.equal(first, layer(one) + other.sum())
        assert torch.equal(second, layer(other) + one.sum())
        with pytest.raises(RuntimeError, match="a replay gave other values than the call that was captured"):
            GraphedCall(Wrong(lambda replay: None), lambda values: values + 1, torch.rand(4, 3))


def test_a_graphed_call_under_autocast_follows_its_weights() -> None:
    layer = torch.nn.Linear(3, 2)
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            layer(torch.ones(4, 3))
            call = GraphedCall(RecordedGraphs(), layer, torch.ones(4, 3))
        layer.weight.zero_()

        assert torch.equal(call(torch.rand(4, 3)), layer.bias.to(torch.bfloat16).expand(4, 2))
