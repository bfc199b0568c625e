"""Backbones: the architectures of torchvision as feature layers, without their classifying heads.

``{"class": "torchvision.models.resnet18"}`` in ``net_arch`` is what that function builds, its last Linear (of
SqueezeNet: its last Conv2d) replaced by Identity, as torchvision's guide to fine-tuning replaces it. Names of the
weights are the architecture's own, so that a file of torchvision's fits. Weights are never downloaded.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from components.shared.params.allowed_classes import BACKBONES
from components.shared.params.types import LayerSpec

# Every way to say "weights" is refused, and what Shutterline decides.
REFUSED_ARGUMENTS = {
    "weights": "nothing is downloaded: name a file by initial_weights",
    "progress": "nothing is downloaded: name a file by initial_weights",
    "pretrained": "nothing is downloaded: name a file by initial_weights",
    "num_classes": "the classifying layer follows net_arch; n_classes says its size",
}

# Options that torchvision's functions take and have a value for, though the classes have none.
_PRESET: dict[str, Any] = {"image_size": 224, "input_size": (224, 224)}


def names_backbone(dotted: str) -> bool:
    """Whether a class name is that of an architecture of torchvision."""
    return dotted.rpartition(".")[0] == BACKBONES.module


def has_backbone(net_arch: Iterable[LayerSpec]) -> bool:
    """Whether a network needs torchvision to be built."""
    return any(names_backbone(spec.class_) for spec in net_arch)


def is_backbone(layer: nn.Module) -> bool:
    """Whether a layer is an architecture of torchvision."""
    return type(layer).__module__.startswith(f"{BACKBONES.module}.")


def torchvision_imports() -> bool:
    """Whether torchvision can be used here; the evaluation image has none."""
    try:
        importlib.import_module(BACKBONES.module)
    except Exception:  # a torchvision for another torch raises what it likes
        return False
    return True


def head_name(backbone: nn.Module) -> str:
    """What the classifying layer of an architecture is called in its own weights, such as ``fc``."""
    return str(backbone.removed_head)


def builder_of(function: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """The function that builds an architecture of torchvision without its head.

    Its signature has the options of the architecture, in place of torchvision's ``**kwargs``.
    """

    @functools.wraps(function)
    def build(**kwargs: Any) -> nn.Module:
        with _OnTheCpu() if _class_of(function).__name__ == "RegNet" else nullcontext():
            backbone = function(weights=None, **kwargs)
        *_, (name, _head) = (
            (name, module) for name, module in backbone.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)
        )
        backbone.set_submodule(name, nn.Identity())
        backbone.removed_head = name
        return backbone

    del build.__wrapped__  # its signature would be torchvision's
    options = [
        parameter.replace(kind=parameter.KEYWORD_ONLY, default=_PRESET.get(parameter.name, parameter.default))
        for parameter in inspect.signature(_class_of(function), eval_str=True).parameters.values()
        if parameter.name not in REFUSED_ARGUMENTS
        and (parameter.default is not parameter.empty or parameter.name in _PRESET)
    ]
    build.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    return build


def _class_of(function: Callable[..., nn.Module]) -> type[nn.Module]:
    made = inspect.signature(function, eval_str=True).return_annotation
    if not (isinstance(made, type) and issubclass(made, nn.Module)):
        raise TypeError(f"{function.__name__} does not say what it builds")
    return made


class _OnTheCpu(TorchFunctionMode):
    """Numbers that are read stay on the CPU: RegNet computes its widths by tensors, and meta tensors have no values."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        device = {"device": "cpu"} if func in (torch.arange, torch.tensor) else {}
        return func(*args, **(device | (kwargs or {})))
