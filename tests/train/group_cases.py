"""Trainings that one process and a group do alike; torchrun starts this module once for all of them.

``python -m torch.distributed.run … -m tests.train.group_cases DATASET RESULTS`` leaves ``RESULTS/RANK.json``.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from components.classifier.device import make_repeatable
from components.classifier.images import ImageStore, LabelledImages, Normaliser, store_images
from components.classifier.network import network_of
from components.shared.artifacts.dataset import open_dataset
from components.shared.artifacts.dataset_writer import DatasetWriter
from components.shared.errors import ParamsError, Problem, ShutterlineError
from components.shared.signals import Terminated, sigterm_raises
from components.train.agreement import Agreement
from components.train.checkpoints.format import list_checkpoints, read_checkpoint_manifest
from components.train.checkpoints.resume import Checkpoints
from components.train.group import Group, evaluated, join_group, own_device
from components.train.step import train_step
from components.train.train import train
from components.train.trainer import Trainer
from tests.configs import layer, transform
from tests.examples import SMALL, digits, small
from tests.train.networks import Remembering, long_steps

CPU = torch.device("cpu")
TRAINED, HELD_OUT = 301, 1497

CONVOLUTION = layer("Conv2d", in_channels=1, out_channels=8, kernel_size=3, stride=2)
REMEMBERING = {"class": "tests.train.networks.Remembering", "kwargs": {}}  # by SHUTTERLINE_MODULES
PLAIN: dict[str, Any] = {"net_arch": [CONVOLUTION, layer("ReLU")], "num_epochs": 4, "eval_freq": 1, "flip_images": True}
# Of a network that many tests export, and this process need not.
EXPORTED = {**PLAIN, "net_arch": SMALL["net_arch"]}

CASES: dict[str, dict[str, Any]] = {
    "flips, shuffled": PLAIN,
    "accumulation, class weights, layers computed again": {
        **PLAIN,
        "net_arch": [
            CONVOLUTION,
            *[layer("Hardswish"), layer("Conv2d", in_channels=8, out_channels=8, kernel_size=1)] * 4,
        ],
        "gradient_checkpointing": True,
        "gradient_accumulation_steps": 3,
        "class_weights": "balanced",
        "max_grad_norm": 1.0,
    },
    "image by image": {
        **PLAIN,
        "num_epochs": 2,
        "additional_transforms": [transform("GaussianBlur", kernel_size=3, sigma=[1.0, 1.0])],
    },
    "average, mixup": {**PLAIN, "ema_decay": 0.9, "mixup_alpha": 0.4},
    "batch statistics": {**PLAIN, "net_arch": [CONVOLUTION, layer("BatchNorm2d", num_features=8)], "ema_decay": 0.9},
}


def write_uneven(path: Path) -> Path:
    images, labels = digits()
    images, labels = np.concatenate((images, images[:1])), np.concatenate((labels, labels[:1]))
    with DatasetWriter(path, [str(digit) for digit in range(10)], (8, 8, 1)) as writer:
        writer.add("train", images[:TRAINED], labels[:TRAINED])
        writer.add("test", images[TRAINED:], labels[TRAINED:])
        writer.commit(source="IDX files", test_split="held out", manual_seed=0, unreadable=[])
    return path


def trained(dataset: Path, group: Group, *, compiled: bool = False, **changes: Any) -> dict[str, Any]:
    params = small(**changes)
    make_repeatable(params.manual_seed)
    data = open_dataset(dataset)

    def labelled(name: Any) -> LabelledImages[ImageStore]:
        return LabelledImages(store_images(data.splits[name], CPU).store, torch.tensor(data.splits[name].labels))

    normalise = Normaliser(None, CPU)
    network = network_of(params).to(memory_format=torch.channels_last)
    trainer = Trainer(network, labelled("train"), labelled("test"), params, normalise, CPU, group, compiled=compiled)
    while not trainer.is_finished:
        trainer.train_epoch(lambda: None)
        trainer.end_epoch()
    together = trainer.predict(every_class=True)
    held_out = trainer.held_out
    alone = evaluated(trainer.evaluated_network, held_out.images, held_out.labels, normalise, Group(), every_class=True)
    return {
        "batches": [part.stop - part.start for part in trainer.slices],
        "history": [record.model_dump(exclude={"images_per_second"}) for record in trainer.history],
        "network": digest(trainer.network.state_dict()),
        "evaluated": digest(trainer.evaluated_network.state_dict()),
        "counted": len(together.labels),
        "as one process": all(np.array_equal(asdict(together)[name], value) for name, value in asdict(alone).items()),
    }


def digest(state: dict[str, torch.Tensor]) -> str:
    found = hashlib.sha256()
    for name, value in sorted(state.items()):
        found.update(name.encode() + value.numpy().tobytes())
    return found.hexdigest()


def agreed(group: Group) -> dict[str, Any]:
    """At which of a hundred quick calls this process learns what the other wants at the 40th, and of what at once."""
    agree, answers = Agreement(group), []
    for call in range(100):
        answers.append(agree(group.rank == 1 and call == 40, group.rank == 0 and call == 70, at_once=call >= 70))
    agree.close()
    return {"leave": [call for call, (leave, _) in enumerate(answers) if leave], "save": answers[71:73]}


@contextmanager
def warnings_of_training() -> Iterator[list[str]]:
    """Within, the messages of what this process warns of."""
    with patch.object(logging.getLogger("shutterline.train"), "warning") as warning:
        lines: list[str] = []
        warning.side_effect = lambda message, *arguments: lines.append(message % arguments)
        yield lines


def refused(dataset: Path, model: Path, group: Group, **changes: Any) -> str:
    try:
        train(dataset=dataset, model=model, params=small(**changes), group=group)
    except ShutterlineError as error:
        return f"{type(error).__name__}: {error}"
    return ""


@contextmanager
def without_torch(folder: Path) -> Iterator[None]:
    """Within, processes that this one starts find a torch that cannot be imported."""
    folder.mkdir()
    (folder / "torch.py").write_text("raise ImportError('libtorch.so is not there')\n")
    with patch.object(sys, "path", [str(folder), *sys.path]):
        yield


def _not_compiled(images: torch.Tensor) -> torch.Tensor:
    raise RuntimeError("C++ compile error")


def left_while_evaluating(dataset: Path, model: Path, group: Group) -> dict[str, Any]:
    evaluations = 0

    def signalled_within(*arguments: Any, **options: Any) -> Any:
        nonlocal evaluations
        evaluations += 1
        if evaluations == 2 and group.rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return evaluated(*arguments, **options)

    is_terminated = False
    with (
        patch.dict("components.classifier.inference.CHUNK_IMAGES", cpu=300),
        patch("components.train.trainer.evaluated", signalled_within),
        sigterm_raises(),
    ):
        try:
            train(dataset=dataset, model=model, params=small(**EXPORTED, save_freq=1000), group=group)
        except Terminated:
            is_terminated = True
    kept = [read_checkpoint_manifest(path).position for path in list_checkpoints(Checkpoints.beside(model).directory)]
    return {"terminated": is_terminated, "evaluations": evaluations, "kept": group.from_first(kept)}


def main(dataset: Path, results: Path) -> None:
    with join_group() as group:
        found: dict[str, Any] = {name: trained(dataset, group, **changes) for name, changes in CASES.items()}
        with patch("torch.compile", lambda model, **options: model if group.is_first else _not_compiled):
            found["compiled in one process"] = trained(dataset, group, compiled=True, **PLAIN)
        found["agreed"] = agreed(group)
        trained(dataset, group, **{**PLAIN, "net_arch": [CONVOLUTION, REMEMBERING], "num_epochs": 1})
        found["remembered"] = [value.item() for value in Remembering.seen if value.device == CPU]
        found["refused"] = {
            "sync_batch_norm": refused(dataset, results / "model", group, sync_batch_norm=True),
            "no dataset": refused(results / "nowhere", results / "model", group),
            "too few images": refused(dataset, results / "model", group, batch_size=1),
            "other params": refused(dataset, results / "model", group, num_epochs=1 + group.rank),
        }
        with without_torch(results / f"broken-{group.rank}"), long_steps():
            # Of a network that no other test has exported.
            no_graph = refused(dataset, results / "none", group, net_arch=[CONVOLUTION, layer("Mish")], num_epochs=300)
        found["refused"]["no graph"] = no_graph

        def fails(error: Exception) -> Path:
            if group.rank == 1:
                raise error
            return dataset

        try:
            group.together(lambda: fails(FileNotFoundError(2, "not there", "images")))
        except OSError as error:
            found["of one"] = [type(error).__name__, error.filename]
        try:
            group.together(lambda: fails(ParamsError([Problem("net_arch[1]", "is no layer for ONNX")])))
        except ParamsError as error:
            found["of its params"] = [(problem.path, problem.message) for problem in error.problems]
        params = small(**{**EXPORTED, "num_epochs": 1, "step": "graph"})
        with warnings_of_training() as found["warnings"]:
            report = train_step(dataset=dataset, model=results / "staged", params=params, group=group).report()
        found["report"] = report
        found["left"] = left_while_evaluating(dataset, results / "left", group)
        try:
            own_device("cuda:0")
        except ShutterlineError as error:
            found["one GPU"] = str(error)
    (results / f"{group.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
