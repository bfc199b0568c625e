"""The optimiser's parameter groups: a rate for the head and one for the backbone, weight decay or none.

What ``decay_biases_and_norms: false`` leaves undecayed is what both of the field's libraries leave: parameters of
normalisation layers by their type and biases, as torchvision's references do (``references/classification/utils.py``,
``set_weight_decay``), everything of one dimension, as timm does (``param_groups_weight_decay``), and what
torchvision's modules hold beside their layers: class tokens, position embeddings and tables of relative positions
(both libraries), layer scales (timm; in torchvision they have the shape (dim, 1, 1)) and Swin V2's ``logit_scale``.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from components.classifier.building import resolve
from components.classifier.network import LayerTable, Network
from components.shared.params.params import Params

# LayerNorm2d of torchvision is a LayerNorm; instance norms are a _NormBase.
_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


def parameter_groups(network: Network, params: Params) -> list[dict[str, Any]]:
    """What is trained of a network, in groups for an optimiser of torch.

    One group in the network's order, where ``backbone_learning_rate`` and ``decay_biases_and_norms`` ask for no more;
    else each has a ``name``, none is empty, and the first has the head's weights: head, head's biases, backbone,
    backbone's biases and norms.
    """
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    has_rates, has_decays = params.backbone_learning_rate is not None, _separates_decays(params)
    if not (has_rates or has_decays):
        return [{"params": trained}]
    head, undecayed = {id(parameter) for parameter in network.classifier.parameters()}, set(_undecayed(network))
    groups: dict[str, dict[str, Any]] = {}
    for parameter in trained:
        of_head, is_decayed = not has_rates or id(parameter) in head, not has_decays or id(parameter) not in undecayed
        where = ("head" if of_head else "backbone") if has_rates else ""
        what = "" if not has_decays else "weights" if is_decayed else "biases and norms"
        group = groups.setdefault(
            f"{where}{', ' if where and what else ''}{what}",
            {
                "params": [],
                "lr": params.learning_rate if of_head else params.backbone_learning_rate,
                **({} if is_decayed else {"weight_decay": 0.0}),
            },
        )
        group["params"].append(parameter)
    # The head's first: its rate is what is reported.
    order = sorted(groups, key=lambda name: (name.startswith("backbone"), name.endswith("norms")))
    return [{"name": name, **groups[name]} for name in order]


def _undecayed(network: nn.Module) -> Iterator[int]:
    """The ids of the parameters that are usually not decayed."""
    for module in network.modules():
        is_norm = isinstance(module, _NORMS)
        # Of torchvision's modules that are no layer of torch: tokens, embeddings, tables, scales.
        is_beside = type(module).__module__.startswith("torchvision.")
        for name, parameter in module.named_parameters(recurse=False):
            if is_norm or is_beside or parameter.ndim <= 1 or "bias" in name:
                yield id(parameter)


def weight_decay(params: Params) -> float:
    """The optimiser's weight decay, its class's default included; 0 where it has none."""
    declared = inspect.signature(resolve(params.optim_class)).parameters.get("weight_decay")
    default = 0.0 if declared is None or declared.default is inspect.Parameter.empty else declared.default
    return params.optim_kwargs.get("weight_decay", default)  # type: ignore[no-any-return]


def _separates_decays(params: Params) -> bool:
    return not params.decay_biases_and_norms and bool(weight_decay(params))


def notes_of_groups(params: Params, table: LayerTable) -> list[str]:
    """What of the keys that make groups has no effect, or another one than it seems; a sentence each."""
    notes, rate = [], params.backbone_learning_rate
    if not params.decay_biases_and_norms and not weight_decay(params):
        notes.append(
            f"decay_biases_and_norms has no effect: {params.optim_class} decays no weight without weight_decay"
        )
    if rate is None:
        return notes
    if not sum(row.trainable for row in table.rows[:-1]):
        notes.append("backbone_learning_rate has no effect: no layer of net_arch has parameters that are trained")
    elif rate == params.learning_rate:
        notes.append(f"backbone_learning_rate has no effect: it is learning_rate, {rate:g}")
    elif params.initial_weights is None:
        notes.append(
            "backbone_learning_rate: the layers of net_arch begin with random weights (initial_weights is null), "
            "for which a rate of their own seldom helps"
        )
    return notes


def describe_groups(groups: Sequence[dict[str, Any]], params: Params) -> str:
    """The groups of an optimiser by name, how many values each has, its rate and weight decay, for the log.

    Rates are the params': a warm-up has made them others by then.
    """
    parts = []
    for group in groups:
        tensors: list[Tensor] = group["params"]
        decay = f", weight decay {group['weight_decay']:g}" if "weight_decay" in group else ""
        count = sum(tensor.numel() for tensor in tensors)
        of_backbone = group["name"].startswith("backbone")
        rate = params.backbone_learning_rate if of_backbone else params.learning_rate
        parts.append(f"{group['name']}: {count:,} values, rate {rate:g}{decay}")
    return "; ".join(parts)
