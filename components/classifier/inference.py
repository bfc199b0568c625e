"""Putting a split through a network: what it predicts for each image, and its loss."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from components.classifier.images import Normaliser, StoredImages
from components.classifier.network import Network
from components.shared.metrics import Integers, Metrics, Reals, metrics_of

# float32 values that the layers of one chunk may give together: 256 MiB.
CHUNK_VALUES = 2**26
CHUNK_IMAGES = 1024


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


def chunk_size(network: Network) -> int:
    """How many images go through the network at once.

    It follows from the network alone, never from ``eval_batch_size``: the order of floating-point sums inside a
    layer may change with the batch, and no setting of the logs may change a metric.
    """
    return max(1, min(CHUNK_IMAGES, CHUNK_VALUES // max(1, network.values_per_image)))


def predict(
    network: Network, images: StoredImages, labels: Tensor, normalise: Normaliser, *, every_class: bool = False
) -> Predictions:
    """Evaluate a network on every image of a split; the network's mode is restored.

    Args:
        network: On the device of the images.
        images: Where the images are.
        labels: True classes on the same device, int64, shape (images,).
        normalise: From stored images to network input.
        every_class: Keep the probability of every class, 8 bytes each, not only of the predicted one.
    """
    training = network.training
    network.eval()
    predicted, losses, probabilities = [], [], []
    step = chunk_size(network)
    chunks = [slice(start, min(start + step, len(images))) for start in range(0, len(images), step)]
    with torch.inference_mode(), closing(images.spans(chunks)) as spans:
        for chunk, part in zip(chunks, spans, strict=True):
            logits = network(normalise(part)).to(torch.float64)
            log_probabilities = F.log_softmax(logits, dim=1)
            predicted.append(log_probabilities.argmax(dim=1))
            wanted = labels[chunk].unsqueeze(1)
            if every_class:
                probabilities.append(log_probabilities.exp())
            # 0 - x and not -x: a loss of nothing is 0, not -0.
            losses.append(0 - log_probabilities.gather(1, wanted).squeeze(1))
        # The one moment the host waits for the device.
        result = Predictions(
            labels=labels.cpu().numpy(),
            predicted=torch.cat(predicted).cpu().numpy(),
            losses=torch.cat(losses).cpu().numpy(),
            n_classes=network.n_classes,
            probabilities=torch.cat(probabilities).cpu().numpy() if every_class else None,
        )
    network.train(training)
    return result
