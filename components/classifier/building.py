"""From a {class, kwargs} entry to an object: the class resolved, the arguments checked against its signature.

Arguments arrive as JSON data. Each is fitted to the annotation of its parameter: integral floats become integers where
only an integer fits, lists become tuples, names become enum members and dtypes. What cannot fit is refused with the
parameter's path before anything is built.

Architectures of torchvision are feature layers without their classifying heads: ``torchvision.models.resnet18`` is what
that function builds, its last Linear (of SqueezeNet: its last Conv2d) replaced by Identity, as torchvision's guide to
fine-tuning replaces it. Weights keep the architecture's own names, so that a file of torchvision's fits, and are never
downloaded.
"""

from __future__ import annotations

import difflib
import enum
import functools
import importlib
import inspect
import numbers
import types
import typing
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from components.shared.errors import ParamsError, Problem
from components.shared.params.allowed_classes import BACKBONES, NESTING_TRANSFORMS
from components.shared.params.types import EXACT_FLOAT_LIMIT, ClassSpec, TransformSpec
from components.shared.text import described, first_line

# Where and in which type a layer is made is decided for the whole run, by `device`. Layers take the two together;
# a transform that takes a dtype alone converts images.
_FORBIDDEN = {"device": "the run's device is set by the key device", "dtype": "layers are made in float32"}
# Where torchvision's annotation says less than its documentation and code take.
_ANNOTATIONS: dict[tuple[str, str], Any] = {
    ("torchvision.transforms.v2.RandomErasing", "value"): float | typing.Literal["random"] | Sequence[float]
}
# Beyond it layers fail, though not on the meta device, which computes nothing.
_LARGEST = torch.finfo(torch.float32).max
# Every way to say "weights" is refused, and what Shutterline decides.
_REFUSED = {
    "weights": "nothing is downloaded: name a file by initial_weights",
    "progress": "nothing is downloaded: name a file by initial_weights",
    "pretrained": "nothing is downloaded: name a file by initial_weights",
    "num_classes": "the classifying layer follows net_arch; n_classes says its size",
}

# Options that torchvision's functions take and have a value for, though the classes have none.
_PRESET: dict[str, Any] = {"image_size": 224, "input_size": (224, 224)}
NO_FIT = object()
_SPELLED = {type(None): "null", bool: "true or false", str: "text", numbers.Number: "a number", float: "a number"}


@cache
def resolve(dotted: str) -> Any:
    """The class of an allowed dotted name; of an architecture of torchvision, the function that builds it.

    Raises:
        LookupError: The module or the class is not in this installation.
    """
    module, _, name = dotted.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise LookupError(f"{dotted} is not in this installation: {first_line(error)}") from error
    if _names_backbone(dotted):
        return _builder_of(found)
    if not isinstance(found, type):
        raise LookupError(f"{dotted} is not a class")
    return found


def checked_kwargs(spec: ClassSpec, path: str, passed: Collection[str] = ()) -> tuple[dict[str, Any], list[Problem]]:
    """The keyword arguments of an entry at `path`, fitted to the signature of its class, and every problem found.

    `passed` are parameters the program itself passes, such as an optimiser's ``params``.
    """
    return fitted_kwargs(spec.class_, spec.kwargs, path, f"{path}.kwargs", passed)


