"""Whether model.onnx gives what the trained network gives, on the held-out images."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import closing
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from components.classifier.inference import chunk_size
from components.classifier.network import Network
from components.shared.errors import ShutterlineError
from components.shared.inference.classifier import OnnxClassifier
from components.train.precision import without_tf32
from components.train.trainer import Trainer

TOLERANCE = 1e-5
# So long it may take; what is not looked at by then is not.
_CHECK_S = 60.0
# Differing images that are computed in float64, and how many times as far from that as torch's own float32 ONNX may be.
_EXACT_IMAGES, _AS_FAR = 64, 4.0


def require_same_predictions(file: Path, trainer: Trainer, poll: Callable[[], None], log: logging.Logger) -> None:
    """Compare probabilities and top-1 classes of a model.onnx with those of the best network, in float32.

    Images are taken in chunks from everywhere in the held-out split, as many as a minute allows. Where float32 itself
    is no nearer to the exact probabilities, as with logits of thousands, ONNX may be as far from them as torch is.

    Args:
        file: The model.onnx.
        trainer: Its network and held-out images.
        poll: Called between chunks; may end the check.
        log: Gets how many images were compared, and their largest difference.

    Raises:
        ShutterlineError: They differ; says for how many images and by how much.
    """
    images, classifier = trainer.held_out.images, OnnxClassifier.from_file(file, "cpu")
    found = _Comparison()
    deadline = time.monotonic() + _CHECK_S
    with trainer.best_network() as network, torch.inference_mode(), without_tf32():
        is_training = network.training
        network.eval()
        step = min(classifier.batch_size, chunk_size(network))
        starts = np.random.default_rng(0).permutation(range(0, len(images), step)).tolist()
        chunks = [slice(start, min(start + step, len(images))) for start in starts]
        with closing(images.spans(chunks)) as spans:
            for part in spans:
                found.add(network, trainer.normalise(part), classifier(part.cpu().numpy()))
                poll()
                if time.monotonic() > deadline:
                    break
        network.train(is_training)
    if found.differing:
        raise ShutterlineError(
            f"model.onnx does not give what the trained network gives: of {found.images:,} held-out images "
            f"{found.differing:,} differ, by up to {found.largest:.1e} ({TOLERANCE:.0e} is allowed), and "
            f"{found.of_another_class:,} get another class; no model is written, and the checkpoints are kept"
        )
    log.info(
        "model.onnx gives what the trained network gives: %s of %s held-out images compared, probabilities at most "
        "%.1e apart",
        f"{found.images:,}",
        f"{len(images):,}",
        found.largest,
    )
    if found.rounded:
        message = "float32 gives %d images probabilities that are up to %.1e from exact ones, in model.onnx as in torch"
        log.warning(message, found.rounded, found.rounding)


@dataclass
class _Comparison:
    """What was found so far; `rounded` images are within float32's own error, which is more than the tolerance."""

    images: int = 0
    differing: int = 0
    of_another_class: int = 0
    largest: float = 0.0
    rounded: int = 0
    rounding: float = 0.0

    def add(self, network: Network, images: Tensor, found: NDArray[np.float32]) -> None:
        """Compare the probabilities `found` with the network's for the same normalised images."""
        wanted = _probabilities(network, images)
        apart = np.abs(found - wanted).max(axis=1)
        every = np.arange(len(found))
        # Of two classes that are as probable, either may be the first.
        loses = wanted.max(axis=1) - wanted[every, found.argmax(axis=1)]
        doubtful = np.flatnonzero((apart > TOLERANCE) | (loses > TOLERANCE))
        differs = np.zeros(len(found), bool)
        differs[doubtful] = True
        if len(doubtful) > 0:
            looked_at = doubtful[:_EXACT_IMAGES]
            exact = _probabilities(deepcopy(network).cpu().double(), images[looked_at].cpu().double())
            own = np.abs(wanted[looked_at] - exact).max(axis=1)
            differs[looked_at] = np.abs(found[looked_at] - exact).max(axis=1) > np.maximum(TOLERANCE, _AS_FAR * own)
            is_rounded = ~differs[looked_at]
            self.rounded += int(is_rounded.sum())
            self.rounding = max(self.rounding, float(own[is_rounded].max(initial=0.0)))
        self.images += len(found)
        self.differing += int(differs.sum())
        self.of_another_class += int((differs & (loses > TOLERANCE)).sum())
        self.largest = max(self.largest, float(apart.max()))


def _probabilities(network: Network, images: Tensor) -> NDArray[np.float64]:
    found: NDArray[np.float64] = torch.softmax(network(images).double(), dim=1).cpu().numpy()
    return found
