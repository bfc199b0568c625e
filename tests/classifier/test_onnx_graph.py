"""Networks as ONNX: the exported graph with trained weights gives the network's own probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from components.classifier.images import Normaliser
from components.classifier.network import Network, build_network
from components.classifier.onnx_file import onnx_bytes
from components.classifier.onnx_graph import export_graph
from components.shared.artifacts.artifact import ImageShape, Normalisation
from components.shared.errors import ParamsError
from components.shared.inference.classifier import OnnxClassifier
from components.shared.params.allowed_classes import LAYERS
from components.shared.params.params import Params
from components.shared.params.types import LayerSpec
from tests.classifier.test_backbones import backbone
from tests.configs import REFERENCE_PARAMS, Entry, layer

Shape = tuple[int, int, int]
GRAY, COLOR = (16, 16, 1), (16, 16, 3)
NORMALISATION = {
    1: Normalisation(mean=[0.13], std=[0.31]),
    3: Normalisation(mean=[0.4, 0.5, 0.6], std=[0.2, 0.25, 0.3]),
}


def conv(channels: int, *, given: int | None = None, **kwargs: Any) -> Entry:
    return layer("Conv2d", in_channels=given or channels, out_channels=channels, kernel_size=3, **kwargs)


def trained(specs: Sequence[LayerSpec], shape: Shape, classes: int) -> Network:
    """A network whose batch statistics are those of random images."""
    torch.manual_seed(5)
    network = build_network(specs, shape, classes)
    module: Any
    for module in network.modules():
        if hasattr(module, "running_mean"):
            module.momentum = 1.0
    given = Normaliser(NORMALISATION[shape[2]], torch.device("cpu"))(torch.from_numpy(random_images(16, shape)))
    with torch.no_grad():
        network(given)
    return network.eval()


def written(
    path: Path, network: Network, graph: bytes, shape: Shape, *, normalisation: Normalisation | None = None
) -> OnnxClassifier:
    height, width, channels = shape
    path.write_bytes(
        onnx_bytes(
            graph,
            network.state_dict(),
            normalisation,
            classes=[f"class {index}" for index in range(network.n_classes)],
            image=ImageShape(height=height, width=width, channels=channels),
            weights_sha256="0" * 64,
        )
    )
    return OnnxClassifier.from_file(path, "cpu")


def probabilities(network: Network, images: np.ndarray[Any, Any], normalisation: Normalisation | None) -> Any:
    given = Normaliser(normalisation, torch.device("cpu"))(torch.from_numpy(images))
    with torch.inference_mode():
        return torch.softmax(network(given).double(), dim=1).numpy()


def random_images(count: int, shape: Shape) -> np.ndarray[Any, Any]:
    return np.random.default_rng(1).integers(0, 256, (count, *shape), dtype=np.uint8)


def require_same(path: Path, arch: Sequence[Entry], shape: Shape, classes: int = 10) -> str:
    """A line of the table of differences."""
    specs = [LayerSpec.model_validate(entry) for entry in arch]
    network, normalisation = trained(specs, shape, classes), NORMALISATION[shape[2]]
    classifier = written(
        path / "model.onnx", network, export_graph(specs, shape, classes), shape, normalisation=normalisation
    )
    images = random_images(9, shape)
    found, wanted = classifier(images), probabilities(network, images, normalisation)
    difference = np.abs(found - wanted).max()
    given = Normaliser(normalisation, torch.device("cpu"))(torch.from_numpy(images)).double()
    with torch.inference_mode():
        exact = torch.softmax(network.double()(given), dim=1).numpy()
    # A network may amplify what float32 rounds; then no more than torch itself is off.
    assert difference <= max(1e-5, 4 * np.abs(wanted - exact).max())
    assert (found.argmax(axis=1) == wanted.argmax(axis=1)).all()
    assert wanted.std(axis=0).max() > 1e-5, "all images alike: nothing is shown"
    return f"{difference:.1e}"


NORM = layer("BatchNorm2d", num_features=6)
ACTIVATIONS = [
    *(
        layer(name)
        for name in (
            "CELU ELU GELU Hardshrink Hardsigmoid Hardswish Hardtanh Identity LeakyReLU LogSigmoid Mish PReLU RReLU "
            "ReLU ReLU6 SELU SiLU Sigmoid Softmax2d Softplus Softshrink Softsign Tanh Tanhshrink Dropout AlphaDropout "
            "FeatureAlphaDropout Dropout2d"
        ).split()
    ),
    *(layer(name, inplace=True) for name in "CELU ELU RReLU ReLU SELU SiLU".split()),
    layer("GELU", approximate="tanh"),
    layer("PReLU", num_parameters=6),
    layer("Softplus", beta=2, threshold=1),
    layer("Threshold", threshold=0.1, value=0.2),
    *(layer(name, dim=1) for name in ("LogSoftmax", "Softmax", "Softmin")),
]
VOLUME = [
    layer("Unflatten", dim=1, unflattened_size=[1, 3]),
    layer("Conv3d", in_channels=1, out_channels=4, kernel_size=3, padding=1),
]
NETWORKS: dict[str, list[Entry]] = {
    "activations": [conv(6, given=3), *(each for entry in ACTIVATIONS for each in (NORM, entry))],
    "norms and pools": [
        conv(6, given=3),
        layer("BatchNorm2d", num_features=6, affine=False, eps=0.1),
        layer("InstanceNorm2d", num_features=6),
        layer("InstanceNorm2d", num_features=6, affine=True, track_running_stats=True),
        layer("GroupNorm", num_groups=2, num_channels=6),
        layer("LocalResponseNorm", size=3),
        layer("LayerNorm", normalized_shape=[14, 14]),
        layer("RMSNorm", normalized_shape=[6, 14, 14]),
        layer("Linear", in_features=14, out_features=9, bias=False),
        layer("AvgPool2d", kernel_size=3, stride=1, padding=1, count_include_pad=False),
        layer("MaxPool2d", kernel_size=3, stride=1, padding=1, dilation=1, ceil_mode=True),
        layer("LPPool2d", norm_type=2, kernel_size=2, stride=1),
        layer("AdaptiveMaxPool2d", output_size=[7, 4]),
        layer("AdaptiveAvgPool2d", output_size=[5, 3]),
        layer("AdaptiveMaxPool2d", output_size=[None, 1]),
        layer("AdaptiveAvgPool2d", output_size=1),
    ],
    "pads, convolutions and upsampling": [
        *(
            layer(f"{name}2d", padding=[1, 0, 2, 1])
            for name in ("CircularPad", "ReflectionPad", "ReplicationPad", "ZeroPad")
        ),
        layer("ConstantPad2d", padding=1, value=0.5),
        conv(8, given=3, padding="same", bias=False),
        conv(8, groups=4, dilation=2, padding=2, padding_mode="reflect"),
        layer("ChannelShuffle", groups=2),
        conv(8, padding=1, padding_mode="circular", stride=2),
        layer("ConvTranspose2d", in_channels=8, out_channels=4, kernel_size=3, stride=2, output_padding=1, bias=False),
        layer("PixelUnshuffle", downscale_factor=2),
        layer("PixelShuffle", upscale_factor=2),
        layer("GLU", dim=1),
        conv(2, stride=2),
        *(layer("Upsample", scale_factor=1.5, mode=mode) for mode in ("nearest", "bilinear")),
        layer("Upsample", size=[9, 11], mode="bicubic", align_corners=True),
        layer("Upsample", size=[10, 13], mode="nearest-exact"),
        layer("UpsamplingBilinear2d", scale_factor=2),
        layer("UpsamplingNearest2d", scale_factor=2),
        layer("Unfold", kernel_size=2, stride=2),
        layer("Fold", output_size=[40, 52], kernel_size=2, stride=2),
    ],
    "three dimensions, then one": [
        *VOLUME,
        *(layer(f"{name}3d", padding=1) for name in ("CircularPad", "ReflectionPad", "ReplicationPad", "ZeroPad")),
        layer("ConstantPad3d", padding=1, value=0.5),
        layer("BatchNorm3d", num_features=4),
        layer("InstanceNorm3d", num_features=4, affine=True),
        layer("Dropout3d"),
        layer("ConvTranspose3d", in_channels=4, out_channels=2, kernel_size=2),
        layer("AvgPool3d", kernel_size=2, stride=1),
        layer("MaxPool3d", kernel_size=2, stride=1),
        layer("LPPool3d", norm_type=2, kernel_size=2, stride=1),
        layer("AdaptiveMaxPool3d", output_size=[7, 9, 11]),
        layer("AdaptiveAvgPool3d", output_size=[2, 4, 5]),
        layer("Flatten", start_dim=2),  # 2 × 40
        *(layer(f"{name}1d", padding=2) for name in ("CircularPad", "ReflectionPad", "ReplicationPad", "ZeroPad")),
        layer("ConstantPad1d", padding=1, value=0.5),
        layer("Conv1d", in_channels=2, out_channels=6, kernel_size=3, stride=2),
        layer("BatchNorm1d", num_features=6),
        layer("InstanceNorm1d", num_features=6, affine=True),
        layer("Dropout1d"),
        layer("ConvTranspose1d", in_channels=6, out_channels=6, kernel_size=3),
        layer("AvgPool1d", kernel_size=2),
        layer("MaxPool1d", kernel_size=2, stride=1),
        layer("LPPool1d", norm_type=2, kernel_size=2, stride=1),
        layer("AdaptiveMaxPool1d", output_size=7),
        layer("AdaptiveAvgPool1d", output_size=5),
    ],
}
# What they are tried without: they are random when they evaluate, too.
RANDOM = {"FractionalMaxPool2d", "FractionalMaxPool3d"}


def test_the_networks_have_every_layer() -> None:
    named = {entry["class"].rpartition(".")[2] for arch in NETWORKS.values() for entry in arch}
    assert named | RANDOM == LAYERS.allowed


@pytest.mark.parametrize("name", NETWORKS)
def test_every_layer_is_expressed(name: str, tmp_path: Path) -> None:
    print(f"{name:24} {require_same(tmp_path, NETWORKS[name], COLOR)}")


# Without alexnet, mnasnet, regnet, squeezenet and vgg: they have the layers of the networks above, in no other way; and
# without densenet121 (joins as shufflenet does), mobilenet_v3_small (excitation as efficientnet's), swin_t and maxvit_t
# (attention in windows as swin_v2_t), which take half a minute and more.
@pytest.mark.parametrize(
    ("name", "side", "kwargs"),
    [
        ("resnet18", 32, {}),
        *(
            pytest.param(name, side, kwargs, marks=pytest.mark.slow)
            for name, side, kwargs in (
                ("convnext_tiny", 32, {}),
                ("efficientnet_b0", 32, {}),
                ("shufflenet_v2_x0_5", 32, {}),
                ("swin_v2_t", 32, {}),
                ("vit_b_32", 32, {"image_size": 32}),
            )
        ),
    ],
)
def test_backbones_are_expressed(name: str, side: int, kwargs: dict[str, Any], tmp_path: Path) -> None:
    print(f"{name:24} {require_same(tmp_path, [backbone(name, **kwargs)], (side, side, 3))}")


@pytest.fixture(scope="module")
def reference() -> tuple[Params, Network, bytes]:
    params = Params.load(str(REFERENCE_PARAMS), [])
    return (
        params,
        trained(params.net_arch, params.image_shape, 10),
        export_graph(params.net_arch, params.image_shape, 10),
    )


@pytest.mark.parametrize("sure", [1.0, 1e3], ids=["as it is", "probabilities of 0 and 1"])
@pytest.mark.parametrize("normalisation", [None, NORMALISATION[1]], ids=["none", "normalised"])
def test_the_reference_network_is_expressed(
    reference: tuple[Params, Network, bytes], normalisation: Normalisation | None, sure: float, tmp_path: Path
) -> None:
    params, network, graph = reference
    before = network.classifier.weight.detach().clone()
    with torch.no_grad():
        network.classifier.weight.mul_(sure)
    images = random_images(64, params.image_shape)

    found = written(tmp_path / "model.onnx", network, graph, params.image_shape, normalisation=normalisation)(images)

    wanted = probabilities(network, images, normalisation)
    with torch.no_grad():
        network.classifier.weight.copy_(before)
    assert np.abs(found - wanted).max() <= 1e-5 * max(1, sure / 100)  # of logits of thousands float32 knows no more
    assert (found.argmax(axis=1) == wanted.argmax(axis=1)).all()
    if sure > 1:
        assert ((wanted < 1e-6) | (wanted > 1 - 1e-6)).mean() > 0.9


def test_one_class_is_enough(tmp_path: Path) -> None:
    specs = [LayerSpec.model_validate(conv(4, given=1))]
    network = trained(specs, GRAY, 1)
    images = random_images(5, GRAY)

    found = written(tmp_path / "model.onnx", network, export_graph(specs, GRAY, 1), GRAY)(images)

    assert found.shape == (5, 1)
    assert np.abs(found - probabilities(network, images, None)).max() <= 1e-5


def test_a_graph_holds_names_and_shapes_and_nothing_of_this_machine(reference: tuple[Params, Network, bytes]) -> None:
    _, network, graph = reference
    model = onnx.load_from_string(graph)
    weights = {name: value for name, value in network.state_dict().items() if not name.endswith("num_batches_tracked")}

    found = {each.name: tuple(each.dims) for each in model.graph.initializer if not each.raw_data}
    assert found == {f"network.{name}": tuple(value.shape) for name, value in weights.items()} | {
        "pixel_mean": (1, 1, 1, 1),
        "pixel_scale": (1, 1, 1, 1),
    }
    assert len(graph) < 20_000
    assert not [text for text in (b"/components/", b".py", b"pkg.", b"torch/") if text in graph]


class OfBatch(nn.Module):
    """A layer of an operator's own, which does something else with many images."""

    def forward(self, images: Tensor) -> Tensor:
        """The images, or twice as much."""
        return images * 2 if images.shape[0] > 3 else images


