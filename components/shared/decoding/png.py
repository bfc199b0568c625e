"""Small PNGs of the common kinds are decoded without Pillow's reader, whose time per file is that of a small image."""

from __future__ import annotations

import struct
import zlib

from PIL import Image

_HEADER = struct.Struct(">8sI4sIIBBBBBI")
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHUNK = struct.Struct(">I4s")
_MODES = {0: "L", 2: "RGB", 4: "LA", 6: "RGBA"}  # of 8 bits
# In a larger one the reader's time counts for nothing, and memory does: these take less than a megabyte.
_MOST_BYTES, _MOST_PIXELS = 256 << 10, 1 << 16
# Chunks that change no pixel, with the lengths they may have, and the beginnings of texts that are only ever texts:
# Pillow takes some others for metadata, such as an orientation.
_HARMLESS = {b"gAMA": 4, b"sRGB": 1, b"pHYs": 9, b"cHRM": 32, b"tIME": 7}
_TEXTS = (b"Software\0", b"Comment\0", b"Title\0", b"date:create\0", b"date:modify\0", b"date:timestamp\0")


def simple_png(data: bytes) -> Image.Image | None:
    """A PNG of 8 bits a channel, not interlaced, without a palette, a transparent color and metadata that matter.

    Its pixels are those of Pillow's reader, by whose own decoder they are unfiltered.

    Returns:
        The decoded image; None for whatever else, damaged files included, which are for Pillow's reader to judge.
    """
    if not (data.startswith(_SIGNATURE) and _HEADER.size <= len(data) <= _MOST_BYTES):
        return None
    _, length, kind, width, height, depth, color, *methods, checksum = _HEADER.unpack_from(data)
    mode = _MODES.get(color)
    if (
        (length, kind, depth, methods) != (13, b"IHDR", 8, [0, 0, 0])
        or mode is None
        or not 0 < width * height <= _MOST_PIXELS
        or zlib.crc32(data[12:29]) != checksum
    ):
        return None
    parts: list[bytes] = []
    start, before = _HEADER.size, kind
    try:
        while before != b"IEND":
            length, kind = _CHUNK.unpack_from(data, start)
            start, end = start + 8, start + 8 + length
            content = data[start:end]
            (checksum,) = struct.unpack_from(">I", data, end)
            if kind == b"IDAT" and not (parts and before != kind):
                parts.append(content)  # Pillow does not look at its checksum
            elif kind != b"IEND" and not (
                (_HARMLESS.get(kind) == length or (kind == b"tEXt" and content.startswith(_TEXTS)))
                and zlib.crc32(content, zlib.crc32(kind)) == checksum
            ):
                return None
            start, before = end + 4, kind
        return Image.frombytes(mode, (width, height), b"".join(parts), "zip", mode)
    except (struct.error, ValueError):
        return None
