#!/usr/bin/env bash
# How many fresh pages the kernel must clear for each image that Pillow decodes, and what the settings for it do.
#
# Versions: Pillow 13.0.0, numpy 2.4.6; glibc 2.36.
# Seen: 2026-11-29, Python 3.11.7, 3.12.1 and 3.13.0, Linux 6.18, x86-64. It takes seconds.
#
# Guess, before the first run: from the second image on, glibc takes its blocks from the heap, as its threshold for
# mmap has grown with the first; what is freed at the top goes back to the kernel, so an image costs about as many page
# faults as its pixels have pages, the more the larger it is. PILLOW_BLOCKS_MAX, which Pillow's documentation has for
# this, or a larger MALLOC_TRIM_THRESHOLD_ brings them to none.
#
# What the guess missed:
# - By default it is about a hundred at some sizes (200 and 256 pixels a side, to 224) and none at others, also larger
#   ones (512 and more): it depends on what the last block at the top happens to be.
# - MALLOC_TRIM_THRESHOLD_ alone makes it worse everywhere: each of glibc's four malloc settings, once set, also ends
#   the growth of the threshold for mmap, so that every block of 128 KiB is mapped anew: 1,025 faults to load a picture
#   of 1024 x 1024, where there were none. With MALLOC_MMAP_THRESHOLD_=33554432 beside it there are none at any size.
# - PILLOW_BLOCKS_MAX=64 brings them to none at 256 and from none to hundreds at 512 and 1024: a block that it keeps is
#   brought to the size of the next image by realloc, and back.
# A loop of open, resize and tobytes on JPEGs of 256 x 256 took 0.9 ms an image without the faults and 1.1 ms with them.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 143' INT TERM
cd "$work"

"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check pillow==13.0.0 numpy==2.4.6

cat >count.py <<'PY'
import io
import resource
import sys

import numpy as np
from PIL import Image

WAYS = {
    "load": lambda image: image.load(),
    "resize": lambda image: image.resize((224, 224)),
    "asarray": lambda image: np.asarray(image.resize((224, 224))),
}


def picture(side, number):
    small = np.random.default_rng(number).integers(0, 256, (max(4, side // 16),) * 2 + (3,), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


side = int(sys.argv[1])
pictures = [picture(side, number) for number in range(12)]
for name, way in WAYS.items():
    for data in pictures:
        way(Image.open(io.BytesIO(data)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        for data in pictures:
            way(Image.open(io.BytesIO(data)))
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    print(name, round(faults / (5 * len(pictures))))
PY

cat >program.py <<'PY'
import os
import subprocess
import sys

import numpy
import PIL

KNOBS = ("PILLOW_BLOCKS_MAX", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
TRIM, MAP = {"MALLOC_TRIM_THRESHOLD_": "67108864"}, {"MALLOC_MMAP_THRESHOLD_": "33554432"}
SETTINGS = {"default": {}, "blocks": {"PILLOW_BLOCKS_MAX": "64"}, "trim": TRIM, "trim and mmap": TRIM | MAP}
plain = {name: value for name, value in os.environ.items() if name not in KNOBS}

print(f"Pillow {PIL.__version__}, numpy {numpy.__version__}, {os.confstr('CS_GNU_LIBC_VERSION')}, {sys.version}")
seen = {}
for setting, added in SETTINGS.items():
    for side in (200, 256, 512, 1024):
        command = [sys.executable, "count.py", str(side)]
        run = subprocess.run(command, env=plain | added, capture_output=True, text=True, check=True)
        faults = {line.split()[0]: int(line.split()[1]) for line in run.stdout.splitlines()}
        print(f"{setting}, {side} pixels: page faults an image", faults)
        seen[setting, side] = faults

expected = {
    "by default dozens at 200 or 256": max(seen["default", s][way] for s in (200, 256) for way in ("resize", "asarray")) > 40,
    "and none at 1024": max(seen["default", 1024].values()) < 5,
    "the trim threshold alone: every page at 1024": min(seen["trim", 1024].values()) > 1000,
    "with the mmap threshold: none": max(max(faults.values()) for key, faults in seen.items() if key[0] == "trim and mmap") < 5,
    "Pillow's blocks: none at 256": max(seen["blocks", 256].values()) < 5,
    "and hundreds at 1024": seen["blocks", 1024]["resize"] > 500,
}
if changed := [what for what, holds in expected.items() if not holds]:
    raise SystemExit("this has changed:\n" + "\n".join(changed))
print("as it was seen")
PY
timeout 300 venv/bin/python program.py
