"""Parameter groups: which parameters are in which, at which rate, through schedules, and what is logged of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from components.classifier.network import Network, network_of
from components.classifier.optimisers import Schedules, build_optimiser
from components.classifier.parameter_groups import describe_groups, parameter_groups
from components.shared.params.params import Params
from tests.configs import check_dict, layer, schedule, small

ARCH = [layer("Conv2d", in_channels=1, out_channels=4, kernel_size=3), layer("GroupNorm", num_groups=2, num_channels=4)]
UNDECAYED: dict[str, Any] = {"decay_biases_and_norms": False, "optim_kwargs": {"weight_decay": 0.1}}
SLOWER: dict[str, Any] = {"backbone_learning_rate": 1e-4}


def made(**changes: Any) -> tuple[Network, Params]:
    params = Params.from_dict(small(**{"net_arch": ARCH, **changes}))
    return network_of(params), params


def spelled(network: Network, params: Params) -> dict[str | None, tuple[list[str], float, float]]:
    """Each group's parameters, rate and weight decay, by its name, as torch's optimiser has them."""
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    groups = build_optimiser(params, parameter_groups(network, params)).param_groups
    return {
        group.get("name"): ([names[id(one)] for one in group["params"]], group["lr"], group["weight_decay"])
        for group in groups
    }


CONV, NORM, HEAD = ([f"{prefix}.weight", f"{prefix}.bias"] for prefix in ("features.0", "features.1", "classifier"))


@pytest.mark.parametrize(
    ("changes", "groups"),
    [
        ({}, {None: (CONV + NORM + HEAD, 1e-3, 0.01)}),
        ({**UNDECAYED, "optim_kwargs": {"weight_decay": 0}}, {None: (CONV + NORM + HEAD, 1e-3, 0)}),
        ({"decay_biases_and_norms": False, "optim_class": "torch.optim.Adam"}, {None: (CONV + NORM + HEAD, 1e-3, 0)}),
        (
            UNDECAYED,
            {
                "weights": ([CONV[0], HEAD[0]], 1e-3, 0.1),
                "biases and norms": ([CONV[1], *NORM, HEAD[1]], 1e-3, 0),
            },
        ),
        (SLOWER, {"head": (HEAD, 1e-3, 0.01), "backbone": (CONV + NORM, 1e-4, 0.01)}),
        (
            {**SLOWER, **UNDECAYED},
            {
                "head, weights": (HEAD[:1], 1e-3, 0.1),
                "head, biases and norms": (HEAD[1:], 1e-3, 0),
                "backbone, weights": (CONV[:1], 1e-4, 0.1),
                "backbone, biases and norms": ([CONV[1], *NORM], 1e-4, 0),
            },
        ),
        (
            {**SLOWER, **UNDECAYED, "frozen_layers": 1, "initial_weights": "earlier"},
            {
                "head, weights": (HEAD[:1], 1e-3, 0.1),
                "head, biases and norms": (HEAD[1:], 1e-3, 0),
                "backbone, biases and norms": (NORM, 1e-4, 0),
            },
        ),
    ],
    ids=["none", "no weight decay", "none by default", "decay", "rates", "both", "frozen"],
)
def test_groups_have_the_parameters_that_the_keys_ask_for(changes: dict[str, Any], groups: dict[Any, Any]) -> None:
    found = spelled(*made(**changes))
    assert list(found.items()) == list(groups.items())


@pytest.mark.parametrize(
    ("backbone", "undecayed"),
    [
        ("resnet18", {"bn1.weight", "bn1.bias", "layer1.0.bn1.weight"}),
        ("convnext_tiny", {"features.0.1.weight", "features.1.0.layer_scale", "features.1.0.block.2.weight"}),
        (
            "vit_b_32",
            {"class_token", "encoder.pos_embedding", "encoder.ln.weight"}
            | {"encoder.layers.encoder_layer_0.self_attention.in_proj_bias"},
        ),
        ("swin_t", {"features.1.0.attn.relative_position_bias_table", "features.1.0.norm1.weight"}),
        ("swin_v2_t", {"features.1.0.attn.logit_scale"}),
    ],
)
def test_what_a_backbone_leaves_undecayed(backbone: str, undecayed: set[str]) -> None:
    changes = {"net_arch": [{"class": f"torchvision.models.{backbone}"}], "is_image_color": True}
    with torch.device("meta"):
        network, params = made(**changes, image_height=224, image_width=224, **UNDECAYED)
    (decayed, *_), (rest, *_) = spelled(network, params).values()
    assert {f"features.0.{name}" for name in undecayed} < set(rest)
    shapes = {name: parameter.shape for name, parameter in network.named_parameters()}
    # Whatever multiplies the values of an image, and nothing else.
    assert all(len(shapes[name]) in (2, 4) and name.endswith("weight") for name in decayed)
    assert all(shapes[name].numel() == max(shapes[name]) or "table" in name or "pos_emb" in name for name in rest)


@pytest.mark.parametrize(
    "schedules",
    [
        [schedule("ExponentialLR", gamma=0.5)],
        [schedule("OneCycleLR", max_lr=0.2, total_steps=6)],
        [schedule("CyclicLR", base_lr=0.01, max_lr=0.2, step_size_up=2, cycle_momentum=False) | {"interval": "batch"}],
        [schedule("CosineAnnealingWarmRestarts", T_0=2, eta_min=0.001)],
        [schedule("CosineAnnealingLR", eta_min=0.001)],
        [schedule("ReduceLROnPlateau", patience=0, factor=0.1, min_lr=0.002)],
        [schedule("StepLR", step_size=1), schedule("OneCycleLR", max_lr=0.2)],
    ],
    ids=lambda schedules: schedules[-1]["name"],
)
def test_schedules_keep_the_ratio_of_the_rates(schedules: list[Any]) -> None:
    changes = {"num_epochs": 6, "learning_rate": 0.1, "backbone_learning_rate": 0.025, **UNDECAYED}
    changes |= {"learning_rate_schedule": schedules, "milestones": [2] if len(schedules) > 1 else []}
    network, params = made(**changes)
    (lone,) = build_optimiser(params, network.parameters()).param_groups
    one, many = (
        build_optimiser(params, parameters) for parameters in (network.parameters(), parameter_groups(network, params))
    )
    rates: list[list[float]] = []
    both = [(optimiser, Schedules(params, optimiser, 2)) for optimiser in (one, many)]
    for _ in range(params.num_epochs):
        for _ in range(2):
            (alone, *_), of_groups = ([group["lr"] for group in optimiser.param_groups] for optimiser, _ in both)
            rates.append([alone, *of_groups])
            for optimiser, each in both:
                optimiser.step()
                each.step_batch()
        for _, each in both:
            each.step(loss=1.0, accuracy=0.5)
    assert lone["lr"] == 0.1
    assert len({alone for alone, *_ in rates}) > 1
    for alone, *of_groups in rates:
        assert of_groups == pytest.approx([alone, alone, alone / 4, alone / 4])


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        (
            {"decay_biases_and_norms": False, "optim_class": "torch.optim.Rprop"},
            "decay_biases_and_norms has no effect: torch.optim.Rprop decays no weight without weight_decay",
        ),
        (
            {"net_arch": [layer("ReLU")], **SLOWER},
            "backbone_learning_rate has no effect: no layer of net_arch has parameters that are trained",
        ),
        ({"backbone_learning_rate": 1e-3}, "backbone_learning_rate has no effect: it is learning_rate, 0.001"),
        (
            SLOWER,
            "backbone_learning_rate: the layers of net_arch begin with random weights (initial_weights is null), for "
            "which a rate of their own seldom helps",
        ),
        ({**SLOWER, "initial_weights": "earlier"}, None),
        (UNDECAYED, None),
    ],
    ids=["no decay", "no layers", "same rate", "random", "initial weights", "decay"],
)
def test_what_has_no_effect_is_noted(changes: dict[str, Any], note: str | None) -> None:
    assert check_dict(small(**{"net_arch": ARCH, **changes})).notes == (() if note is None else (note,))


def test_groups_are_described_for_the_log() -> None:
    network, params = made(**SLOWER, **UNDECAYED)
    assert describe_groups(parameter_groups(network, params), params) == (
        "head, weights: 288 values, rate 0.001; "
        "head, biases and norms: 2 values, rate 0.001, weight decay 0; "
        "backbone, weights: 36 values, rate 0.0001; "
        "backbone, biases and norms: 12 values, rate 0.0001, weight decay 0"
    )
