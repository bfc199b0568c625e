"""Params to start from for data that were surveyed: a value for each key that matters, and the reason for it."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from statistics import median_low
from typing import TYPE_CHECKING, Any, NamedTuple

from components.shared.text import shortened

if TYPE_CHECKING:
    from components.data_prep.survey import Survey

# Multiply-adds of forward passes that a device trains in a second, their backward passes and all: two cores reached
# 22e9 with the embedded example; of a GPU it is a careful guess.
_RATES = {"processors": 15e9, "a GPU": 1e12}
# Steps by which 16 images of each of five shapes were learnt, 97 % of others recognised; and seconds of training that a
# start should not exceed for more than these steps.
_STEPS, _SECONDS = 400, 900
_MOST_EPOCHS = 30  # of more steps than those
# The shorter side from which on images are cropped at random, and the largest size that they are stored in.
_CROPPED, _STORED = 128, 256
_MANY = 50_000  # images, of which a tenth is enough to test by
_FEW = 25  # images of the smallest class, of which a fifth is less than 5
_VALIDATED = 50  # images of the smallest class from which on a tenth of them can choose the best epoch
_UNEVEN = 3  # times as many images in the largest class as in the smallest
_ALIKE = 1.1  # ratio of the widest proportions to the narrowest below which all images are stretched alike
_MOST_CROPPED = 2.0  # times as long as the model's image is: of a longer one, more than half would be lost
# Architectures of torchvision whose weights may be here, and multiply-adds of an image, by the device that trains them.
_BACKBONES = {"processors": ("resnet18", 1.8e9), "a GPU": ("resnet50", 4.1e9)}


class Choice(NamedTuple):
    """A key of the params, its value, and why it has that, in a line; empty: as the one before it."""

    key: str
    value: Any
    why: str


class Machine(NamedTuple):
    """What training can use: a key of the rates, and a file of weights of the device's backbone, if there is one."""

    device: str
    weights: Path | None = None

    @classmethod
    def this(cls) -> Machine:
        """This machine; torch, which knows for sure what GPU it can use, takes too long to load for that."""
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0") not in ("", "-1")
        device = "a GPU" if visible and any(Path("/dev").glob("nvidia[0-9]*")) else "processors"
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        kept = Path(os.environ.get("TORCH_HOME") or cache / "torch") / "hub" / "checkpoints"
        files = sorted(kept.glob(f"{_BACKBONES[device][0]}-*.pth"))  # as torchvision names them
        return cls(device, files[-1] if files else None)


def starting_params(survey: Survey, machine: Machine) -> list[Choice]:
    """Every choice, in the order in which params are read."""
    size = _size(survey)
    held_out = _held_out(survey)
    images = round(sum(survey.counts["train"]) * math.prod(1 - choice.value for choice in held_out))
    keeps_last = any(choice.key == "validation_fraction" and not choice.value for choice in held_out)
    if machine.weights and size.stored and survey.colored:
        net, cost = _backbone(machine, machine.weights, images)
    else:
        net, cost = _network(survey, size)
    return [
        Choice("n_classes", len(survey.classes), ", ".join(shortened(name) for name in survey.classes[:20])),
        *_of_images(survey, size),
        *held_out,
        *net,
        *_training(survey, size, machine, images, cost, keeps_last=keeps_last),
    ]


def sizes_text(survey: Survey) -> str:
    """The sizes of the sample, width × height, from the one with the fewest pixels to that with the most."""
    least, most = ("{}×{}".format(*choose(survey.sizes, key=math.prod)) for choose in (min, max))
    return f"all {least}" if least == most else f"{least} to {most}"


class _Size(NamedTuple):
    """Height and width that the model takes, and the side of the square that images are stored in; 0: the same."""

    height: int
    width: int
    stored: int


