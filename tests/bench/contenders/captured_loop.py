"""The step captured as a CUDA graph by hand: one network, one batch size, one optimiser, and nothing else.

What a replay does: choose the images, flip and normalise them, forward, backward, the optimiser's step, sums of loss
and accuracy. The host only replays, and draws an order when an epoch is over. A last, smaller batch is left out.
"""

from __future__ import annotations

from collections.abc import Generator

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it

from tests.bench.contenders.task import Task


def allow_tf32(task: Task) -> None:
    """Have fp32 matrix products and convolutions computed as the precision says."""
    torch.set_float32_matmul_precision("high" if task.precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = task.precision == "tf32"


def captured_steps(task: Task) -> Generator[int]:
    """One step a turn, without end; on a CPU the same steps run uncaptured."""
    allow_tf32(task)
    torch.backends.cudnn.benchmark = True
    size, device, chance = task.params().images_per_batch, task.device, task.flip_probability
    images, labels = torch.from_numpy(task.images).to(device), torch.from_numpy(task.labels).to(device)
    mean, std = (torch.tensor(value, device=device).view(1, -1, 1, 1) for value in (task.mean, task.std))
    network = task.network().to(memory_format=torch.channels_last)
    optimiser = task.optimiser(network)
    order, offsets = torch.randperm(len(images), device=device), torch.arange(size, device=device)
    position = torch.zeros((), dtype=torch.int64, device=device)
    loss_sum, right = torch.zeros((), device=device), torch.zeros((), dtype=torch.int64, device=device)

    def step() -> None:
        chosen = order[position + offsets]
        batch, wanted = images[chosen], labels[chosen]
        flips = torch.rand(2, size, 1, 1, 1, device=device) < chance
        batch = torch.where(flips[0], batch.flip(2), batch)
        batch = torch.where(flips[1], batch.flip(1), batch)
        inputs = (batch.permute(0, 3, 1, 2).float() / 255 - mean) / std
        with task.autocast():
            logits = network(inputs)
            loss = F.cross_entropy(logits, wanted)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        loss_sum.add_(loss.detach() * size)
        right.add_((logits.detach().argmax(1) == wanted).sum())
        position.add_(size)

    replay = step
    if device.type == "cuda":
        # Allocations and lazy starts happen before the capture, on a stream of their own, as torch's notes ask.
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        replay = graph.replay
    while True:
        order.copy_(torch.randperm(len(images), device=device))
        position.zero_()
        for _ in range(len(images) // size):
            replay()
            yield size
