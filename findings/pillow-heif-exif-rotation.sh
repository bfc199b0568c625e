#!/usr/bin/env bash
# What becomes of an image's EXIF orientation in HEIC, by the type in which EXIF is handed to pillow-heif.
#
# Versions: Pillow 13.0.0, pillow-heif 1.8.1 (libheif 1.23.6), numpy 2.4.6.
# Seen: 2026-11-28, Python 3.11.7, Linux x86-64.
#
# Guess, before the first run: save(exif=...) with an Image.Exif object, which had been seen to write no rotation,
# leaves the orientation in the file's EXIF alone; on opening, pillow-heif sets it to 1 and turns nothing, so the turn
# is lost. With bytes, with no exif= at all, and in Pillow's own formats it is kept. A file that has a rotation and
# the orientation is turned once.
#
# What the guess missed:
# - The value is not quite lost: info["original_orientation"] has it. But it is 6 as well where the pixels have been
#   turned, so only irot in the file tells the two apart. Saved once more, the file has lost it altogether.
# - It is the usual way to save that does it, image.save(path, exif=image.getexif()): the picture of a camera that was
#   held upright becomes a HEIC that lies on its side. pillow_heif.encode and HeifFile.save are alike.
# - Without Pillow, numpy.asarray(pillow_heif.open_heif(path)) is turned, and its info["exif"] still says 6: to heed
#   both is to turn twice.
# - Pillow's own AVIF writer does turn by an object, and takes Orientation out of it. Of an image saved as AVIF and
#   then as JPEG with the same getexif() the JPEG has no orientation. JPEG, PNG, WebP, TIFF and HEIF leave the object
#   alone.
# Opening is in order: in HEIF a rotation (irot, imir) counts, and EXIF informs.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 143' INT TERM
cd "$work"

"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check pillow==13.0.0 pillow-heif==1.8.1 numpy==2.4.6

cat >program.py <<'PY'
import io

import numpy as np
import PIL
import pillow_heif
from PIL import Image, ImageOps

ORIENTATION = 0x0112
differs = []


def see(what, seen, expected):
    print(f"{what}: {seen}")
    if seen != expected:
        differs.append(f"{what}: saw {seen!r}, and it was {expected!r}")


def exif(orientation=6):
    made = Image.Exif()
    made[ORIENTATION] = orientation
    return made


def saved(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream


def white(image):
    """The corner in which the white quarter is."""
    grey = np.asarray(image.convert("L")).astype(int)
    height, width = (side // 2 for side in grey.shape)
    corners = {
        "top left": grey[:height, :width],
        "top right": grey[:height, width:],
        "bottom left": grey[height:, :width],
        "bottom right": grey[height:, width:],
    }
    return max(corners, key=lambda name: corners[name].mean())


def upright(stream):
    """Where white is for who opens the file and turns it by its EXIF."""
    return white(ImageOps.exif_transpose(Image.open(stream)))


pillow_heif.register_heif_opener()
print(f"Pillow {PIL.__version__}, pillow-heif {pillow_heif.__version__} (libheif {pillow_heif.libheif_version()})")
print("white is top left; turned by orientation 6 it is top right")
values = np.zeros((48, 64, 3), np.uint8)
values[:24, :32] = 255
picture = Image.fromarray(values)

for kind in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF"):
    seen = [upright(saved(picture, kind, exif=each)) for each in (exif(), exif().tobytes())]
    see(f"{kind}, exif as an object and as bytes: opened, exif_transpose", seen, ["top right", "top right"])

for name, made in (("an object", exif()), ("bytes", exif().tobytes())):
    turned = name == "bytes"
    stream = saved(picture, "HEIF", exif=made)
    image = Image.open(stream)
    see(f"HEIC, exif as {name}: has irot", b"irot" in stream.getvalue(), turned)
    see("  opened: white is", white(image), "top right" if turned else "top left")
    see("  opened: Orientation", image.getexif().get(ORIENTATION), 1)
    see("  opened: original_orientation", image.info["original_orientation"], 6)
    see("  opened, exif_transpose: white is", upright(stream), "top right" if turned else "top left")
    inside = Image.Exif()
    inside.load(pillow_heif.open_heif(stream).info["exif"])
    see("  Orientation in the file", inside.get(ORIENTATION), 6)
    again = Image.open(saved(Image.open(stream), "HEIF"))
    seen = white(again), again.info["original_orientation"]
    see("  saved again: white is, original_orientation", seen, ("top right" if turned else "top left", None))

print("all orientations, HEIC: the same picture as JPEG, by exif_transpose")
for name, convert, expected in (("an object", lambda e: e, [1]), ("bytes", lambda e: e.tobytes(), list(range(1, 9)))):
    right = []
    for number in range(1, 9):
        heic, jpeg = (Image.open(saved(picture, kind, exif=convert(exif(number)))) for kind in ("HEIF", "JPEG"))
        heic, jpeg = ImageOps.exif_transpose(heic), ImageOps.exif_transpose(jpeg)
        if heic.size == jpeg.size and np.abs(np.asarray(heic).astype(int) - np.asarray(jpeg)).mean() < 8:
            right.append(number)
    see(f"  exif as {name}", right, expected)

print("a JPEG of a camera to HEIC: white is")


def camera():
    return Image.open(saved(picture, "JPEG", exif=exif()))


see("  save(path)", upright(saved(camera(), "HEIF")), "top right")
see("  save(path, exif=image.info['exif'])", upright(saved(camera(), "HEIF", exif=camera().info["exif"])), "top right")
see("  save(path, exif=image.getexif())", upright(saved(camera(), "HEIF", exif=camera().getexif())), "top left")
stream = io.BytesIO()
pillow_heif.encode("RGB", picture.size, picture.tobytes(), stream, exif=exif())
see("  pillow_heif.encode, exif as an object", upright(stream), "top left")
stream = io.BytesIO()
pillow_heif.from_pillow(picture).save(stream, exif=exif())
see("  HeifFile.save, exif as an object", upright(stream), "top left")

print("pillow-heif alone, EXIF as bytes")
opened = pillow_heif.open_heif(saved(picture, "HEIF", exif=exif().tobytes()))
inside = Image.Exif()
inside.load(opened.info["exif"])
seen = white(Image.fromarray(np.asarray(opened))), inside.get(ORIENTATION)
see("  open_heif: white is, Orientation", seen, ("top right", 6))

print("the object after it was saved with: Orientation")
for kind in ("JPEG", "PNG", "WEBP", "TIFF", "HEIF", "AVIF"):
    made = exif()
    saved(picture, kind, exif=made)
    see(f"  {kind}", made.get(ORIENTATION), None if kind == "AVIF" else 6)
image = camera()
saved(image, "AVIF", exif=image.getexif())
seen = upright(saved(image, "JPEG", exif=image.getexif()))
see("  a JPEG of a camera to AVIF, then to JPEG: white is", seen, "top left")

if differs:
    raise SystemExit("this has changed:\n" + "\n".join(differs))
print("as it was seen")
PY
timeout 120 venv/bin/python -W ignore program.py 2>errors.log || {
    tail -n 30 errors.log >&2
    exit 1
}
