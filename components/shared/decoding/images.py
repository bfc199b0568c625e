"""Image files become uint8 arrays of the wanted shape."""

from __future__ import annotations

import io
import os
import re
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO, NamedTuple

from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError, features
from PIL.JpegImagePlugin import JpegImageFile

from components.shared.decoding import tiff
from components.shared.decoding.content import (
    Content,
    FilePart,
    UnreadableImageError,
    digest_of,
    digest_of_stream,
    read_content,
)
from components.shared.decoding.damaged import DAMAGED
from components.shared.decoding.jpeg import decode_no_larger
from components.shared.decoding.pixels import USUAL, Images, Meaning, Note, Source, fitted
from components.shared.decoding.png import simple_png
from components.shared.decoding.rendering import Rendering
from components.shared.errors import DataError
from components.shared.limits import free_memory, give_back_memory
from components.shared.text import shortened, shown

# Pillow knows some forty formats by content. These are the ones pictures come in; the others are left out because a
# damaged file must not be taken for an obscure format, and because EPS is drawn by an external program.
FORMATS = (
    *("JPEG", "PNG"),  # the most frequent ones first, as they are tried in turn
    *("AVIF", "BMP", "DDS", "DIB", "GIF", "HEIF", "ICO", "JPEG2000", "PCX", "PPM", "QOI", "SGI", "TGA", "TIFF", "WEBP"),
)
_JPEG = b"\xff\xd8\xff"
# Pillow is built with or without the libraries of these.
_LIBRARIES = {"AVIF": "avif", "JPEG2000": "jpg_2000", "WEBP": "webp"}
NEEDS_HEIC = "is HEIC, which is read after pip install 'shutterline[heic]'; or convert it to JPEG"
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")

# Where Pillow begins to warn of a decompression bomb: 9,459 × 9,459 pixels, 268 MB as RGB.
MAX_PIXELS = 1024**3 // 4 // 3
# What JPEG can hold, and what params allow an image to be resized to.
MAX_SIDE = 2**16 - 1

# Bytes that a pixel takes at the peak of decoding, turning, compositing and converting it: at most 13 measured, 16 for
# wide values, 25 for what is read whole and decoded by a library with buffers of its own (Pillow 13, pillow-heif 1.8).
_BYTES_PER_PIXEL, _OF_WIDE_VALUES, _OF_WHOLE_FILES = 14, 18, 28
_READ_WHOLE = ("AVIF", "HEIF", "JPEG2000", "WEBP")

# Those whose further frames are pictures like the first; MPO's are a second view.
_ANIMATED = ("AVIF", "GIF", "HEIF", "PNG", "TIFF", "WEBP")

# Each thread's part of glibc's heap keeps what it has freed: 16 threads that decoded images of 0.4 GB in turn held
# 5.8 GB. So after an image that took more than this, it is given back.
_GIVEN_BACK = 32 << 20
# Larger files are read as they are decoded, and larger parts of files alone.
_IN_MEMORY = 16 << 20
_NO_MEMORY = "needs more memory to be decoded than is free; give the step more memory"


@cache
def image_extensions() -> frozenset[str]:
    """File name endings of the formats that can be read here, in lower case with their dot."""
    known = {"MPO", *_formats()}  # MPO is JPEG with more behind it, and read as such
    return frozenset(ending for ending, name in Image.registered_extensions().items() if name in known)


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    with suppress(ImportError):  # an extra
        from pillow_heif import register_heif_opener

        # Images are decoded side by side already.
        register_heif_opener(decode_threads=1)
    return tuple(
        name for name in FORMATS if name in Image.OPEN and (name not in _LIBRARIES or features.check(_LIBRARIES[name]))
    )


class MemoryShareError(ValueError):
    """An image takes more memory than one may take."""


