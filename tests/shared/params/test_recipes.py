"""Recipes: what they fill in, what stays the user's, and that a run keeps what it was filled with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from components.shared.params.params import Params
from components.shared.params.recipes import describe_recipe, rate_of_recipe
from tests.configs import check_dict, layer, refused, schedule, small

COLOR: dict[str, Any] = {
    "is_image_color": True,
    "image_height": 64,
    "image_width": 64,
    "net_arch": [layer("Conv2d", in_channels=3, out_channels=4, kernel_size=3)],
}
GRAY: dict[str, Any] = {"net_arch": [layer("Conv2d", in_channels=1, out_channels=4, kernel_size=3)]}
SCRATCH, TUNED, PHOTOS = (
    {"recipe": "scratch-small", **GRAY},
    {"recipe": "finetune", "initial_weights": "earlier", **COLOR},
    {"recipe": "imagenet", **COLOR},
)
MOVED = "RandomAffine(degrees 10, translate [0.1, 0.1], scale [0.9, 1.1], interpolation bilinear)"


def filled(**changes: Any) -> dict[str, Any]:
    """Keys that a recipe fills in, with their values."""
    given = small(num_epochs=100, **changes)
    plain, params = (Params.from_dict({**given, "recipe": name}).to_dict() for name in (None, given["recipe"]))
    return {key: value for key, value in params.items() if key != "recipe" and value != plain[key]}


def test_a_tenth_of_the_rate_has_no_digits_of_rounding() -> None:
    assert filled(**TUNED)["backbone_learning_rate"] == 0.0003


@pytest.mark.parametrize(
    ("config", "line"),
    [
        (
            SCRATCH,
            "recipe scratch-small: batch_size 64, optim_class AdamW, optim_kwargs {weight_decay: 0.05}, learning_rate "
            "0.003, learning_rate_schedule [CosineAnnealingLR by batch], warmup_epochs 5, decay_biases_and_norms "
            f"false, additional_transforms [{MOVED}]",
        ),
        (
            TUNED | {"batch_size": 32, "max_grad_norm": None},
            "recipe finetune: optim_class AdamW, optim_kwargs {weight_decay: 0.05}, learning_rate 0.003, "
            "backbone_learning_rate 0.0003, learning_rate_schedule [CosineAnnealingLR by batch], warmup_epochs 2, "
            "decay_biases_and_norms false, stored_height 73, stored_width 73, additional_transforms "
            "[RandomResizedCrop(size [64, 64], scale [0.5, 1])]; the params' own: batch_size, max_grad_norm",
        ),
        (
            PHOTOS,
            "recipe imagenet: batch_size 256, optim_class SGD, optim_kwargs {momentum: 0.9, nesterov: true, "
            "weight_decay: 2e-05}, learning_rate 0.125, learning_rate_schedule [CosineAnnealingLR by batch], "
            "warmup_epochs 5, ema_decay 0.999, decay_biases_and_norms false, loss "
            "CrossEntropyLoss(label_smoothing 0.1), stored_height 73, stored_width 73, additional_transforms "
            "[RandomResizedCrop(size [64, 64]), RandomHorizontalFlip, TrivialAugmentWide]",
        ),
    ],
    ids=lambda config: config["recipe"] if isinstance(config, dict) else "",
)
def test_a_recipe_is_kept_in_every_form_and_described(config: dict[str, Any], line: str, tmp_path: Path) -> None:
    params = Params.from_dict(small(num_epochs=100, **config))
    assert describe_recipe(params.to_dict()) == line
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params.to_dict()))
    for written in (params.to_json(), params.to_form(), tmp_path / "params.yaml"):
        assert Params.load(written) == params
    assert Params.load(small(num_epochs=100, **config | {"recipe": None}), [f"recipe={config['recipe']}"]) == params
    assert check_dict(params.to_dict()).notes == ()


def test_without_a_recipe_nothing_is_filled_in() -> None:
    params = Params.from_dict(small())
    assert (params.recipe, describe_recipe(params.to_dict())) == (None, None)


def test_what_the_user_gives_stays_whether_or_not_it_is_the_default() -> None:
    whole = filled(**SCRATCH)
    for key in whole:
        default = Params.from_dict(small(**GRAY)).to_dict()[key]
        params = Params.from_dict(small(num_epochs=100, **SCRATCH, **{key: default}))
        assert params.to_dict()[key] == default
        assert Params.load(params.to_form()) == params
        assert key in str(describe_recipe(params.to_dict())).partition("the params' own: ")[2]


@pytest.mark.parametrize(
    ("changes", "gone", "changed"),
    [
        # A rate is one for an optimiser; a schedule may set the rate whatever a warm-up makes of it.
        (SCRATCH | {"optim_class": "torch.optim.SGD"}, {"learning_rate", "optim_kwargs"}, {}),
        (
            SCRATCH | {"learning_rate_schedule": [schedule("OneCycleLR", max_lr=1.0)]},
            {"learning_rate_schedule", "warmup_epochs"},
            {},
        ),
        (SCRATCH | {"warmup_epochs": 0}, {"warmup_epochs"}, {}),
        (SCRATCH | {"num_epochs": 10}, set(), {"warmup_epochs": 0.5}),
        (TUNED | {"learning_rate": 0.02}, {"learning_rate"}, {"backbone_learning_rate": 0.002}),
        (TUNED | {"stored_height": 80, "stored_width": 80}, {"stored_height", "stored_width"}, {}),
        (
            TUNED | {"image_height": 32, "image_width": 32},
            {"additional_transforms", "stored_height", "stored_width"},
            {},
        ),
        (PHOTOS | {"batch_size": 1024}, {"batch_size"}, {"learning_rate": 0.5}),
        (PHOTOS | {"image_height": 2**16 - 1}, set(), {"stored_height": 2**16 - 1}),
        (PHOTOS | {"num_epochs": 300}, set(), {"mixup_alpha": 0.2, "cutmix_alpha": 1.0, "additional_transforms": 4}),
    ],
    ids=["optimiser", "schedule", "warm-up", "short", "rate", "stored", "tiny", "batch", "huge", "long"],
)
def test_what_is_filled_in_follows_from_what_is_given(
    changes: dict[str, Any], gone: set[str], changed: dict[str, Any]
) -> None:
    whole = filled(**next(each for each in (SCRATCH, TUNED, PHOTOS) if each["recipe"] == changes["recipe"]))
    given = {"num_epochs": 100, **changes}
    found = Params.from_dict(small(**given)).to_dict()
    plain = Params.from_dict(small(**given | {"recipe": None})).to_dict()
    filled_in = {key: value for key, value in found.items() if key != "recipe" and value != plain[key]}
    assert whole.keys() - filled_in.keys() == gone
    for key in filled_in.keys() - {"additional_transforms"}:
        assert filled_in[key] == {**whole, **changed}[key]
    transforms = filled_in.get("additional_transforms", whole["additional_transforms"])
    assert len(transforms) == changed.get("additional_transforms", len(whole["additional_transforms"]))


@pytest.mark.parametrize(
    ("config", "rate"), [(PHOTOS, 0.03125), (PHOTOS | {"learning_rate": 0.1}, None), (SCRATCH, None), (GRAY, None)]
)
def test_a_recipes_rate_for_a_batch_size_that_was_chosen(config: dict[str, Any], rate: float | None) -> None:
    params = Params.from_dict(small(**config | {"batch_size": "auto"}))
    assert rate_of_recipe(params.to_dict(), 64) == rate


def test_a_recipe_that_makes_no_sense_is_refused() -> None:
    assert refused(Params.from_dict, small(recipe="finetune")) == {
        "initial_weights": "is required for recipe finetune, which tunes earlier weights; without any take another "
        "recipe"
    }
    assert refused(Params.from_dict, small(recipe="imagenet")) == {
        "recipe": "imagenet crops and distorts images of 64 pixels a side and more, and these have 8×8; take "
        "scratch-small"
    }
    assert refused(Params.from_dict, small(recipe="large", num_epochs="x", image_height=[])).keys() == {
        "recipe",
        "num_epochs",
        "image_height",
    }


@pytest.mark.parametrize("value", ["x", None, [], -3, float("inf"), float("nan"), 1e308, 10**400])
@pytest.mark.parametrize("config", [SCRATCH, TUNED, PHOTOS], ids=lambda config: config["recipe"])
def test_what_a_recipe_follows_from_is_refused_as_without_it(config: dict[str, Any], value: Any) -> None:
    wrong = dict.fromkeys(("image_height", "image_width", "num_epochs", "batch_size", "learning_rate"), value)
    if value == 1e308:
        del wrong["learning_rate"]  # which is one
    assert refused(Params.from_dict, small(**config | wrong)).keys() == wrong.keys()
