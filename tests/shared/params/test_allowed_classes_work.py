"""Every class that params may name does its work: layers, optimisers, schedules and transforms, one by one."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from components.classifier.building import build
from components.classifier.losses import Criterion
from components.classifier.optimisers import build_optimiser
from components.classifier.rates import rehearse
from components.classifier.shape_errors import misfit
from components.shared.params.allowed_classes import LAYERS, LOSSES, OPTIMIZERS
from components.shared.params.params import Params
from components.shared.params.types import LayerSpec
from tests.configs import check_dict, layer, small

IMAGE = (4, 8, 8)
SHAPES = {1: (4, 8), 2: IMAGE, 3: (4, 8, 8, 8)}

Case = tuple[dict[str, Any], tuple[int, ...]]


def layer_cases() -> dict[str, Case]:
    """Keyword arguments and the shape of one input, for every layer."""
    cases: dict[str, Case] = {}
    for dims, shape in SHAPES.items():
        each_dims: dict[str, dict[str, Any]] = {
            "AdaptiveAvgPool": {"output_size": 2},
            "AdaptiveMaxPool": {"output_size": [3] * dims if dims > 1 else 3},
            "AvgPool": {"kernel_size": 2, "padding": 1, "count_include_pad": False},
            "MaxPool": {"kernel_size": 2, "stride": 1, "dilation": 2},
            "LPPool": {"norm_type": 2, "kernel_size": 2},
            "BatchNorm": {"num_features": 4, "momentum": None},
            "InstanceNorm": {"num_features": 4, "affine": True},
            "Conv": {"in_channels": 4, "out_channels": 6, "kernel_size": 3, "padding": "same", "groups": 2},
            "ConvTranspose": {"in_channels": 4, "out_channels": 3, "kernel_size": 3, "stride": 2, "output_padding": 1},
            "Dropout": {"p": 0.25},
            "CircularPad": {"padding": 1},
            "ConstantPad": {"padding": [1, 2] * dims, "value": 0.5},
            "ReflectionPad": {"padding": 1},
            "ReplicationPad": {"padding": 2},
            "ZeroPad": {"padding": 1},
        }
        cases |= {f"{name}{dims}d": (kwargs, shape) for name, kwargs in each_dims.items()}
    on_images: dict[str, dict[str, Any]] = {
        "AlphaDropout": {"p": 0.3},
        "CELU": {"alpha": 1},
        "ChannelShuffle": {"groups": 2},
        "Dropout": {"p": 0, "inplace": True},
        "ELU": {"alpha": 0.5},
        "FeatureAlphaDropout": {},
        "Flatten": {"start_dim": 2},
        "FractionalMaxPool2d": {"kernel_size": [2, 3], "output_ratio": [0.5, 0.5]},
        "GELU": {"approximate": "tanh"},
        "GLU": {"dim": 1},
        "GroupNorm": {"num_groups": 2, "num_channels": 4},
        "Hardshrink": {"lambd": 0.1},
        "Hardsigmoid": {},
        "Hardswish": {},
        "Hardtanh": {"min_val": -2, "max_val": 2.5},
        "Identity": {"anything": [1]},
        "LayerNorm": {"normalized_shape": [4, 8, 8]},
        "LeakyReLU": {"negative_slope": 0.2},
        "Linear": {"in_features": 8, "out_features": 3, "bias": False},
        "LocalResponseNorm": {"size": 2},
        "LogSigmoid": {},
        "LogSoftmax": {"dim": 1},
        "Mish": {},
        "PReLU": {"num_parameters": 4, "init": 0.1},
        "PixelShuffle": {"upscale_factor": 2},
        "PixelUnshuffle": {"downscale_factor": 4},
        "RMSNorm": {"normalized_shape": 8, "eps": None},
        "RReLU": {"lower": 0.1, "upper": 0.2},
        "ReLU": {"inplace": True},
        "ReLU6": {},
        "SELU": {},
        "SiLU": {},
        "Sigmoid": {},
        "Softmax": {"dim": -1},
        "Softmax2d": {},
        "Softmin": {"dim": 3},
        "Softplus": {"beta": 2, "threshold": 10},
        "Softshrink": {"lambd": 0.2},
        "Softsign": {},
        "Tanh": {},
        "Tanhshrink": {},
        "Threshold": {"threshold": 0.1, "value": 20},
        "Unflatten": {"dim": 1, "unflattened_size": [2, 2]},
        "Unfold": {"kernel_size": [2, 3], "stride": 2},
        "Upsample": {"scale_factor": 2, "mode": "bilinear", "align_corners": True},
        "UpsamplingBilinear2d": {"scale_factor": [2, 3]},
        "UpsamplingNearest2d": {"size": [4, 5]},
    }
    cases |= {name: (kwargs, IMAGE) for name, kwargs in on_images.items()}
    cases["FractionalMaxPool3d"] = {"kernel_size": 2, "output_size": [4, 5, 6]}, SHAPES[3]
    cases["Fold"] = {"output_size": [8, 8], "kernel_size": 2, "stride": 2}, (16, 16)
    return cases


LAYER_CASES = layer_cases()


def test_the_layer_table_is_complete() -> None:
    assert sorted(LAYER_CASES) == sorted(LAYERS.allowed)


@pytest.mark.parametrize("name", sorted(LAYERS.allowed))
def test_an_allowed_layer_turns_a_batch_into_a_batch(name: str) -> None:
    kwargs, shape = LAYER_CASES[name]
    spec = LayerSpec.model_validate(layer(name, **kwargs))
    torch.manual_seed(0)
    images = torch.rand(3, *shape)
    made: torch.nn.Module = build(spec, "net_arch[0]")
    # The same layer in a network, whose images are first brought into its shape.
    arch = [layer("Flatten"), layer("Unflatten", dim=1, unflattened_size=shape), layer(name, **kwargs)]
    params, table, _ = check_dict(small(image_height=shape[0], image_width=math.prod(shape[1:]), net_arch=arch))

    assert misfit(made, shape, "the images") is None
    output = made(images.clone())
    assert output.shape[0] == 3
    assert output.isfinite().all()
    assert table.rows[2].output_shape == output.shape[1:]
    assert table.rows[2].parameters == sum(parameter.numel() for parameter in made.parameters())
    assert params.net_arch[2].short_name == name
    made.eval()
    alone = torch.cat([made(images[index : index + 1].clone()) for index in range(3)])
    if not name.startswith("FractionalMaxPool"):  # its windows are drawn at random, at evaluation too
        assert torch.allclose(made(images.clone()), alone, atol=1e-6)


OPTIMISER_KWARGS: dict[str, dict[str, Any]] = {
    "ASGD": {"lambd": 1e-4, "t0": 1e6},
    "Adadelta": {"rho": 0.8},
    "Adafactor": {"eps": [None, 1e-3], "d": 1},
    "Adagrad": {"lr_decay": 0, "initial_accumulator_value": 0.1},
    "Adam": {"betas": [0.8, 0.99], "amsgrad": True, "weight_decay": 1},
    "AdamW": {"betas": [0.8, 0.99], "fused": None, "foreach": True},
    "Adamax": {"eps": 1e-6},
    "NAdam": {"momentum_decay": 0.01, "decoupled_weight_decay": True},
    "RAdam": {"betas": [0.9, 0.9]},
    "RMSprop": {"alpha": 0.9, "centered": True, "momentum": 0.5},
    "Rprop": {"etas": [0.5, 1.5], "step_sizes": [1e-5, 10]},
    "SGD": {"momentum": 0.9, "nesterov": True, "maximize": False},
}


@pytest.mark.parametrize("name", sorted(OPTIMIZERS.allowed))
def test_an_allowed_optimiser_makes_a_step(name: str) -> None:
    for kwargs in ({}, OPTIMISER_KWARGS[name]):
        params = Params.from_dict(small(optim_class=f"torch.optim.{name}", optim_kwargs=kwargs, learning_rate=0.01))
        assert rehearse(params).problems == []
        weight = torch.nn.Parameter(torch.ones(3, 2))
        optimiser = build_optimiser(params, [weight])
        assert isinstance(optimiser, getattr(torch.optim, name))
        assert type(optimiser).__name__ == name
        assert optimiser.param_groups[0]["lr"] == 0.01
        for _ in range(2):  # RAdam's first steps are tiny
            (weight**2).sum().backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        assert weight.isfinite().all()
        assert (weight != 1).all()


LOSS_KWARGS: dict[str, dict[str, Any]] = {
    "BCEWithLogitsLoss": {},
    "CrossEntropyLoss": {"label_smoothing": 0.1},
    "MultiMarginLoss": {"p": 2, "margin": 0.5},
}


@pytest.mark.parametrize("name", sorted(LOSSES.allowed))
def test_an_allowed_loss_falls_where_the_right_class_is_surer(name: str) -> None:
    loss = {"class": f"torch.nn.{name}", "kwargs": LOSS_KWARGS[name]}
    params, _, _ = check_dict(small(loss=loss, n_classes=3))
    criterion = Criterion(params, [1, 1, 1], torch.device("cpu"))
    logits = torch.tensor([[0.5, 0.0, -0.5]], requires_grad=True)
    labels = torch.tensor([1])
    losses = criterion(logits, labels)
    assert losses.shape == (1,)
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    assert gradient[0, 1] < 0
    assert gradient[0, 0] > 0
    assert criterion(logits.detach() - 0.1 * gradient, labels) < losses
