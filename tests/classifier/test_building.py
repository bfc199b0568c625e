"""From JSON data to the arguments of a class: fitted where they mean the same, refused where they do not."""

from __future__ import annotations

import enum
import inspect
import math
import numbers
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import InterpolationMode

from components.classifier.building import NO_FIT, build, checked_kwargs, fit, fitted_kwargs, resolve, spelled
from components.shared.params.allowed_classes import LAYERS, OPTIMIZERS, SCHEDULERS, TRANSFORMS, ClassFamily
from components.shared.params.types import LayerSpec, ScheduleSpec, TransformSpec
from tests.configs import layer, refused, schedule, transform


class Colour(enum.Enum):
    """An enum of the tests' own."""

    RED = "red"
    BLUE = 2


FITTING: list[tuple[Any, Any, Any]] = [
    (int, 5, 5),
    (int, 5.0, 5),
    (int, 2.0**53, 2**53),
    (float, 5, 5.0),
    (bool, True, True),
    (str, "a", "a"),
    (type(None), None, None),
    (Literal["same", 1], 1, 1),
    (int | tuple[int, int], 3.0, 3),
    (int | tuple[int, int], [1, 2.0], (1, 2)),
    (typing.Optional[float], None, None),  # noqa: UP045
    (tuple[int, tuple[float, float]], [1, [2, 3]], (1, (2.0, 3.0))),
    (int | float, 1, 1),
    (int | float, 1.0, 1.0),
    (int | bool, True, True),
    (Sequence[int], [1, 2.0], [1, 2]),
    (list[float], [1], [1.0]),
    (list, [1, "a"], [1, "a"]),
    (tuple, [1, "a"], (1, "a")),
    (dict, {"a": 1}, {"a": 1}),
    (InterpolationMode | int, "nearest", InterpolationMode.NEAREST),
    (Colour, 2, Colour.BLUE),
    (torch.dtype, "float32", torch.float32),
    (numbers.Number, 1, 1),
    (tuple[float | torch.Tensor, float | torch.Tensor], [0.9, 1], (0.9, 1.0)),
    (inspect.Parameter.empty, {"any": ["thing"]}, {"any": ["thing"]}),
    ("written for a type checker", 5, 5),
    (Mapping[str, int], {"a": 1}, {"a": 1}),
]


@pytest.mark.parametrize(("annotation", "value", "fitted"), FITTING, ids=str)
def test_a_value_that_means_the_same_is_fitted(annotation: Any, value: Any, fitted: Any) -> None:
    found = fit(value, annotation)
    assert found == fitted
    # 1, 1.0 and True are equal; what an argument is must be told apart.
    assert repr(found) == repr(fitted)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (int, 5.5),
        (int, 2.0**54),
        (int, True),
        (int, "5"),
        (float, -4e38),
        (bool, 1),
        (str, 5),
        (Literal["same", 1], True),
        (int | tuple[int, int], [1, 2, 3]),
        (tuple[int, ...], [1, "2"]),
        (Sequence[int], "12"),
        (list, {"a": 1}),
        (InterpolationMode, "blurry"),
        (torch.dtype, 5),
        (numbers.Number, True),
        (torch.Tensor, [1.0]),
    ],
    ids=str,
)
def test_a_value_that_cannot_be_meant_does_not_fit(annotation: Any, value: Any) -> None:
    assert fit(value, annotation) is NO_FIT


@given(st.floats() | st.integers())
@settings(max_examples=200)
def test_no_number_changes_when_it_is_fitted(value: float) -> None:
    for annotation in (int, float, int | float, numbers.Number):
        found = fit(value, annotation)
        rounded = annotation is float and isinstance(value, int) and abs(value) > 2**53
        assert found is NO_FIT or found == value or rounded or math.isnan(value)


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (int, "int"),
        (float, "a number"),
        (bool, "true or false"),
        (str, "text"),
        (int | tuple[int, int], "int or [int, int]"),
        (float | None, "a number or null"),
        (tuple[int, ...], "a list of int"),
        (Sequence[int | float], "a list of int or a number"),
        (Literal["same", "valid", 1], '"same" or "valid" or 1'),
        (Colour, '"red" or "2"'),
        (torch.dtype, "dtype"),
    ],
    ids=str,
)
def test_an_annotation_is_spelled_in_words(annotation: Any, words: str) -> None:
    assert spelled(annotation) == words


@pytest.mark.parametrize(
    ("entry", "problems"),
    [
        (
            layer("Conv2d", in_chanels=1, out_channels=4, kernel_size=3),
            {
                "e.kwargs.in_chanels": "Conv2d has no such argument; did you mean in_channels?",
                "e.kwargs.in_channels": "is required by Conv2d",
            },
        ),
        (
            layer("Conv2d", in_channels=1, out_channels=4, kernel_size=3, device="cpu", dtype="torch.float64"),
            {
                "e.kwargs.device": "must not be given; the run's device is set by the key device",
                "e.kwargs.dtype": "must not be given; layers are made in float32",
            },
        ),
        (
            layer(
                "Conv2d", in_channels=1.5, out_channels="4", kernel_size=[3, 3, 3], stride=None, bias=1, padding="full"
            ),
            {
                "e.kwargs.in_channels": "must be int, got 1.5",
                "e.kwargs.out_channels": "must be int, got the text '4'",
                "e.kwargs.kernel_size": "must be int or [int, int], got a list",
                "e.kwargs.stride": "must be int or [int, int], got null",
                "e.kwargs.bias": "must be true or false, got 1",
            },
        ),
        (
            layer("Hardtanh", min_val=-1e39, max_val="1"),
            {
                "e.kwargs.min_val": "must be a number, got -1e+39, too large for float32",
                "e.kwargs.max_val": "must be a number, got the text '1'",
            },
        ),
        (layer("Tanh", zzz=1), {"e.kwargs.zzz": "Tanh has no such argument; it takes none"}),
        # A class that hands *args, **kwargs to its base is judged by the base.
        (
            layer("UpsamplingNearest2d", sise=4),
            {"e.kwargs.sise": "UpsamplingNearest2d has no such argument; did you mean size?"},
        ),
        (layer("Identity", whatever={"a": 1}), {}),
    ],
    ids=lambda value: value.get("class", ""),
)
def test_every_argument_is_checked_against_the_signature(entry: dict[str, Any], problems: dict[str, str]) -> None:
    _, found = checked_kwargs(LayerSpec.model_validate(entry), "e")
    assert {problem.path: problem.message for problem in found} == problems


