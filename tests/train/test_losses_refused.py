"""Options of the loss and of the schedules that cannot be: each with its path, before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.shared.artifacts.dataset_writer import DatasetWriter
from components.shared.errors import ParamsError
from components.shared.params.params import Params
from components.train.train import train
from tests.configs import check_dict, refused, schedule, small
from tests.examples import SMALL, digits


def loss(name: str, **kwargs: Any) -> dict[str, Any]:
    return {"class": f"torch.nn.{name}", "kwargs": kwargs}


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        (
            {"class_weights": [1, 2, 3]},
            {"class_weights": "must have a number for each of the 2 classes (n_classes), got 3"},
        ),
        (
            {"class_weights": [1, 0]},
            {"class_weights[1]": "must be greater than 0, got 0"},
        ),
        (
            {"class_weights": [1, 1e-60]},  # nothing in float32
            {"class_weights[1]": "must be from 1e-12 to 1e+12, got 1e-60"},
        ),
        (
            {"warmup_epochs": 3, "num_epochs": 2},
            {"warmup_epochs": "must be at most num_epochs, 2, got 3"},
        ),
        (
            {"frozen_layers": 99.0},
            {"frozen_layers": "must be at most the 1 layers of net_arch, got 99"},
        ),
        (
            {"class_weights": "even"},
            {"class_weights": "must be \"balanced\" or a list of a number for each class, got the text 'even'"},
        ),
        (
            {"loss": loss("NLLLoss")},
            {
                "loss.class": "torch.nn.NLLLoss cannot be used as a loss: it takes log-probabilities; "
                "CrossEntropyLoss is the same on logits"
            },
        ),
        (
            {"loss": loss("MSELoss")},
            {"loss.class": "torch.nn.MSELoss cannot be used as a loss: it does not take logits and a class"},
        ),
        (
            {"loss": loss("CrossEntropyLoss", weight=[1, 2])},
            {"loss.kwargs.weight": "must not be given; Shutterline passes it to CrossEntropyLoss"},
        ),
        (
            {"loss": loss("CrossEntropyLoss", reduction="sum")},
            {"loss.kwargs.reduction": "must not be given; Shutterline passes it to CrossEntropyLoss"},
        ),
        (
            {"loss": loss("CrossEntropyLoss", smoothing=0.1)},
            {"loss.kwargs.smoothing": "CrossEntropyLoss has no such argument; did you mean label_smoothing?"},
        ),
        (
            {"loss": loss("MultiMarginLoss", p=3)},
            {"loss.kwargs": "MultiMarginLoss refuses them: only p == 1 and p == 2 supported"},
        ),
        (
            {"warmup_epochs": 1, "learning_rate_schedule": [schedule("OneCycleLR", max_lr=1)]},
            {
                "learning_rate_schedule[0].class": "OneCycleLR sets the learning rate whatever it was; set "
                "warmup_epochs to 0: it has a warm-up of its own, pct_start of its steps"
            },
        ),
        (
            {"ema_decay": 1, "mixup_alpha": -1, "max_grad_norm": 0, "gradient_accumulation_steps": 0},
            {
                "ema_decay": "must be less than 1, got 1",
                "mixup_alpha": "must be at least 0, got -1",
                "max_grad_norm": "must be greater than 0, got 0",
                "gradient_accumulation_steps": "must be at least 1, got 0",
            },
        ),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) and not any("." in key for key in value) else "",
)
def test_what_does_not_go_is_named_by_its_path(changes: dict[str, Any], found: dict[str, str]) -> None:
    assert refused(check_dict, small(**changes)) == found


def test_smoothing_beyond_one_is_refused() -> None:
    (message,) = refused(check_dict, small(loss=loss("CrossEntropyLoss", label_smoothing=2))).values()
    assert "label_smoothing must be between 0.0 and 1.0" in message


def test_a_class_without_images_cannot_be_balanced(tmp_path: Path) -> None:
    images, labels = digits()
    with DatasetWriter(tmp_path / "data", [str(digit) for digit in range(10)], (8, 8, 1)) as writer:
        for split in ("train", "test"):
            writer.add(split, images[labels != 7][:100], labels[labels != 7][:100].astype(np.int64))
        writer.commit(source="IDX files", test_split="held out", manual_seed=0, unreadable=[])
    params = Params.from_dict({**SMALL, "class_weights": "balanced"})
    with pytest.raises(ParamsError, match='class_weights: "balanced" needs images of every class, and class 7 has'):
        train(dataset=tmp_path / "data", model=tmp_path / "model", params=params)
