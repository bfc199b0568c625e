"""The same training by PyTorch Lightning: a module, a DataLoader over tensors, its Trainer."""

from __future__ import annotations

import time
import warnings
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.data import DataLoader, TensorDataset

from tests.bench.contenders.steps import synchronise, warm_steps
from tests.bench.contenders.task import Task


class Classifier(LightningModule):
    """The network; images come as uint8 and are flipped and normalised as a batch, on the device."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.network = task.network()
        self.task = task
        shape = (1, -1, 1, 1)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(task.mean).view(shape))
        self.register_buffer("std", torch.tensor(task.std).view(shape))

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        images, labels = batch
        flips = torch.rand(2, len(images), 1, 1, 1, device=images.device) < self.task.flip_probability
        images = torch.where(flips[0], images.flip(3), images)
        images = torch.where(flips[1], images.flip(2), images)
        return (images.float() / 255 - self.mean) / self.std, labels

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        images, labels = batch
        return F.cross_entropy(self.network(images), labels)

    def configure_optimizers(self) -> Optimizer:
        return self.task.optimiser(self.network)


class Timing(Callback):
    """Times `batches` steps after the first `warm`."""

    def __init__(self, device: torch.device, warm: int, batches: int) -> None:
        self.device = device
        self.warm = warm
        self.last = warm + batches
        self.steps = self.images = 0
        self.start = self.seconds = 0.0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.steps += 1
        if self.steps > self.warm:
            self.images += len(batch[1])
        if self.steps in (self.warm, self.last):
            synchronise(self.device)
            now = time.perf_counter()
            self.seconds = now - self.start
            self.start = now


def lightning_rate(task: Task, workers: int, batches: int) -> float:
    """Images per second of `batches` steps; no logger, no checkpoints, no progress bar, no model summary."""
    images = torch.from_numpy(task.images).permute(0, 3, 1, 2).contiguous()
    data = TensorDataset(images, torch.from_numpy(task.labels))
    size = task.params().images_per_batch
    loader = DataLoader(data, size, shuffle=True, num_workers=workers, pin_memory=task.on_gpu)
    timing = Timing(task.device, warm_steps(workers), batches)
    with warnings.catch_warnings():
        # It advises more workers and a validation loader.
        warnings.simplefilter("ignore")
        trainer = Trainer(
            accelerator="gpu" if task.on_gpu else "cpu",
            devices=[task.device.index or 0] if task.on_gpu else 1,
            precision="bf16-mixed" if task.precision == "bf16" else "32-true",
            max_epochs=-1,
            max_steps=timing.last,
            callbacks=[timing],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(Classifier(task), loader)
    return timing.images / timing.seconds