def test_fitted_arguments_build_the_object() -> None:
    spec = LayerSpec.model_validate(
        layer("Conv2d", in_channels=1.0, out_channels=4, kernel_size=[3, 5], padding="same", dilation=2.0)
    )
    made = build(spec, "net_arch[0]")
    assert isinstance(made, torch.nn.Conv2d)
    assert (made.in_channels, made.kernel_size, made.padding, made.dilation) == (1, (3, 5), "same", (2, 2))
    assert type(made.in_channels) is int


def test_what_the_program_passes_cannot_be_given() -> None:
    spec = ScheduleSpec.model_validate(schedule("StepLR", step_size=1, optimizer="x", gama=0.1))
    _, problems = checked_kwargs(spec, "s", ("optimizer",))
    assert {problem.path: problem.message for problem in problems} == {
        "s.kwargs.optimizer": "must not be given; Shutterline passes it to StepLR",
        "s.kwargs.gama": "StepLR has no such argument; did you mean gamma?",
    }
    assert (
        "it takes step_size, gamma, last_epoch"
        in fitted_kwargs(spec.class_, {"step_size": 1, "zzz": 0}, "s", "k", ("optimizer",))[1][0].message
    )


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (layer("GroupNorm", num_groups=3, num_channels=4), "GroupNorm refuses them: num_channels (4) must be divisi"),
        (layer("Dropout", p=1.5), "Dropout refuses them: dropout probability has to be between 0 and 1"),
        (layer("GroupNorm", num_groups=0, num_channels=4), "GroupNorm refuses them"),
        (layer("Linear", in_features=-1, out_features=4), "Linear refuses them"),
    ],
)
def test_values_that_the_class_refuses_are_told_in_its_words(entry: dict[str, Any], message: str) -> None:
    found = refused(build, LayerSpec.model_validate(entry), "net_arch[0]")
    assert list(found) == ["net_arch[0].kwargs"]
    assert found["net_arch[0].kwargs"].startswith(message)
    assert "\n" not in found["net_arch[0].kwargs"]


def test_transforms_inside_a_transform_are_built_and_checked() -> None:
    spec = TransformSpec.model_validate(
        transform(
            "Compose",
            transforms=[
                transform("RandomInvert", p=1),
                transform("RandomApply", transforms=[transform("CenterCrop", size=4)], p=1),
            ],
        )
    )
    made = build(spec, "t")
    assert type(made.transforms[0]).__name__ == "RandomInvert"
    assert type(made.transforms[1].transforms[0]).__name__ == "CenterCrop"
    assert made(torch.zeros(3, 8, 8, dtype=torch.uint8)).unique().tolist() == [255]

    wrong = transform("RandomOrder", transforms=[transform("RGB"), transform("CenterCrop", sise=4)])
    inside = transform("Compose", transforms=[wrong, transform("RandomInvert", p="x")])
    _, problems = checked_kwargs(TransformSpec.model_validate(inside), "t")
    assert {problem.path for problem in problems} == {
        "t.kwargs.transforms[0].kwargs.transforms[1].kwargs.sise",
        "t.kwargs.transforms[0].kwargs.transforms[1].kwargs.size",
        "t.kwargs.transforms[1].kwargs.p",
    }


def test_a_nesting_transform_needs_its_list() -> None:
    for kwargs in ({}, {"transforms": 5}, {"transforms": {"class": "x"}}):
        with pytest.raises(ValueError, match=r"must be a list of \{class, kwargs\} entries"):
            TransformSpec.model_validate(transform("Compose", **kwargs))


def test_resolving_says_what_is_not_installed() -> None:
    assert resolve("torch.nn.ELU") is torch.nn.ELU
    for name, message in (
        ("torch.nn.Elu", "torch.nn.Elu is not in this installation"),
        ("torch.nn.functional", "torch.nn.functional is not a class"),
        ("no_such_module.Layer", "no_such_module.Layer is not in this installation: No module named"),
    ):
        with pytest.raises(LookupError, match=message):
            resolve(name)


@pytest.mark.parametrize("family", [LAYERS, OPTIMIZERS, SCHEDULERS, TRANSFORMS], ids=lambda family: family.module)
def test_every_default_of_an_allowed_class_may_be_written_out(family: ClassFamily) -> None:
    shape_errors, written = [], 0
    for dotted in family.full_names():
        for name, parameter in inspect.signature(resolve(dotted)).parameters.items():
            default: object = parameter.default
            if default is None or isinstance(default, str | int | float | bool):
                fitted, problems = fitted_kwargs(dotted, {name: default}, "class", "kwargs")
                own = [problem for problem in problems if problem.path == f"kwargs.{name}"]
                written += 1
                if name not in ("device", "dtype") and (own or fitted[name] != default):
                    shape_errors.append((dotted, name, default, own))
    assert written > 20
    assert shape_errors == []
