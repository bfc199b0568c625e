"""However a config is broken, checking it says what is wrong: no other exception, no hang, no gigabytes."""

from __future__ import annotations

import copy
import math
import resource
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from components.classifier.check import check
from components.shared.errors import ParamsError
from components.shared.params.allowed_classes import LAYERS, OPTIMIZERS, SCHEDULERS, TRANSFORMS
from components.shared.params.params import Params, parse
from components.shared.params.parsed import ParamsWarning
from components.shared.params.source import read_raw
from tests.configs import check_dict, digits_config, layer, refused, schedule, small, transform

BASE = digits_config(
    additional_transforms=[
        transform("RandomCrop", size=8, padding=1),
        transform("RandomApply", transforms=[transform("ColorJitter", brightness=0.1)], p=0.5),
    ],
    normalise_mean=[0.5],
    normalise_std=[0.25],
    device="cpu",
)
SECONDS = 20
GIGABYTE_IN_KIB = 1024**2

CLASSES = [
    *(name for family in (LAYERS, OPTIMIZERS, SCHEDULERS, TRANSFORMS) for name in family.full_names()),
    *(f"{family.module}.{name}" for family in (LAYERS, OPTIMIZERS, SCHEDULERS, TRANSFORMS) for name in family.refused),
    *"os.system builtins.eval torch.load torch.nn torch.nn. .Conv2d Conv2d torch.nn.conv2d nn.Conv2d torch..nn".split(),
]
KEYS = [
    *Params.model_fields,
    *"class kwargs name kernel_size stride padding dilation groups dim output_size num_features inplace eps".split(),
    *"normalized_shape p transforms size momentum betas foreach fused gamma T_max milestones step_size".split(),
    *"total_steps max_lr last_epoch device dtype lr in_features out_features in_channels".split(),
]
NUMBERS = [0, 1, 2, -1, 8, 64, 2**31 - 1, 2**31, 2**53 + 1, 2**62, 2**63, 2**64, 10**400, 1e-300, 1e300]
LEAVES = (
    st.none()
    | st.booleans()
    | st.sampled_from(NUMBERS)
    | st.just(5000).map(lambda digits: 10**digits)  # hypothesis could not print it as it is
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(CLASSES)
    | st.sampled_from(["auto", "cuda", "same", "reflect", "min", "mean", "{{$.inputs}}", "\ud800", "torch.bool"])
)
KEY = st.sampled_from(KEYS) | st.text(max_size=5) | st.sampled_from([0, None, True, 1.5, ("class",)])
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(KEY, inner, max_size=4)
        | st.fixed_dictionaries({"class": st.sampled_from(CLASSES), "kwargs": st.dictionaries(KEY, inner, max_size=3)})
        | st.lists(inner, max_size=2).map(tuple)
    ),
    max_leaves=8,
)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) inside a config."""
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from places(value[key])


@st.composite
def broken_configs(draw: st.DrawFn) -> dict[str, Any]:
    config = copy.deepcopy(BASE)
    for _ in range(draw(st.integers(1, 3))):
        found = list(places(config))
        if not found:
            break
        container, key = found[draw(st.integers(0, len(found) - 1))]
        match draw(st.sampled_from(["replace", "replace", "delete", "insert"])):
            case "delete":
                del container[key]
            case "insert" if isinstance(container, list):
                container.insert(key, draw(VALUES))
            case "insert":
                container[draw(KEY)] = draw(VALUES)
            case _:
                container[key] = draw(VALUES)
    return config


class HangError(BaseException):
    """Not an Exception, so that nobody takes it for a layer's complaint."""


