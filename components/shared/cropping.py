"""The middle of a stored image: what of it a model is evaluated on, and predicts from, in every step alike."""

from __future__ import annotations

from typing import Any, TypeVar

# An array of NumPy, or a tensor.
ImagesT = TypeVar("ImagesT", bound=Any)


def central_start(stored: int, taken: int) -> int:
    """Where the middle `taken` pixels of `stored` begin; of an odd rest as torchvision's CenterCrop has it."""
    return round((stored - taken) / 2)  # half to even: 1 pixel too many is cut at the end, 3 are cut 2 and 1


def central_crop(images: ImagesT, shape: tuple[int, int, int]) -> ImagesT:
    """The middle of images, without a copy.

    Args:
        images: An array or tensor of shape (…, height, width, channels), at least as large as what is taken.
        shape: Height, width and channels of what is taken of each.

    Returns:
        A view of shape (…, *shape); the images themselves where they have that shape already.
    """
    (stored_height, stored_width), (height, width) = images.shape[-3:-1], shape[:2]
    if (stored_height, stored_width) == (height, width):
        return images
    top, left = central_start(stored_height, height), central_start(stored_width, width)
    view: ImagesT = images[..., top : top + height, left : left + width, :]
    return view


def can_hold(stored: tuple[int, int, int], taken: tuple[int, int, int]) -> bool:
    """Whether images of one shape (height, width, channels) can be cropped to the other."""
    return stored[0] >= taken[0] and stored[1] >= taken[1] and stored[2] == taken[2]
