"""Options that several commands of ``shutterline`` have."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from pipelines.compiled import PLATFORMS

Decorated = TypeVar("Decorated", bound=Callable[..., Any])
option, argument = click.option, click.argument


def unwrapped(text: str) -> str:
    """A text whose lines click does not join."""
    return "\n\n".join(f"\b\n{paragraph}" for paragraph in text.split("\n\n"))


def options(*each: Callable[[Decorated], Decorated]) -> Callable[[Decorated], Decorated]:
    """Several options as one decorator, shown in the order given."""

    def add(function: Decorated) -> Decorated:
        for decorate in reversed(each):
            function = decorate(function)
        return function

    return add


def text(value: str) -> str:
    """An option's text, which an unset variable of a shell does not give."""
    if not value.strip():
        raise click.BadParameter("is empty; is a variable of your shell not set?")
    return value


def path(value: str) -> Path:
    """An option's path."""
    return Path(text(value))


def seconds(value: str) -> float:
    """An option's span of time."""
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise click.BadParameter(f"must be a number of seconds greater than 0, got {value!r}")
    return number


def flag(name: str, help: str) -> Callable[[Decorated], Decorated]:
    """An option without a value."""
    return option(name, is_flag=True, help=help)


def platform(help: str, *, required: bool = False, also: tuple[str, ...] = ()) -> Callable[[Decorated], Decorated]:
    """The option ``--target``: a platform, or what a command takes besides."""
    return option("--target", type=click.Choice([*PLATFORMS, *also]), required=required, help=help)


def params_file(default: str) -> Callable[[Decorated], Decorated]:
    """The option ``--params``."""
    return option("--params", metavar="FILE", type=text, help=f"Params file or JSON text; default: {default}.")


SET = option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Change one of the params, such as "
             "num_epochs=5 or net_arch[0].kwargs.out_channels=64; repeatable.")  # fmt: skip
JSON = option("--json", "as_json", is_flag=True, help="Print one JSON document to standard output.")
SETTINGS = option("--settings", metavar="FILE", type=path, help="What the steps get, as .yaml or .json.")
IMAGES = option("--images", metavar="FILE", type=path, help="Images of the steps, as `make images` writes them; "
                "default: tags of this version.")  # fmt: skip
UNCHECKED = flag("--unchecked", "Go on although `shutterline validate` finds errors in the file.")
EXAMPLES_OWN = "the example's, which are for its digits alone"
