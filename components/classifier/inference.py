"""Putting a split through a network: what it predicts for each image, and its loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from components.classifier.graphs import GraphedCalls
from components.classifier.images import Normaliser, StoredImages
from components.classifier.network import Network
from components.shared.metrics import Integers, Metrics, Reals, metrics_of

# By the kind of device: the float32 values that may be alive at one time (128 MiB; 1 GiB), which are 12 and 97 images
# of 224×224 for ResNet-50, and the most images.
CHUNK_VALUES = {"cpu": 2**25, "cuda": 2**28}
CHUNK_IMAGES = {"cpu": 1024, "cuda": 4096}


@dataclass(frozen=True)
class Predictions:
    """What a network predicts for every image of a split, in stored order; arrays of shape (images,).

    Attributes:
        losses: Cross-entropy of each image in nats, computed in float64.
        probabilities: Probability of every class, shape (images, classes), where asked for.
    """

    labels: Integers
    predicted: Integers
    losses: Reals
    n_classes: int
    probabilities: Reals | None = None

    def metrics(self) -> Metrics:
        """The figures over all images."""
        return metrics_of(self.labels, self.predicted, self.losses, self.n_classes)


class Chunk(NamedTuple):
    """Images that go through the network at once; those before `begin` are counted in the chunk before."""

    read: slice
    begin: int


def chunk_size(network: Network) -> int:
    """How many images go through the network at once, at most.

    It follows from the network and the kind of its device, never from ``eval_batch_size`` or free memory: the order of
    floating-point sums inside a layer may change with the batch, and no setting of the logs may change a metric.
    """
    kind = network.classifier.weight.device.type
    return max(1, min(CHUNK_IMAGES[kind], CHUNK_VALUES[kind] // max(1, network.live_values)))


def chunks_of(count: int, network: Network) -> list[Chunk]:
    """The chunks of `count` images, all of one size.

    A GPU's libraries choose kernels for each size anew, and a captured step has one; so the last chunk takes some of
    the images before it along.
    """
    size = -(-count // -(-count // chunk_size(network))) if count else 1
    return [Chunk(slice(min(begin, count - size), min(begin + size, count)), begin) for begin in range(0, count, size)]


def predict(
    network: Network,
    images: StoredImages,
    labels: Tensor,
    normalise: Normaliser,
    *,
    every_class: bool = False,
    chunks: Sequence[Chunk] | None = None,
    poll: Callable[[], None] = lambda: None,
    graphed: GraphedCalls | None = None,
) -> Predictions:
    """Evaluate a network on every image of a split; the network's mode is restored.

    Args:
        network: On the device of the images.
        images: Where the images are.
        labels: True classes on the same device, int64, shape (images,).
        normalise: From stored images to network input.
        every_class: Keep the probability of every class, 8 bytes each, not only of the predicted one.
        chunks: Some chunks of the split, one after the other, whose images alone are predicted.
        poll: Called before each chunk; may end the evaluation.
        graphed: By graphs of which chunks are predicted; it is of this network, which keeps the address of its weights.
    """
    if chunks is None:
        chunks = chunks_of(len(images), network)

    def work(part: Tensor, wanted: Tensor) -> Tensor:
        return _scores(network(normalise(part)), wanted, every_class=every_class)

    training = network.training
    network.eval()
    found = []
    try:
        with torch.inference_mode(), closing(images.spans([chunk.read for chunk in chunks])) as spans:
            for chunk, part in zip(chunks, spans, strict=True):
                poll()
                wanted = labels[chunk.read]
                scores = work(part, wanted) if graphed is None else graphed(every_class, work, part, wanted)
                found.append(scores[chunk.begin - chunk.read.start :])
            # The one moment the host waits for the device.
            columns = torch.cat(found).cpu().numpy()
    finally:
        network.train(training)
    return Predictions(
        labels=labels[chunks[0].begin : chunks[-1].read.stop].cpu().numpy(),
        predicted=columns[:, 0].astype(np.int64),
        losses=np.ascontiguousarray(columns[:, 1]),
        n_classes=network.n_classes,
        probabilities=columns[:, 2:] if every_class else None,
    )


def _scores(logits: Tensor, labels: Tensor, *, every_class: bool) -> Tensor:
    """Predicted class, loss and, where asked for, the probability of every class; float64, an image a row."""
    log_probabilities = F.log_softmax(logits.to(torch.float64), dim=1)
    # 0 - x and not -x: a loss of nothing is 0, not -0.
    losses = 0 - log_probabilities.gather(1, labels.unsqueeze(1))
    columns = [log_probabilities.argmax(dim=1, keepdim=True).to(torch.float64), losses]
    return torch.cat([*columns, log_probabilities.exp()] if every_class else columns, dim=1)
