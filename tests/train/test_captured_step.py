"""Steps replayed from graphs: the same bytes as plain steps, resumed too; and plain steps where they cannot be.

Graphs are those of :class:`RecordedGraphs`, which replays on the CPU what was captured.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from components.classifier.batched_transforms import as_on_gpu
from components.classifier.graphs import Graphs
from components.shared.params.params import Params
from components.train.checkpoints.format import write_checkpoint
from components.train.checkpoints.resume import find_checkpoint
from components.train.group import Group
from components.train.start import start_trainer
from components.train.state import manifest_of, state_of
from components.train.trainer import Trainer
from tests.configs import schedule, transform
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
    "two rates": {"backbone_learning_rate": 0.001, "decay_biases_and_norms": False} | COSINE,
    "batched transforms": {
        "flip_images": True,
        "additional_transforms": [
            transform("RandomCrop", size=8, padding=2),
            transform("RandomErasing", p=0.5),
            transform("ColorJitter", brightness=0.3, contrast=0.2),
        ],
    },
    "parts of stored images, mixed": MIXED
    | {"image_height": 6, "image_width": 6, "stored_height": 8, "stored_width": 8, "data_placement": "host"},
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