def fitted_kwargs(
    dotted: str, kwargs: Mapping[str, Any], class_path: str, kwargs_path: str, passed: Collection[str] = ()
) -> tuple[dict[str, Any], list[Problem]]:
    """As :func:`checked_kwargs`, for a class name and arguments that stand apart."""
    try:
        cls = resolve(dotted)
    except LookupError as error:
        return {}, [Problem(class_path, str(error))]
    parameters = _parameters(cls).values()
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    named = {parameter.name: parameter for parameter in parameters if parameter.kind in kinds}
    if not isinstance(cls, type):
        refused = _REFUSED
    else:
        refused = _FORBIDDEN if _FORBIDDEN.keys() <= named.keys() and issubclass(cls, nn.Module) else {}
    fitted: dict[str, Any] = {}
    problems = []
    for name, value in kwargs.items():
        where = f"{kwargs_path}.{name}"
        if name in passed:
            problems.append(Problem(where, f"must not be given; Shutterline passes it to {cls.__name__}"))
        elif name in refused:
            problems.append(Problem(where, f"must not be given; {refused[name]}"))
        elif name not in named and open_ended:
            fitted[name] = value
        elif name not in named:
            known = [key for key in named if key not in passed]
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            advice = f"did you mean {near[0]}?" if near else f"it takes {', '.join(known) or 'none'}"
            problems.append(Problem(where, f"{cls.__name__} has no such argument; {advice}"))
        elif name == "transforms" and dotted in NESTING_TRANSFORMS:
            fitted[name], nested = _nested_transforms(value, where)
            problems += nested
        else:
            annotation = _ANNOTATIONS.get((dotted, name), named[name].annotation)
            # A few annotations forget the None that is their default.
            is_unset = value is None and named[name].default is None
            fitted[name] = None if is_unset else fit(value, annotation)
            if fitted[name] is NO_FIT:
                vast = isinstance(value, int | float) and abs(value) > _LARGEST
                wanted = f"must be {spelled(annotation)}, got {described(value)}"
                problems.append(Problem(where, f"{wanted}{', too large for float32' if vast else ''}"))
    for name, parameter in named.items():
        if parameter.default is parameter.empty and name not in kwargs and name not in passed:
            problems.append(Problem(f"{kwargs_path}.{name}", f"is required by {cls.__name__}"))
    return fitted, problems


def build(spec: ClassSpec, path: str, **passed: Any) -> Any:
    """The object that the entry at `path` describes; `passed` is what the program itself passes.

    Raises:
        ParamsError: The arguments do not fit the class, or the class refuses their values.
    """
    kwargs, problems = checked_kwargs(spec, path, passed)
    if problems:
        raise ParamsError(problems)
    return construct(resolve(spec.class_), f"{path}.kwargs", {**passed, **kwargs})


def construct(cls: Callable[..., Any], path: str, kwargs: Mapping[str, Any]) -> Any:
    """``cls(**kwargs)``, with a refusal by the class turned into a ParamsError at `path`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as "initializing zero-element tensors": shapes are checked after
            return cls(**kwargs)
    except Exception as error:  # whatever an allowed class raises on odd values is about those values
        raise ParamsError([Problem(path, f"{cls.__name__} refuses them: {first_line(error)}")]) from error


def _nested_transforms(entries: Any, path: str) -> tuple[list[Any], list[Problem]]:
    built: list[Any] = []
    problems: list[Problem] = []
    for index, entry in enumerate(entries):
        try:
            built.append(build(TransformSpec.model_validate(entry), f"{path}[{index}]"))
        except ParamsError as error:
            problems += error.problems
    return built, problems


@cache
def _parameters(cls: Any) -> dict[str, inspect.Parameter]:
    if cls.__init__ is nn.Module.__init__:  # (*args, **kwargs), of which it takes none
        return {}
    try:
        signature = inspect.signature(cls, eval_str=True)
    except NameError:  # an annotation imported for type checkers only
        signature = inspect.signature(cls)
    # A few classes take (*args, **kwargs) and hand them to their base: the base's signature is the real one.
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    is_open = kinds == {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
    if is_open and cls.__bases__[0] not in (object, nn.Module):
        return _parameters(cls.__bases__[0])
    return dict(signature.parameters)


def _is_sequence(origin: Any) -> bool:
    return isinstance(origin, type) and issubclass(origin, Sequence)


def fit(value: Any, annotation: Any) -> Any:
    """`value`, JSON data, as a value of the annotated type, or ``NO_FIT``; what cannot be judged passes unchanged."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        # An int stays an int where both int and float would do; otherwise the first option that fits.
        options = sorted(arguments, key=lambda option: option is not type(value))
        return next((found for option in options if (found := fit(value, option)) is not NO_FIT), NO_FIT)
    if origin is typing.Literal:
        return value if any(value == option and type(value) is type(option) for option in arguments) else NO_FIT
    if _is_sequence(origin):
        if not isinstance(value, list | tuple):
            return NO_FIT
        is_fixed = origin is tuple and arguments[-1:] != (Ellipsis,)
        wanted = arguments if is_fixed else [arguments[0] if arguments else Any] * len(value)
        if len(wanted) != len(value):
            return NO_FIT
        fitted = [fit(item, kind) for item, kind in zip(value, wanted, strict=True)]
        return NO_FIT if NO_FIT in fitted else tuple(fitted) if origin is tuple else fitted
    if annotation is None:
        return None if value is None else NO_FIT
    if not isinstance(annotation, type) or annotation is inspect.Parameter.empty:
        return value
    return _fit_plain(value, annotation)