class DecodingMemory:
    """A number of bytes that threads share while they decode.

    Args:
        total: What all may take together; one that needs more waits until it is alone.
        limit: What one may take at most.
    """

    def __init__(self, total: int, limit: int) -> None:
        self.total, self.limit, self.peak = total, limit, 0  # peak: the most that was taken at once
        self._taken = 0
        self._changed = threading.Condition()

    @classmethod
    def of_half_the_free(cls) -> DecodingMemory:
        """Half of the memory that is free to this process; the dataset's arrays need some of the rest."""
        free = free_memory()
        return cls(free // 2, free)

    @contextmanager
    def reserve(self, count: int) -> Iterator[None]:
        """Wait until so many bytes are free, and hold them; MemoryShareError: they are more than one may take."""
        if count > self.limit:
            raise MemoryShareError(
                f"needs {count / 1e6:,.0f} MB of memory to be decoded, and {self.limit / 1e6:,.0f} MB are free; make "
                "it smaller, or give the step more memory"
            )
        with self._changed:
            self._changed.wait_for(lambda: not self._taken or self._taken + count <= self.total)
            self._taken += count
            self.peak = max(self.peak, self._taken)
        try:
            yield
        finally:
            if count > _GIVEN_BACK:
                give_back_memory()
            with self._changed:
                self._taken -= count
                self._changed.notify_all()


class Rendered(NamedTuple):
    """A decoded image, and what it was."""

    pixels: Images  # uint8 of the rendering's shape
    width: int  # of the upright image before it was resized
    height: int
    kind: str  # format and mode before conversion, such as "PNG RGBA"
    digest: bytes  # of the encoded bytes


def render(
    content: Content,
    rendering: Rendering,
    memory: DecodingMemory | None = None,
    notes: list[Note] | None = None,
) -> Rendered:
    """Decode an image: its first frame, brought upright, in 1 or 3 channels, at the rendering's size.

    Args:
        content: Any of the formats in ``FORMATS``, whatever its name.
        rendering: What is made of it.
        memory: What it shares with images that are decoded at the same time.
        notes: Gets what is done with it that is worth reporting.

    Raises:
        UnreadableImageError: The content is not an image that can be decoded, or would be decoded wrongly.
        DataError: The operating system does not hand the file out.
    """
    memory = memory or DecodingMemory.of_half_the_free()
    if isinstance(content, bytes):
        return _from_memory(content, rendering, memory, notes)
    read = read_content(content, _IN_MEMORY)
    if isinstance(read, bytes):
        return _from_memory(read, rendering, memory, notes)
    if content.is_whole:
        with _of_operating_system(content):
            with Path(content.path).open("rb") as stream:
                digest = digest_of_stream(stream)
            return _rendered(lambda: Path(content.path).open("rb"), 0, digest, rendering, memory, notes)
    try:
        with memory.reserve(max(read, memory.total)):  # alone: how much its pixels take is not known before it is read
            data = read_content(content, read)
            assert isinstance(data, bytes)  # noqa: S101 - of a part, whose number of bytes is given
            left = memory.limit - read
            return _from_memory(data, rendering, DecodingMemory(left, left), notes)
    except (MemoryError, ValueError) as error:
        raise UnreadableImageError(str(error) or _NO_MEMORY) from error


def _from_memory(data: bytes, rendering: Rendering, memory: DecodingMemory, notes: list[Note] | None) -> Rendered:
    digest = digest_of(data)
    if (image := simple_png(data)) is not None:
        (width, height), kind = image.size, f"PNG {image.mode}"
        return Rendered(fitted(image, rendering, notes=notes), width, height, kind, digest)
    return _rendered(lambda: io.BytesIO(data), len(data), digest, rendering, memory, notes)


@contextmanager
def _of_operating_system(part: FilePart) -> Iterator[None]:
    """Only errors with an errno come from the operating system: those are no property of the image."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{shown(part.path)}: cannot be read: {error.strerror}") from error


def _rendered(
    opened: Callable[[], IO[bytes]],
    held: int,
    digest: bytes,
    rendering: Rendering,
    memory: DecodingMemory,
    notes: list[Note] | None,
) -> Rendered:
    """What a stream holds, of which `held` bytes are in memory."""
    for at_least in (0, memory.total):
        found: list[Note] = []
        try:
            with opened() as stream:
                rendered = _decoded(stream, held, digest, rendering, memory, found, at_least)
        except MemoryError:  # others were being decoded: once more, with none of them
            continue
        except Exception as error:
            if isinstance(error, OSError) and error.errno is not None and not held:
                raise  # by the operating system
            unreadable = error if isinstance(error, UnreadableImageError) else UnreadableImageError(_reason(error))
            unreadable.digest = digest
            raise unreadable from error.__cause__ or error
        if notes is not None:
            notes += found
        return rendered
    raise UnreadableImageError(_NO_MEMORY) from MemoryError()


def _reason(error: Exception) -> str:
    """Why an image cannot be decoded; damaged files make Pillow's decoders raise nearly anything."""
    if isinstance(error, Image.DecompressionBombError):
        return f"has more than {MAX_PIXELS} pixels; it is taken for a decompression bomb"
    text = re.sub(r"0x[0-9a-fA-F]{6,}", "…", " ".join(str(error).split()))  # the same in every run
    if text.startswith("decoder error"):  # libtiff's number of it says nothing
        text = "cannot be decoded: it is damaged, or its compression is not supported here"
    return shortened(text or type(error).__name__, 200)


def _decoded(
    stream: IO[bytes],
    held: int,
    digest: bytes,
    rendering: Rendering,
    memory: DecodingMemory,
    notes: list[Note],
    at_least: int,
) -> Rendered:
    with _opened(stream) as image:
        kind = f"{image.format} {image.mode}"
        meaning = _meaning(image, stream)
        with suppress(*DAMAGED):  # a damaged second frame is not read
            if image.format in _ANIMATED and getattr(image, "is_animated", False):
                notes.append("more frames")
        full_size, source = image.size, None
        if isinstance(image, JpegImageFile):
            source = decode_no_larger(image, rendering)
        needed = held + _needed_bytes(image, full_size, rendering.shape, stream)
        with memory.reserve(max(needed, at_least)), closing(image):
            image.load()
            with suppress(*DAMAGED):  # such an image is read as it is stored
                ImageOps.exif_transpose(image, in_place=True)
            source = source or Source(*image.size)
            return Rendered(fitted(image, rendering, meaning, notes, source), *source[:2], kind, digest)


def _opened(stream: IO[bytes]) -> Image.Image:
    """An image of a size that is read, its header read."""
    if not (head := stream.read(12)):
        raise UnreadableImageError("is empty")
    stream.seek(0)
    try:
        image = _of_jpeg(stream, head) or Image.open(stream, formats=_formats())
    except UnidentifiedImageError:
        if kind := tiff.kind_of(stream):
            reason = f"is a TIFF of a kind that cannot be read ({kind}); {tiff.ADVICE}"
        elif "HEIF" not in _formats() and head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS:
            reason = NEEDS_HEIC
        else:
            reason = "is not an image in a known format"
        raise UnreadableImageError(reason) from None
    if (pixels := image.width * image.height) > MAX_PIXELS:
        raise UnreadableImageError(f"has {pixels} pixels, more than {MAX_PIXELS}; it is taken for a decompression bomb")
    if max(image.size) > MAX_SIDE:
        raise UnreadableImageError(f"is {image.width}×{image.height} pixels, and a side may have {MAX_SIDE}")
    return image


def _of_jpeg(stream: IO[bytes], head: bytes) -> Image.Image | None:
    """A JPEG, opened before all of Pillow's formats are imported, which takes longer than 100 images."""
    if head.startswith(_JPEG):
        with suppress(UnidentifiedImageError):
            return Image.open(stream, formats=FORMATS[:1])
    return None


def _needed_bytes(
    image: Image.Image, full_size: tuple[int, int], shape: tuple[int, int, int], stream: IO[bytes]
) -> int:
    """An upper bound of what an image takes until it has its shape."""
    pixels = image.width * image.height
    # Resizing goes through an image of the new width and the old height.
    needed = (image.height + shape[0]) * shape[1] * 4
    if image.size != full_size:  # of a JPEG in several passes, 16 bits of each of at most 4 channels are kept
        needed += full_size[0] * full_size[1] * 8
    if image.format in _READ_WHOLE:
        return pixels * _OF_WHOLE_FILES + needed + stream.seek(0, os.SEEK_END)
    return pixels * (_OF_WIDE_VALUES if image.mode.startswith(("I", "F")) else _BYTES_PER_PIXEL) + needed


def _meaning(image: Image.Image, stream: IO[bytes]) -> Meaning:
    if isinstance(image, JpegImageFile):
        if image.mode == "CMYK" and "adobe" not in image.info:
            raise ValueError("is a JPEG in CMYK that does not say whether 0 is ink or none; save it as RGB")
        return USUAL
    position = stream.tell()
    stream.seek(0)
    head = stream.read(26)
    try:
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            return tiff.meaning_of(image, MAX_PIXELS)
        match image.format:
            case "PNG" if "transparency" in image.info:
                depth, mode = head[24], image.mode
                if depth == 16 and mode == "RGB":
                    raise ValueError(
                        "is a PNG of 16 bits with one transparent color, which in 8 bits is as its neighbours are; "
                        "save it with an alpha channel"
                    )
                if depth < 8 and mode == "L":  # Pillow has scaled the pixels, and not this
                    image.info["transparency"] = image.info["transparency"] * 255 // (2**depth - 1)
            case "JPEG2000" if image.mode != "I;16" and (bits := _bits_of_jpeg2000(stream)) > 8:
                raise ValueError(
                    f"is a JPEG 2000 of {bits} bits per color, whose brightest values the decoder makes black; save it "
                    "with 8 bits"
                )
            case "TGA" if not head[17] & 15:
                return Meaning(has_alpha=False)  # its fourth channel, or bit, has no meaning
        return USUAL
    finally:
        stream.seek(position)


def _bits_of_jpeg2000(stream: IO[bytes]) -> int:
    """The largest bit depth of the components of a JPEG 2000 codestream (ISO/IEC 15444-1, A.5.1)."""
    stream.seek(0)
    data = stream.read()  # as its decoder will
    start = data.find(b"\xff\x4f\xff\x51")
    (components,) = struct.unpack(">H", data[start + 40 : start + 42])
    return max((data[start + 42 + 3 * index] & 0x7F) + 1 for index in range(components))
