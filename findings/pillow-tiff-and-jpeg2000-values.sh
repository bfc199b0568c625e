#!/usr/bin/env bash
# TIFFs and JPEG 2000s of more than 8 bits that Pillow decodes without an error, and with other values than they have.
#
# Versions: Pillow 13.0.0 (OpenJPEG 2.5.4), tifffile 2026.3.3, imagecodecs 2026.3.6, numpy 2.4.6.
# Seen: 2026-11-28, Python 3.11.7, Linux x86-64.
#
# Guess, before the first run: RGB of 16 bits in planes is read as planes of 8 bits if it is not compressed.
# Big-endian numbers of 32 and 64 bits are wrong if they are compressed, since libtiff has swapped their bytes and
# Pillow swaps them again; uint16 is right. 16-bit WhiteIsZero is not inverted, as 8-bit is, and big-endian it is not
# opened. Of a JPEG 2000 of more than 8 bits white becomes 0 in RGB, RGBA and LA, alpha too: rounding takes it to 256,
# of which a byte keeps 0. Grey is right.
#
# What the guess missed:
# - Planes: not noise over the whole picture. A row holds the bytes of half a row, low and high in turn, and the lower
#   half of each plane is not looked at. tifffile writes such a file by default for RGB of shape (3, height, width).
# - Big-endian int16 is swapped twice as well: uint16 alone has an exception. Of 64 bits nothing is opened.
# - PIL.TiffImagePlugin.READ_LIBTIFF = True, which sends every file to libtiff, mends the planes and breaks the
#   big-endian values that are right without compression. No setting reads both.
# - JPEG 2000: grey of 9 bits in a .jp2 is read in 8 bits, and its 511 is 0; as a bare codestream it is I;16, and
#   right.
# - It takes no odd value: it is the brightest 1/512 of the range, as in an overexposed sky or a white background, and
#   what is opaque becomes fully transparent.
# Every file is read back by the library that wrote it, and is right there.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 143' INT TERM
cd "$work"

"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check \
    pillow==13.0.0 tifffile==2026.3.3 imagecodecs==2026.3.6 numpy==2.4.6

cat >program.py <<'PY'
import io

import imagecodecs
import numpy as np
import PIL
import tifffile
from PIL import Image, TiffImagePlugin, UnidentifiedImageError, features

differs = []


def see(what, seen, expected):
    print(f"{what}: {seen}")
    if seen != expected:
        differs.append(f"{what}: saw {seen!r}, and it was {expected!r}")


def tiff(values, byteorder="<", **options):
    stream = io.BytesIO()
    tifffile.imwrite(stream, values, byteorder=byteorder, metadata=None, **options)
    stream.seek(0)
    assert np.array_equal(tifffile.imread(stream), values), "tifffile does not read what it wrote"
    return stream


def read(stream):
    return np.asarray(Image.open(stream))


print(f"Pillow {PIL.__version__} (OpenJPEG {features.version('jpg_2000')}, libtiff {features.version('libtiff')})")
print(f"tifffile {tifffile.__version__}, imagecodecs {imagecodecs.__version__}, numpy {np.__version__}")

print("TIFF, RGB, 16 bits, planes; to be read as the high byte of each value")
planes = np.random.default_rng(0).integers(0, 65536, (3, 4, 6), dtype=np.uint16)
truth = np.moveaxis(planes >> 8, 0, -1)


def is_right(compression=None, **options):
    return bool(np.array_equal(read(tiff(planes, photometric="rgb", compression=compression, **options)), truth))


see("  zlib: right", is_right("zlib"), True)
see("  not compressed, tifffile's default: right", is_right(), False)
see("  not compressed, big-endian: right", is_right(byteorder=">"), False)
half = np.stack([plane.view(np.uint8).ravel()[: 4 * 6].reshape(4, 6) for plane in planes], axis=-1)
seen = bool(np.array_equal(read(tiff(planes, photometric="rgb")), half))
see("  not compressed: the bytes of the upper half, low and high in turn", seen, True)

