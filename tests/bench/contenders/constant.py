"""The bound: the same step fed one constant batch that is on the device already."""

from __future__ import annotations

from collections.abc import Generator

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it

from components.classifier.device import make_repeatable
from tests.bench.contenders.task import Task


def constant_steps(task: Task) -> Generator[int]:
    """Train without end on the first batch; gives the number of images of every step.

    With the settings of our training: channels_last, deterministic algorithms. No data, no metrics.
    """
    params = task.params()
    make_repeatable(params.manual_seed)
    network = task.network().to(memory_format=torch.channels_last)
    optimiser = task.optimiser(network)
    stored = torch.from_numpy(task.images[: params.batch_size]).to(task.device)
    shape = (1, -1, 1, 1)
    mean = torch.tensor(task.mean, device=task.device).view(shape)
    std = torch.tensor(task.std, device=task.device).view(shape)
    images = (stored.permute(0, 3, 1, 2).float() / 255 - mean) / std
    labels = torch.from_numpy(task.labels[: params.batch_size]).to(task.device)
    while True:
        optimiser.zero_grad(set_to_none=True)
        with task.autocast():
            loss = F.cross_entropy(network(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        yield len(labels)
