#!/usr/bin/env bash
# What torchvision's resize and RandomResizedCrop make of bytes: on a CPU other values than of the same as floats.
#
# Versions: torchvision 0.29.2, torch 2.15.0, numpy 2.4.6, Pillow 13.0.0; on the CPU.
# Seen: 2026-11-29, Python 3.11.7, Linux x86-64 with AVX2. torch takes 6 GB while this runs.
#
# Guess, before the first run: resizing uint8 tensors on a CPU, which torch has a kernel of its own for, and resizing
# them as float32 and rounding, which by its source torchvision does on a GPU, are at most 1 level apart, in less than
# 5 % of the values; by bicubic in black and white noise at most 10 levels. Memory format, number of channels and batch
# make no difference. The float path is within 1 level of Pillow, and the uint8 path is Pillow's to the byte. On a
# processor without AVX2 bicubic gives the same bytes, bilinear does not.
#
# What the guess missed:
# - By bilinear it is 1 level, but in 11 to 21 % of the values of noise and of a soft picture.
# - By bicubic, with antialias, it is up to 30 levels and 61 % of the values where black meets white, 22 in noise, 17 in
#   thin lines, 2 or 3 in a soft picture. What overshoots is cut to 0..255 between rows and columns in uint8, and only
#   at the end in floats. Pillow cuts in between, too: it is the float path, and so a GPU, that is 30 levels off Pillow.
# - The uint8 path is not Pillow's to the byte: up to 2 % of the values are 1 level off, a few 2.
# Held: memory format, channels and batch; AVX2.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 143' INT TERM
cd "$work"

"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check \
    torchvision==0.29.2 torch==2.15.0 numpy==2.4.6 pillow==13.0.0

cat >program.py <<'PY'
import hashlib
import os
import subprocess
import sys

import numpy as np
import PIL
import torch
import torchvision
from PIL import Image
from torchvision.transforms.v2 import functional as F

torch.set_num_threads(1)
differs = []
PILLOW = {"bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC}


def see(what, seen, expected):
    print(f"{what}: {seen}")
    if seen != expected:
        differs.append(f"{what}: saw {seen!r}, and it was {expected!r}")


def in_bytes(image, side, mode):
    return F.resize(image, [side, side], interpolation=mode, antialias=True)


def in_floats(image, side, mode):
    """What torchvision does with uint8 where there is no kernel for it: on a GPU."""
    done = F.resize(image.float(), [side, side], interpolation=mode, antialias=True)
    return done.clamp(0, 255).round().to(torch.uint8)


def in_pillow(image, side, mode):
    done = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((side, side), PILLOW[mode])
    return torch.from_numpy(np.array(done)).permute(2, 0, 1)


def apart(one, other):
    """The largest difference in levels, and the share of values that differ, in whole per cent."""
    return int((one.int() - other.int()).abs().max()), round(100 * float((one != other).double().mean()))


generator = torch.Generator().manual_seed(0)
noise = torch.randint(0, 256, (3, 256, 256), generator=generator, dtype=torch.uint8)
soft = ((F.gaussian_blur(noise, [9, 9], [3.0, 3.0]).float() - 128) * 6 + 128).clamp(0, 255).to(torch.uint8)
flags = (torch.rand(3, 256, 256, generator=generator) > 0.5).to(torch.uint8) * 255
lines = torch.full((3, 256, 256), 255, dtype=torch.uint8)
lines[:, ::7], lines[:, :, ::11] = 0, 0

if sys.argv[1:]:
    print(*(hashlib.sha256(in_bytes(noise, 224, mode).numpy().tobytes()).hexdigest() for mode in PILLOW))
    raise SystemExit

print(f"torchvision {torchvision.__version__}, torch {torch.__version__}, Pillow {PIL.__version__}", end=", ")
print(torch.backends.cpu.get_cpu_capability())
if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
    raise SystemExit("this needs a processor with AVX2")

worst = {}
for mode in PILLOW:
    for name, image in (("noise", noise), ("soft", soft), ("black and white", flags), ("lines", lines)):
        for before, side in ((256, 224), (100, 224), (256, 100)):
            part = image[:, :before, :before].contiguous()
            one, other, third = (way(part, side, mode) for way in (in_bytes, in_floats, in_pillow))
            print(f"{mode}, {name}, {before} to {side}:", end=" ")
            pairs = {"floats": apart(one, other), "Pillow": apart(one, third), "floats, Pillow": apart(other, third)}
            print(", ".join(f"{pair} {levels} levels, {share} %" for pair, (levels, share) in pairs.items()))
            for pair, (levels, share) in pairs.items():
                key = (mode, name, pair)
                worst[key] = tuple(map(max, worst.get(key, (0, 0)), (levels, share)))

see("bytes against floats, bilinear: levels", max(worst["bilinear", n, "floats"][0] for n in ("noise", "soft")), 1)
for name in ("noise", "soft"):
    see(f"  more than 10 % of {name}", worst["bilinear", name, "floats"][1] > 10, True)
for name, at_least in (("noise", 15), ("black and white", 25), ("lines", 12), ("soft", 2)):
    levels, share = worst["bicubic", name, "floats"]
    see(f"bicubic, {name}: {levels} levels, at least {at_least}", levels >= at_least, True)
    see("  floats are as far from Pillow", worst["bicubic", name, "floats, Pillow"][0] >= at_least, True)
    see("  bytes are within 2 of Pillow", worst["bicubic", name, "Pillow"][0] <= 2, True)
see("bytes are Pillow's to the byte", all(worst[m, n, "Pillow"][0] == 0 for m, n, _ in worst), False)

for mode in PILLOW:
    batch = torch.stack((noise, soft))
    plain, last = in_bytes(batch, 224, mode), in_bytes(batch.contiguous(memory_format=torch.channels_last), 224, mode)
    see(f"{mode}: channels_last is the same", torch.equal(plain, last), True)
    see(f"{mode}: one image is the same", torch.equal(plain[1], in_bytes(soft, 224, mode)), True)
    see(f"{mode}: one channel is the same", torch.equal(plain[:, 1:2], in_bytes(batch[:, 1:2], 224, mode)), True)

without = {**os.environ, "ATEN_CPU_CAPABILITY": "default"}
command = [sys.executable, __file__, "hash"]
here, there = (
    subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.split()
    for env in (os.environ, without)
)
see("without AVX2 the same bytes by bilinear", here[0] == there[0], False)
see("without AVX2 the same bytes by bicubic", here[1] == there[1], True)

if differs:
    raise SystemExit("this has changed:\n" + "\n".join(differs))
print("as it was seen")
PY
timeout 300 venv/bin/python -W ignore program.py 2>errors.log || {
    tail -n 30 errors.log >&2
    exit 1
}
