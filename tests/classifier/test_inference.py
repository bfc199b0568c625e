"""Predicting a split: the figures do not depend on how it is cut, stored or logged."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from components.classifier import inference
from components.classifier.images import ImageStore, Normaliser, ResidentImages, store_images
from components.classifier.inference import Predictions, chunk_size, predict
from components.classifier.mapped_images import MappedImages
from components.classifier.network import Network, network_of
from components.shared.artifacts.artifact import Normalisation
from components.shared.artifacts.dataset import Images, Labels, Split
from components.shared.metrics import batch_metrics
from components.shared.params.params import Params
from tests.configs import layer, small

CPU = torch.device("cpu")
NORMALISATION = Normalisation(mean=[0.4], std=[0.3])
PARAMS = Params.from_dict(
    small(
        image_height=6,
        image_width=5,
        n_classes=4,
        net_arch=[
            layer("Conv2d", in_channels=1, out_channels=3, kernel_size=3),
            layer("BatchNorm2d", num_features=3),
            layer("Dropout", p=0.5),
            layer("ReLU"),
        ],
    )
)


@pytest.fixture
def network() -> Network:
    torch.manual_seed(3)
    return network_of(PARAMS)


def noise(count: int) -> tuple[Images, Labels]:
    random = np.random.default_rng(count)
    return random.integers(0, 256, (count, 6, 5, 1), dtype=np.uint8), random.integers(0, 4, count)


def predicted(network: Network, images: ImageStore, labels: Labels, **options: Any) -> Predictions:
    return predict(network, images, torch.tensor(labels), Normaliser(NORMALISATION, CPU), **options)


def columns(predictions: Predictions) -> list[list[float]]:
    """Everything predicted, to the last bit."""
    return [column.tolist() for column in (predictions.labels, predictions.predicted, predictions.losses)]


def softmax_of(network: Network, images: Images) -> npt.NDArray[np.float64]:
    """Class probabilities, from the images to the logits by other means than predict()'s."""
    pixels = (images.astype(np.float64) / 255 - 0.4) / 0.3
    with torch.no_grad():
        logits = network.eval()(torch.tensor(pixels.transpose(0, 3, 1, 2), dtype=torch.float32)).double().numpy()
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


def test_predictions_are_those_of_the_plain_forward_pass(network: Network) -> None:
    images, labels = noise(40)
    predictions = predicted(network, ResidentImages(torch.tensor(images)), labels, every_class=True)
    probabilities = softmax_of(network, images)

    assert predictions.labels.tolist() == labels.tolist()
    assert predictions.predicted.tolist() == probabilities.argmax(axis=1).tolist()
    assert predictions.probabilities is not None
    # float32 layers, and images normalised in another order of operations.
    np.testing.assert_allclose(predictions.probabilities, probabilities, rtol=1e-5)
    assert predictions.n_classes == 4


def test_loss_is_scikit_learns_log_loss(network: Network) -> None:
    """The same float32 logits through float64 softmax: nothing but rounding of float64 may differ."""
    from sklearn.metrics import log_loss  # a second, and not for whoever only collects tests

    images, labels = noise(200)
    normalise = Normaliser(NORMALISATION, CPU)
    predictions = predicted(network, ResidentImages(torch.tensor(images)), labels)
    with torch.no_grad():
        logits = network.eval()(normalise(torch.tensor(images))).double().numpy()
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = exponents / exponents.sum(axis=1, keepdims=True)

    assert predictions.metrics().loss == pytest.approx(log_loss(labels, probabilities, labels=range(4)), rel=1e-14)


