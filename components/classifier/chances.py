"""The ways that chance may go in transforms, and which of them each draw of a trial takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from components.classifier.augmentation import nested

# Rows of an orthogonal array that takes any two of 15 choices between yes and no through all four cases.
DRAWS = 16


class Choice(NamedTuple):
    """A transform that chance applies or not, or has choose among others: its `p` by the way that is taken."""

    transform: Any
    ways: list[Any]


def torchvisions(transforms: Sequence[Any]) -> list[Any]:
    """Those of torchvision among transforms and what they hold."""
    found = (inner for outer in transforms for inner in nested(outer))
    return [inner for inner in found if type(inner).__module__.startswith("torchvision.")]


def choices_of(transforms: Sequence[Any]) -> Iterator[Choice]:
    """The transforms that have more than one way to go."""
    for transform in torchvisions(transforms):
        chance = getattr(transform, "p", None)
        if isinstance(chance, list):
            possible = [number for number, share in enumerate(chance) if share]
            ways = [[float(n == other) for other in range(len(chance))] for n in possible]
            if len(ways) > 1:
                yield Choice(transform, ways)
        elif chance is not None and 0 < chance < 1:
            yield Choice(transform, [0.0, 1.0])


def ways(choices: Sequence[Choice], draw: int) -> tuple[int, ...]:
    """By choice the number of its way in a draw, from 0 on."""
    # Two choices go all pairs of ways before 16 draws times the most ways are over.
    if len(choices) == 1:
        return (draw % len(choices[0].ways),)
    block, row = divmod(draw, DRAWS)
    return tuple(
        (row & (number % (DRAWS - 1) + 1)).bit_count() & 1
        if choice.ways == [0.0, 1.0]
        else (block + row * number) % len(choice.ways)
        for number, choice in enumerate(choices)
    )
