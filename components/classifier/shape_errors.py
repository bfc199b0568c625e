"""Why a layer does not fit its input: what it gets and what it needs.

torch's own messages, which remain for other classes, are about weights and strides.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from components.classifier.building import is_backbone

# Layers made for a number of channels or features, and the argument that says it.
_CHANNELS: dict[type[nn.Module], str] = {
    _ConvNd: "in_channels",
    _NormBase: "num_features",
    nn.GroupNorm: "num_channels",
    nn.Linear: "in_features",
}
_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)


def spelled_shape(shape: Sequence[int]) -> str:
    """A shape as people write it: ``64×7×7``."""
    return "×".join(str(size) for size in shape)


def misfit(layer: nn.Module, shape: tuple[int, ...], before: str) -> tuple[str, str] | None:
    """Why a layer cannot take an input of a shape (without the batch), which `before` gives; None: no reason is known.

    Returns:
        The argument that is wrong (empty if none), and the message.
    """
    rules = (_backbone_input,) if is_backbone(layer) else (_rank, _channels, _window, _batch_dimension)
    return next((found for rule in rules if (found := rule(layer, shape, before)) is not None), None)


def _backbone_input(layer: nn.Module, shape: tuple[int, ...], before: str) -> tuple[str, str] | None:
    """Images of another kind than an architecture of torchvision begins with."""
    if len(shape) != 3:
        return "", f"gets {spelled_shape(shape)} ({len(shape)} dimensions) from {before}, and needs 3: color images"
    first = next(module for module in layer.modules() if isinstance(module, nn.Conv2d))
    give, got = "give" if before == "the images" else "gives", shape[0]
    if got != first.in_channels:
        instead = "set is_image_color: true, or put" if before == "the images" and got == 1 else "put"
        return "", (
            f"is made for color images of {first.in_channels} channels, but {before} {give} {got} "
            f"({spelled_shape(shape)}); {instead} a torch.nn.Conv2d with in_channels {got}, out_channels "
            f"{first.in_channels} and kernel_size 1 before it"
        )
    # Of a vision transformer, whose positions are learned for one size of image.
    side = getattr(layer, "image_size", None)
    if side is not None and shape[1:] != (side, side):
        size = f"set image_size to {shape[1]}" if shape[1] == shape[2] else "it takes square images only"
        return "image_size", f"is made for images of {side}×{side}, but {before} {give} {spelled_shape(shape)}; {size}"
    return None


def _rank(layer: nn.Module, shape: tuple[int, ...], before: str) -> tuple[str, str] | None:
    name = type(layer).__name__
    if not name.endswith(("1d", "2d", "3d")) or not isinstance(layer, (_ConvNd, _NormBase, *_POOLS)):
        return None
    spatial = int(name[-2])
    # BatchNorm1d also takes flat features.
    allowed = {1, 2} if isinstance(layer, nn.BatchNorm1d) else {spatial + 1}
    if len(shape) in allowed:
        return None
    needs = " or ".join(str(rank) for rank in sorted(allowed))
    return "", f"gets {spelled_shape(shape)} ({len(shape)} dimensions) from {before}, and needs {needs} dimensions"


def _channels(layer: nn.Module, shape: tuple[int, ...], before: str) -> tuple[str, str] | None:
    argument = next((argument for kind, argument in _CHANNELS.items() if isinstance(layer, kind)), None)
    if argument is None or (type(layer).__name__.startswith("InstanceNorm") and not layer.affine):
        return None  # without weights the number of channels does not matter
    unit = "features" if argument == "in_features" else "channels"
    got, wanted = shape[-1 if unit == "features" else 0], getattr(layer, argument)
    if got == wanted:
        return None
    give = "give" if before == "the images" else "gives"
    return argument, f"is made for {wanted} {unit}, but {before} {give} {got} {unit} ({spelled_shape(shape)})"


def _window(layer: nn.Module, shape: tuple[int, ...], before: str) -> tuple[str, str] | None:
    """An image smaller than the window that slides over it."""
    if not isinstance(layer, (_ConvNd, *_POOLS)) or isinstance(layer, _ConvTransposeNd):
        return None
    sizes, padding = shape[1:], layer.padding
    if padding == "same":
        return None
    kernel, dilation, padded = (
        list(value) if isinstance(value, tuple) else [value] * len(sizes)
        for value in (layer.kernel_size, getattr(layer, "dilation", 1), 0 if isinstance(padding, str) else padding)
    )
    needs = [step * (window - 1) + 1 - 2 * pad for step, window, pad in zip(dilation, kernel, padded, strict=False)]
    if all(size >= need for size, need in zip(sizes, needs, strict=False)):
        return None
    got, least = spelled_shape(sizes), spelled_shape([max(1, need) for need in needs])
    message = f"gets a {got} image from {before}, and a window of {spelled_shape(kernel)} needs at least {least}"
    return "kernel_size", f"{message}; take this layer out, or shrink the image less before it"


def _batch_dimension(layer: nn.Module, shape: tuple[int, ...], _before: str) -> tuple[str, str] | None:
    """A softmax or gate over the images of a batch: what one image gives would follow from its neighbours."""
    rank, argument = len(shape) + 1, "" if isinstance(layer, nn.Softmax2d) else "dim"
    if isinstance(layer, nn.Softmax2d):
        dim = -3
    elif isinstance(layer, nn.Softmax | nn.LogSoftmax | nn.Softmin) and layer.dim is None:
        dim = 0 if rank == 3 else 1  # torch's own choice
    elif isinstance(layer, nn.Softmax | nn.LogSoftmax | nn.Softmin | nn.GLU):
        dim = int(layer.dim)  # type: ignore[arg-type]
    else:
        return None
    if not -rank <= dim < rank:  # the meta device does not mind
        return argument, f"works along dimension {dim}, and a batch of {spelled_shape(shape)} has {rank} dimensions"
    if dim not in (0, -rank):
        return None
    return argument, "works along the images of a batch, which must not mix; dimension 1 is an image's first"
