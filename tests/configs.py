"""Configs that tests start from, and what is wrong with the ones that are."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from components.shared.errors import ParamsError
from components.shared.params.params import parse
from pipelines.params_files import EXAMPLE_PARAMS, EXAMPLES

if TYPE_CHECKING:
    from components.classifier.check import Checked

REFERENCE_PARAMS = EXAMPLES / "reference.json"

Entry = dict[str, Any]


def layer(name: str, **kwargs: Any) -> Entry:
    """An entry of ``net_arch``."""
    return {"class": f"torch.nn.{name}", "kwargs": kwargs}


def transform(name: str, **kwargs: Any) -> Entry:
    """An entry of ``additional_transforms``."""
    return {"class": f"torchvision.transforms.v2.{name}", "kwargs": kwargs}


def schedule(schedule_class: str, **kwargs: Any) -> Entry:
    """An entry of ``learning_rate_schedule``, called by its class."""
    return {"name": schedule_class, "class": f"torch.optim.lr_scheduler.{schedule_class}", "kwargs": kwargs}


def digits_config(**changes: Any) -> dict[str, Any]:
    """The embedded example, grayscale images of 8×8 in ten classes, with `changes`."""
    config: dict[str, Any] = json.loads(EXAMPLE_PARAMS.read_text())
    return {**config, **changes}


def small(**changes: Any) -> dict[str, Any]:
    """The least a config must say, with `changes`: grayscale images of 8×8 in two classes, one epoch."""
    return {
        "image_height": 8,
        "image_width": 8,
        "n_classes": 2,
        "num_epochs": 1,
        "net_arch": [layer("ReLU")],
        **changes,
    }


def check_dict(raw: Entry) -> Checked:
    """Params as a user writes them, checked with torch."""
    from components.classifier.check import check  # most tests need no torch

    return check(parse(raw))


def refused(call: Callable[..., object], *arguments: Any) -> dict[str, str]:
    """The problems that `call` finds: message by path."""
    with pytest.raises(ParamsError) as caught:
        call(*arguments)
    return {problem.path: problem.message for problem in caught.value.problems}
