"""The plain loop that the reference params describe: per-image Dataset, DataLoader, ``.item()`` at every step."""

from __future__ import annotations

from collections.abc import Generator

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from tests.bench.contenders.per_image import ArrayImages
from tests.bench.contenders.task import Task


def plain_loop(task: Task, workers: int) -> Generator[int]:
    """Train without end; gives the number of images of every step."""
    transform = v2.Compose(
        [
            v2.RandomHorizontalFlip(task.flip_probability),
            v2.RandomVerticalFlip(task.flip_probability),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(task.mean, task.std),
        ]
    )
    data = ArrayImages(task.images, task.labels, transform)
    size = task.params().batch_size
    loader = DataLoader(data, size, shuffle=True, num_workers=workers, pin_memory=task.on_gpu)
    network = task.network()
    optimiser = task.optimiser(network)
    loss_sum = accuracy_sum = 0.0
    while True:
        for stored, stored_labels in loader:
            images = stored.to(task.device, non_blocking=True)
            labels = stored_labels.to(task.device, non_blocking=True)
            optimiser.zero_grad()
            with task.autocast():
                logits = network(images)
                loss = F.cross_entropy(logits, labels)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            loss_sum += loss.item()
            accuracy_sum += (logits.argmax(1) == labels).float().mean().item()
            yield len(labels)
