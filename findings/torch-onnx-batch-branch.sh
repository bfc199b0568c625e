#!/usr/bin/env bash
# torch.onnx.export writes a graph of one branch where the network branches by its batch.
#
# Versions: torch 2.15.0, onnx 1.23.2, onnxscript 0.7.2, onnxruntime 1.32.0, numpy 2.4.6; on the CPU.
# Seen: 2026-11-28, Python 3.11.7, Linux x86-64. torch takes 6 GB while this runs.
#
# Guess, before the first run: a network that does something else for more than three images is refused when the batch
# is exported as dynamic, as torch.export refuses it ("Constraints violated"); and optimize=False leaves to ONNX
# Runtime what the exporter would have done.
#
# What the guess missed:
# - torch.onnx.export tries one way of tracing after the other, and the last gives a graph of the branch that the
#   example took. It says that the batch is dynamic, raises nothing, and is wrong for every other batch.
# - Without bias a convolution gets one of zeros that is computed for each batch, with optimize=False, so that ONNX
#   Runtime cannot fold batch normalisation into it.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 143' INT TERM
cd "$work"

"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check \
    torch==2.15.0 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.32.0 numpy==2.4.6

cat >program.py <<'PY'
import logging
import os
from collections import Counter

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

logging.disable()
differs = []


def see(what, seen, expected):
    print(f"{what}: {seen}")
    if seen != expected:
        differs.append(f"{what}: saw {seen!r}, and it was {expected!r}")


def export(module, example, **options):
    dynamic = ({0: torch.export.Dim("batch")},)
    program = torch.onnx.export(
        module.eval(), (example,), dynamo=True, dynamic_shapes=dynamic, input_names=["given"], verbose=False, **options
    )
    return program.model_proto


class Branching(nn.Module):
    def forward(self, x):
        return x * 2 if x.shape[0] > 3 else x * 3


print("a network that branches by its batch, exported with two images")
try:
    torch.export.export(Branching(), (torch.ones(2, 1),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    refused = "accepted"
except Exception as error:
    refused = str(error).split("!")[0]
see("  torch.export", refused, "Constraints violated (batch)")
model = export(Branching(), torch.ones(2, 1))
see("  torch.onnx: first dimension", model.graph.input[0].type.tensor_type.shape.dim[0].dim_param, "batch")
session = onnxruntime.InferenceSession(model.SerializeToString())
for batch, expected in ((2, (3.0, 3.0)), (5, (2.0, 3.0))):
    given = np.ones((batch, 1), np.float32)
    seen = Branching()(torch.from_numpy(given))[0, 0].item(), float(session.run(None, {"given": given})[0][0, 0])
    see(f"  {batch} ones: torch, ONNX", seen, expected)

print("a convolution without bias and batch normalisation")
block = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4))
for optimize, expected in ((True, ["Conv"]), (False, ["BatchNormalization", "CastLike", "Conv", "Expand"])):
    model = export(block, torch.ones(2, 3, 8, 8), optimize=optimize)
    counts = Counter(node.op_type for node in model.graph.node)
    see(f"  optimize={optimize}", sorted(counts.keys() - {"Constant", "Shape", "Squeeze"}), expected)

if differs:
    raise SystemExit("this has changed:\n" + "\n".join(differs))
print("as it was seen")
PY
timeout 300 venv/bin/python -W ignore program.py 2>errors.log || {
    tail -n 30 errors.log >&2
    exit 1
}
