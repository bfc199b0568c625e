#!/usr/bin/env bash
# torch.backends.mkldnn.fp32_precision, a setting of the CPU's library, is that of CUDA's products and convolutions, too.
#
# Versions: torch 2.15.0, numpy 2.4.6; no GPU is needed to read the settings.
# Seen: 2026-11-29, Python 3.11.7, Linux x86-64. torch takes 6 GB while this runs.
#
# No guess was written down: its setter in torch/backends/mkldnn/__init__.py was read first. By its name it is for
# oneDNN what torch.backends.cudnn.fp32_precision is for cuDNN, and leaves other backends alone.
#
# What the name does not say:
# - Setting it sets torch.backends.fp32_precision, of all backends: "tf32" there has CUDA's matrix products round to
#   TF32, which they do not by default, and "ieee" has cuDNN's convolutions not round, which they do by default.
# - The context manager of the same name, torch.backends.mkldnn.flags(fp32_precision=...), sets oneDNN's alone.
# - Once it was set, asking by the names that most programs use (allow_tf32, get_float32_matmul_precision) raises.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 143' INT TERM
cd "$work"

"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check torch==2.15.0 numpy==2.4.6

cat >program.py <<'PY'
import warnings

import torch

warnings.simplefilter("ignore")
differs = []


def see(what, seen, expected):
    print(f"{what}: {seen}")
    if seen != expected:
        differs.append(f"{what}: saw {seen!r}, and it was {expected!r}")


def settings():
    cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    return f"CUDA products {cuda.fp32_precision}, cuDNN convolutions {cudnn.conv.fp32_precision}"


def asked(read):
    try:
        return read()
    except RuntimeError as error:
        return type(error).__name__


see("before", settings(), "CUDA products none, cuDNN convolutions tf32")
with torch.backends.mkldnn.flags(enabled=True, fp32_precision="ieee"):
    see("in mkldnn.flags(fp32_precision='ieee')", settings(), "CUDA products none, cuDNN convolutions tf32")
torch.backends.mkldnn.fp32_precision = "ieee"
see("after mkldnn.fp32_precision = 'ieee'", settings(), "CUDA products ieee, cuDNN convolutions ieee")
torch.backends.mkldnn.fp32_precision = "tf32"
see("after mkldnn.fp32_precision = 'tf32'", settings(), "CUDA products tf32, cuDNN convolutions tf32")
see("cuda.matmul.allow_tf32", asked(lambda: torch.backends.cuda.matmul.allow_tf32), "RuntimeError")
see("get_float32_matmul_precision()", asked(torch.get_float32_matmul_precision), "RuntimeError")
if differs:
    raise SystemExit("\n".join(differs))
PY
venv/bin/python program.py
