"""The value types params are made of: numbers that lose no digit, text, class entries.

Whole numbers may be written as integral floats, because KFP makes floats of integers inside its dict and list
parameters; beyond 2^53 a float no longer says which integer was meant, and is refused.
"""

from __future__ import annotations

import enum
import math
import numbers
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from components.shared.params.allowed_classes import (
    LAYERS,
    LOSSES,
    NESTING_TRANSFORMS,
    OPTIMIZERS,
    SCHEDULERS,
    TRANSFORMS,
    ClassFamily,
)
from components.shared.params.parsed import as_problems
from components.shared.text import described, shortened

EXACT_FLOAT_LIMIT = 2**53
# What is divided by, or summed up: far within what float32 can hold, also when it is squared or divided by 255.
SMALLEST_DIVISOR, LARGEST_DIVISOR = 1e-12, 1e12
MAX_DEPTH = 32
MAX_BITS = 64
_MOST = 2**31 - 1


def refusal(message: str, where: str = "") -> PydanticCustomError:
    """A validation error with this message, at `where` below the value under validation (such as ``.stride[0]``)."""
    return refusals([(where, message)])


def refusals(problems: list[tuple[str, str]]) -> PydanticCustomError:
    """Several (where, message) pairs as one validation error."""
    return PydanticCustomError("refused", "{message}", {"message": problems[0][1], "problems": problems})


def _whole(value: object) -> int:
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        if abs(value) <= EXACT_FLOAT_LIMIT:
            return int(value)
        raise refusal(f"must be written as a whole number without point or exponent: {value!r} has lost digits")
    raise refusal(f"must be a whole number, got {described(value)}")


def real(value: object) -> float:
    """A finite number of at most 53 bits."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise refusal(f"must be a number, got {described(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise refusal(f"must be a finite number, got {described(value)}")
    if isinstance(value, numbers.Integral) and int(number) != int(value):
        raise refusal(f"must be a number of at most 53 bits, got {described(value)}")
    return number


def _divisor(value: object) -> float:
    number = real(value)
    if not SMALLEST_DIVISOR <= number <= LARGEST_DIVISOR:
        wanted = "greater than 0" if number <= 0 else f"from {SMALLEST_DIVISOR:g} to {LARGEST_DIVISOR:g}"
        raise refusal(f"must be {wanted}, got {described(value)}")
    return number


def _level(value: object) -> int:
    if not 0 <= (level := _whole(value)) <= 255:
        raise refusal(f"must be from 0 to 255, got {described(value)}")
    return level


def _truth(value: object) -> bool:
    if not isinstance(value, bool):
        raise refusal(f"must be true or false, got {described(value)}")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise refusal(f"must be text, got {described(value)}")
    if not value.strip() or not value.isprintable():
        raise refusal(f"must be text that can be printed, got {described(value)}")
    return value


def _numbers_or(
    names: tuple[str | None, ...], check: Callable[[object], Any], wanted: str, of_3: str = "", of_1: str = "grayscale"
) -> BeforeValidator:
    """A validator: one of these names, or a list of numbers; with `of_3`, of 1 or 3 of them."""

    def numbers_of(value: object) -> object:
        if isinstance(value, list | tuple):
            found, problems = [], []
            for index, item in enumerate(value):
                try:
                    found.append(check(item))
                except PydanticCustomError as error:
                    problems.append((f"[{index}]", error.message()))
            if problems:
                raise refusals(problems)
            if of_3 and len(found) not in (1, 3):
                raise refusal(f"must have 1 number ({of_1}) or 3 ({of_3}), got {len(found)}")
            return found
        if (value is None or isinstance(value, str)) and value in names:
            return value
        raise refusal(f"must be {wanted}, got {described(value)}")

    return BeforeValidator(numbers_of)


def _size_or_auto(value: object) -> object:
    if value == "auto":
        return value
    if isinstance(value, str):
        raise refusal(f'must be a whole number or "auto", got {described(value)}')
    if not 1 <= (size := _whole(value)) <= _MOST:
        raise refusal(f"must be at {'least 1' if size < 1 else f'most {_MOST:,}'}, got {described(value)}")
    return size


Whole = Annotated[int, BeforeValidator(_whole)]
Fit = Literal["stretch", "crop", "pad"]
Interpolation = Literal["nearest", "box", "bilinear", "bicubic", "lanczos"]
SizeOrAuto = Annotated[
    Annotated[int, Field(ge=1, le=_MOST)] | Literal["auto"],
    BeforeValidator(_size_or_auto),
]
Positive = Annotated[Whole, Field(ge=1, le=2**31 - 1)]
Real = Annotated[float, BeforeValidator(real)]
Share = Annotated[Real, Field(ge=0, le=1)]
Side = Annotated[Whole, Field(ge=1, le=2**16 - 1)]
Truth = Annotated[bool, BeforeValidator(_truth)]
Text = Annotated[str, BeforeValidator(_text)]
_COLOR = '"white", "black" or a list of whole numbers from 0 to 255'
ColorOfBackground = Annotated[
    Annotated[list[Annotated[int, Field(ge=0, le=255)]], Field(min_length=1, max_length=3)] | Literal["white", "black"],
    _numbers_or(("white", "black"), _level, _COLOR, "red, green, blue", "grey"),
]


def background_of(color: str | list[int]) -> tuple[int, int, int]:
    """Red, green and blue of a background."""
    if isinstance(color, str):
        return (255, 255, 255) if color == "white" else (0, 0, 0)
    red, green, blue = color * (3 // len(color))
    return red, green, blue


_LIST_OR_AUTO = 'a list of numbers or "auto"'
MeansOrAuto = Annotated[list[float] | Literal["auto"], _numbers_or(("auto",), real, _LIST_OR_AUTO, "color")]
DivisorsOrAuto = Annotated[list[float] | Literal["auto"], _numbers_or(("auto",), _divisor, _LIST_OR_AUTO, "color")]
ClassWeights = Annotated[
    list[float] | Literal["balanced"] | None,
    _numbers_or(("balanced", None), _divisor, '"balanced" or a list of a number for each class'),
]


def _plain(value: Any, problems: list[tuple[str, str]], where: str = "", depth: int = 0) -> Any:
    """A value as JSON data: tuples as lists, enum members and dtypes by name; `problems` gets what is none."""
    if isinstance(value, enum.Enum):
        value = value.value
    if depth > MAX_DEPTH:
        problems.append((where, f"is nested more than {MAX_DEPTH} deep"))
    elif isinstance(value, list | tuple):
        return [_plain(item, problems, f"{where}[{index}]", depth + 1) for index, item in enumerate(value)]
    elif isinstance(value, Mapping):
        return {key: _plain(item, problems, f"{where}.{key}", depth + 1) for key, item in value.items()}
    elif value is None or isinstance(value, bool | str):
        return value
    elif isinstance(value, numbers.Integral):
        if int(value).bit_length() > MAX_BITS:
            wanted = f"must be a whole number of at most {MAX_BITS} bits"
            problems.append((where, f"{wanted}, got {described(int(value))}"))
        return int(value)
    elif isinstance(value, numbers.Real):
        if not math.isfinite(value):
            problems.append((where, f"must be a finite number, got {float(value)}"))
        return float(value)
    elif type(value).__module__ == "torch" and type(value).__name__ == "dtype":
        return str(value)
    else:
        what = "a function" if callable(value) else f"a {type(value).__name__}"
        message = f"must be plain data (numbers, text, true/false, null, lists, mappings), got {what}"
        problems.append((where, message))
    return None


def _keyword_arguments(value: object) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise refusal(f"must be a mapping of arguments, got {described(value)}")
    problems = [
        (f".{shortened(key)}", "an argument's name must be a Python name")
        for key in value
        if not (isinstance(key, str) and key.isidentifier())
    ]
    kwargs: dict[str, Any] = _plain(value, problems)
    if problems:
        raise refusals(problems)
    return kwargs


KeywordArguments = Annotated[dict[str, Any], BeforeValidator(_keyword_arguments)]


def _class_name(family: ClassFamily, value: object) -> str:
    name = value if isinstance(value, str) else family.name_of(value)
    if name is None:
        raise refusal(f"must name a class, got {described(value)}; {family.hint()}")
    if not family.permits(name):
        raise refusal(family.why_not(name))
    return name


OptimizerName = Annotated[
    str,
    BeforeValidator(lambda value: _class_name(OPTIMIZERS, value)),
    Field(json_schema_extra={"enum": list(OPTIMIZERS.full_names())}),
]


class Entry(BaseModel):
    """A model whose keys are all known and whose values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_by_name=False, validate_by_alias=True)


