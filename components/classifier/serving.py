"""The network as it is served: one module from stored images to class probabilities."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from components.classifier.network import Network


class Serving(nn.Module):
    """uint8 images (batch, height, width, channels) in, float32 probabilities (batch, classes) out.

    `pixel_mean` and `pixel_scale`, of shape (1, channels, 1, 1), normalise; :class:`~components.classifier.images.
    Normaliser` says how. ``mean`` would be a name that the exporter gives to an operator as well (torch 2.15).
    """

    pixel_mean: Tensor
    pixel_scale: Tensor

    def __init__(self, network: Network, channels: int) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("pixel_mean", torch.zeros(1, channels, 1, 1))
        self.register_buffer("pixel_scale", torch.ones(1, channels, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Probabilities of a batch of images."""
        # Contiguous: of channels_last inputs torch traces strides, which are a dozen operators where pooling gives 1×1.
        unit = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        return torch.softmax(self.network((unit - self.pixel_mean) * self.pixel_scale), dim=1)


def replace_unexportable(network: nn.Module) -> None:
    """Replace layers that the exporter has no operators for by equal ones that it has, in evaluation mode."""
    for name, module in list(network.named_modules()):
        if type(module) is nn.RReLU:  # its slope is random in training alone
            network.set_submodule(name, nn.LeakyReLU((module.lower + module.upper) / 2))
        elif type(module) in _ADAPTIVE:
            network.set_submodule(name, _AdaptivePool(module))


# Maxima the exporter has where the output's size divides the input's, the other averages whatever the size.
_ADAPTIVE = (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d, nn.AdaptiveAvgPool3d)


class _AdaptivePool(nn.Module):
    """Adaptive pooling as slices of one dimension after the other."""

    def __init__(self, pool: Any) -> None:
        super().__init__()
        self.pool = pool
        self.dims = int(type(pool).__name__[-2])
        size = pool.output_size
        self.sizes: tuple[int | None, ...] = tuple(size) if isinstance(size, list | tuple) else (size,) * self.dims

    def forward(self, values: Tensor) -> Tensor:
        """Pool the last dimensions."""
        wanted = [(dim, size) for dim, size in zip(range(-self.dims, 0), self.sizes, strict=True) if size is not None]
        is_mean = isinstance(self.pool, nn.AdaptiveAvgPool3d)
        if not is_mean and all(values.shape[dim] % size == 0 for dim, size in wanted):
            return self.pool(values)  # type: ignore[no-any-return]
        reduce = torch.mean if is_mean else torch.amax
        for dim, size in wanted:
            length = values.shape[dim]
            ends = [(index * length // size, -(-(index + 1) * length // size)) for index in range(size)]
            parts = [reduce(values.narrow(dim, start, end - start), dim, keepdim=True) for start, end in ends]
            values = torch.cat(parts, dim)
        return values
