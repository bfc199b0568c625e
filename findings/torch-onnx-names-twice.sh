#!/usr/bin/env bash
# torch's ONNX exporter gives two values one name where a buffer, an input or an output is called as an operator is.
#
# Versions: torch 2.15.0, onnx 1.23.2, onnxscript 0.7.2, onnxruntime 1.32.0, numpy 2.4.6.
# Seen: 2026-11-28, Python 3.11.7, Linux x86-64. torch takes 6 GB while this runs.
#
# Guess, before the first run: the exporter keeps names apart, whatever a module calls its buffers and whoever exports
# it the outputs; `optimize=False` makes a slower graph that computes the same; `verify=True` would say if it did not.
#
# What the guess missed:
# - With optimize=False a buffer or parameter of the outermost module whose name is an operator's (mean, sub, relu, as
#   in a module that normalises its input with `self.mean`) keeps its name, and so does what that operator gives.
#   Nothing is raised or logged and the file is written; onnx's checker and ONNX Runtime refuse it.
# - With the default optimize=True buffers are renamed, and output_names are not: an output called "relu" beside a
#   relu inside the network is such a file, too. So is an input with optimize=False.
# - verify=True passes all of them.
# - A buffer below a submodule has a dot in its name, which no operator's has, so most networks never meet this.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 143' INT TERM
cd "$work"
export ORT_DISABLE_TELEMETRY=1  # its import writes to the home directory otherwise

"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check \
    torch==2.15.0 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.32.0 numpy==2.4.6

cat >program.py <<'PY'
import logging
import warnings

import onnx
import onnxruntime
import torch
from torch import nn

warnings.simplefilter("ignore")
logging.disable()
torch.set_num_threads(1)
onnxruntime.set_default_logger_severity(4)
differs = []


class Centered(nn.Module):
    """Subtracts a buffer of some name, and takes the mean over the image."""

    def __init__(self, name):
        super().__init__()
        self.name = name
        self.register_buffer(name, torch.tensor(0.5))

    def forward(self, images):
        return torch.relu(images - getattr(self, self.name)).mean((2, 3))


def export(module, **options):
    """What becomes of a module's file: names that are defined twice, the checker's answer, ONNX Runtime's."""
    program = torch.onnx.export(module.eval(), (torch.rand(2, 3, 4, 4),), dynamo=True, verbose=False, **options)
    program.save("model.onnx")
    model = onnx.load("model.onnx")
    names = [each.name for each in (*model.graph.input, *model.graph.initializer)]
    names += [name for node in model.graph.node for name in node.output]
    answers = []
    for attempt in (lambda: onnx.checker.check_model(model), lambda: onnxruntime.InferenceSession("model.onnx")):
        try:
            attempt()
            answers.append("passes")
        except Exception:
            answers.append("refuses")
    return sorted({name for name in names if names.count(name) > 1}), *answers


def see(what, seen, expected):
    print(f"{what}: twice {seen[0]}, checker {seen[1]}, ONNX Runtime {seen[2]}")
    if seen != expected:
        differs.append(f"{what}: saw {seen}, and it was {expected}")


def twice(name):
    return [name], "refuses", "refuses"


FINE = [], "passes", "passes"
print(f"torch {torch.__version__}, onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__}")
for name in ("offset", "mean", "sub", "relu"):
    expected = FINE if name == "offset" else twice(name)
    see(f"buffer {name}, optimize=False", export(Centered(name), optimize=False), expected)
    see(f"buffer {name}, optimize=False, verify=True", export(Centered(name), optimize=False, verify=True), expected)
    see(f"buffer {name}, by default", export(Centered(name)), FINE)
see("buffer mean in a submodule, optimize=False", export(nn.Sequential(Centered("mean")), optimize=False), FINE)
offset = Centered("offset")
see("output_names=['scores']", export(offset, output_names=["scores"]), FINE)
see("output_names=['relu']", export(offset, output_names=["relu"]), twice("relu"))
see("output_names=['relu'], verify=True", export(offset, output_names=["relu"], verify=True), twice("relu"))
see("input_names=['relu'], optimize=False", export(offset, input_names=["relu"], optimize=False), twice("relu"))
for line in differs:
    print("this has changed:", line)
raise SystemExit(1 if differs else 0)
PY
venv/bin/python program.py
echo 'as it was seen'
