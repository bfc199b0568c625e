"""How fast files are predicted, and how soon the first one is."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from components.classifier.network import network_of
from components.predict.predict import Predictor, predict
from components.shared.container_images import image_of
from components.shared.decoding.batches import decode_batches
from components.shared.decoding.rendering import Rendering
from components.shared.params.params import Params
from pipelines.params_files import EXAMPLES
from tests.bench.containers import RUN, has_images
from tests.bench.measure import Ratio, compare, seconds
from tests.train.networks import onnx_of

# Of a phone's preview or a page on the web; decoding takes some 5 ms of a core.
WIDTH, HEIGHT = 1280, 960
COUNT, FILES = 24, 480


def _photos(directory: Path, count: int) -> list[Path]:
    """JPEG files of smooth noise, about as large as photos of that size are."""
    random = np.random.default_rng(0)
    files = [directory / f"{index}.jpg" for index in range(count)]
    for file in files:
        small = Image.fromarray(random.integers(0, 256, (HEIGHT // 12, WIDTH // 12, 3), dtype=np.uint8))
        small.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(file, quality=90)
    return files


def _reference_model(file: Path) -> Path:
    """The reference network with random weights, as a model.onnx alone."""
    params = Params.from_dict(json.loads((EXAMPLES / "reference.json").read_text()))
    file.write_bytes(onnx_of(network_of(params), params))
    return file


def prediction_rates(directory: Path) -> Ratio:
    """(q) Images a second from JPEG files to predictions, against decoding and resizing them alone."""
    files = (_photos(directory, COUNT) * (FILES // COUNT))[:FILES]
    model = _reference_model(directory / "model.onnx")
    shape = Predictor.open(model).classifier.image_shape

    def decoded(files: Sequence[Path]) -> int:
        return sum(len(batch.reasons) for batch in decode_batches(files, Rendering(shape), size=256))

    return compare(
        f"(q) predict {WIDTH}×{HEIGHT} JPEG files / decode them",
        lambda: FILES / seconds(lambda: sum(1 for _ in predict(model, files))),
        lambda: FILES / seconds(lambda: decoded(files)),
        unit="images/s",
        bound="at least 0.85",
    )


def first_prediction(directory: Path) -> Ratio | str:
    """(r) Seconds from ``docker run`` to a prediction, against those of importing torch in training's image."""
    if not has_images("predict", "train"):
        return "(r) no engine with the images: `make images` builds them"
    _photos(directory, 1)
    _reference_model(directory / "model.onnx")
    mounted = [*RUN, "--volume", f"{directory}:/data:ro"]
    step = [*mounted, image_of("predict"), "--model", "/data/model.onnx", "--images", "/data/0.jpg"]
    importing = [*RUN, "--entrypoint", "python", image_of("train"), "-c", "import torch"]

    def first_row() -> float:
        start = time.perf_counter()
        with subprocess.Popen(step, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            assert process.stdout is not None
            header, row = process.stdout.readline(), process.stdout.readline()
            taken = time.perf_counter() - start
        if "/data/0.jpg" not in row:
            raise RuntimeError(f"no prediction: {header}{row}")
        return taken

    return compare(
        "(r) container to first prediction / to torch imported",
        first_row,
        lambda: seconds(lambda: subprocess.run(importing, check=True)),
        unit="s",
        bound="at most 0.4",
    )