def _size(survey: Survey) -> _Size:
    width, height = (median_low(side) for side in zip(*survey.sizes, strict=True))
    if (shorter := min(width, height)) >= _CROPPED:
        stored = min(_STORED, shorter // 8 * 8)
        return _Size(stored * 7 // 8, stored * 7 // 8, stored)
    scale = min(1.0, _STORED / math.sqrt(width * height))  # long lines of text and the like
    return _Size(max(1, round(height * scale)), max(1, round(width * scale)), 0)


def _of_images(survey: Survey, size: _Size) -> list[Choice]:
    seen = len(survey.sizes)
    kept = "stored larger than the model takes them, for random crops" if size.stored else "small, so as they are"
    shape = [
        Choice("image_height", size.height, f"{sizes_text(survey)} in a sample of {seen}; {kept}"),
        Choice("image_width", size.width, ""),
        *(Choice(key, size.stored, "") for key in ("stored_height", "stored_width") if size.stored),
    ]
    colors = f"{survey.colored} of {seen} show a color" if survey.colored else f"all {seen} are grey, however stored"
    return [*shape, Choice("is_image_color", survey.colored > 0, colors), _fit(survey, size)]


def _fit(survey: Survey, size: _Size) -> Choice:
    # How much wider each image is than the model's, in proportion; the extreme twentieths do not count.
    wider = sorted(width / height * size.height / size.width for width, height in survey.sizes)
    cut = len(wider) // 20
    low, high = wider[cut], wider[-1 - cut]
    if len(set(survey.sizes)) == 1 and survey.sizes[0] == (size.width, size.height):
        return Choice("image_fit", "stretch", "all have the model's size, so that none is resized")
    if high / low <= _ALIKE:
        return Choice("image_fit", "stretch", "all have nearly the same proportions, so that all are stretched alike")
    longest = max(high, 1 / low)
    differ = f"proportions differ, up to {longest:.2g} times those of the model's image"
    if size.stored and longest <= _MOST_CROPPED:
        return Choice("image_fit", "crop", f"{differ}: the middle is kept, and nothing distorted")
    why = "a crop would lose more than half of some" if size.stored else "small images are often filled to the edge"
    return Choice("image_fit", "pad", f"{differ}; {why}, so all of each is kept")


def _held_out(survey: Survey) -> list[Choice]:
    counts, chosen = survey.counts["train"], []
    count, name = min(zip(counts, survey.classes, strict=True))
    rarest, left = f"{shortened(name)} has {count} images", float(count)
    if "test" not in survey.counts:
        share = 0.1 if sum(counts) >= _MANY else 0.2 if count >= _FEW else 0.3
        chosen.append(Choice("test_fraction", share, f"the data bring no test split; {rarest}"))
        left -= count * share
    if "validation" not in survey.counts:
        if left >= _VALIDATED:
            chosen.append(Choice("validation_fraction", 0.1, "of the rest, to choose the best epoch by"))
        else:
            why = f"{rarest}, too few to choose the best epoch by; so the last one is kept (eval_freq)"
            chosen.append(Choice("validation_fraction", 0.0, why))
    return chosen


def _backbone(machine: Machine, weights: Path, images: int) -> tuple[list[Choice], float]:
    """A pretrained network, of which as much is trained as there is time for; and its multiply-adds of an image."""
    name, cost = _BACKBONES[machine.device]
    chosen = [
        Choice("net_arch", [{"class": f"torchvision.models.{name}"}], f"photographs, and {weights.name} is here"),
        Choice("initial_weights", str(weights), ""),
        Choice("recipe", "finetune", "fills in optimiser, rates and schedule; `shutterline validate` prints them"),
    ]
    if images * cost * _MOST_EPOCHS / 3 > _RATES[machine.device] * _SECONDS:
        why = f"the backbone keeps its weights: training all of it would take {machine.device} too long"
        chosen += [Choice("frozen_layers", 1, why), Choice("backbone_learning_rate", None, "")]
        cost /= 3  # no backward pass
    return chosen, cost


def _network(survey: Survey, size: _Size) -> tuple[list[Choice], float]:
    """Convolutions until few pixels are left, and their average; and the multiply-adds of an image.

    An average learns from fewer images than all pixels do: 16 of each of five shapes gave 98 % against 93 %.
    """
    layers: list[dict[str, Any]] = []
    height, width, channels, cost = size.height, size.width, 3 if survey.colored else 1, 0.0

    def add(out: int, stride: int = 1) -> None:
        nonlocal height, width, channels, cost
        kwargs = {"in_channels": channels, "out_channels": out, "kernel_size": 3, "padding": 1}
        kwargs |= {"stride": stride} if stride > 1 else {}
        layers.append({"class": "torch.nn.Conv2d", "kwargs": kwargs})
        layers.append({"class": "torch.nn.BatchNorm2d", "kwargs": {"num_features": out}})
        layers.append({"class": "torch.nn.ReLU"})
        height, width = -(-height // stride), -(-width // stride)
        cost += 9.0 * height * width * channels * out
        channels = out

    def halve() -> None:
        nonlocal height, width
        layers.append({"class": "torch.nn.MaxPool2d", "kwargs": {"kernel_size": 2}})
        height, width = height // 2, width // 2

    out = 32
    if size.stored:
        add(out // 2, stride=2)
        halve()
    while min(height, width) >= 8:
        add(out)
        if height * width <= _DOUBLED:
            add(out)
        halve()
        out = min(2 * out, 256)
    add(out)
    layers.append({"class": "torch.nn.AdaptiveAvgPool2d", "kwargs": {"output_size": 1}})
    why = f"a small network for images of this size: {cost / 1e6:.0f} million multiply-adds an image"
    recipe = "fills in optimiser, rates and schedule; `shutterline validate` prints them"
    return [Choice("net_arch", layers, why), Choice("recipe", "scratch-small", recipe)], cost


_DOUBLED = 16 * 16  # pixels at most that a second convolution of the same width goes over


def _training(
    survey: Survey, size: _Size, machine: Machine, images: int, cost: float, *, keeps_last: bool
) -> Iterator[Choice]:
    largest = 64 if machine.device == "processors" else 256
    batch = min(largest, max(8, 2 ** int(math.log2(max(images / 20, 1)))))
    steps = math.ceil(images / batch)
    seconds = images * cost / _RATES[machine.device]
    epochs = max(math.ceil(_STEPS / steps), min(_MOST_EPOCHS, int(_SECONDS / seconds)), 3)
    yield Choice("batch_size", batch, f"{steps} steps in an epoch of {images} images")
    of_time = f"about {_duration(epochs * seconds)} on {machine.device}"
    yield Choice("num_epochs", epochs, f"{epochs * steps:,} steps, {of_time}")
    if keeps_last:
        yield Choice("eval_freq", epochs, "once, after the last epoch, so that the test split chooses nothing")
    elif epochs >= 2 * _MOST_EPOCHS:
        yield Choice("eval_freq", epochs // _MOST_EPOCHS, "an epoch of few images is short")
    if size.stored:
        mirrored = survey.colored and not any(re.search("left|right", name.lower()) for name in survey.classes)
        crop = {"size": [size.height, size.width], "scale": [0.5, 1.0]}
        transforms: list[dict[str, Any]] = [{"class": "torchvision.transforms.v2.RandomResizedCrop", "kwargs": crop}]
        transforms += [{"class": "torchvision.transforms.v2.RandomHorizontalFlip"}] if mirrored else []
        why = "parts of photographs, half of them mirrored; take RandomHorizontalFlip out where left and right differ"
        yield Choice("additional_transforms", transforms, why if mirrored else "parts of images, none mirrored")
    counts = survey.counts["train"]
    if max(counts) >= _UNEVEN * min(counts):
        why = f"classes have {min(counts)} to {max(counts)} images; rare ones count as much as common ones"
        yield Choice("class_weights", "balanced", why)


def _duration(seconds: float) -> str:
    return f"{max(1, round(seconds))} s" if seconds < 100 else f"{seconds / 60:.0f} min"
