"""torch's own loop for several processes: ``DistributedDataParallel`` with gloo, as torch's tutorial has it."""

from __future__ import annotations

import os
from collections.abc import Generator

import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch.nn.parallel import DistributedDataParallel

from tests.bench.contenders.task import Task


def ddp_steps(task: Task) -> Generator[int]:
    """Steps of all processes that the environment names, of one alone without the wrapper; yields a step's images.

    The images are one tensor in each process, which takes its part of every batch: no data loader slows it. Memory
    order is channels_last, as ours.
    """
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    network = task.network().to(memory_format=torch.channels_last)
    model = network
    if size > 1:
        dist.init_process_group("gloo")
        model = DistributedDataParallel(network)
    optimiser = task.optimiser(network)
    images, labels = torch.from_numpy(task.images), torch.from_numpy(task.labels)
    mean, std = (torch.tensor(value).view(1, -1, 1, 1) for value in (task.mean, task.std))
    whole = task.params().images_per_batch
    shuffling = torch.Generator().manual_seed(0)  # alike in all processes, as DistributedSampler's
    try:
        while True:
            order = torch.randperm(len(images), generator=shuffling)
            for batch in torch.split(order[: len(order) // whole * whole], whole):
                own = batch.tensor_split(size)[rank]
                given = (images[own].permute(0, 3, 1, 2).float() / 255 - mean) / std
                optimiser.zero_grad()
                loss = F.cross_entropy(model(given), labels[own])
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                yield whole
    finally:
        if size > 1:
            dist.destroy_process_group()
