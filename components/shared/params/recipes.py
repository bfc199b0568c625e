"""Recipes: values for the keys that a user leaves out, known to train well, and none that changes what an image shows.

A recipe is data: what it fills in stands in the params from then on as if the user had written it. Nothing is mirrored
by ``scratch-small`` and ``finetune``, since digits, letters, signs and left hands would become others; ``imagenet`` is
for photographs of things, and mirrors them from left to right as its field does.

Sources: weight decay, label smoothing, warm-up and cosine of torchvision's classification references; ``imagenet`` is
their ResNet recipe (Vryniotis, "How to Train State-Of-The-Art Models Using TorchVision's Latest Primitives", 2021)
with the rate of 0.5 for 1,024 images scaled to the batch (Goyal et al., 2017) and, in fewer epochs than 200, without
mixing and erasing, which need long runs (Wightman et al., "ResNet strikes back", 2021). The values of the other two
were tried on the embedded digits (components/README.md); label smoothing gained neither accuracy and cost log loss.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from components.shared.errors import Problem

Known = Mapping[str, Any]

# Keys that are one choice together: where the user gives one of the first, the recipe leaves the others alone.
_TOGETHER: tuple[tuple[frozenset[str], frozenset[str]], ...] = (
    (frozenset({"optim_class"}), frozenset({"optim_kwargs", "learning_rate"})),
    (frozenset({"learning_rate_schedule", "milestones"}), frozenset({"learning_rate_schedule", "warmup_epochs"})),
    (frozenset({"additional_transforms"}), frozenset({"stored_height", "stored_width"})),
    (frozenset({"stored_height", "stored_width"}), frozenset({"stored_height", "stored_width"})),
)
# The side from which on there is something to crop from; a recipe's crops would take digits apart.
_LEAST_CROPPED = 64
# That an image may have.
_LARGEST_SIDE = 2**16 - 1
# Epochs of the run, from which on images are mixed and erased.
_LONG = 200


def _transform(name: str, **kwargs: Any) -> dict[str, Any]:
    return {"class": f"torchvision.transforms.v2.{name}", "kwargs": kwargs}


def _number(known: Known, key: str, default: float) -> float:
    """A number that the user gave, as far as it is one: what is wrong with others is reported later."""
    value = known.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return default
    return value if 0 < value <= sys.float_info.max else default


def _cosine(known: Known, share: float, most: float) -> dict[str, Any]:
    """A short warm-up and a cosine to 0, step by step."""
    by_step = {"class": "torch.optim.lr_scheduler.CosineAnnealingLR", "interval": "batch"}
    warmup = round(min(most, share * _number(known, "num_epochs", 1)), 3)
    return {"learning_rate_schedule": [by_step], "warmup_epochs": warmup}


def _sides(known: Known) -> list[int]:
    return [int(min(_number(known, key, 1), _LARGEST_SIDE)) for key in ("image_height", "image_width")]


def _cropped(known: Known, **kwargs: Any) -> dict[str, Any]:
    """Images stored by an eighth larger, as 256 and 224 are, and random parts of them."""
    height, width = _sides(known)
    stored = [min(round(side * 8 / 7), _LARGEST_SIDE) for side in (height, width)]
    return {
        "stored_height": stored[0],
        "stored_width": stored[1],
        "additional_transforms": [_transform("RandomResizedCrop", size=[height, width], **kwargs)],
    }


def _scratch_small(known: Known) -> dict[str, Any]:
    moved = _transform("RandomAffine", degrees=10, translate=[0.1, 0.1], scale=[0.9, 1.1], interpolation="bilinear")
    return {
        "batch_size": 64,
        "optim_class": "torch.optim.AdamW",
        "optim_kwargs": {"weight_decay": 0.05},
        "learning_rate": 0.003,
        **_cosine(known, 0.05, 5),
        "decay_biases_and_norms": False,
        "additional_transforms": [moved],
    }


def _finetune(known: Known) -> dict[str, Any]:
    # 200 steps on images of few pixels learn more from these as they are: 90.7 % against 86.7 moved as above.
    cropped = {} if min(_sides(known)) < _LEAST_CROPPED else _cropped(known, scale=[0.5, 1.0])
    return {
        "batch_size": 64,
        "optim_class": "torch.optim.AdamW",
        "optim_kwargs": {"weight_decay": 0.05},
        "learning_rate": 0.003,
        "backbone_learning_rate": float(f"{_number(known, 'learning_rate', 0.003) / 10:.15g}"),
        **_cosine(known, 0.1, 2),
        "max_grad_norm": 1.0,
        "decay_biases_and_norms": False,
        **cropped,
    }


def _imagenet(known: Known) -> dict[str, Any]:
    cropped = _cropped(known)
    transforms = cropped["additional_transforms"]
    transforms += [_transform("RandomHorizontalFlip"), _transform("TrivialAugmentWide")]
    mixed: dict[str, Any] = {}
    if _number(known, "num_epochs", 1) >= _LONG:
        transforms.append(_transform("RandomErasing", p=0.1))
        mixed = {"mixup_alpha": 0.2, "cutmix_alpha": 1.0}
    return {
        "batch_size": 256,
        "optim_class": "torch.optim.SGD",
        "optim_kwargs": {"momentum": 0.9, "nesterov": True, "weight_decay": 2e-5},
        "learning_rate": 0.5 * _number(known, "batch_size", 256) / 1024,
        **_cosine(known, 0.05, 5),
        "ema_decay": 0.999,
        "decay_biases_and_norms": False,
        "loss": {"class": "torch.nn.CrossEntropyLoss", "kwargs": {"label_smoothing": 0.1}},
        **mixed,
        **cropped,
    }


RECIPES: dict[str, Callable[[Known], dict[str, Any]]] = {
    "scratch-small": _scratch_small,
    "finetune": _finetune,
    "imagenet": _imagenet,
}


def with_recipe(given: Mapping[str, Any]) -> dict[str, Any]:
    """What a user gave, and the recipe's values of the keys that were left out."""
    name = given.get("recipe")
    recipe = RECIPES.get(name) if isinstance(name, str) else None
    if recipe is None:
        return dict(given)
    left_alone = set(given)
    for keys, others in _TOGETHER:
        if not keys.isdisjoint(given):
            left_alone |= others
    return {**given, **{key: value for key, value in recipe(given).items() if key not in left_alone}}


