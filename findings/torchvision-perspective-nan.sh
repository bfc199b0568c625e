#!/usr/bin/env bash
# RandomPerspective of finite float images gives NaN, as often as size and distortion_scale have it.
#
# Versions: torchvision 0.29.2, torch 2.15.0, numpy 2.4.6, Pillow 13.0.0; on the CPU.
# Seen: 2026-11-28, Python 3.11.7, Linux x86-64. torch takes 6 GB while this runs.
#
# Guess, before the first run: a pixel of the result whose center lies on the horizon of the perspective is divided by
# 0, and grid_sample makes NaN of the infinite place. With the default distortion_scale of 0.5 that is one image in
# 750 of 8×8, one in 5000 of 16×16, one in 50,000 of 32×32 and none of 224×224; with a larger scale somewhat more.
# Float64 has it more rarely, nearest not at all. Of uint8, NaN becomes 0, and not the fill.
#
# What the guess missed:
# - It does not just fall with the size. With the default, 26 of the 6561 placements of the corners of 8×8 have such a
#   pixel, which is 1 image in 250 at p=1. Those of 6×6, 7×7 and 10×10 have none: the horizon stays outside the image.
#   16×16 had 1 in 7000; 28×28 and 32×32 none in 20,000.
# - It is distortion_scale that counts. At 0.8 it is 1 image in 17 of 8×8, in 80 of 16×16, in 380 of 28×28, in 670 of
#   32×32. At 1, which is allowed, it is 1 in 8 of 8×8 and 1 in 70 of 32×32.
# - At 1 some calls raise LinAlgError, as three of the drawn corners lie on one line: 1 in 100 of 8×8, 1 in 2000 of
#   32×32.
# - Of uint8 images with the default fill nothing is wrong: 0 happens to be right.
# The cause is known: grid_sample on the CPU gives NaN for infinite places, instead of the padding (pytorch/pytorch,
# issue 24823). What lies on the horizon is outside the image, so the fill is right, and Pillow images get it.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 143' INT TERM
cd "$work"

"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check \
    torchvision==0.29.2 torch==2.15.0 numpy==2.4.6 pillow==13.0.0

cat >program.py <<'PY'
import itertools
from collections import Counter

import numpy as np
import PIL
import torch
import torchvision
from PIL import Image
from torch.nn.functional import grid_sample
from torchvision.transforms import functional as v1
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

torch.set_num_threads(1)
differs = []


def see(what, seen, expected):
    print(f"{what}: {seen}")
    if seen != expected:
        differs.append(f"{what}: saw {seen!r}, and it was {expected!r}")


def see_about(what, seen, expected):
    """What depends on how a CPU rounds: from two thirds to half as much again."""
    print(f"{what}: {seen}")
    if not expected / 1.5 <= seen <= expected * 1.5:
        differs.append(f"{what}: saw {seen}, and it was {expected}")


def corners_of(side):
    return [[0, 0], [side - 1, 0], [side - 1, side - 1], [0, side - 1]]


def centers_on_horizon(ends):
    """Pixels of 8×8 whose center is on the line through where opposite sides meet, in whole numbers."""
    a, b, c, d = (np.array([x, y, 1]) for x, y in ends)
    meet = np.cross(np.cross(a, b), np.cross(d, c)), np.cross(np.cross(a, d), np.cross(b, c))
    horizon = np.cross(*meet)
    return [(x, y) for y in range(8) for x in range(8) if horizon @ (2 * x + 1, 2 * y + 1, 2) == 0]


print(f"torchvision {torchvision.__version__}, torch {torch.__version__}, Pillow {PIL.__version__}")

infinite = torch.full((1, 1, 1, 2), float("inf"))
seen = grid_sample(torch.ones(1, 1, 3, 3), infinite, padding_mode="zeros", align_corners=False).item()
see("grid_sample at an infinite place, padding zeros", str(seen), "nan")

