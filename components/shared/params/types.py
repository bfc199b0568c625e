"""The value types params are made of: numbers that lose no digit, text, class entries.

Every validator here raises :class:`pydantic_core.PydanticCustomError` with a message for people. Whole numbers may be
written as integral floats, because KFP turns integers inside its own dict and list parameters into floats; beyond
2^53 a float no longer says which integer was meant, and is refused.
"""

from __future__ import annotations

import enum
import math
import numbers
from collections.abc import Callable, Iterator, Mapping
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
    shortened,
)

EXACT_FLOAT_LIMIT = 2**53
# What is divided by, or summed up: far within what float32 can hold, also when it is squared or divided by 255.
SMALLEST_DIVISOR, LARGEST_DIVISOR = 1e-12, 1e12
MAX_DEPTH = 32
MAX_BITS = 64

PlainValue = bool | int | float | str | None | list["PlainValue"] | dict[str, "PlainValue"]


def refusal(message: str, where: str = "") -> PydanticCustomError:
    """A validation error with this message, at `where` below the value under validation (such as ``.stride[0]``)."""
    return PydanticCustomError("refused", "{message}", {"message": message, "where": where})


def refusals(problems: list[tuple[str, str]]) -> PydanticCustomError:
    """Several (where, message) pairs as one validation error."""
    return PydanticCustomError("refused", "several problems", {"problems": problems})


