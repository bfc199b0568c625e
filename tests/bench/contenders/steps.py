"""Other training loops, step by step without end, and how a loop is timed."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from PIL import Image
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision.transforms import v2

from components.classifier.device import make_repeatable
from components.shared.artifacts.dataset import Images, Labels
from tests.bench.contenders.task import Task

PRINT_EVERY = 10
EPOCHS = 90


class ArrayImages(Dataset[tuple[Tensor, int]]):
    """A map-style dataset with per-image transforms, over uint8 images that are already decoded and in memory.

    That is generous: files would have to be opened and decoded for every image of every epoch.
    """

    def __init__(self, images: Images, labels: Labels, transform: Callable[[Image.Image], Any]) -> None:
        self.images = images[..., 0] if images.shape[3] == 1 else images
        self.labels = labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def constant_steps(task: Task) -> Generator[int]:
    """The bound: our step with the settings of our training, fed one constant batch; no data, no metrics."""
    params = task.params()
    make_repeatable(params.manual_seed)
    network = task.network().to(memory_format=torch.channels_last)
    optimiser = task.optimiser(network)
    stored = torch.from_numpy(task.images[: params.images_per_batch]).to(task.device)
    mean, std = (torch.tensor(value, device=task.device).view(1, -1, 1, 1) for value in (task.mean, task.std))
    images = (stored.permute(0, 3, 1, 2).float() / 255 - mean) / std
    labels = torch.from_numpy(task.labels[: params.images_per_batch]).to(task.device)
    while True:
        optimiser.zero_grad(set_to_none=True)
        with task.autocast():
            loss = F.cross_entropy(network(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        yield len(labels)


def plain_loop(task: Task, workers: int) -> Generator[int]:
    """The plain loop that the reference params describe: per-image Dataset, DataLoader, ``.item()`` at every step."""
    transform = v2.Compose([*_flips(task), v2.ToImage(), *_scaled(task)])
    data = ArrayImages(task.images, task.labels, transform)
    size = task.params().images_per_batch
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


def reference_style_loop(task: Task, workers: int) -> Generator[int]:
    """A loop in the style of torchvision's training references: workers, a schedule, a line of smoothed values.

    Values are read from the device only when a line is made, every tenth step.
    """
    torch.backends.cudnn.benchmark = True
    transform = v2.Compose([*_flips(task), v2.PILToTensor(), *_scaled(task), v2.ToPureTensor()])
    data = ArrayImages(task.images, task.labels, transform)
    size = task.params().images_per_batch
    loader = DataLoader(data, size, sampler=RandomSampler(data), num_workers=workers, pin_memory=task.on_gpu)
    network = task.network()
    optimiser = task.optimiser(network)
    schedule = CosineAnnealingLR(optimiser, EPOCHS)
    lines: deque[str] = deque(maxlen=1)
    while True:
        log: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=20))
        for step, (stored, stored_labels) in enumerate(loader):
            images = stored.to(task.device, non_blocking=True)
            labels = stored_labels.to(task.device, non_blocking=True)
            with task.autocast():
                logits = network(images)
                loss = F.cross_entropy(logits, labels)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            if step % PRINT_EVERY == 0:
                log["loss"].append(loss.item())
                log["accuracy"].append((logits.argmax(1) == labels).sum().item() / len(labels))
                means = (f"{name}: {statistics.median(kept):.4f}" for name, kept in log.items())
                lines.append(f"[{step}/{len(loader)}]  {'  '.join(means)}")
            yield len(labels)
        schedule.step()


def _flips(task: Task) -> list[v2.Transform]:
    return [v2.RandomHorizontalFlip(task.flip_probability), v2.RandomVerticalFlip(task.flip_probability)]


def _scaled(task: Task) -> list[v2.Transform]:
    return [v2.ToDtype(torch.float32, scale=True), v2.Normalize(task.mean, task.std)]


def synchronise(device: torch.device) -> None:
    """Wait until the device has done everything it was asked to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def warm_steps(workers: int) -> int:
    """Untimed steps: every kernel has started, and as many as a DataLoader holds ready, two batches a worker."""
    return 4 + 2 * workers


def rate(steps: Iterator[int], device: torch.device, batches: int, workers: int = 0) -> float:
    """Images per second of so many steps of a loop, the device waited for at both ends."""
    for _ in range(warm_steps(workers)):
        next(steps)
    synchronise(device)
    start = time.perf_counter()
    images = sum(next(steps) for _ in range(batches))
    synchronise(device)
    return images / (time.perf_counter() - start)


@contextmanager
def as_torch_ships() -> Iterator[None]:
    """Run a contender with torch's own settings, and put back ours, which are deterministic for the whole process."""
    mode = torch.get_deterministic_debug_mode()
    searching = torch.backends.cudnn.benchmark
    precision = torch.get_float32_matmul_precision()
    torch.set_deterministic_debug_mode("default")
    torch.backends.cudnn.benchmark = False
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)
        torch.backends.cudnn.benchmark = searching
        torch.set_float32_matmul_precision(precision)
