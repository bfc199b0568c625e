"""Images inside a page."""

from __future__ import annotations

import base64
import io

from PIL import Image

from components.shared.artifacts.dataset import Images

# Up to this side nothing is lost: a page shows the pixels themselves.
SMALL_SIDE = 64
_SIDE = 128


def data_uri(image: Images, side: int = _SIDE) -> str:
    """An image, uint8 of shape (height, width, 1 or 3), inside an address: small ones as they are, others as JPEG."""
    picture, buffer = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image), io.BytesIO()
    if max(picture.size) <= SMALL_SIDE:
        picture.save(buffer, "PNG", optimize=True)
        kind = "png"
    else:
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
        picture.save(buffer, "JPEG", quality=80, optimize=True)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
