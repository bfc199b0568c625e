"""Images one by one, as map-style datasets give them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from components.shared.artifacts.dataset import Images, Labels


class ArrayImages(Dataset[tuple[Tensor, int]]):
    """A map-style dataset with per-image transforms, over images that are already decoded and in memory.

    That is generous: files would have to be opened and decoded for every image of every epoch.

    Args:
        images: uint8, shape (images, height, width, channels).
        labels: Shape (images,).
        transform: From a PIL image to what the network takes.
    """

    def __init__(self, images: Images, labels: Labels, transform: Callable[[Image.Image], Any]) -> None:
        self.images = images[..., 0] if images.shape[3] == 1 else images
        self.labels = labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]
