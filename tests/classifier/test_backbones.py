"""Architectures of torchvision as layers: what they become, and what is refused of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision.models
from torch import nn

from components.classifier.building import build, head_name
from components.classifier.network import examine, network_of
from components.shared.params.allowed_classes import BACKBONES
from components.shared.params.params import Params
from components.shared.params.types import LayerSpec
from tests.configs import Entry, check_dict, layer, refused, small


def backbone(name: str, **kwargs: Any) -> Entry:
    return {"class": f"torchvision.models.{name}", "kwargs": kwargs}


def color(*arch: Any, **changes: Any) -> dict[str, Any]:
    return small(image_height=32, image_width=32, is_image_color=True, net_arch=list(arch), **changes)


def test_every_classifier_of_torchvision_is_allowed_or_refused() -> None:
    models = set(torchvision.models.list_models(module=torchvision.models))
    assert models == BACKBONES.allowed | {"googlenet", "inception_v3"}
    public = {
        name
        for name, value in vars(torchvision.models).items()
        if not name.startswith("_") and (isinstance(value, type) or type(value).__name__ == "function")
    }
    undecided = public - BACKBONES.allowed - BACKBONES.refused.keys()
    assert [name for name in undecided if not name.endswith("_Weights")] == []


# One of each family.
FAMILIES = (
    "alexnet convnext_tiny densenet121 efficientnet_b0 maxvit_t mnasnet0_5 mobilenet_v2 mobilenet_v3_small "
    "regnet_x_400mf resnet18 shufflenet_v2_x0_5 squeezenet1_1 swin_t swin_v2_t vgg11_bn vit_b_32"
).split()


@pytest.mark.parametrize("name", FAMILIES)
def test_an_architecture_is_itself_without_its_classifying_layer(name: str) -> None:
    kwargs = {"image_size": 32} if name == "vit_b_32" else {}
    side = {"alexnet": 64, "maxvit_t": 224}.get(name, 32)
    spec = LayerSpec.model_validate(backbone(name, **kwargs))
    table = examine([spec], (side, side, 3), 5)
    with torch.device("meta"):
        made: nn.Module = build(spec, "net_arch[0]")
    with torch.device("cpu" if name.startswith("regnet") else "meta"):
        original: dict[str, torch.Tensor] = getattr(torchvision.models, name)(**kwargs).state_dict()
    head = head_name(made)
    expected = {key: value.shape for key, value in original.items() if not key.startswith(f"{head}.")}
    assert {key: value.shape for key, value in made.state_dict().items()} == expected
    assert len(original) - len(expected) in (1, 2)
    # What the head took is what the layer gives, one flat vector.
    assert table.rows[0].output_shape == (original[f"{head}.weight"].shape[1],)
    assert table.rows[0].parameters == sum(parameter.numel() for parameter in made.parameters())
    assert table.rows[0].multiply_adds > 0


def test_multiply_adds_and_parameters_are_those_that_torchvision_publishes() -> None:
    # Of each Weights entry: num_params, and _ops in billions of multiply-adds at 224×224, the head's included.
    for name, weights in (
        ("resnet18", torchvision.models.ResNet18_Weights.IMAGENET1K_V1),
        ("vit_b_32", torchvision.models.ViT_B_32_Weights.IMAGENET1K_V1),
    ):
        table = examine([LayerSpec.model_validate(backbone(name))], (224, 224, 3), 1000)
        assert table.parameters == weights.meta["num_params"]
        assert table.multiply_adds / 1e9 == pytest.approx(weights.meta["_ops"], rel=0.01)


def test_values_alive_at_one_time_include_what_skips_a_block() -> None:
    """In the first block of ResNet-50's first stage: what skips it, the sum's other half, and that half normalised."""
    table = examine([LayerSpec.model_validate(backbone("resnet50"))], (224, 224, 3), 5)
    images, wide, narrow = 3 * 224 * 224, 256 * 56 * 56, 64 * 56 * 56
    assert table.live_values == pytest.approx(images + 3 * wide + narrow, rel=0.001)


def test_a_function_and_its_name_are_the_same_run() -> None:
    by_name = Params.from_dict(color(backbone("resnet18")))
    assert Params.from_dict(color({"class": torchvision.models.resnet18})) == by_name
    assert Params.load(by_name.to_json()) == by_name


def test_random_weights_are_torchvisions_own_for_that_seed() -> None:
    torch.manual_seed(5)
    network = network_of(Params.from_dict(color(backbone("resnet18"))))
    torch.manual_seed(5)
    original = torchvision.models.resnet18().state_dict()
    for name, value in network.features[0].state_dict().items():
        assert torch.equal(value, original[name])


def test_a_backbone_stands_among_other_layers() -> None:
    gray = layer("Conv2d", in_channels=1, out_channels=3, kernel_size=1)
    arch = [gray, backbone("shufflenet_v2_x0_5"), layer("Linear", in_features=1024, out_features=8), layer("ReLU")]
    params, table, _ = check_dict(small(image_height=32, image_width=32, net_arch=arch))
    assert [row.output_shape for row in table.rows] == [(3, 32, 32), (1024,), (8,), (8,), (8,), (2,)]
    logits = network_of(params)(torch.rand(2, 1, 32, 32))
    assert logits.shape == (2, 2)


DOWNLOADED = "must not be given; nothing is downloaded: name a file by initial_weights"


def test_weights_are_never_asked_of_torchvision() -> None:
    kwargs = {"weights": "DEFAULT", "pretrained": True, "progress": False, "num_classes": 5, "block": 1, "grups": 2}
    assert refused(check_dict, color(backbone("resnet18", **kwargs))) == {
        "net_arch[0].kwargs.weights": DOWNLOADED,
        "net_arch[0].kwargs.pretrained": DOWNLOADED,
        "net_arch[0].kwargs.progress": DOWNLOADED,
        "net_arch[0].kwargs.num_classes": (
            "must not be given; the classifying layer follows net_arch; n_classes says its size"
        ),
        "net_arch[0].kwargs.block": (
            "resnet18 has no such argument; it takes zero_init_residual, groups, width_per_group, "
            "replace_stride_with_dilation, norm_layer"
        ),
        "net_arch[0].kwargs.grups": "resnet18 has no such argument; did you mean groups?",
    }


def test_options_of_an_architecture_are_its_classs() -> None:
    _, table, _ = check_dict(
        color(backbone("resnet50", width_per_group=32, replace_stride_with_dilation=[False, False, True]))
    )
    assert table.parameters < check_dict(color(backbone("resnet50")))[1].parameters
    message = refused(check_dict, color(backbone("resnet18", width_per_group="wide")))
    assert message == {"net_arch[0].kwargs.width_per_group": "must be int, got the text 'wide'"}


def test_grayscale_images_do_not_fit_a_backbone() -> None:
    found = refused(check_dict, color(backbone("resnet18")) | {"is_image_color": False})
    assert found == {
        "net_arch[0]": "torchvision.models.resnet18: is made for color images of 3 channels, but the images give 1 "
        "(1×32×32); set is_image_color: true, or put a torch.nn.Conv2d with in_channels 1, out_channels 3 and "
        "kernel_size 1 before it"
    }
    wide = layer("Conv2d", in_channels=3, out_channels=8, kernel_size=1)
    (message,) = refused(check_dict, color(wide, backbone("resnet18"))).values()
    assert "but net_arch[0] (torch.nn.Conv2d) gives 8 (8×32×32); put a torch.nn.Conv2d with in_channels 8" in message


def test_what_else_does_not_fit_a_backbone() -> None:
    assert refused(check_dict, color(backbone("vit_b_16"))) == {
        "net_arch[0].kwargs.image_size": "torchvision.models.vit_b_16: is made for images of 224×224, but the images "
        "give 3×32×32; set image_size to 32"
    }
    assert refused(check_dict, color(backbone("resnet18"), backbone("resnet18"))) == {
        "net_arch[1]": "torchvision.models.resnet18: gets 512 (1 dimensions) from net_arch[0] "
        "(torchvision.models.resnet18), and needs 3: color images"
    }
    (message,) = refused(check_dict, color(backbone("alexnet"))).values()
    assert message.startswith("torchvision.models.alexnet gets 3×32×32 from the images and refuses it: ")


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("torchvision.models.googlenet", "while it trains it gives the outputs of further heads beside its own"),
        ("torchvision.models.ResNet", "name an architecture such as torchvision.models.resnet18"),
        (torchvision.models.ResNet, "name an architecture such as torchvision.models.resnet18"),
        ("torchvision.models.get_model", "name the architecture itself"),
        ("torchvision.models.resnet.resnet18", "did you mean torchvision.models.resnet18?"),
        ("resnet_50", "did you mean torchvision.models.resnet50?"),
        ("torchvision.ops.MLP", "is not an allowed layer"),
        (torchvision.models.get_model, "name the architecture itself"),
        (torch.load, "must name a class, got a function; allowed are classes of torch.nn such as"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_what_is_no_backbone_is_refused(named: object, message: str) -> None:
    assert message in refused(Params.from_dict, color({"class": named}))["net_arch[0].class"]


def test_frozen_layers_have_no_trainable_parameters() -> None:
    arch = [backbone("resnet18"), layer("Linear", in_features=512, out_features=4)]
    params, table, _ = check_dict(color(*arch, frozen_layers=1, initial_weights="resnet18.pth"))
    assert [row.trainable for row in table.rows] == [0, 512 * 4 + 4, 0, 4 * 2 + 2]
    assert [row.parameters for row in table.rows] == [11_176_512, 512 * 4 + 4, 0, 4 * 2 + 2]
    network = network_of(params)
    assert sum(one.numel() for one in network.parameters() if one.requires_grad) == table.trainable
    assert sum(one.numel() for one in network.parameters()) == table.parameters


def test_frozen_layers_stay_in_evaluation_mode() -> None:
    arch = [
        layer("BatchNorm2d", num_features=1),
        layer("Dropout", p=0.5),
        layer("BatchNorm2d", num_features=1),
        layer("Dropout", p=0.5),
    ]
    for frozen in range(5):
        network = network_of(Params.from_dict(small(net_arch=arch, frozen_layers=frozen)))
        network.eval()
        network.train()
        assert [one.training for one in network.features] == [index >= frozen for index in range(4)]
        assert network.classifier.training
        before = {name: value.clone() for name, value in network.features[:2].state_dict().items()}
        network(torch.rand(4, 1, 8, 8) + 3).sum().backward()
        moved = {
            name for name, value in before.items() if not torch.equal(value, network.features[:2].state_dict()[name])
        }
        assert moved == (set() if frozen else {"0.running_mean", "0.running_var", "0.num_batches_tracked"})
        assert [one.grad is None for one in network.features.parameters()] == [frozen > 0] * 2 + [frozen > 2] * 2
        assert not any(one.training for one in network.eval().modules() if one is not network)
