"""Every class that params may name does its work: layers, optimisers, schedules and transforms, one by one."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch

from components.classifier.augmentation import PerImageTransforms
from components.classifier.building import build
from components.classifier.losses import Criterion
from components.classifier.optimisers import Schedules, build_optimiser
from components.classifier.rates import rehearse
from components.classifier.shape_errors import misfit
from components.shared.params.allowed_classes import LAYERS, LOSSES, OPTIMIZERS, SCHEDULERS, TRANSFORMS
from components.shared.params.params import Params
from components.shared.params.types import LayerSpec, TransformSpec
from tests.configs import Entry, check_dict, layer, schedule, small, transform

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
        assert type(optimiser) is getattr(torch.optim, name)
        assert optimiser.param_groups[0]["lr"] == 0.01
        for _ in range(2):  # RAdam's first steps are tiny
            (weight**2).sum().backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        assert weight.isfinite().all()
        assert (weight != 1).all()


SCHEDULE_KWARGS: dict[str, dict[str, Any]] = {
    "ConstantLR": {"factor": 0.5, "total_iters": 2},
    "CosineAnnealingLR": {"T_max": 5, "eta_min": 0.001},
    "CosineAnnealingWarmRestarts": {"T_0": 2, "T_mult": 2},
    "CyclicLR": {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 2, "mode": "triangular2"},
    "ExponentialLR": {"gamma": 0.5, "last_epoch": -1},
    "LinearLR": {"start_factor": 0.5, "total_iters": 3},
    "MultiStepLR": {"milestones": [1, 3], "gamma": 0.1},
    "OneCycleLR": {"max_lr": 0.1, "total_steps": 6, "anneal_strategy": "linear"},
    "PolynomialLR": {"total_iters": 5, "power": 2},
    "ReduceLROnPlateau": {"mode": "max", "patience": 0, "min_lr": [0.0], "threshold_mode": "abs"},
    "StepLR": {"step_size": 2.0, "gamma": 0.1},
}


@pytest.mark.parametrize("name", sorted(SCHEDULERS.allowed))
def test_an_allowed_schedule_changes_the_learning_rate(name: str) -> None:
    params = Params.from_dict(
        small(
            optim_class="torch.optim.SGD",
            optim_kwargs={"momentum": 0.9},
            learning_rate=0.1,
            num_epochs=5,
            learning_rate_schedule=[schedule(name, **SCHEDULE_KWARGS[name])],
        )
    )
    assert rehearse(params).problems == []
    optimiser = build_optimiser(params, [torch.nn.Parameter(torch.ones(1))])
    schedules = Schedules(params, optimiser)
    rates = [optimiser.param_groups[0]["lr"]]
    for _ in range(5):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the optimiser made no step
            schedules.step(loss=1.0, accuracy=0.5)
        rates.append(optimiser.param_groups[0]["lr"])
    assert all(math.isfinite(rate) and rate >= 0 for rate in rates)
    assert len(set(rates)) > 1
    assert type(schedules.by_epoch[0]) is getattr(torch.optim.lr_scheduler, name)


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


SIDE = 32
TO_FLOAT = transform("ToDtype", dtype="torch.float32", scale=True)
# The entries that show each transform; sizes are such that an image keeps its shape.
TRANSFORM_CASES: dict[str, list[Entry]] = {
    "AugMix": [transform("AugMix", severity=2)],
    "AutoAugment": [transform("AutoAugment", policy="cifar10", interpolation="bilinear")],
    "CenterCrop": [transform("CenterCrop", size=[SIDE, SIDE])],
    "ColorJitter": [transform("ColorJitter", brightness=0.2, hue=[-0.1, 0.1])],
    "Compose": [transform("Compose", transforms=[transform("RGB"), transform("RandomInvert", p=1)])],
    "ConvertImageDtype": [transform("ConvertImageDtype", dtype="float32")],
    "ElasticTransform": [transform("ElasticTransform", alpha=20, sigma=2.0)],
    "GaussianBlur": [transform("GaussianBlur", kernel_size=3, sigma=[0.1, 2])],
    "GaussianNoise": [TO_FLOAT, transform("GaussianNoise", sigma=0.05)],
    "Grayscale": [transform("Grayscale", num_output_channels=3)],
    "Identity": [transform("Identity")],
    "JPEG": [transform("JPEG", quality=[40, 60])],
    "Pad": [transform("CenterCrop", size=SIDE - 2), transform("Pad", padding=1, padding_mode="reflect")],
    "RGB": [transform("RGB")],
    "RandAugment": [transform("RandAugment", num_ops=2, magnitude=9)],
    "RandomAdjustSharpness": [transform("RandomAdjustSharpness", sharpness_factor=2, p=1)],
    "RandomAffine": [transform("RandomAffine", degrees=10, translate=[0.1, 0.1], scale=[0.9, 1.1], shear=5)],
    "RandomApply": [transform("RandomApply", transforms=[transform("RandomInvert", p=1)], p=1)],
    "RandomAutocontrast": [transform("RandomAutocontrast", p=1)],
    "RandomChannelPermutation": [transform("RandomChannelPermutation")],
    "RandomChoice": [transform("RandomChoice", transforms=[transform("RGB"), transform("Identity")], p=[1, 3])],
    "RandomCrop": [transform("RandomCrop", size=SIDE, padding=4)],
    "RandomEqualize": [transform("RandomEqualize", p=1)],
    "RandomErasing": [transform("RandomErasing", p=1, scale=[0.1, 0.2], value=0)],
    "RandomGrayscale": [transform("RandomGrayscale", p=1)],
    "RandomHorizontalFlip": [transform("RandomHorizontalFlip", p=1)],
    "RandomInvert": [transform("RandomInvert", p=1)],
    "RandomOrder": [transform("RandomOrder", transforms=[transform("RGB"), transform("RandomInvert", p=1)])],
    "RandomPerspective": [transform("RandomPerspective", distortion_scale=0.3, p=1)],
    "RandomPhotometricDistort": [transform("RandomPhotometricDistort", p=1)],
    "RandomPosterize": [transform("RandomPosterize", bits=3, p=1)],
    "RandomResize": [transform("RandomResize", min_size=SIDE, max_size=SIDE + 1)],
    "RandomResizedCrop": [transform("RandomResizedCrop", size=SIDE, scale=[0.5, 1], antialias=True)],
    "RandomRotation": [transform("RandomRotation", degrees=[-20, 20], interpolation="bilinear")],
    "RandomShortestSize": [transform("RandomShortestSize", min_size=SIDE)],
    "RandomSolarize": [transform("RandomSolarize", threshold=128, p=1)],
    "RandomVerticalFlip": [transform("RandomVerticalFlip", p=1)],
    "RandomZoomOut": [transform("RandomZoomOut", side_range=[1, 1], p=1)],
    "Resize": [transform("Resize", size=[SIDE, SIDE], interpolation="nearest")],
    "ScaleJitter": [transform("ScaleJitter", target_size=[SIDE, SIDE], scale_range=[1, 1])],
    "ToDtype": [transform("ToDtype", dtype="torch.float64", scale=True)],
    "ToImage": [transform("ToImage")],
    "ToPureTensor": [transform("ToPureTensor")],
    "TrivialAugmentWide": [transform("TrivialAugmentWide", num_magnitude_bins=31)],
}


def test_the_transform_table_is_complete() -> None:
    assert sorted(TRANSFORM_CASES) == sorted(TRANSFORMS.allowed)


@pytest.mark.parametrize("name", sorted(TRANSFORMS.allowed))
def test_an_allowed_transform_turns_an_image_into_an_image(name: str) -> None:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (2, SIDE, SIDE, 3), dtype=torch.uint8)
    before = images.clone()
    specs = Params.from_dict(small(additional_transforms=TRANSFORM_CASES[name])).additional_transforms or []
    done = PerImageTransforms(specs, (SIDE, SIDE, 3))(images)

    assert specs
    assert all(isinstance(spec, TransformSpec) for spec in specs)
    assert done.shape == (2, 3, SIDE, SIDE)
    assert done.dtype is torch.float32
    assert done.isfinite().all()
    assert done.min() >= 0
    assert done.max() <= 1
    assert torch.equal(images, before)
