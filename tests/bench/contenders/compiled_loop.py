"""A compiled, channels_last loop as people write it for big pictures: batches are cut and sent beside the steps."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from tests.bench.contenders.captured_loop import allow_tf32
from tests.bench.contenders.task import Task

_Batch = tuple[Tensor, Tensor]


def compiled_steps(task: Task) -> Generator[int]:
    """One step a turn, without end: uint8 from pinned memory by a thread, flips and normalisation on the device."""
    allow_tf32(task)
    torch.backends.cudnn.benchmark = True
    size, device, chance = task.params().images_per_batch, task.device, task.flip_probability
    mean, std = (torch.tensor(value, device=device).view(1, -1, 1, 1) for value in (task.mean, task.std))
    network = task.network().to(memory_format=torch.channels_last)
    optimiser, model = task.optimiser(network), torch.compile(network)
    sending = torch.cuda.Stream() if task.on_gpu else None  # type: ignore[no-untyped-call]
    draws = np.random.default_rng(0)

    def cut(chosen: np.ndarray[tuple[int], np.dtype[np.int64]]) -> _Batch:
        stored, wanted = torch.from_numpy(task.images[chosen]), torch.from_numpy(task.labels[chosen])
        if sending is None:
            return stored, wanted
        with torch.cuda.stream(sending):
            sent = (
                stored.pin_memory().to(device, non_blocking=True),
                wanted.pin_memory().to(device, non_blocking=True),
            )
            sending.synchronize()  # of this thread alone
        return sent

    with ThreadPoolExecutor(1) as thread:
        waiting: list[Future[_Batch]] = []
        while True:
            order = draws.permutation(len(task.images))
            for start in range(0, len(order) - size + 1, size):
                waiting.append(thread.submit(cut, order[start : start + size]))
                if len(waiting) < 3:
                    continue
                images, labels = waiting.pop(0).result()
                if sending is not None:
                    for tensor in (images, labels):
                        tensor.record_stream(torch.cuda.current_stream())
                flips = torch.rand(2, size, 1, 1, 1, device=device) < chance
                images = torch.where(flips[0], images.flip(2), images)
                images = torch.where(flips[1], images.flip(1), images)
                inputs = (images.permute(0, 3, 1, 2).float() / 255 - mean) / std
                optimiser.zero_grad(set_to_none=True)
                with task.autocast():
                    loss = F.cross_entropy(model(inputs), labels)
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                yield size
