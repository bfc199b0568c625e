"""How fast a model is evaluated, against a bare loop of ONNX Runtime and one of torch."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from components.classifier.images import Normaliser
from components.classifier.network import network_of
from components.evaluate.inference import parts_of
from components.shared.artifacts.dataset import evaluation_splits, open_dataset
from components.shared.artifacts.dataset_writer import DatasetWriter
from components.shared.inference.classifier import OnnxClassifier
from tests.bench.measure import Ratio, compare, seconds
from tests.bench.training import images_28, reference
from tests.train.networks import onnx_of

BATCH = 512
REPEATED = 5


def evaluation_rates(folder: Path) -> Iterator[Ratio]:
    """(s) Images a second of evaluation, scores included: against a bare loop, and against torch as until 0.8."""
    params = reference(normalise_images=False)
    torch.manual_seed(0)
    network = network_of(params).eval()
    classes = [str(number) for number in range(params.n_classes)]
    file = folder / "model.onnx"
    file.write_bytes(onnx_of(network, params))
    stored, labels = images_28()
    images, count = np.tile(stored.numpy(), (REPEATED, 1, 1, 1)), REPEATED * len(stored)
    with DatasetWriter(folder / "dataset", classes, (28, 28, 1)) as writer:
        writer.add("train", images[:10], labels.numpy()[:10])
        writer.add("test", images, np.tile(labels.numpy(), REPEATED))
        writer.commit(source="digits", test_split="given", manual_seed=0, unreadable=[])
    split = open_dataset(folder / "dataset", evaluation_splits).splits["test"]
    classifier = OnnxClassifier.from_file(file, "cpu")
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    network = network.to(memory_format=torch.channels_last)
    normalise = Normaliser(None, torch.device("cpu"))
    starts = range(0, count, BATCH)

    def ours() -> float:
        return count / seconds(lambda: deque(parts_of(classifier, split, folder), maxlen=0))

    def bare() -> float:
        return count / seconds(lambda: [session.run(None, {"images": images[at : at + BATCH]}) for at in starts])

    def by_torch() -> float:
        def run() -> None:
            with torch.inference_mode():
                for at in starts:
                    network(normalise(torch.from_numpy(images[at : at + BATCH]))).softmax(1)

        return count / seconds(run)

    name = "(s) evaluation of the reference network"
    yield compare(f"{name} / bare ONNX Runtime", ours, bare, unit="images/s", bound="at least 0.9")
    yield compare(f"{name} / torch", ours, by_torch, unit="images/s", bound="at least 2")
