"""Reading of large images that stay on the host, and evaluation of few of them within training."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from components.classifier.images import Normaliser, ResidentImages
from components.classifier.inference import Chunk, predict
from components.classifier.mapped_images import MappedImages
from components.classifier.network import build_network
from components.shared.artifacts.dataset import Images, Labels, Split
from components.shared.params.types import LayerSpec
from tests.bench.measure import Ratio, compare, seconds

CPU = torch.device("cpu")
SIDE, BATCH, SHARD, SHARDS = 224, 128, 256, 4
EVALUATED = 64


def mapped_reading(folder: Path) -> Iterator[Ratio]:
    """(w) GB/s of batches cut at random from files in the page cache: against 0.9's two copies, and one plain copy."""
    random = np.random.default_rng(0)
    shards = []
    for number in range(SHARDS):
        file = folder / f"{number}.npy"
        np.save(file, random.integers(0, 256, (SHARD, SIDE, SIDE, 3), dtype=np.uint8))
        shards.append(np.load(file, mmap_mode="r"))
    count = SHARD * SHARDS
    split = Split(tuple(shards), np.zeros(count, np.int64))
    mapped, order = MappedImages(split, CPU), random.permutation(count)
    parts = [slice(start, start + BATCH) for start in range(0, count, BATCH)]
    gigabytes: float = sum(shard.nbytes for shard in shards) / 1e9
    source = np.ones((BATCH, SIDE, SIDE, 3), np.uint8)

    def ours() -> float:
        return gigabytes / seconds(lambda: deque(mapped.batches(torch.from_numpy(order), parts), maxlen=0))

    def sorted_first() -> float:
        return gigabytes / seconds(lambda: [_as_in_0_9(shards, order[part]) for part in parts])

    def one_copy() -> float:
        return gigabytes / seconds(lambda: [source.copy() for _ in parts])

    name = "(w) batches of 128 at 224×224 from mapped files"
    yield compare(f"{name} / as in 0.9", ours, sorted_first, unit="GB/s", bound="at least 1.5", rounds=3)
    yield compare(f"{name} / a plain copy", ours, one_copy, unit="GB/s", bound="at least 0.5", rounds=3)


def _as_in_0_9(shards: list[Images], wanted: Labels) -> Images:
    by_index = np.argsort(wanted)
    read = np.empty((len(wanted), SIDE, SIDE, 3), np.uint8)
    starts = np.arange(SHARDS + 1) * SHARD
    for number, (first, last) in enumerate(pairwise(np.searchsorted(wanted[by_index], starts))):
        here = wanted[by_index[first:last]] - starts[number]
        np.take(shards[number], here, axis=0, out=read[first:last], mode="clip")
    return np.take(read, np.argsort(by_index), axis=0)


def evaluation_in_training(_folder: Path) -> Ratio:
    """(x) Images a second of evaluation by ResNet-50 at 224×224: against 0.9's chunks of 2."""
    spec = LayerSpec.model_validate({"class": "torchvision.models.resnet50", "kwargs": {}})
    network = build_network([spec], (SIDE, SIDE, 3), 10).to(memory_format=torch.channels_last)
    images = ResidentImages(torch.randint(256, (EVALUATED, SIDE, SIDE, 3), dtype=torch.uint8))
    labels, normalise = torch.zeros(EVALUATED, dtype=torch.int64), Normaliser(None, CPU)
    earlier = [Chunk(slice(start, start + 2), start) for start in range(0, EVALUATED, 2)]

    def ours() -> float:
        return EVALUATED / seconds(lambda: predict(network, images, labels, normalise))

    def theirs() -> float:
        return EVALUATED / seconds(lambda: predict(network, images, labels, normalise, chunks=earlier))

    name = "(x) evaluation by ResNet-50 / in chunks of 2, as in 0.9"
    return compare(name, ours, theirs, unit="images/s", bound="at least 1.2", rounds=2)
