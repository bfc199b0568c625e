"""Prediction needs little: no torch, no client of a broker or a store that nobody named, bounded memory."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.installation import installation
from tests.onnx_models import onnx_model, write_onnx_directory
from tests.predict.conftest import CLASSES
from tests.shared.decoding.pictures import random_pixels, save

ROOT = Path(__file__).parents[2]
# None of these may be imported; prints which modules of others were, by their distributions' top names.
ALONE = """
import sys
REFUSED = {"torch", "torchvision", "kfp", "jinja2", "google.cloud", "grpc", "boto3", "botocore", "kafka", "mlflow",
           "safetensors", "requests", "pandas", "sklearn", "rich", "onnxscript"}
class Refusing:
    def find_spec(self, name, path=None, target=None):
        if name in REFUSED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Refusing())
"""
BOTH_WAYS = f"""{ALONE}
from pathlib import Path
from components.predict.__main__ import main
from components.predict.predict import predict
code = main(sys.argv[1:])
print(*("predicted" for prediction in predict(Path(sys.argv[2]), Path(sys.argv[4])) if not prediction.error))
sys.exit(code)
"""


def test_predicts_where_torch_and_every_client_cannot_be_imported(tmp_path: Path, model: Path) -> None:
    save(tmp_path / "photos" / "1.png", random_pixels(9, 9, 3))
    home = tmp_path / "home"
    home.mkdir()

    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", BOTH_WAYS, "--model", str(model), "--images", str(tmp_path / "photos")],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | {"HOME": str(home), "XDG_CACHE_HOME": str(home)},
        timeout=600,
    )

    assert done.returncode == 0, done.stderr
    *rows, last = done.stdout.splitlines()
    assert (len(rows), last) == (2, "predicted")
    assert list(home.iterdir()) == [], "ONNX Runtime keeps its telemetry there"


@pytest.mark.slow
def test_predicts_as_installed_with_its_own_extra_alone(tmp_path: Path, model: Path) -> None:
    python = installation(tmp_path / "environment", "predict")
    save(tmp_path / "photos" / "1.png", random_pixels(9, 9, 3))
    for name in ("torch", "kafka", "rich", "kfp", "jinja2"):
        missing = subprocess.run([python, "-c", f"import {name}"], capture_output=True, check=False)
        assert missing.returncode == 1, name

    for command in (
        ["-m", "components.predict", "--model", str(model), "--images", str(tmp_path / "photos")],
        ["-m", "pipelines.cli", "predict", str(model), str(tmp_path / "photos")],
    ):
        done = subprocess.run([python, *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        (row,) = csv.DictReader(done.stdout.splitlines())
        assert row["file"] == f"{tmp_path}/photos/1.png"


PEAKS = """
import sys
from pathlib import Path
from components.predict.predict import predict
for count, prediction in enumerate(predict(Path(sys.argv[1]), (Path(sys.argv[2]) for _ in range(9_000))), 1):
    if count % 4_500 == 0:
        print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    shape = (50, 50, 3)
    content = onnx_model(CLASSES, shape).SerializeToString()
    model = write_onnx_directory(tmp_path / "model", content, classes=CLASSES, shape=shape)
    file = save(tmp_path / "1.bmp", random_pixels(*shape))

    command = [sys.executable, "-c", PEAKS, str(model.path), str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)

    half, whole = (int(kilobytes) * 1024 for kilobytes in done.stdout.split())
    assert whole - half < 4_500 * 50 * 50 * 3 / 2, "half of what the pixels of the other half take"