def described(value: object) -> str:
    """A value and its type for a message, as the user might have written it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return f"the text {shortened(value)!r}"
    if isinstance(value, int | float):
        return shortened(value)
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple | set):
        return "a list"
    return f"a {type(value).__name__}"


def whole(value: object) -> int:
    """A whole number; integral floats count as one up to 2^53."""
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        if abs(value) <= EXACT_FLOAT_LIMIT:
            return int(value)
        raise refusal(f"must be written as a whole number without point or exponent: {value!r} has lost digits")
    raise refusal(f"must be a whole number, got {described(value)}")


def real(value: object) -> float:
    """A finite number that a float64 holds exactly as written, when it was written as an integer."""
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


def truth(value: object) -> bool:
    """True or false, and nothing that merely looks like it."""
    if not isinstance(value, bool):
        raise refusal(f"must be true or false, got {described(value)}")
    return value


def text(value: object) -> str:
    """Text without control characters."""
    if not isinstance(value, str):
        raise refusal(f"must be text, got {described(value)}")
    if not value.strip() or not value.isprintable():
        raise refusal(f"must be text that can be printed, got {described(value)}")
    return value


def reals_or_auto(value: object) -> list[float] | str:
    """A list of 1 or 3 numbers (one per channel), or ``"auto"``."""
    if value == "auto":
        return "auto"
    if not isinstance(value, list | tuple):
        raise refusal(f'must be a list of numbers or "auto", got {described(value)}')
    numbers_, problems = [], []
    for index, item in enumerate(value):
        try:
            numbers_.append(real(item))
        except PydanticCustomError as error:
            problems.append((f"[{index}]", str(error)))
    if problems:
        raise refusals(problems)
    if len(numbers_) not in (1, 3):
        raise refusal(f"must have 1 number (grayscale) or 3 (color), got {len(numbers_)}")
    return numbers_


def color_of_background(value: object) -> list[int] | str:
    """``"white"``, ``"black"``, or 1 or 3 whole numbers of 0 to 255."""
    if isinstance(value, str) and value in ("white", "black"):
        return value
    if not isinstance(value, list | tuple):
        raise refusal(f'must be "white", "black" or a list of whole numbers from 0 to 255, got {described(value)}')
    levels, problems = [], []
    for index, item in enumerate(value):
        try:
            levels.append(whole(item))
            if not 0 <= levels[-1] <= 255:
                problems.append((f"[{index}]", f"must be from 0 to 255, got {described(item)}"))
        except PydanticCustomError as error:
            problems.append((f"[{index}]", str(error)))
    if problems:
        raise refusals(problems)
    if len(levels) not in (1, 3):
        raise refusal(f"must have 1 number (grey) or 3 (red, green, blue), got {len(levels)}")
    return levels


Whole = Annotated[int, BeforeValidator(whole)]
Real = Annotated[float, BeforeValidator(real)]
Truth = Annotated[bool, BeforeValidator(truth)]
Text = Annotated[str, BeforeValidator(text)]
ColorOfBackground = Annotated[
    Annotated[list[Annotated[int, Field(ge=0, le=255)]], Field(min_length=1, max_length=3)] | Literal["white", "black"],
    BeforeValidator(color_of_background),
]
RealsOrAuto = Annotated[list[float] | Literal["auto"], BeforeValidator(reals_or_auto)]


def plain(value: object, where: str, depth: int = 0) -> Iterator[tuple[str, str]]:
    """The problems that keep `value` from being plain JSON data, each as (where, message)."""
    if depth > MAX_DEPTH:
        yield where, f"is nested more than {MAX_DEPTH} deep"
    elif isinstance(value, float) and not math.isfinite(value):
        yield where, f"must be a finite number, got {value}"
    elif isinstance(value, int) and value.bit_length() > MAX_BITS:
        yield where, f"must be a whole number of at most {MAX_BITS} bits, got {described(value)}"
    elif value is None or isinstance(value, bool | int | float | str):
        return
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from plain(item, f"{where}[{index}]", depth + 1)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from plain(item, f"{where}.{key}", depth + 1)
    else:
        what = "a function" if callable(value) else f"a {type(value).__name__}"
        yield where, f"must be plain data (numbers, text, true/false, null, lists, mappings), got {what}"


def as_plain(value: object, depth: int = 0) -> object:
    """What a Python dict may hold, in JSON's terms: tuples as lists, enum members and dtypes by name."""
    if depth > MAX_DEPTH:
        return value  # `plain` refuses it
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, list | tuple):
        return [as_plain(item, depth + 1) for item in value]
    if isinstance(value, Mapping):
        return {key: as_plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    if isinstance(value, numbers.Real) and not isinstance(value, bool | int):
        return float(value)
    if type(value).__module__ == "torch" and type(value).__name__ == "dtype":
        return str(value)
    return value


def keyword_arguments(value: object) -> dict[str, Any]:
    """Keyword arguments as plain data."""
    if not isinstance(value, Mapping):
        raise refusal(f"must be a mapping of arguments, got {described(value)}")
    problems = [
        (f".{shortened(key)}", "an argument's name must be a Python name")
        for key in value
        if not (isinstance(key, str) and key.isidentifier())
    ]
    kwargs = as_plain(value)
    problems += plain(kwargs, "")
    if problems:
        raise refusals(problems)
    assert isinstance(kwargs, dict)  # noqa: S101 - as_plain keeps a Mapping a dict
    return kwargs


KeywordArguments = Annotated[dict[str, Any], BeforeValidator(keyword_arguments)]


def class_name_in(family: ClassFamily) -> Callable[[object], str]:
    """A validator: a class of this family, as object or dotted name, gives the dotted name."""

    def name_of(value: object) -> str:
        if isinstance(value, type) or family.holds(value):
            name = family.name_of(value)
        elif isinstance(value, str):
            name = value
        else:
            raise refusal(f"must name a class, got {described(value)}; {family.hint()}")
        if not family.permits(name):
            raise refusal(family.why_not(name))
        return name

    return name_of


OptimizerName = Annotated[
    str, BeforeValidator(class_name_in(OPTIMIZERS)), Field(json_schema_extra={"enum": list(OPTIMIZERS.full_names())})
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
        return class_name_in(cls.family)(value)

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
                problems += [(f".transforms[{index}]{where}", message) for where, message in _told(error)]
        if problems:
            raise refusals(problems)
        return {**value, "transforms": specs}


def _told(error: ValidationError) -> Iterator[tuple[str, str]]:
    """The problems of a nested entry, each as (where, message)."""
    for detail in error.errors(include_url=False):
        context = detail.get("ctx", {})
        where = "".join(f"[{part}]" if isinstance(part, int) else f".{shortened(part)}" for part in detail["loc"])
        for inner, message in context.get("problems", [(context.get("where", ""), context.get("message"))]):
            yield where + inner, message or shortened(detail["msg"], 200)


def first_line(error: BaseException) -> str:
    """The first telling line of an exception's text; of a pydantic error, its first message."""
    errors = getattr(error, "errors", None)
    if callable(errors):
        first: dict[str, Any] = errors()[0]
        return str(first.get("ctx", {}).get("message", first["msg"]))
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return shortened(lines[0], 200) if lines else type(error).__name__
