"""Transforms go for training images alone: what would make those other than held-out images is refused, by a trial."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from components.classifier.rehearsal import rehearse_transforms
from components.shared.errors import ParamsError
from components.shared.params.allowed_classes import MODULES_VARIABLE, TRANSFORMS
from components.shared.params.types import TransformSpec
from tests.configs import Entry, check_dict, refused, small
from tests.configs import transform as t

SCALED, UNSCALED = (t("ToDtype", dtype="torch.float32", scale=scale) for scale in (True, False))
INVERT = t("RandomInvert", p=1)
SOMETIMES_UNSCALED = t("RandomApply", transforms=[UNSCALED], p=0.01)

# For every allowed transform, arguments by which images of 8×8 in color stay comparable, and by which they do not.
Arguments = list[dict[str, Any]]
ARGUMENTS: dict[str, tuple[Arguments, Arguments]] = {
    "AugMix": ([{}], []),
    "AutoAugment": ([{"policy": "cifar10"}], []),
    "CenterCrop": ([{"size": 8}], [{"size": 6}]),
    "ColorJitter": ([{"brightness": 0.3}, {"contrast": 0.3, "saturation": 0.3}], [{"brightness": [0.2, 0.4]}]),
    "Compose": ([{"transforms": [SCALED, t("RandomInvert")]}], [{"transforms": [UNSCALED, t("RandomInvert")]}]),
    "ConvertImageDtype": ([{"dtype": "float32"}], [{"dtype": "int32"}]),
    "ElasticTransform": ([{"alpha": 2.0, "sigma": 1.0}], []),
    "GaussianBlur": ([{"kernel_size": 3}], [{"kernel_size": 3, "sigma": [1, 1]}]),
    "GaussianNoise": ([{"sigma": 0.05}], [{"sigma": 0.05, "mean": 0.5}]),
    "Grayscale": ([], [{}, {"num_output_channels": 3}]),
    "Identity": ([{}], []),
    "JPEG": ([{"quality": [40, 90]}], []),
    "Pad": ([], [{"padding": 2}]),
    "RGB": ([{}], []),
    "RandAugment": ([{}], []),
    "RandomAdjustSharpness": ([{"sharpness_factor": 2}], [{"sharpness_factor": 2, "p": 1}]),
    "RandomAffine": ([{"degrees": 10, "translate": [0.1, 0.1]}], []),
    "RandomApply": ([{"transforms": [INVERT]}], [{"transforms": [UNSCALED], "p": 0.3}]),
    "RandomAutocontrast": ([{}], [{"p": 1}]),
    "RandomChannelPermutation": ([{}], []),
    "RandomChoice": (
        [{"transforms": [t("Identity"), t("RandomRotation", degrees=20)]}],
        [{"transforms": [t("Identity"), UNSCALED]}],
    ),
    "RandomCrop": ([{"size": 8, "padding": 1}], [{"size": 9}]),
    "RandomEqualize": ([{}], []),
    "RandomErasing": ([{}, {"p": 1, "value": 255}], []),
    "RandomGrayscale": ([{}], [{"p": 1}]),
    "RandomHorizontalFlip": ([{}], [{"p": 1}]),
    "RandomInvert": ([{}], [{"p": 1}]),
    "RandomOrder": ([{"transforms": [t("RandomInvert"), t("RandomVerticalFlip")]}], []),
    "RandomPerspective": ([{}], []),
    "RandomPhotometricDistort": ([{}], []),
    "RandomPosterize": ([{"bits": 3}], [{"bits": 2, "p": 1}]),
    "RandomResize": ([{"min_size": 8, "max_size": 9}], [{"min_size": 8, "max_size": 10}]),
    "RandomResizedCrop": ([{"size": 8, "scale": [0.5, 1], "antialias": True}], []),
    "RandomRotation": ([{"degrees": 20, "interpolation": "bilinear"}], []),
    "RandomShortestSize": ([{"min_size": 8}], []),
    "RandomSolarize": ([{"threshold": 0.5}, {"threshold": 128}], [{"threshold": 128, "p": 1}]),
    "RandomVerticalFlip": ([{}], [{"p": 1}]),
    "RandomZoomOut": ([{"side_range": [1, 1], "p": 1}], [{"p": 1, "side_range": [1, 2]}]),
    "Resize": ([{"size": [8, 8], "interpolation": "nearest"}], [{"size": [12, 12]}]),
    "ScaleJitter": ([{"target_size": [8, 8], "scale_range": [1, 1]}], [{"target_size": [8, 8]}]),
    "ToDtype": ([{"dtype": "float64", "scale": True}, {"dtype": "uint8"}], [{"dtype": "bool"}, {"dtype": "int16"}]),
    "ToImage": ([{}], []),
    "ToPureTensor": ([{}], []),
    "TrivialAugmentWide": ([{}], []),
}


def specs(*entries: Entry) -> list[TransformSpec]:
    return [TransformSpec.model_validate(entry) for entry in entries]


def rehearsed(*entries: Entry, shape: tuple[int, int, int] = (8, 8, 1)) -> list[str]:
    return rehearse_transforms(specs(*entries), shape)


def problem(*entries: Entry, shape: tuple[int, int, int] = (8, 8, 1)) -> tuple[str, str]:
    """Where the one problem is, and what."""
    ((path, message),) = refused(rehearse_transforms, specs(*entries), shape).items()
    return path, message


@pytest.mark.parametrize("name", sorted(TRANSFORMS.allowed))
def test_every_allowed_transform_is_judged(name: str) -> None:
    good, bad = ARGUMENTS[name]
    for kwargs in good:
        rehearsed(t(name, **kwargs), shape=COLOUR)
    for kwargs in bad:
        problem(t(name, **kwargs), shape=COLOUR)
    assert good or bad


GREY, COLOUR = (8, 8, 1), (8, 8, 3)
LARGE, HUGE = (224, 224, 3), (5000, 5000, 3)
SAME = "does the same to every training image and to no held-out image; "
REFUSED = [
    ([UNSCALED], GREY, 0, "values up to 255 as float32 where 0..1 is read; set scale: true in the kwargs of ToDtype"),
    ([t("ToImage"), UNSCALED, t("RandomRotation", degrees=5)], HUGE, 1, "up to 255 as float32"),
    ([UNSCALED, t("RandomResizedCrop", size=5000)], HUGE, 0, "up to 255 as float32"),
    ([t("Identity"), UNSCALED, t("ColorJitter", brightness=0.3)], COLOUR, 1, "up to 255"),
    ([UNSCALED, t("RandomAutocontrast"), t("ToDtype", dtype="uint8")], COLOUR, 0, "up to 255 as float32"),
    (
        [t("RandomApply", transforms=[UNSCALED, t("RandomInvert"), t("ToDtype", dtype="uint8")])],
        *(GREY, 0, "hands values up to 255 as float32 where 0..1 is read by RandomInvert; set scale: true"),
    ),
    ([SOMETIMES_UNSCALED], GREY, 0, "up to 255 as float32"),
    ([SOMETIMES_UNSCALED, t("RandomApply", transforms=[t("ToDtype", dtype="uint8")])], GREY, 0, "up to 255 as float32"),
    ([t("RandomChoice", transforms=[t("Identity"), UNSCALED], p=[1, 0.001])], GREY, 0, "up to 255 as float32"),
    ([SCALED, t("ToDtype", dtype="torch.uint8")], GREY, 1, "up to 1 as uint8 where 0..255 is read"),
    ([t("ToDtype", dtype="torch.int16")], GREY, 0, "gives int16, values up to 255, where uint8 or floats in 0..1 are"),
    ([t("ToDtype", dtype="int32", scale=True)], GREY, 0, "gives int32, values up to 2.139e+09"),
    ([t("ToDtype", dtype="torch.complex64")], GREY, 0, "gives complex64 where uint8 or floats"),
    ([SCALED, t("RandomRotation", degrees=20, fill=255)], GREY, 1, "choose what it fills with on that scale"),
    ([SCALED, t("RandomErasing", p=0.1, value=255)], COLOUR, 1, "gives values up to 255"),
    ([SCALED, t("GaussianNoise", sigma=1, clip=False)], GREY, 1, "as float32 where 0..1 is read; set clip: true"),
    ([t("GaussianNoise", clip=False)], COLOUR, 0, "adds noise to uint8 unclipped, which makes"),
    ([t("Grayscale", num_output_channels=3), t("RandomInvert")], COLOUR, 0, "set is_image_color: false, which"),
    ([t("RandomGrayscale", p=1)], LARGE, 0, "set is_image_color: false"),
    ([t("Grayscale", num_output_channels=1), t("RandomInvert"), t("RGB")], COLOUR, 0, "set is_image_color: false"),
    ([t("Grayscale")], COLOUR, 0, "turns (3, 8, 8) into (1, 8, 8); set is_image_color: false"),
    ([t("RGB")], GREY, 0, "turns (1, 8, 8) into (3, 8, 8); set is_image_color: true"),
    ([t("Identity"), t("CenterCrop", size=4)], GREY, 1, "turns (1, 8, 8) into (1, 4, 4); set image_height"),
    ([t("Resize", size=256), t("CenterCrop", size=224)], LARGE, 0, "Resize does the same"),
    ([INVERT, t("RandomResize", min_size=8, max_size=10)], GREY, 1, "RandomResize turns (1, 8, 8) into (1, 9, 9)"),
    ([t("RandomCrop", size=64, padding=4)], LARGE, 0, "turns (3, 224, 224) into (3, 64, 64)"),
    ([t("Resize", size=[12, 12]), t("CenterCrop", size=8)], GREY, 0, "data prep resizes the images"),
    ([t("RandomHorizontalFlip", p=1), t("ColorJitter", brightness=0.4)], COLOUR, 0, f"{SAME}apply it with a prob"),
    ([t("RandomVerticalFlip", p=1), t("Resize", size=12), t("RandomCrop", size=8)], GREY, 0, SAME),
    ([t("RandomInvert", p=0.5), INVERT], GREY, 1, "RandomInvert does the same"),
    ([t("JPEG", quality=10)], LARGE, 0, "JPEG does the same"),
    ([t("ColorJitter", brightness=[0.5, 0.5])], GREY, 0, "ColorJitter does the same"),
    ([t("ColorJitter", brightness=[0.1, 0.4])], GREY, 0, "ColorJitter turns white, 1.00, into 0.1"),
    ([t("ColorJitter", brightness=[3, 4])], COLOUR, 0, "turns a tone, 0.78, into 1.00"),
    ([t("GaussianNoise", mean=0.5)], LARGE, 0, "turns black, 0.00, into"),
    ([t("GaussianNoise", sigma=10)], LARGE, 0, "black and white come out alike"),
    ([t("ColorJitter", contrast=[0, 0.05])], GREY, 0, "it comes out in one tone"),
    ([t("RandomCrop", size=9)], GREY, 0, "RandomCrop fails on an image: Required crop size"),
    ([t("RandomErasing", p=2)], GREY, 0, "RandomErasing refuses them"),
]


@pytest.mark.parametrize(("entries", "shape", "index", "message"), REFUSED)
def test_what_makes_training_images_others_is_refused(
    entries: list[Entry], shape: tuple[int, int, int], index: int, message: str
) -> None:
    path, found = problem(*entries, shape=shape)
    assert path.removesuffix(".kwargs") == f"additional_transforms[{index}]"
    assert message in found


def test_normalize_is_refused_for_the_keys_that_go_for_every_split() -> None:
    entry = t("Normalize", mean=[0.0], std=[1.0])
    for entries in ([entry], [SCALED, t("RandomApply", transforms=[entry])]):
        ((path, message),) = refused(check_dict, small(additional_transforms=entries)).items()
        assert path.startswith(f"additional_transforms[{len(entries) - 1}]")
        assert "normalise_images, normalise_mean and normalise_std, which go for the images of every split" in message


ACCEPTED = [
    [t("ColorJitter", brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2)],
    [t("Resize", size=[108, 108]), t("RandomCrop", size=100)],
    [t("Pad", padding=4), t("RandomCrop", size=100), t("RandomHorizontalFlip")],
    [t("RandomZoomOut", p=1), t("RandomResizedCrop", size=100)],
    [t("RandomAffine", degrees=180, translate=[0.5, 0.5], scale=[0.5, 2])],
    [t("RandomApply", transforms=[t("ColorJitter", brightness=[0.1, 0.4])])],
    [t("RandomErasing", p=1, scale=[0.3, 0.5], value=255)],
    [SCALED, t("GaussianNoise", clip=False)],
    [t("RandAugment", num_ops=6, magnitude=25)],
    [t("RandomChoice", transforms=[t("AugMix"), t("GaussianBlur", kernel_size=9)])],
]


@pytest.mark.parametrize("entries", ACCEPTED)
def test_what_is_about_as_it_was_by_some_draw_is_accepted(entries: list[Entry]) -> None:
    rehearsed(*entries, shape=(100, 100, 3))


@pytest.mark.parametrize(
    ("entries", "shape", "lines"),
    [
        (
            [t("RandomGrayscale"), t("RandomInvert")],
            GREY,
            ["additional_transforms[0]: torchvision.transforms.v2.RandomGrayscale has no effect"],
        ),
        ([t("ToImage"), SCALED], COLOUR, ["additional_transforms have no effect"]),
        ([t("RandomInvert", p=0)], LARGE, ["additional_transforms have no effect"]),
        ([UNSCALED, t("ToDtype", dtype="uint8")], GREY, ["additional_transforms have no effect"]),
        ([SCALED, t("RandomInvert")], GREY, []),
        ([t("RandomInvert", p=0.001)], GREY, []),
        ([t("Resize", size=[5000, 5000])], HUGE, ["additional_transforms have no effect"]),
        ([t("RandomShortestSize", min_size=5000)], HUGE, ["were not tried: images of 5000×5000 are too large"]),
    ],
)
def test_what_has_no_effect_is_reported(entries: list[Entry], shape: tuple[int, int, int], lines: list[str]) -> None:
    found = rehearsed(*entries, shape=shape)
    assert len(found) == len(lines)
    assert all(part in line for part, line in zip(lines, found, strict=True))


def test_the_check_of_params_warns_of_what_has_no_effect() -> None:
    (note,) = check_dict(small(additional_transforms=[t("RandomInvert", p=0)])).notes
    assert "additional_transforms have no effect: images come out as they were" in note


def test_a_verdict_takes_nothing_from_torchs_generators_and_needs_nothing_of_them() -> None:
    verdicts, threads = set(), torch.get_num_threads()
    for seed in range(3):
        torch.manual_seed(seed)
        before = torch.random.get_rng_state()
        verdicts.add(problem(t("ColorJitter", brightness=[0.1, 0.4]), shape=COLOUR))
        rehearsed(t("RandAugment"), t("RandomErasing"), shape=LARGE)
        assert torch.equal(torch.random.get_rng_state(), before)
        assert torch.get_num_threads() == threads
    assert len(verdicts) == 1


def test_after_its_time_a_trial_ends_with_what_it_saw_or_a_line_on_how_far_it_came() -> None:
    chain = specs(t("ToImage"), t("ElasticTransform", alpha=1000.0, sigma=2.0))
    for shape in (GREY, LARGE):
        (line,) = rehearse_transforms(chain, shape, seconds=0)
        assert "tried in part: after 0 s they had come to additional_transforms[1], torchvision.tran" in line
    with pytest.raises(ParamsError, match="gives int16"):
        rehearse_transforms(specs(t("ToDtype", dtype="int16")), GREY, seconds=0)


def test_a_trial_leaves_the_generators_of_gpus_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    torch.manual_seed(17)
    assert seeds == [17]  # where torch's own seeding would show
    rehearsed(t("RandomCrop", size=8, padding=1), t("ColorJitter", brightness=0.2), shape=COLOUR)
    rehearsed(t("ColorJitter", brightness=0.2), t("RandomHorizontalFlip"), shape=LARGE)
    assert seeds == [17]


def test_a_transform_of_the_operators_is_rehearsed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_transforms.py").write_text(
        "import torch\n"
        "class Standardised(torch.nn.Module):\n"
        "    def forward(self, image):\n"
        "        return (image.float() / 255 - 0.13) / 0.31\n"
        "class Halved(torch.nn.Module):\n"
        "    def forward(self, image):\n"
        "        return image // 2\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv(MODULES_VARIABLE, "own_transforms")
    own: list[dict[str, Any]] = [{"class": f"own_transforms.{name}"} for name in ("Standardised", "Halved")]
    assert problem(own[0]) == (
        "additional_transforms[0]",
        "own_transforms.Standardised gives values from -0.4194 to 2.806 as float32 where 0..1 is read; "
        "normalise_mean and normalise_std normalise the images of every split",
    )
    assert "own_transforms.Halved does the same to every training image" in problem(own[1])[1]
    monkeypatch.delitem(sys.modules, "own_transforms")


@pytest.mark.parametrize(
    ("entries", "shape"),
    [
        ([t("RandomErasing", value="random")], GREY),
        ([SCALED, t("RandomErasing", value=[0.5, 0.4, 0.5])], COLOUR),
        ([t("RandomErasing", value=[124, 116, 104])], COLOUR),
        ([t("RandomErasing", value=[124])], COLOUR),
    ],
)
def test_every_value_that_torchvision_erases_by_is_accepted(entries: list[Any], shape: tuple[int, int, int]) -> None:
    specs = [TransformSpec.model_validate(entry) for entry in entries]
    assert rehearse_transforms(specs, shape) == []


@pytest.mark.parametrize(
    ("entries", "shape", "message"),
    [
        ([t("RandomErasing", value="grey")], COLOUR, 'must be a number or "random" or a list of numbers, got'),
        ([t("RandomErasing", value=[1, "2"])], COLOUR, 'must be a number or "random" or a list of numbers'),
        ([t("RandomErasing", value=[1, 2, 3])], GREY, "either a single value or 1"),
        ([t("RandomErasing", value=[])], COLOUR, "either a single value or 3"),
        ([SCALED, t("RandomErasing", value="random")], COLOUR, "set another value than random"),
    ],
)
def test_values_that_cannot_be_erased_by_are_refused(
    entries: list[Any], shape: tuple[int, int, int], message: str
) -> None:
    specs = [TransformSpec.model_validate(entry) for entry in entries]
    with pytest.raises(ParamsError, match=re.escape(message)):
        rehearse_transforms(specs, shape)