@pytest.mark.parametrize(
    ("count", "size"), [(1, 1), (6, 6), (7, 7), (8, 4), (15, 5), (17, 6), (29, 6)], ids=lambda value: str(value)
)
def test_chunks_of_one_size_count_every_image_once(
    network: Network, monkeypatch: pytest.MonkeyPatch, count: int, size: int
) -> None:
    images, labels = noise(count)
    store = ResidentImages(torch.tensor(images))
    whole = predicted(network, store, labels, every_class=True)
    monkeypatch.setitem(inference.CHUNK_IMAGES, "cpu", 7)
    asked: list[slice] = []
    polled: list[int] = []

    class Watched(ResidentImages):
        def spans(self, slices: Sequence[slice]) -> Generator[torch.Tensor, None, None]:
            asked.extend(slices)
            return super().spans(slices)

    def poll() -> None:
        polled.append(len(asked))

    cut = predicted(network, Watched(torch.tensor(images)), labels, every_class=True, poll=poll)

    assert {part.stop - part.start for part in asked} == {size}
    assert sorted({index for part in asked for index in range(part.start, part.stop)}) == list(range(count))
    assert polled == [len(asked)] * -(-count // 7)
    assert cut.labels.tolist() == labels.tolist()
    assert cut.predicted.tolist() == whole.predicted.tolist()
    np.testing.assert_allclose(cut.losses, whole.losses, rtol=1e-5)
    assert cut.probabilities is not None and whole.probabilities is not None  # noqa: PT018 - asked for
    np.testing.assert_allclose(cut.probabilities, whole.probabilities, rtol=1e-5)


def test_chunk_follows_from_the_network_alone(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    assert chunk_size(network) == 1024
    monkeypatch.setitem(inference.CHUNK_VALUES, "cpu", network.live_values * 10)
    assert chunk_size(network) == 10
    monkeypatch.setitem(inference.CHUNK_VALUES, "cpu", 1)
    assert chunk_size(network) == 1


@pytest.mark.parametrize("training", [True, False])
def test_mode_is_restored_and_statistics_are_left_alone(network: Network, training: bool) -> None:
    images, labels = noise(20)
    network.train(training)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    first = predicted(network, ResidentImages(torch.tensor(images)), labels)
    again = predicted(network, ResidentImages(torch.tensor(images)), labels)

    assert network.training is training
    assert all(module.training is training for module in network.modules())
    assert columns(first) == columns(again)  # dropout is off
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_shards_change_nothing(network: Network) -> None:
    images, labels = noise(23)
    expected = columns(predicted(network, ResidentImages(torch.tensor(images)), labels))

    for per_shard in (23, 22, 5, 1):
        split = Split(tuple(np.split(images, range(per_shard, 23, per_shard))), labels)
        stored = store_images(split, CPU).store
        assert isinstance(stored, ResidentImages)
        assert columns(predicted(network, stored, split.labels)) == expected
        assert columns(predicted(network, MappedImages(split, CPU), split.labels)) == expected


@pytest.mark.parametrize("batch_size", [1, 3, 10, 12, 1000])
def test_batch_metrics_are_those_of_each_batch(network: Network, batch_size: int) -> None:
    images, labels = noise(12)
    predictions = predicted(network, ResidentImages(torch.tensor(images)), labels)
    columns = (predictions.labels, predictions.predicted, predictions.losses)
    batches = list(batch_metrics(*columns, predictions.n_classes, batch_size))

    assert len(batches) == -(-12 // batch_size)
    assert batches[0].loss == np.mean(predictions.losses[:batch_size])
    sizes = [min(batch_size, 12 - start) for start in range(0, 12, batch_size)]
    mean = np.average([batch.accuracy for batch in batches], weights=sizes)
    assert mean == pytest.approx(predictions.metrics().accuracy)


def test_certainty_has_no_loss_below_zero(network: Network) -> None:
    """Float64 rounds the probability to 1; its loss is 0 and not -0, which a report would print."""
    images, _ = noise(5)
    with torch.no_grad():
        nn.init.zeros_(network.classifier.weight)
        network.classifier.bias.copy_(torch.tensor([1000.0, 0, 0, 0]))
    predictions = predicted(network, ResidentImages(torch.tensor(images)), np.zeros(5, dtype=np.int64))

    assert [str(loss) for loss in predictions.losses.tolist()] == ["0.0"] * 5
