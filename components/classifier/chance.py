"""What transforms leave to chance, and the ways it may go."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from components.classifier.augmentation import nested

# Rows of an orthogonal array that takes any two of 15 choices between yes and no through all four cases.
DRAWS = 16
# Above it chance is no more than another name of always: an epoch of 100 images would hold less than one other image.
_AS_GOOD_AS_ALWAYS = 0.99


def torchvisions(transforms: Sequence[Any]) -> list[Any]:
    """Those that are torchvision's own, nested ones too."""
    found = (inner for outer in transforms for inner in nested(outer))
    return [inner for inner in found if type(inner).__module__.startswith("torchvision.")]


class Choice(NamedTuple):
    """A transform that chance applies or not, or has choose among others: its `p` by the way that is taken."""

    transform: Any
    ways: list[Any]
    nearly_always: int | None  # the way it goes as good as always


def choices_of(transforms: Sequence[Any]) -> Iterator[Choice]:
    """Every choice that torchvision's transforms leave to chance."""
    for transform in torchvisions(transforms):
        chance = getattr(transform, "p", None)
        if isinstance(chance, list):
            ways = {n: [float(n == other) for other in range(len(chance))] for n, share in enumerate(chance) if share}
            likely = [way for way, n in enumerate(ways) if chance[n] > _AS_GOOD_AS_ALWAYS * sum(chance)]
            if len(ways) > 1:
                yield Choice(transform, list(ways.values()), likely[0] if likely else None)
        elif chance is not None and 0 < chance < 1:
            yield Choice(transform, [0.0, 1.0], 1 if chance > _AS_GOOD_AS_ALWAYS else None)


def ways(choices: Sequence[Choice], draw: int) -> tuple[int, ...]:
    """Which way each choice goes: two of them go all pairs of ways before 16 draws times the most ways are over."""
    if len(choices) == 1:
        return (draw % len(choices[0].ways),)
    block, row = divmod(draw, DRAWS)
    return tuple(
        (row & (number % (DRAWS - 1) + 1)).bit_count() & 1
        if choice.ways == [0.0, 1.0]
        else (block + row * number) % len(choice.ways)
        for number, choice in enumerate(choices)
    )
