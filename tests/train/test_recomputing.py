"""Gradient checkpointing: the same training in less memory, and a note where it has no effect."""

from __future__ import annotations

from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from components.classifier.building import build
from components.classifier.network import Network, freeze
from components.shared.params.types import LayerSpec
from components.train.recomputing import Recomputing
from tests.configs import layer
from tests.train.trials import epochs, trainer_of

CONVOLUTION = [
    layer("Conv2d", in_channels=8, out_channels=8, kernel_size=3, padding=1),
    layer("BatchNorm2d", num_features=8),
    layer("ReLU", inplace=True),
]
ARCH = [
    layer("Conv2d", in_channels=1, out_channels=8, kernel_size=3, padding=1),
    layer("Hardswish", inplace=True),  # of a part's input it would make another
    layer("Dropout2d", p=0.2),
    layer("Identity"),  # a part's first layer, which gives its input as it is
    layer("Hardswish", inplace=True),
    *CONVOLUTION,
    *CONVOLUTION,
    *CONVOLUTION,
    layer("RReLU"),
]


def network_of(layers: list[nn.Module], size: int = 32, channels: int = 3) -> Network:
    features = nn.Sequential(*layers)
    with torch.no_grad():
        values = features.eval()(torch.zeros(1, channels, size, size)).numel()
    return Network(features, values, 10, 0).train()


def built(*layers: Any) -> list[nn.Module]:
    torch.manual_seed(0)
    return [build(LayerSpec.model_validate(each), "net_arch") for each in layers]


def backbone(name: str, **kwargs: Any) -> Network:
    return network_of(built({"class": f"torchvision.models.{name}", "kwargs": kwargs}), 64)


@pytest.mark.parametrize("changes", [{}, {"precision": "bf16", "gradient_accumulation_steps": 2, "ema_decay": 0.9}])
def test_the_same_training(dataset: Path, changes: dict[str, Any]) -> None:
    plain, again = (trainer_of(dataset, net_arch=ARCH, gradient_checkpointing=on, **changes) for on in (False, True))

    for trainer in (plain, again):
        torch.manual_seed(0)
        epochs(trainer, 2)

    assert again.history == [
        record.model_copy(update={"images_per_second": other.images_per_second})
        for record, other in zip(plain.history, again.history, strict=True)
    ]
    for one, other in ((plain.network, again.network), (plain.evaluated_network, again.evaluated_network)):
        tensors = other.state_dict()
        assert all(torch.equal(value, tensors[name]) for name, value in one.state_dict().items())


def step(network: Network, images: Tensor, recomputing: Recomputing | None = None) -> list[Tensor]:
    """Gradients and batch statistics after a step, and the random numbers that follow it."""
    torch.manual_seed(1)
    with nullcontext() if recomputing is None else recomputing.forward_pass():
        output = network(images)
    output.square().sum().backward()
    return [*(weight.grad for weight in network.parameters()), *network.buffers(), torch.rand(1)]  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("name", "parts", "draws"),
    [
        ("resnet18", 7, False),
        ("shufflenet_v2_x0_5", 17, False),
        ("squeezenet1_1", 9, False),
        pytest.param("densenet121", 10, False, marks=pytest.mark.slow),
        pytest.param("efficientnet_b0", 17, True, marks=pytest.mark.slow),
        pytest.param("swin_t", 15, True, marks=pytest.mark.slow),
        pytest.param("convnext_tiny", 22, True, marks=pytest.mark.slow),
    ],
)
def test_an_architectures_blocks_are_computed_again(name: str, parts: int, draws: bool) -> None:
    network, images = backbone(name), torch.randn(2, 3, 64, 64)
    other = deepcopy(network)
    recomputing = Recomputing(network)

    found, expected = step(network, images, recomputing), step(other, images)

    assert (recomputing.parts, recomputing.draws, recomputing.note) == (parts, draws, "")
    assert all(torch.equal(one, another) for one, another in zip(found, expected, strict=True))
    assert network.state_dict().keys() == other.state_dict().keys()


def peak_bytes(network: Network, images: Tensor, recomputing: Recomputing | None = None) -> int:
    """Most bytes that a step has asked for and not given back."""
    step(network, images, recomputing)
    network.zero_grad(set_to_none=True)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step(network, images, recomputing)
    assert profiler.profiler is not None
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = highest = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        highest = max(highest, held)
    return highest


@pytest.mark.parametrize("arch", ["plain layers", "blocks"])
def test_a_step_takes_less_memory(arch: str) -> None:
    images = torch.randn(16, 3, 64, 64)
    if arch == "blocks":
        network = backbone("shufflenet_v2_x0_5")
    else:
        first = layer("Conv2d", in_channels=3, out_channels=8, kernel_size=3, padding=1)
        network = network_of(built(first, *CONVOLUTION * 12, layer("AdaptiveAvgPool2d", output_size=1)), 64)

    assert peak_bytes(network, images, Recomputing(network)) < 0.65 * peak_bytes(network, images)


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU())

    def forward(self, images: Tensor) -> Tensor:
        return torch.rand(()) * self.inner(images)  # type: ignore[no-any-return]


OTHERS = "of other modules than torch's and torchvision's, which may keep state, are kept whole"


@pytest.mark.parametrize(
    ("layers", "frozen", "note"),
    [
        ([nn.Conv2d(3, 8, 3)], 0, "gradient_checkpointing has no effect: of so few layers nothing is saved"),
        ([nn.Conv2d(3, 8, 3)] * 9, 9, "gradient_checkpointing has no effect: all feature layers are frozen"),
        ([Own(), nn.ReLU()], 0, f"gradient_checkpointing has no effect: 1 layer(s) {OTHERS}"),
        ([Own(), *[nn.ReLU() for _ in range(9)]], 0, f"gradient_checkpointing: 1 layer(s) {OTHERS}"),
        ([nn.ReLU() for _ in range(9)], 0, ""),
    ],
)
def test_a_note_says_where_it_has_no_effect(layers: list[nn.Module], frozen: int, note: str) -> None:
    network = Network(nn.Sequential(*layers), 1, 10, 0)
    freeze(network, frozen)
    assert Recomputing(network).note == note


def test_the_log_has_the_note(dataset: Path, heard: pytest.LogCaptureFixture) -> None:
    trainer_of(dataset, gradient_checkpointing=True)
    assert "gradient_checkpointing has no effect: of so few layers nothing is saved" in heard.messages


@pytest.mark.parametrize("share", [0.0, 0.5])
@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("Dropout2d", {"p": ...}),
        ("AlphaDropout", {"p": ...}),
        ("RReLU", {}),
        ("FractionalMaxPool2d", {"kernel_size": 2, "output_size": 8}),
        ("BatchNorm2d", {"num_features": 4}),
        ("TransformerEncoderLayer", {"d_model": 16, "nhead": 2, "batch_first": True, "dropout": ...}),
    ],
)
def test_what_draws_random_numbers_is_known(name: str, kwargs: dict[str, Any], share: float) -> None:
    given = {key: share if value is ... else value for key, value in kwargs.items()}
    one = getattr(nn, name)(**given)
    network = Network(nn.Sequential(one, *[nn.ReLU() for _ in range(9)]), 1, 10, 0)

    before = torch.get_rng_state()
    one.train()(-torch.ones((4, 16, 16) if "Transformer" in name else (4, 4, 16, 16)))

    assert Recomputing(network).draws is not torch.equal(before, torch.get_rng_state())
