from __future__ import annotations

import hashlib

import numpy as np
import pytest

from components.data_prep.engine.pixel_digests import pixel_digests
from components.shared.decoding.pixels import Images

PRIME = 2**32 - 5


def exactly(image: Images) -> bytes:
    """The digest of an image, in Python's whole numbers."""
    values, name = image.ravel().tolist(), f"pixel digest {image.shape}".encode()
    if len(values) > 2**13:
        return hashlib.blake2b(image.tobytes(), digest_size=16).digest()
    drawn = np.frombuffer(hashlib.shake_128(name).digest(16 * (1 + len(values))), "<u4").reshape(-1, 4).tolist()
    sums = [sum(value * row[at] for value, row in zip([1, *values], drawn, strict=True)) % PRIME for at in range(4)]
    return b"".join(each.to_bytes(4, "little") for each in sums)


@pytest.mark.parametrize("shape", [(1, 1, 1), (28, 28, 1), (32, 32, 3), (64, 128, 1), (91, 30, 3), (64, 43, 3)])
def test_raw_images_are_known_by_exact_sums_however_many_are_looked_at_once(shape: tuple[int, int, int]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (150, *shape), dtype=np.uint8)
    images[0], images[1] = 255, 0
    digests = pixel_digests(images)

    assert [each.tobytes() for each in digests[:4]] == [exactly(image) for image in images[:4]]
    assert digests[-1:].tobytes() == pixel_digests(images[-1:]).tobytes()
    assert len(np.unique(digests, axis=0)) == len(np.unique(images, axis=0))


def test_images_that_differ_in_one_value_or_in_shape_alone_have_other_digests() -> None:
    image = np.random.default_rng(0).integers(0, 255, (1, 14, 56, 1), dtype=np.uint8)
    changed = np.repeat(image, 784, axis=0)
    changed.reshape(784, 784)[np.diag_indices(784)] += 1
    every = [pixel_digests(each) for each in (image, image.reshape(1, 28, 28, 1), changed)]

    assert len(np.unique(np.concatenate(every), axis=0)) == 786