def keys_of_recipe(params: Known) -> Iterable[str]:
    """The keys that the recipe of params, all of them, has a value for."""
    return () if params["recipe"] is None else RECIPES[params["recipe"]](params)


def recipe_problems(values: Mapping[str, Any]) -> Iterator[Problem]:
    """What a recipe cannot be used for; `values` has the keys that are sound, defaults included."""
    name = values.get("recipe")
    sides: list[Any] = [values.get("image_height"), values.get("image_width")]
    if name == "finetune" and "initial_weights" in values and values["initial_weights"] is None:
        message = "is required for recipe finetune, which tunes earlier weights; without any take another recipe"
        yield Problem("initial_weights", message)
    if name == "imagenet" and None not in sides and min(sides) < _LEAST_CROPPED:
        message = f"imagenet crops and distorts images of {_LEAST_CROPPED} pixels a side and more"
        yield Problem("recipe", f"{message}, and these have {sides[0]}×{sides[1]}; take scratch-small")


def rate_of_recipe(params: Known, batch_size: int) -> float | None:
    """The learning rate that a recipe has for a batch size that was chosen; None where it is that of the params.

    `params` are all of them, with a batch_size of "auto".
    """
    if (name := params["recipe"]) is None:
        return None
    left, chosen = (RECIPES[name]({**params, **size})["learning_rate"] for size in ({}, {"batch_size": batch_size}))
    return chosen if left == params["learning_rate"] != chosen else None


def describe_recipe(params: Mapping[str, Any]) -> str | None:
    """A line on the values that a run has of its recipe, and the keys with others; None without a recipe.

    `params` are all of them, as :meth:`Params.to_dict` gives them.
    """
    if (name := params["recipe"]) is None:
        return None
    wanted = RECIPES[name](params)
    others = [key for key, value in wanted.items() if not _is_same(value, params[key])]
    kept = [f"{key} {_spelled(params[key])}" for key in wanted if key not in others]
    own = f"; the params' own: {', '.join(others)}" if others else ""
    return f"recipe {name}: {', '.join(kept) or 'nothing of it'}{own}"


def _is_same(wanted: Any, value: Any) -> bool:
    """Whether a value is the recipe's; entries of classes have further keys by then."""
    if isinstance(wanted, dict) and isinstance(value, dict):
        return all(key in value and _is_same(wanted[key], value[key]) for key in wanted)
    if isinstance(wanted, list) and isinstance(value, list):
        return len(wanted) == len(value) and all(map(_is_same, wanted, value))
    return bool(wanted == value)


def _spelled(value: Any) -> str:
    """A value as short as a line of many needs it: classes by their last name, with their arguments."""
    if isinstance(value, dict) and "class" in value:
        arguments = ", ".join(f"{key} {_spelled(each)}" for key, each in value["kwargs"].items())
        by_step = " by batch" if value.get("interval") == "batch" else ""
        return str(value["class"]).rpartition(".")[2] + by_step + (f"({arguments})" if arguments else "")
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_spelled(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_spelled, value)) + "]"
    if isinstance(value, str):
        return value.rpartition(".")[2]
    return f"{value:g}" if isinstance(value, float) else str(value).lower()