# One without an operator, behind others, is in tests/train/test_graph_export.py.
@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"class": f"{__name__}.OfBatch", "kwargs": {}}, "its graph gives other values for 5 images"),
        (
            layer("BatchNorm2d", num_features=1, track_running_stats=False),
            "what it gives for an image depends on the others of its batch",
        ),
    ],
    ids=["of batch", "statistics of the batch"],
)
def test_a_layer_that_cannot_be_expressed_is_named(entry: Entry, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHUTTERLINE_MODULES", __name__)
    specs = [LayerSpec.model_validate(each) for each in (entry, conv(4, given=1))]

    with pytest.raises(ParamsError) as caught:
        export_graph(specs, GRAY, 10)

    (problem,) = caught.value.problems
    assert problem.path == "net_arch[0]"
    start = f"{entry['class']} cannot be expressed in ONNX, as which a model is kept: {message}"
    assert problem.message.startswith(start)
    assert problem.message.endswith("; choose another layer")
    assert "\n" not in problem.message


def test_weights_of_another_network_are_refused(reference: tuple[Params, Network, bytes]) -> None:
    _, network, graph = reference
    given: dict[str, Any] = {
        "weights_sha256": "",
        "normalisation": None,
        "classes": ["a"],
        "image": ImageShape(height=28, width=28, channels=1),
    }
    weights = network.state_dict()

    with pytest.raises(ValueError, match=r"network\.classifier\.bias is no weight of the network, and has no values"):
        onnx_bytes(graph, without(weights, "classifier.bias"), **given)
    with pytest.raises(
        ValueError, match=r"network\.classifier\.bias is float32 \(3,\), and the graph has float32 \(10,\)"
    ):
        onnx_bytes(graph, weights | {"classifier.bias": torch.zeros(3)}, **given)
    with pytest.raises(ValueError, match=r"network\.classifier\.bias is float64"):
        onnx_bytes(graph, weights | {"classifier.bias": torch.zeros(10, dtype=torch.float64)}, **given)


def without(weights: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {each: value for each, value in weights.items() if each != name}
