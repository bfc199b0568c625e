"""From a {class, kwargs} entry to an object: the class resolved, the arguments checked against its signature.

Arguments arrive as JSON data. Each is fitted to the annotation of its parameter: integral floats become integers where
only an integer fits, lists become tuples, names become enum members and dtypes. What cannot fit is refused with the
parameter's path before anything is built.
"""

from __future__ import annotations

import difflib
import enum
import importlib
import inspect
import numbers
import types
import typing
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from typing import Any

import torch

from components.classifier.backbones import REFUSED_ARGUMENTS, builder_of, names_backbone
from components.shared.errors import ParamsError, Problem
from components.shared.params.allowed_classes import NESTING_TRANSFORMS
from components.shared.params.types import ClassSpec, TransformSpec, described, first_line

# Where and in which type a layer lives is decided for the whole run, by `device`. Layers take the two together;
# a transform that takes a dtype alone converts images.
_FORBIDDEN = {"device": "the run's device is set by the key device", "dtype": "layers are made in float32"}

# Where torchvision's annotation says less than its documentation and code take.
_ANNOTATIONS: dict[tuple[str, str], Any] = {
    ("torchvision.transforms.v2.RandomErasing", "value"): float | typing.Literal["random"] | Sequence[float]
}

_NO_FIT = object()
_PLURALS = {"a number": "numbers"}

# Beyond it layers fail, though not on the meta device, which computes nothing.
_LARGEST = torch.finfo(torch.float32).max


@cache
def resolve(dotted: str) -> Any:
    """The class of an allowed dotted name; of an architecture of torchvision, the function that builds it.

    Raises:
        LookupError: The module or the class is not there in this installation.
    """
    module, _, name = dotted.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise LookupError(f"{dotted} is not in this installation: {first_line(error)}") from error
    if names_backbone(dotted):
        return builder_of(found)
    if not isinstance(found, type):
        raise LookupError(f"{dotted} is not a class")
    return found


def _refused_arguments(made: Any, named: Collection[str]) -> dict[str, str]:
    """Arguments there are and nobody may give, each with the reason."""
    if not isinstance(made, type):
        return REFUSED_ARGUMENTS
    places = _FORBIDDEN.keys() <= set(named) and issubclass(made, torch.nn.Module)
    return _FORBIDDEN if places else {}


def checked_kwargs(spec: ClassSpec, path: str, passed: Collection[str] = ()) -> tuple[dict[str, Any], list[Problem]]:
    """The keyword arguments of an entry, fitted to the signature of its class.

    Args:
        spec: The entry.
        path: The entry's place in the params, for messages.
        passed: Parameters the program itself passes, such as an optimiser's ``params``.

    Returns:
        The fitted arguments, and every problem found.
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
    parameters = _parameters(cls)
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    named = {
        name: parameter
        for name, parameter in parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    refused = _refused_arguments(cls, named)
    fitted: dict[str, Any] = {}
    problems = []
    for name, value in kwargs.items():
        where = f"{kwargs_path}.{name}"
        if name in passed:
            problems.append(Problem(where, f"must not be given; Shutterline passes it to {cls.__name__}"))
        elif name in refused:
            problems.append(Problem(where, f"must not be given; {refused[name]}"))
        elif name not in named:
            if open_ended:
                fitted[name] = value
            else:
                problems.append(
                    Problem(where, _unknown_argument(cls, name, [key for key in named if key not in passed]))
                )
        elif name == "transforms" and dotted in NESTING_TRANSFORMS:
            fitted[name], nested = _nested_transforms(value, where)
            problems += nested
        else:
            # A few annotations forget the None that is their default.
            unset = value is None and named[name].default is None
            annotation = _ANNOTATIONS.get((dotted, name), named[name].annotation)
            result = None if unset else fit(value, annotation)
            if result is _NO_FIT:
                message = f"must be {spelled(annotation)}, got {described(value)}"
                vast = isinstance(value, int | float) and abs(value) > _LARGEST
                problems.append(Problem(where, f"{message}, too large for float32" if vast else message))
            else:
                fitted[name] = result
    for name, parameter in named.items():
        if parameter.default is parameter.empty and name not in kwargs and name not in passed:
            problems.append(Problem(f"{kwargs_path}.{name}", f"is required by {cls.__name__}"))
    return fitted, problems


def build(spec: ClassSpec, path: str, **passed: Any) -> Any:
    """The object an entry describes.

    Args:
        spec: The entry.
        path: The entry's place in the params, for messages.
        **passed: What the program itself passes, such as an optimiser's ``params``.

    Raises:
        ParamsError: The arguments do not fit the class, or the class refuses their values.
    """
    kwargs, problems = checked_kwargs(spec, path, passed)
    if problems:
        raise ParamsError(problems)
    return construct(resolve(spec.class_), f"{path}.kwargs", {**passed, **kwargs})


def construct(cls: Callable[..., Any], path: str, kwargs: Mapping[str, Any]) -> Any:
    """``cls(**kwargs)``, with a refusal by the class turned into a problem at `path`.

    Raises:
        ParamsError: The class refuses the values.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as "initializing zero-element tensors": shapes are checked after
            return cls(**kwargs)
    except Exception as error:  # whatever an allowed class raises on odd values is about those values
        raise ParamsError([Problem(path, f"{cls.__name__} refuses them: {first_line(error)}")]) from error


