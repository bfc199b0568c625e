"""A layer that does not fit says what it gets and what it needs, for every kind of layer."""

from __future__ import annotations

from typing import Any

import pytest

from tests.configs import Entry, check_dict, layer, refused, small

KERNEL = "[0].kwargs.kernel_size"


def conv(channels: int, name: str = "Conv2d", **kwargs: Any) -> Entry:
    return layer(name, in_channels=channels, out_channels=4, **kwargs)


WIDE = layer("Conv2d", in_channels=1, out_channels=4, kernel_size=1)
FLAT = layer("Flatten")
SEQUENCE = layer("Flatten", start_dim=2)  # 1×64
VOLUME = layer("Unflatten", dim=2, unflattened_size=[2, 4])  # 1×2×4×8


@pytest.mark.parametrize(
    ("arch", "path", "message"),
    [
        ([conv(3, kernel_size=3)], "[0].kwargs.in_channels", "but the images give 1 channels (1×8×8)"),
        ([WIDE, conv(3, kernel_size=3)], "[1].kwargs.in_channels", "gives 4 channels (4×8×8)"),
        ([WIDE, conv(3, "ConvTranspose2d", kernel_size=3)], "[1].kwargs.in_channels", "is made for 3 channels"),
        ([WIDE, layer("BatchNorm2d", num_features=8)], "[1].kwargs.num_features", "is made for 8 channels"),
        ([WIDE, layer("InstanceNorm2d", num_features=8, affine=True)], "[1].kwargs.num_features", "is made for 8"),
        ([WIDE, layer("GroupNorm", num_groups=2, num_channels=8)], "[1].kwargs.num_channels", "is made for 8 channels"),
        ([FLAT, layer("Linear", in_features=9, out_features=4)], "[1].kwargs.in_features", "Flatten) gives 64 feat"),
        ([layer("Linear", in_features=64, out_features=4)], "[0].kwargs.in_features", "but the images give 8 features"),
        ([FLAT, layer("BatchNorm1d", num_features=8)], "[1].kwargs.num_features", "gives 64 channels (64)"),
        ([conv(1, "Conv1d", kernel_size=3)], "[0]", "from the images, and needs 2 dimensions"),
        ([layer("Conv3d", in_channels=1, out_channels=4, kernel_size=3)], "[0]", "and needs 4 dimensions"),
        ([FLAT, conv(64, kernel_size=1)], "[1]", "gets 64 (1 dimensions) from net_arch[0]"),
        ([FLAT, layer("MaxPool1d", kernel_size=2)], "[1]", "gets 64 (1 dimensions)"),
        ([layer("BatchNorm1d", num_features=1)], "[0]", "and needs 1 or 2 dimensions"),
        ([VOLUME, layer("BatchNorm2d", num_features=1)], "[1]", "gets 1×2×4×8 (4 dimensions)"),
        ([SEQUENCE, layer("AvgPool3d", kernel_size=1)], "[1]", "and needs 4 dimensions"),
        ([conv(1, kernel_size=9)], KERNEL, "gets a 8×8 image from the images, and a window of 9×9 needs at least 9×9"),
        ([conv(1, kernel_size=[3, 9], padding=[0, 0])], KERNEL, "a window of 3×9 needs at least 3×9"),
        ([conv(1, kernel_size=11, padding=1)], KERNEL, "a window of 11×11 needs at least 9×9"),
        ([conv(1, kernel_size=5, dilation=2, padding="valid")], KERNEL, "a window of 5×5 needs at least 9×9"),
        ([layer("MaxPool2d", kernel_size=4, dilation=[3, 1])], KERNEL, "a window of 4×4 needs at least 10×4"),
        ([SEQUENCE, layer("MaxPool1d", kernel_size=65)], "[1].kwargs.kernel_size", "a window of 65 needs at least 65"),
        ([VOLUME, layer("AvgPool3d", kernel_size=[3, 4, 8])], "[1].kwargs.kernel_size", "gets a 2×4×8 image"),
        ([layer("Flatten", start_dim=0)], "[0]", "torch.nn.Flatten mixes the images of a batch"),
        ([WIDE, layer("Flatten", start_dim=0, end_dim=1)], "[1]", "mixes the images of a batch"),
        ([layer("Unflatten", dim=0, unflattened_size=[2, 1])], "[0]", "does not take every number of images"),
        ([layer("LayerNorm", normalized_shape=[2, 1, 8, 8])], "[0]", "does not take every number of images"),
        ([layer("MaxPool2d", kernel_size=2, return_indices=True)], "[0]", "gives a tuple, and a layer must"),
        ([layer("AdaptiveMaxPool2d", output_size=2, return_indices=True)], "[0]", "gives a tuple"),
        ([layer("Softmax", dim=0)], "[0].kwargs.dim", "which must not mix"),
        ([layer("LogSoftmax", dim=-4)], "[0].kwargs.dim", "works along the images of a batch"),
        ([SEQUENCE, layer("Softmin")], "[1].kwargs.dim", "works along the images of a batch"),
        ([SEQUENCE, layer("Softmax2d")], "[1]", "works along the images of a batch"),
        ([layer("GLU", dim=0)], "[0].kwargs.dim", "works along the images of a batch"),
        ([layer("Softmax", dim=4)], "[0].kwargs.dim", "a batch of 1×8×8 has 4 dimensions"),
        ([layer("GLU", dim=1)], "[0]", "torch.nn.GLU gets 1×8×8 from the images and refuses it"),
        ([layer("LayerNorm", normalized_shape=9)], "[0]", "refuses it: Given normalized_shape=[9]"),
        ([layer("PReLU", num_parameters=3)], "[0]", "refuses it"),
        ([layer("PixelShuffle", upscale_factor=2)], "[0]", "refuses it"),
        ([layer("ReflectionPad2d", padding=8)], "[0]", "refuses it"),
        ([layer("Unflatten", dim=2, unflattened_size=[3, 3])], "[0]", "refuses it"),
        ([layer("AdaptiveAvgPool2d", output_size=0)], "[0]", "gives an empty output, 1×0×0"),
        ([layer("ZeroPad2d", padding=-4)], "[0]", "gives an empty output, 1×0×0"),
        ([layer("MaxPool2d", kernel_size=2, stride=0)], "[0]", "refuses it"),
        ([layer("Upsample", scale_factor=100_000)], "[0]", "gives 640,000,000,000 features, too many"),
        ([WIDE, layer("Sigmoid"), layer("ReLU", inplace=True)], "", "a layer with inplace: true overwrites what"),
        ([WIDE, layer("ReLU", inplace=True), layer("Dropout", p=0.1, inplace=True)], "", "overwrites what"),
    ],
)
def test_a_misfit_says_what_it_gets_and_what_it_needs(arch: list[Entry], path: str, message: str) -> None:
    found = refused(check_dict, small(net_arch=arch))
    assert list(found) == [f"net_arch{path}"]
    assert message in found[f"net_arch{path}"]
    assert "\n" not in found[f"net_arch{path}"]


