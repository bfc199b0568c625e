"""How an image becomes pixels of one shape: one rule for data prep, prediction and whatever else decodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from components.shared.cropping import central_start

if TYPE_CHECKING:  # a process that decodes starts in half the time without
    from components.shared.params.params import Params
    from components.shared.params.types import Fit, Interpolation

Background = tuple[int, int, int]
WHITE: Background = (255, 255, 255)


class Placement(NamedTuple):
    """Where an image goes: it is scaled as a whole, and a box of that is seen at a place of the shape."""

    scaled: tuple[int, int]  # width, height
    seen: tuple[int, int, int, int]  # left, top, right, bottom, in what is scaled
    at: tuple[int, int]  # left, top


@dataclass(frozen=True)
class Rendering:
    """What is made of every image.

    Attributes:
        shape: Height, width and channels (1 or 3).
        background: Red, green and blue of what transparent parts, and what is padded, show.
        fit: ``stretch`` to the shape; ``crop`` its middle, scaled to cover the shape; ``pad`` it, scaled to lie within.
        interpolation: How its size is changed.
    """

    shape: tuple[int, int, int]
    background: Background = WHITE
    fit: Fit = "stretch"
    interpolation: Interpolation = "bilinear"

    @classmethod
    def of(cls, params: Params) -> Rendering:
        """What data prep makes of every image of a run."""
        return cls(params.stored_shape, params.background, params.image_fit, params.image_interpolation)

    def placement(self, width: int, height: int) -> Placement:
        """Where an upright image of a size goes.

        The side that does not fill the shape's is rounded to the nearest pixel, and halves are rounded up; the middle
        is that of :func:`~components.shared.cropping.central_start`.
        """
        wanted_height, wanted_width, _ = self.shape
        scaled = (wanted_width, wanted_height)
        if self.fit != "stretch":
            # By the height where the image is, in proportion, the wider one and is to cover, or neither.
            if (width * wanted_height > wanted_width * height) == (self.fit == "crop"):
                scaled = (max(1, (2 * width * wanted_height + height) // (2 * height)), wanted_height)
            else:
                scaled = (wanted_width, max(1, (2 * height * wanted_width + width) // (2 * width)))
        if self.fit == "pad":
            at = central_start(wanted_width, scaled[0]), central_start(wanted_height, scaled[1])
            return Placement(scaled, (0, 0, *scaled), at)
        left, top = central_start(scaled[0], wanted_width), central_start(scaled[1], wanted_height)
        return Placement(scaled, (left, top, left + wanted_width, top + wanted_height), (0, 0))
