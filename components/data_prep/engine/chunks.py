"""A few encoded images become rows of pixels and facts: what a worker process does, and the main process where few.

Nothing here knows of splits and datasets; a chunk says which bytes become which row of which open file.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from PIL import Image

from components.data_prep.engine.equal_values import Indices
from components.data_prep.engine.perceptual import perceptual_hashes
from components.data_prep.engine.pixel_digests import pixel_digests
from components.shared.decoding.content import DIGEST_BYTES, Content, UnreadableImageError
from components.shared.decoding.images import DecodingMemory, MemoryShareError, render
from components.shared.decoding.pixels import Images, Note, fitted
from components.shared.decoding.rendering import Rendering
from components.shared.files import write_at
from components.shared.pixel_sums import Sums, sums_of

Mask = npt.NDArray[np.bool_]


@dataclass(slots=True)
class Chunk:
    """Encoded images, and where the row of each goes."""

    contents: list[Content]
    files: Indices  # number of the file of each row, among those that are handed over with the chunk
    offsets: Indices  # in bytes, of each row in its file
    counted: Mask  # whether it is part of the sums: a training image


@dataclass(slots=True)
class Rows:
    """Facts of the n images of a chunk or a block, of which the rows are written."""

    sizes: npt.NDArray[np.int32]  # of shape (n, 2): width and height
    digests: npt.NDArray[np.uint8]  # of shape (n, 16)
    kinds: list[str]  # of each image; empty: not decoded
    hashes: npt.NDArray[np.uint64]  # of shape (n,)
    constant: npt.NDArray[np.bool_]  # of shape (n,)
    sums: Sums  # of those that are counted
    notes: dict[int, list[Note]] = field(default_factory=dict)  # by index
    reasons: dict[int, str] = field(default_factory=dict)  # by index: why it is unreadable
    too_large: list[int] = field(default_factory=list)  # those of them that were refused for want of memory


def decode_chunk(chunk: Chunk, descriptors: Sequence[int], rendering: Rendering, memory: DecodingMemory) -> Rows:
    """Decode the images of a chunk, write their rows and report what they are.

    DataError: the operating system does not hand a file out. OSError: a row cannot be written.
    """
    count = len(chunk.contents)
    images = np.empty((count, *rendering.shape), dtype=np.uint8)
    sizes, digests = np.zeros((count, 2), np.int32), np.zeros((count, DIGEST_BYTES), np.uint8)
    kinds = [""] * count
    notes: dict[int, list[Note]] = {}
    reasons: dict[int, str] = {}
    too_large: list[int] = []
    for index, content in enumerate(chunk.contents):
        found: list[Note] = []
        try:
            rendered = render(content, rendering, memory, found)
        except UnreadableImageError as error:
            reasons[index] = str(error)
            if error.digest:
                digests[index] = np.frombuffer(error.digest, np.uint8)
            if isinstance(error.__cause__, MemoryError | MemoryShareError):
                too_large.append(index)
            images[index] = 0
            continue
        images[index], sizes[index] = rendered.pixels, (rendered.width, rendered.height)
        digests[index] = np.frombuffer(rendered.digest, np.uint8)
        kinds[index] = rendered.kind
        if found:
            notes[index] = found
    readable = np.array([bool(kind) for kind in kinds])
    write_rows(images, chunk.files, chunk.offsets, readable, descriptors)
    rows = described(images, sizes, digests, kinds, readable & chunk.counted)
    rows.notes, rows.reasons, rows.too_large = notes, reasons, too_large
    return rows


def described(
    images: Images,
    sizes: npt.NDArray[np.int32],
    digests: npt.NDArray[np.uint8],
    kinds: list[str],
    counted: Mask,
) -> Rows:
    """With the facts that follow from the stored pixels."""
    hashes = perceptual_hashes(images)
    constant = hashes == 0  # which those of one colour have, and a few others
    constant[constant] = are_constant(images[constant])
    return Rows(
        sizes=sizes,
        digests=digests,
        kinds=kinds,
        hashes=hashes,
        constant=constant,
        sums=sums_of(images if counted.all() else images[counted]),
    )


def are_constant(images: Images) -> Mask:
    """Whether all pixels of each image are equal."""
    flat = images.reshape(len(images), math.prod(images.shape[1:3]), images.shape[3])
    constant: Mask = (flat == flat[:, :1]).all(axis=(1, 2))
    return constant


def raw_rows(images: Images, kind: str, rendering: Rendering, counted: npt.NDArray[np.bool_]) -> tuple[Images, Rows]:
    """The rows of raw pixels, uint8 of shape (n, height, width, channels), and what they are."""
    count, height, width, channels = images.shape
    digests = pixel_digests(images)
    if images.shape[1:] != rendering.shape:
        pillow = (Image.fromarray(image[..., 0] if channels == 1 else image) for image in images)
        images = np.stack([fitted(image, rendering) for image in pillow])
    sizes = np.full((count, 2), (width, height), dtype=np.int32)
    return images, described(images, sizes, digests, [kind] * count, counted)


def write_rows(
    images: Images,
    files: Indices,
    offsets: Indices,
    chosen: Mask,
    descriptors: Sequence[int],
) -> None:
    """Write the chosen images at their offsets of files; those that follow each other in a file at once."""
    if not len(images):
        return
    follows = (np.diff(offsets) == images[0].nbytes) & (np.diff(files) == 0) & chosen[1:] & chosen[:-1]
    starts = [0, *(np.flatnonzero(~follows) + 1).tolist(), len(images)]
    for start, stop in itertools.pairwise(starts):
        if chosen[start]:
            write_at(descriptors[files[start]], images[start:stop], int(offsets[start]))
