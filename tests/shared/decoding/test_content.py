"""Encoded images from files, parts of files, archives' members and memory; what is not as long as it should be."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from components.shared.decoding import images
from components.shared.decoding.content import Content, FilePart, UnreadableImageError
from components.shared.decoding.images import DecodingMemory, render
from components.shared.decoding.rendering import Rendering
from components.shared.errors import DataError
from tests.shared.decoding.pictures import encoded, random_pixels

RENDERING = Rendering((6, 5, 3))
MB = 1_000_000


@pytest.fixture(params=["PNG", "JPEG", "TIFF", "WEBP", "JPEG2000", "GIF"])
def image(request: pytest.FixtureRequest) -> bytes:
    # Of noise, so that its file is larger than a reader's first piece.
    return encoded(random_pixels(150, 200, 3), request.param)


def _contents(folder: Path, image: bytes) -> dict[str, Content]:
    """The same bytes in every form."""
    (folder / "image").write_bytes(image)
    (folder / "tar").write_bytes(b"before" * 100 + image + b"behind")
    with zipfile.ZipFile(folder / "zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("image", image)
        (member,) = archive.infolist()
    start = (folder / "zip").read_bytes().index(b"image") + len("image")
    return {
        "bytes": image,
        "file": FilePart(str(folder / "image")),
        "part": FilePart(str(folder / "tar"), 600, len(image)),
        "deflated": FilePart(str(folder / "zip"), start, member.compress_size, member.file_size),
    }


@pytest.mark.parametrize("most", [images._IN_MEMORY, 100])
def test_the_same_bytes_give_the_same_wherever_they_are(tmp_path: Path, image: bytes, most: int) -> None:
    with mock.patch.object(images, "_IN_MEMORY", most):
        found = {name: render(content, RENDERING) for name, content in _contents(tmp_path, image).items()}
    expected = found.pop("bytes")
    assert expected.digest == hashlib.blake2b(image, digest_size=16).digest()
    for name, each in found.items():
        assert np.array_equal(each.pixels, expected.pixels), name
        assert each[1:] == expected[1:], name


@pytest.mark.parametrize("most", [images._IN_MEMORY, 100])
def test_what_is_damaged_or_not_as_long_as_it_should_be_is_set_aside(tmp_path: Path, most: int) -> None:
    image = encoded(random_pixels(150, 200, 3), "PNG")
    whole = _contents(tmp_path, image)
    part, deflated = whole["part"], whole["deflated"]
    assert isinstance(part, FilePart)
    assert isinstance(deflated, FilePart)
    (tmp_path / "cut").write_bytes(image[: len(image) // 2])
    (tmp_path / "empty").write_bytes(b"")
    size = len(image)
    left = size + len(b"behind")
    reasons = {
        FilePart(str(tmp_path / "cut")): "image file is truncated",
        FilePart(str(tmp_path / "empty")): "is empty",
        part._replace(length=50): "",
        part._replace(length=left + 1): f"is cut short: {left} of {left + 1} bytes are there",
        part._replace(offset=10**9): "is cut short: 0 of ",
        deflated._replace(inflated=size - 1): f"has more than the {size - 1} bytes that its archive gives it",
        deflated._replace(inflated=size + 1): f"is cut short: {size} of {size + 1} bytes are there",
        deflated._replace(offset=deflated.offset + 3): "cannot be inflated: ",
        deflated._replace(inflated=10**15): "needs 1,000,000,",
    }
    with mock.patch.object(images, "_IN_MEMORY", most):
        for content, reason in reasons.items():
            with pytest.raises(UnreadableImageError) as refused:
                render(content, RENDERING, DecodingMemory(100 * MB, 200 * MB))
            assert reason in str(refused.value), content
    assert refused.value.digest == b""


def test_a_file_that_is_not_handed_out_is_no_fault_of_the_image(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(DataError, match="cannot be read"):
            render(FilePart(str(path)), RENDERING)


def test_what_cannot_be_decoded_has_a_digest(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"nothing")
    for content in (b"nothing", FilePart(str(tmp_path / "x"))):
        with pytest.raises(UnreadableImageError) as refused:
            render(content, RENDERING)
        assert refused.value.digest == hashlib.blake2b(b"nothing", digest_size=16).digest()