class ClassSpec(Entry):
    """One object to build: an allowed class and the keyword arguments it is called with."""

    family: ClassVar[ClassFamily]

    class_: str = Field(alias="class", description="Dotted name of an allowed class, or in Python the class.")
    kwargs: KeywordArguments = Field(default_factory=dict, description="Keyword arguments of the class.")

    @field_validator("class_", mode="before")
    @classmethod
    def _allowed(cls, value: object) -> str:
        return _class_name(cls.family, value)

    @property
    def short_name(self) -> str:
        """The class name alone: ``Conv2d``."""
        return self.class_.rpartition(".")[2]


class LayerSpec(ClassSpec):
    """One layer of ``net_arch``: a class of ``torch.nn`` that turns one tensor into one tensor.

    Or an architecture of ``torchvision.models``, without its classifying head.
    """

    family = LAYERS


class ScheduleSpec(ClassSpec):
    """One learning-rate schedule of ``torch.optim.lr_scheduler``.

    OneCycleLR without ``total_steps``, CosineAnnealingLR without ``T_max`` and PolynomialLR without ``total_iters``
    last as long as the run, or with ``milestones`` as the epochs that are theirs.
    """

    family = SCHEDULERS

    name: Text | None = Field(None, description="What you call it; unique where it is given.")
    interval: Literal["epoch", "batch"] = Field(
        "epoch", description="Stepped after every epoch, or after every step of the optimiser."
    )


class LossSpec(ClassSpec):
    """What training minimises: a class of ``torch.nn`` that takes logits and the index of the class."""

    family = LOSSES


class TransformSpec(ClassSpec):
    """One training transform of ``torchvision.transforms.v2``, applied per image."""

    family = TRANSFORMS

    @field_validator("kwargs", mode="before")
    @classmethod
    def _nested(cls, value: object, info: ValidationInfo) -> object:
        """Where a transform takes further transforms, each is an entry like this one."""
        if info.data.get("class_") not in NESTING_TRANSFORMS or not isinstance(value, Mapping):
            return value
        inner = value.get("transforms")
        if not isinstance(inner, list | tuple):
            raise refusal("must be a list of {class, kwargs} entries", ".transforms")
        specs, problems = [], []
        for index, item in enumerate(inner):
            try:
                specs.append(TransformSpec.model_validate(item).model_dump(by_alias=True))
            except ValidationError as error:
                for found in as_problems(error, (), lambda _: "unknown key; allowed are class, kwargs"):
                    where = f".{found.path}" if found.path else ""
                    problems.append((f".transforms[{index}]{where}", found.message))
        if problems:
            raise refusals(problems)
        return {**value, "transforms": specs}
