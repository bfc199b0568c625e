"""JPEGs are decoded at a smaller scale where what is made of them is small enough."""

from __future__ import annotations

from contextlib import suppress

from PIL import ExifTags
from PIL.JpegImagePlugin import JpegImageFile, get_sampling

from components.shared.decoding.damaged import DAMAGED
from components.shared.decoding.pixels import Source
from components.shared.decoding.rendering import Rendering

# At least so many times the size that it is scaled to. With 1, levels of photographs are off by 3 on average and a few
# by 27; with 2, by 0.4 to 1.1, 99 % by at most 6 and none by more than 14; with 4 hardly anything would be gained.
_MARGIN = 2
# Where colour is kept at half the width alone (4:2:2 and the like) libjpeg halves it again: with 2 some are off by 46.
_MARGIN_OF_UNEVEN = 4
_EVEN = (0, 2)  # 4:4:4 and 4:2:0
# The others take single pixels, or whole ones up to an edge: at half the scale they are off by 65.
_SMOOTH = ("bilinear", "bicubic", "lanczos")


def decode_no_larger(image: JpegImageFile, rendering: Rendering) -> Source:
    """Have an opened JPEG decoded at 1/2, 1/4 or 1/8 of its size, if that is well above what it is scaled to.

    libjpeg does so in its inverse transform, at a fraction of the time. Of photographs the pixels are those of full
    decoding within 1.2 levels on average, 6 for 99 % of them, and 16 for all; nearest and box always decode in full. Of
    colour that is to be grey only the luma is decoded: as converted from RGB, but for colours that RGB cannot hold,
    where full decoding clips first (0.1 levels on average, single pixels by up to 30).

    Returns:
        What the image is as a whole, brought upright by its EXIF orientation as
        :func:`PIL.ImageOps.exif_transpose` does.
    """
    orientation = 1
    with suppress(*DAMAGED):  # it is then read as it is stored
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    is_turned = orientation in (5, 6, 7, 8)
    (width, height), size, wanted = image.size, None, "L" if rendering.shape[2] == 1 else None
    if rendering.interpolation in _SMOOTH:
        scaled = rendering.placement(*((height, width) if is_turned else (width, height))).scaled
        across, down = scaled[::-1] if is_turned else scaled
        is_even = "L" in (image.mode, wanted) or get_sampling(image) in _EVEN
        margin = _MARGIN if is_even else _MARGIN_OF_UNEVEN
        size = margin * across, margin * down
    drafted = image.draft(wanted, size)
    divisor = round(width / drafted[1][2]) if drafted else 1
    # What the last column and row have more than the image ends up where its orientation turns them to.
    more_across, more_down = image.width - width / divisor, image.height - height / divisor
    left = {2: more_across, 3: more_across, 6: more_down, 7: more_down}.get(orientation, 0.0)
    top = {3: more_down, 4: more_down, 7: more_across, 8: more_across}.get(orientation, 0.0)
    return Source(*((height, width) if is_turned else (width, height)), divisor, left, top)