def _nested_transforms(value: object, path: str) -> tuple[list[Any], list[Problem]]:
    built: list[Any] = []
    problems: list[Problem] = []
    for index, item in enumerate(value if isinstance(value, Sequence) else []):
        try:
            built.append(build(TransformSpec.model_validate(item), f"{path}[{index}]"))
        except ParamsError as error:
            problems += error.problems
    return built, problems


def _unknown_argument(cls: Any, name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if near:
        return f"{cls.__name__} has no such argument; did you mean {near[0]}?"
    return f"{cls.__name__} has no such argument; it takes {', '.join(known) or 'none'}"


@cache
def _parameters(cls: Any) -> dict[str, inspect.Parameter]:
    if cls.__init__ is torch.nn.Module.__init__:  # (*args, **kwargs), of which it takes none
        return {}
    try:
        signature = inspect.signature(cls, eval_str=True)
    except NameError:  # an annotation imported for type checkers only
        signature = inspect.signature(cls)
    # A few classes take (*args, **kwargs) and hand them to their base: the base's signature is the real one.
    passive = (object, torch.nn.Module)
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    if kinds == {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD} and cls.__bases__[0] not in passive:
        return _parameters(cls.__bases__[0])
    return dict(signature.parameters)


def fit(value: Any, annotation: Any) -> Any:
    """`value`, JSON data, as a value of the annotated type, or ``_NO_FIT``; what cannot be judged passes unchanged."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return _fit_union(value, arguments)
    if origin is typing.Literal:
        return value if any(value == option and type(value) is type(option) for option in arguments) else _NO_FIT
    if origin is tuple:
        return _fit_tuple(value, arguments)
    if origin is not None and isinstance(origin, type) and issubclass(origin, Sequence):
        return _fit_list(value, arguments[0] if arguments else Any)
    if not isinstance(annotation, type) or annotation is inspect.Parameter.empty:
        return None if annotation is None and value is None else value if annotation is not None else _NO_FIT
    return _fit_plain(value, annotation)


def _fit_plain(value: Any, wanted: type[Any]) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if wanted is bool:
        return value if isinstance(value, bool) else _NO_FIT
    if wanted is int:
        integral = number and (isinstance(value, int) or (value.is_integer() and abs(value) <= 2**53))
        return int(value) if integral else _NO_FIT
    if wanted is float:
        return float(value) if number and abs(value) <= _LARGEST else _NO_FIT
    if wanted in (numbers.Number, numbers.Real):
        return value if number else _NO_FIT
    if wanted is str:
        return value if isinstance(value, str) else _NO_FIT
    if wanted is type(None):
        return None if value is None else _NO_FIT
    if wanted is torch.dtype:
        named = getattr(torch, value.removeprefix("torch."), None) if isinstance(value, str) else None
        return named if isinstance(named, torch.dtype) else _NO_FIT
    if issubclass(wanted, enum.Enum):
        return next((member for member in wanted if value == member.value), _NO_FIT)
    if wanted in (list, tuple) or wanted is Sequence:
        return wanted(value) if isinstance(value, list) and wanted is not Sequence else _fit_list(value, Any)
    if wanted is dict:
        return value if isinstance(value, dict) else _NO_FIT
    return _NO_FIT if issubclass(wanted, torch.Tensor) else value


def _fit_union(value: Any, options: tuple[Any, ...]) -> Any:
    # An int stays an int where both int and float would do; otherwise the first option that fits.
    for option in sorted(options, key=lambda option: option is not type(value)):
        fitted = fit(value, option)
        if fitted is not _NO_FIT:
            return fitted
    return _NO_FIT


def _fit_tuple(value: Any, items: tuple[Any, ...]) -> Any:
    if not isinstance(value, list | tuple):
        return _NO_FIT
    if len(items) == 2 and items[1] is Ellipsis:
        wanted: Sequence[Any] = [items[0]] * len(value)
    else:
        wanted = items
    if len(wanted) != len(value):
        return _NO_FIT
    fitted = tuple(fit(item, kind) for item, kind in zip(value, wanted, strict=True))
    return _NO_FIT if any(item is _NO_FIT for item in fitted) else fitted


def _fit_list(value: Any, item_kind: Any) -> Any:
    if not isinstance(value, list | tuple):
        return _NO_FIT
    fitted = [fit(item, item_kind) for item in value]
    return _NO_FIT if any(item is _NO_FIT for item in fitted) else fitted


def spelled(annotation: Any) -> str:
    """An annotation in words: ``int or [int, int]``."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        parts = [spelled(part) for part in arguments if part is not torch.Tensor]
        return " or ".join(dict.fromkeys(parts))
    if origin is typing.Literal:
        return " or ".join(f'"{option}"' if isinstance(option, str) else str(option) for option in arguments)
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            items = spelled(arguments[0])
            return f"a list of {_PLURALS.get(items, items)}"
        return f"[{', '.join(spelled(part) for part in arguments)}]"
    if origin is not None and isinstance(origin, type) and issubclass(origin, Sequence):
        items = spelled(arguments[0]) if arguments else ""
        return f"a list of {_PLURALS.get(items, items)}" if items else "a list"
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return " or ".join(f'"{member.value}"' for member in annotation)
    words = {type(None): "null", bool: "true or false", str: "text", numbers.Number: "a number", float: "a number"}
    return words.get(annotation) or str(getattr(annotation, "__name__", annotation))
