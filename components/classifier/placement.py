"""Where the images of a split are kept: on the device whole, or mapped on the host and copied ahead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from components.classifier.batches import ImageStore, ResidentImages
from components.classifier.device_memory import free_bytes
from components.classifier.mapped_images import MappedImages
from components.shared.artifacts.dataset import Split
from components.shared.errors import ParamsError, Problem
from components.shared.process_group import member

Placement = Literal["auto", "device", "host"]


@dataclass(frozen=True)
class Placed:
    """Images in their place.

    Attributes:
        store: Where batches are cut from.
        reason: What was decided and why, one line for the log.
    """

    store: ImageStore
    reason: str


def store_images(split: Split, device: torch.device, placement: Placement = "auto") -> Placed:
    """Put a split's images on the device, or leave them mapped.

    Args:
        split: The split.
        device: Where batches are wanted.
        placement: ``auto``: on the device if they take at most half of its free memory, so that a network finds room
            beside them; ``device`` and ``host`` by choice.

    Raises:
        ParamsError: They are to be on the device and are larger than its free memory.
    """
    size = sum(shard.nbytes for shard in split.shards)
    what = f"{spelled_bytes(size)} of images"
    if placement == "host":
        return Placed(MappedImages(split, device), f"{what} stay mapped on the host: data_placement is host")
    # The processes of a node find the same memory free, all at once; of a GPU each has its own.
    free = free_bytes(device) // (member().local_size if device.type == "cpu" else 1)
    if placement == "device":
        if size > free:
            message = (
                f"is device, and {what} are more than the {spelled_bytes(free)} free on {device}; use auto or host"
            )
            raise ParamsError([Problem("data_placement", message)])
        return Placed(_resident(split, device), f"{what} on {device}: data_placement is device")
    if size > free // 2:
        reason = f"{what} stay mapped on the host: more than half of the {spelled_bytes(free)} free on {device}"
        return Placed(MappedImages(split, device), reason)
    return Placed(_resident(split, device), f"{what} on {device}: they fit (half of {spelled_bytes(free)} free)")


def _resident(split: Split, device: torch.device) -> ResidentImages:
    # Shard by shard, so that the host never holds a second copy of the whole.
    images = torch.empty((len(split), *split.shards[0].shape[1:]), dtype=torch.uint8, device=device)
    start = 0
    for shard in split.shards:
        images[start : start + len(shard)] = torch.from_numpy(np.array(shard))
        start += len(shard)
    return ResidentImages(images)


def spelled_bytes(count: int) -> str:
    """A number of bytes for people: ``47.0 MB``."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count} bytes"
