"""ONNX Runtime within the container's limits: its threads, its memory, its standard error."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, numpy_helper
from onnx.helper import make_node

from components.shared.errors import ArtifactError
from components.shared.inference.classifier import OnnxClassifier
from tests.onnx_models import onnx_model, write_onnx_directory

# Of one CPU there is no thread but the caller's, of two there is one more.
THREADS = """
import os, sys
from pathlib import Path
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:int(sys.argv[2])])
from components.shared.inference.classifier import OnnxClassifier
before = len(os.listdir("/proc/self/task"))
classifier = OnnxClassifier.from_file(Path(sys.argv[1]))
print(len(os.listdir("/proc/self/task")) - before, classifier.device)
"""

# Resident memory after runs of 1 image, of 512, and of 1 again, in MiB.
MEMORY = """
import sys
from pathlib import Path
import numpy as np
from components.shared.inference.classifier import OnnxClassifier
classifier = OnnxClassifier.from_file(Path(sys.argv[1]))
for count in (1, classifier.batch_size, 1):
    images = np.zeros((count, *classifier.image_shape), np.uint8)
    classifier(images)
    del images
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(int(status["VmRSS"].split()[0]) // 1024, int(status["VmHWM"].split()[0]) // 1024)
"""


def run(code: str, *arguments: object) -> list[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.mark.parametrize("cpus", range(1, min(2, len(os.sched_getaffinity(0))) + 1))
def test_threads_are_as_many_as_the_cpus_that_may_be_used(tmp_path: Path, cpus: int) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(onnx_model().SerializeToString())

    assert run(THREADS, file, cpus) == [f"{cpus - 1} cpu ({cpus} threads)"]


def test_memory_of_the_largest_batch_is_given_back(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(onnx_model(shape=(128, 128, 1)).SerializeToString())

    small, large, again = (tuple(map(int, line.split())) for line in run(MEMORY, file))

    assert large[1] > small[0] + 100  # at its peak
    assert again[0] < small[0] + 30


def test_standard_error_is_ours_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """ONNX Runtime warns of what is not used, and prints what it raises."""
    unused = numpy_helper.from_array(np.ones(3, np.float32), "unused")
    file = tmp_path / "model.onnx"
    file.write_bytes(onnx_model(initialisers=[unused]).SerializeToString())
    OnnxClassifier.from_file(file)(np.zeros((2, 8, 8, 3), np.uint8))

    assert capfd.readouterr() == ("", "")


def test_what_onnx_runtime_has_no_kernel_for_is_refused_in_a_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = onnx_model()
    own = list(model.graph.node)
    del model.graph.node[:]
    whole = [
        make_node("Cast", ["images"], ["whole"], to=TensorProto.INT64),
        make_node("Relu", ["whole"], ["positive"]),
        make_node("Cast", ["positive"], ["floats"], to=TensorProto.FLOAT),
    ]
    model.graph.node.extend([*whole, *own[1:]])
    directory = write_onnx_directory(tmp_path / "model", model.SerializeToString())

    with pytest.raises(ArtifactError, match=r"model\.onnx: ONNX Runtime refuses it: [^\n]*; train the model again"):
        OnnxClassifier.open(directory)
    assert capfd.readouterr() == ("", "")