print("TIFF, grey, big-endian: 1, 2, 3 are read as")
swapped = {kind: [int(v) for v in np.array([1, 2, 3], kind).byteswap()] for kind in ("int16", "int32")}
swapped["float32"] = [float(v) for v in np.array([1, 2, 3], "float32").byteswap()]
for kind in ("uint16", "int16", "int32", "float32"):
    values = np.array([[1, 2, 3]], kind)

    def shown(compression, values=values):
        stream = tiff(values, ">", photometric="minisblack", compression=compression)
        return read(stream).ravel().tolist()

    see(f"  {kind}, not compressed", shown(None), values.ravel().tolist())
    for compression in ("zlib", "lzw"):
        see(f"  {kind}, {compression}", shown(compression), swapped.get(kind, [1, 2, 3]))

print("with READ_LIBTIFF = True")
TiffImagePlugin.READ_LIBTIFF = True
see("  planes, not compressed: right", is_right(), True)
stream = tiff(np.array([[1, 2, 3]], np.int32), ">", photometric="minisblack")
see("  int32, big-endian, not compressed", read(stream).ravel().tolist(), swapped["int32"])
TiffImagePlugin.READ_LIBTIFF = False

print("TIFF, WhiteIsZero: white and black, 0 and the largest value, are read as")
for kind, expected in (("uint8", [255, 0]), ("uint16", [0, 65535])):
    values = np.array([[0, np.iinfo(kind).max]], kind)
    see(f"  {kind}", read(tiff(values, photometric="miniswhite")).ravel().tolist(), expected)
try:
    seen = read(tiff(values, ">", photometric="miniswhite")).ravel().tolist()
except UnidentifiedImageError as error:
    seen = type(error).__name__
see("  uint16, big-endian", seen, "UnidentifiedImageError")

print("JPEG 2000, lossless, every value of the range; a value is wrong if it is off by more than 2 of 255")


def wrong(bits, channels, codec="jp2"):
    """Mode, the range of values that are wrong, and what they became, in all channels alike."""
    ramp = np.arange(2**bits, dtype=np.uint8 if bits == 8 else np.uint16).reshape(16, -1)
    values = np.stack([ramp] * channels, axis=-1) if channels > 1 else ramp
    data = imagecodecs.jpeg2k_encode(
        values, level=0, reversible=True, mct=False, bitspersample=bits, codecformat=codec
    )
    assert np.array_equal(imagecodecs.jpeg2k_decode(data), values), "OpenJPEG does not read what it wrote"
    image = Image.open(io.BytesIO(data))
    full = 65535 if image.mode == "I;16" else 255
    off = np.abs(np.asarray(image) / full - values / (2**bits - 1)) * 255 > 2
    if channels > 1:
        assert (off == off[..., :1]).all(), "the channels differ"
    found = values[off]
    became = np.unique(np.asarray(image)[off]).tolist()
    return image.mode, [int(found.min()), int(found.max())] if found.size else [], became


for channels, mode in ((3, "RGB"), (4, "RGBA"), (2, "LA")):
    see(f"  8 bits, {mode}", wrong(8, channels), (mode, [], []))
    for bits in (9, 10, 12, 16):
        first = 2**bits - 2 ** (bits - 9)
        see(f"  {bits} bits, {mode}", wrong(bits, channels), (mode, [first, 2**bits - 1], [0]))
see("  16 bits, grey", wrong(16, 1), ("I;16", [], []))
see("  12 bits, grey", wrong(12, 1), ("I;16", [], []))
see("  9 bits, grey", wrong(9, 1), ("L", [511, 511], [0]))
see("  9 bits, grey, bare codestream", wrong(9, 1, "j2k"), ("I;16", [], []))

if differs:
    raise SystemExit("this has changed:\n" + "\n".join(differs))
print("as it was seen")
PY
timeout 120 venv/bin/python -W ignore program.py 2>errors.log || {
    tail -n 30 errors.log >&2
    exit 1
}