@pytest.mark.parametrize(
    "arch",
    [
        [WIDE, layer("InstanceNorm2d", num_features=99)],  # without weights the number does not matter
        [layer("Conv2d", in_channels=1, out_channels=4, kernel_size=9, padding="same")],
        [layer("Conv2d", in_channels=1, out_channels=4, kernel_size=9, padding=1)],
        [layer("ConvTranspose2d", in_channels=1, out_channels=4, kernel_size=9)],
        [layer("MaxPool2d", kernel_size=8)],
        [layer("Conv2d", in_channels=1, out_channels=4, kernel_size=10, padding=[1, 1])],
        [FLAT, layer("BatchNorm1d", num_features=64)],
        [SEQUENCE, layer("BatchNorm1d", num_features=1)],
        [WIDE, layer("Softmax")],  # torch takes dimension 1 here
        [WIDE, layer("Softmax2d")],
        [WIDE, layer("GLU", dim=-3)],
        [layer("Flatten", start_dim=2), layer("Softmax", dim=-1)],
        [layer("Unflatten", dim=0, unflattened_size=[-1, 1])],
        [WIDE, layer("ReLU", inplace=True), layer("Dropout", p=0.1)],
        [layer("BatchNorm2d", num_features=1, momentum=None)],
    ],
    ids=lambda arch: " ".join(entry["class"].rpartition(".")[2] for entry in arch),
)
def test_what_fits_is_not_refused(arch: list[Entry]) -> None:
    _, table, _ = check_dict(small(net_arch=arch))
    assert len(table.rows) == len(arch) + 2


def test_a_layer_made_for_batches_of_one_image_is_refused_because_evaluation_takes_more() -> None:
    arch = [layer("LayerNorm", normalized_shape=[1, 1, 8, 8])]
    found = refused(check_dict, small(net_arch=arch, batch_size=1))
    assert "torch.nn.LayerNorm does not take every number of images at evaluation" in found["net_arch[0]"]