def _fit_plain(value: Any, wanted: type[Any]) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if wanted is int:
        exact = is_number and (isinstance(value, int) or (value.is_integer() and abs(value) <= EXACT_FLOAT_LIMIT))
        return int(value) if exact else NO_FIT
    if wanted is float:
        return float(value) if is_number and abs(value) <= _LARGEST else NO_FIT
    if wanted in (numbers.Number, numbers.Real):
        return value if is_number else NO_FIT
    if wanted in (bool, str, dict, type(None)):
        return value if isinstance(value, wanted) else NO_FIT
    if wanted is torch.dtype:
        named = getattr(torch, value.removeprefix("torch."), None) if isinstance(value, str) else None
        return named if isinstance(named, torch.dtype) else NO_FIT
    if issubclass(wanted, enum.Enum):
        return next((member for member in wanted if value == member.value), NO_FIT)
    if wanted in (list, tuple, Sequence):
        if not isinstance(value, list | tuple):
            return NO_FIT
        return tuple(value) if wanted is tuple else list(value)
    return NO_FIT if issubclass(wanted, torch.Tensor) else value


def spelled(annotation: Any) -> str:
    """An annotation for messages: ``int or [int, int]``."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        parts = [spelled(part) for part in arguments if part is not torch.Tensor]
        return " or ".join(dict.fromkeys(parts))
    if origin is typing.Literal:
        return " or ".join(f'"{option}"' if isinstance(option, str) else str(option) for option in arguments)
    if origin is tuple and arguments[-1:] != (Ellipsis,):
        return f"[{', '.join(spelled(part) for part in arguments)}]"
    if _is_sequence(origin):
        items = spelled(arguments[0]) if arguments else ""
        return f"a list of {'numbers' if items == 'a number' else items}" if items else "a list"
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return " or ".join(f'"{member.value}"' for member in annotation)
    return _SPELLED.get(annotation) or str(getattr(annotation, "__name__", annotation))


def _names_backbone(dotted: str) -> bool:
    """Whether a class name is that of an architecture of torchvision."""
    return dotted.rpartition(".")[0] == BACKBONES.module


def is_known(layer: nn.Module) -> bool:
    """Whether a layer, modules within it included, is of torch or torchvision, and keeps nothing but buffers."""
    return all(type(module).__module__.startswith(("torch.nn.", "torchvision.")) for module in layer.modules())


def is_backbone(layer: nn.Module) -> bool:
    """Whether a layer is an architecture of torchvision."""
    return hasattr(layer, "removed_head")


def head_name(backbone: nn.Module) -> str:
    """What the classifying layer of an architecture is called in its own weights, such as ``fc``."""
    return str(backbone.removed_head)


def _builder_of(function: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """Builds an architecture without its head; its signature has the options that torchvision's ``**kwargs`` take."""

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
        if parameter.name not in _REFUSED and (parameter.default is not parameter.empty or parameter.name in _PRESET)
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
