"""What the pixels of a decoded image depend on besides its bytes and its rendering."""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from PIL import features

# To be raised with every change of ours by which some image gets other pixels, another size, kind, digest or note.
RULES = 2
_LOSSY = ("libjpeg_turbo", "jpg_2000", "libtiff", "webp", "avif")  # as Pillow calls them; what others inflate is exact


@cache
def decoder_version() -> str:
    """Versions of our rules and of the libraries that decode, such as ``rules 2, Pillow 12.0.0, webp 1.6.0``."""
    found = [f"rules {RULES}", f"Pillow {version('Pillow')}"]
    found += [f"{name} {known}" for name in _LOSSY if (known := features.version(name))]
    with suppress(PackageNotFoundError):  # an extra
        found.append(f"pillow-heif {version('pillow-heif')}")
    return ", ".join(found)
