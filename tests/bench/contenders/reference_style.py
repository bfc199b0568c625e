"""A loop in the style of torchvision's training references: presets, workers, a logger of smoothed values."""

from __future__ import annotations

import statistics
from collections import defaultdict, deque
from collections.abc import Generator

import torch
from PIL import Image
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader, RandomSampler
from torchvision.transforms import v2

from tests.bench.contenders.per_image import ArrayImages
from tests.bench.contenders.task import Task

PRINT_EVERY = 10
EPOCHS = 90


class TrainingPreset:
    """The transforms of training images, put together once."""

    def __init__(self, mean: list[float], std: list[float], flip_probability: float) -> None:
        self.transforms = v2.Compose(
            [
                v2.RandomHorizontalFlip(flip_probability),
                v2.RandomVerticalFlip(flip_probability),
                v2.PILToTensor(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(mean, std),
                v2.ToPureTensor(),
            ]
        )

    def __call__(self, image: Image.Image) -> Tensor:
        return self.transforms(image)  # type: ignore[no-any-return]


class SmoothedLog:
    """Values over a window of the latest, and one line of text now and then."""

    def __init__(self, window: int = 20) -> None:
        self._values: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=window))

    def update(self, **values: float) -> None:
        """Take the latest values."""
        for name, value in values.items():
            self._values[name].append(value)

    def line(self, step: int, steps: int) -> str:
        """Median and mean of every value."""
        told = [
            f"{name}: {statistics.median(kept):.4f} ({statistics.fmean(kept):.4f})"
            for name, kept in self._values.items()
        ]
        return f"[{step}/{steps}]  " + "  ".join(told)


def reference_style_loop(task: Task, workers: int) -> Generator[int]:
    """Train without end; gives the number of images of every step.

    Values are read from the device only when a line is made, every tenth step.
    """
    torch.backends.cudnn.benchmark = True
    data = ArrayImages(task.images, task.labels, TrainingPreset(task.mean, task.std, task.flip_probability))
    size = task.params().batch_size
    loader = DataLoader(data, size, sampler=RandomSampler(data), num_workers=workers, pin_memory=task.on_gpu)
    network = task.network()
    criterion = nn.CrossEntropyLoss()
    optimiser = task.optimiser(network)
    schedule = CosineAnnealingLR(optimiser, EPOCHS)
    lines: deque[str] = deque(maxlen=1)
    while True:
        log = SmoothedLog()
        for step, (stored, stored_labels) in enumerate(loader):
            images = stored.to(task.device, non_blocking=True)
            labels = stored_labels.to(task.device, non_blocking=True)
            with task.autocast():
                logits = network(images)
                loss = criterion(logits, labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            if step % PRINT_EVERY == 0:
                right = (logits.argmax(1) == labels).sum()
                log.update(loss=loss.item(), accuracy=right.item() / len(labels), rate=optimiser.param_groups[0]["lr"])
                lines.append(log.line(step, len(loader)))
            yield len(labels)
        schedule.step()