print("8×8, distortion_scale 0.5, float32 of ones: all placements of the corners that can be drawn")
low, high = range(3), range(5, 8)
count = Counter()
for numbers in itertools.product(low, low, high, low, high, high, low, high):
    ends = [list(pair) for pair in zip(numbers[::2], numbers[1::2], strict=True)]
    result = F.perspective(torch.ones(1, 8, 8), corners_of(8), ends, fill=0)
    count["all"] += 1
    on_horizon = bool(centers_on_horizon(ends))
    count["on the horizon"] += on_horizon
    double = F.perspective(torch.ones(1, 8, 8, dtype=torch.float64), corners_of(8), ends, fill=0)
    count["NaN of float64"] += bool(double.isnan().any())
    if result.isnan().any():
        count["NaN"] += 1
        count["NaN, and none on the horizon"] += not on_horizon
see("  placements", count["all"], 6561)
see("  with a pixel's center on the horizon", count["on the horizon"], 30)
see_about("  with NaN", count["NaN"], 26)
see_about("  with NaN, float64", count["NaN of float64"], 4)
see("  with NaN, and no center on the horizon", count["NaN, and none on the horizon"], 0)

ends = [[0, 1], [5, 0], [5, 6], [2, 5]]
x, y = 0, 7
print(f"one of them, corners to {ends}: the pixel at {(x, y)}")
see("  on the horizon", centers_on_horizon(ends), [(x, y)])


def pixel(values, **options):
    result = F.perspective(values, corners_of(8), ends, **options)[..., y, x].flatten().tolist()
    return str(result[0]) if len(result) == 1 else [str(each) for each in result]


ones = torch.ones(1, 8, 8)
for dtype in (torch.float32, torch.float64, torch.float16):
    see(f"  {dtype}", pixel(ones.to(dtype), fill=0), "nan")
see("  float32, all channels", pixel(ones.expand(3, 8, 8), fill=0), ["nan"] * 3)
see("  float32, fill 0.5", pixel(ones, fill=0.5), "nan")
see("  float32, nearest, fill 0.5", pixel(ones, fill=0.5, interpolation=v2.InterpolationMode.NEAREST), "0.5")
see("  float32, transforms v1", str(v1.perspective(ones, corners_of(8), ends, fill=[0.0])[0, y, x].item()), "nan")
bytes_of = (ones * 255).to(torch.uint8)
see("  uint8, fill 127", pixel(bytes_of, fill=127), "0")
neighbor = F.perspective(bytes_of, corners_of(8), ends, fill=127)[0, y, x + 1].item()
see("  uint8, fill 127: its neighbor", neighbor, 127)
image = Image.fromarray(np.full((8, 8), 255, np.uint8))
see("  Pillow, fill 127", F.perspective(image, corners_of(8), ends, fill=127).getpixel((x, y)), 127)

print("RandomPerspective(distortion_scale, p=1), float32 of ones, drawn: images with NaN, calls that raise")
for side, scale, draws, nan, raised in (
    (8, 0.5, 8000, 21, 0),
    (10, 0.5, 8000, 0, 0),
    (28, 0.5, 8000, 0, 0),
    (32, 0.5, 8000, 0, 0),
    (224, 0.5, 500, 0, 0),
    (8, 0.8, 4000, 229, 0),
    (16, 0.8, 8000, 98, 0),
    (28, 0.8, 8000, 21, 0),
    (32, 0.8, 8000, 12, 0),
    (8, 1.0, 4000, 489, 42),
    (32, 1.0, 4000, 56, 2),
    (224, 1.0, 500, 0, 0),
):
    torch.manual_seed(0)
    transform, values, count = v2.RandomPerspective(scale, p=1), torch.ones(1, side, side), Counter()
    for _ in range(draws):
        try:
            count["NaN"] += bool(transform(values).isnan().any())
        except torch.linalg.LinAlgError:
            count["raised"] += 1
    print(f"  {side}×{side}, scale {scale}, {draws} draws")
    see_about("    NaN", count["NaN"], nan)
    see_about("    LinAlgError", count["raised"], raised)

if differs:
    raise SystemExit("this has changed:\n" + "\n".join(differs))
print("as it was seen")
PY
timeout 300 venv/bin/python -W ignore program.py 2>errors.log || {
    tail -n 30 errors.log >&2
    exit 1
}