@contextmanager
def time_limit() -> Iterator[None]:
    def end(number: int, frame: FrameType | None) -> None:
        raise HangError(f"still checking after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcome(config: dict[str, Any]) -> str:
    """The message of the refusal; empty where the config is sound."""
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    message = ""
    with time_limit(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ParamsWarning)
        try:
            params, table, _ = check_dict(config)
        except ParamsError as error:
            message = str(error)
    if not message:
        assert table.rows
        assert Params.load(params.to_json()) == params
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < GIGABYTE_IN_KIB
    return message


@given(broken_configs())
@example({})
@example({**BASE, "net_arch": [layer("MaxPool2d", kernel_size=[])]})
@example({**BASE, "net_arch": [layer("LayerNorm", normalized_shape=[2, 1, 8, 8])]})
@example({**BASE, "net_arch": [layer("Unflatten", dim=0, unflattened_size=[2, 1])]})
@example({**BASE, "net_arch": [layer("Softmax")]})
@example({**BASE, "net_arch": [layer("Upsample", size=[2**31, 2**31])]})
@example({**BASE, "net_arch": [layer("LocalResponseNorm", size=2**40)]})
@example({**BASE, "learning_rate_schedule": [{"class": 10**5000}], "milestones": [10**5000], "warmup_epochs": 1})
@example({**BASE, "num_epochs": -(10**5000), "milestones": [1], "warmup_epochs": 10**5000})
@example({**BASE, "n_classes": 10**5000, "class_weights": [1, 2], "milestones": ["x", None, {}]})
@example({**BASE, "optim_kwargs": {"betas": [[0.9], "x"]}, "learning_rate": 1e308})
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_a_broken_config_is_refused_in_words(config: dict[str, Any]) -> None:
    message = outcome(config)
    assert "Traceback" not in message


def wide_alias() -> list[Any]:
    """A list of 10^9 values that takes 9 lists of memory."""
    value: list[Any] = [1] * 10
    for _ in range(8):
        value = [value] * 10
    return value


LARGE = {"image_height": 65535, "image_width": 65535}


@pytest.mark.parametrize(
    ("config", "is_sound"),
    [
        ({"net_arch": wide_alias()}, False),
        ({"net_arch": [layer("Identity", a=wide_alias())]}, False),
        ({"net_arch": [layer("MaxPool2d", kernel_size=10**5000)]}, False),
        ({"net_arch": [layer("Conv2d", in_channels=1, out_channels=2**31, kernel_size=2**31)]}, False),
        ({**LARGE, "net_arch": [layer("Unfold", kernel_size=300)]}, False),
        ({**LARGE, "net_arch": [layer("FractionalMaxPool2d", kernel_size=2)]}, False),
        ({}, True),
        ({"num_epochs": 2**31 - 1}, True),
        (
            {
                "num_epochs": 10**6,
                "learning_rate_schedule": [{**schedule("StepLR", step_size=1), "name": f"{i}"} for i in range(500)],
            },
            True,
        ),
        ({**LARGE, "net_arch": [layer("AdaptiveAvgPool2d", output_size=1)]}, True),
        (
            small(image_height=65535, image_width=2, n_classes=10**6, batch_size=2**31 - 1, additional_transforms=[]),
            False,  # 131 thousand million weights
        ),
        ({"net_arch": [layer("ReLU")] * 1000}, True),
    ],
    ids=range(12),
)
def test_what_is_large_is_checked_in_seconds_and_what_would_take_forever_is_refused(
    config: dict[str, Any], is_sound: bool
) -> None:
    assert (outcome(BASE | config) == "") is is_sound


def test_the_same_holds_for_overrides_and_texts() -> None:
    def read(source: Any, overrides: list[str]) -> Any:
        return check(parse(*read_raw(source, overrides)))

    assert "" in refused(read, "{", [])
    assert "net_arch" in refused(read, BASE, ["net_arch[99]=1"])
    assert "num_epochs" in refused(read, BASE, ["num_epochs=5 6"])
    assert refused(read, {**BASE, "learning_rate": math.nan}, ["manual_seed=-1"]).keys() == {
        "learning_rate",
        "manual_seed",
    }
