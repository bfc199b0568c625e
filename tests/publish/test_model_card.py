"""The model card: complete, safe to show, and its code runs without Shutterline."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from components.evaluate.evaluate import evaluate
from components.predict.predict import predict
from components.publish.model_card import escaped, model_card
from components.publish.publish import publish
from components.shared.artifacts.evaluation import open_evaluation
from components.shared.artifacts.model import open_model
from tests.evaluate.conftest import Parts, params_of, parts_in, write_dataset, write_model


def card_of(parts: Parts) -> str:
    return model_card(open_model(parts.model), open_evaluation(parts.evaluation))


def test_it_says_what_the_model_is_and_how_well_it_does(tmp_path: Path) -> None:
    parts = parts_in(tmp_path)
    evaluate(**parts.arguments(params=params_of(gate={"accuracy": {"min": 0.0}})))
    card = card_of(parts)

    manifest, arch = open_evaluation(parts.evaluation).manifest, open_model(parts.model).manifest.net_arch
    for name, value in manifest.metrics.items():
        assert f"| {escaped(name)} | {value:.4f} |" in card
    for row in manifest.per_class:
        assert f"| {row.name} | {row.support} | {row.precision:.4f} | {row.recall:.4f} | {row.f1:.4f} |" in card
    for text in (
        "An image classifier of 3 classes",
        "| images | 8 × 8 pixels, grayscale |",
        f"| network | {', '.join(layer['class'].rpartition('.')[2] for layer in arch)} |",
        "| accuracy | at least 0 |",
        "- It answers with one of its classes whatever an image shows",
        "- The epoch was chosen by the same test images that it is evaluated on",
        "- Fewer than 30 held-out images, so that its figures say little: cat, dog, eel.",
        '"batch_size": 8',
        manifest.model_sha256,
        manifest.dataset_sha256,
    ):
        assert text in card, text
    assert card == card_of(parts), "the same each time"


def test_whoever_ran_it_is_not_in_it(tmp_path: Path) -> None:
    parts = parts_in(tmp_path)
    params = params_of(KAFKA_HOST="broker-7", KAFKA_TOPIC="topic-7", GOOGLE_APPLICATION_CREDENTIALS="/key-7.json")
    write_model(parts.model, params, dataset=parts.dataset)
    evaluate(**parts.arguments())
    assert re.findall(r"[\w-]+-7", card_of(parts)) == []


def test_names_from_data_are_only_ever_text(tmp_path: Path) -> None:
    classes = ["a|b", "[x](https://example.com) www.example.com", "<img src=x>", "`code` **bold** a_b_c"]
    parts = parts_in(tmp_path)
    write_dataset(parts.dataset, classes=classes)
    params = params_of(n_classes=4)
    write_model(parts.model, params, dataset=parts.dataset, classes=classes)
    evaluate(**parts.arguments(params=params))
    card = card_of(parts)

    assert r"| a\|b |" in card
    assert r"\[x\](https\://example.com) www\.example.com" in card
    assert "&lt;img src=x&gt;" in card
    assert r"\`code\` \*\*bold\*\* a\_b\_c" in card
    for line in card.splitlines():
        assert "<" not in line


@pytest.mark.parametrize(
    "made",
    [
        {},
        {"stored_height": 13, "stored_width": 10},
        {"stored_height": 13, "stored_width": 10, "image_fit": "crop", "image_interpolation": "lanczos"},
        {"image_fit": "pad", "alpha_background": [200, 30, 90]},
    ],
)
def test_its_code_gives_the_prediction_of_predict(made: dict[str, Any], tmp_path: Path) -> None:
    """In an interpreter that has ONNX Runtime, NumPy and Pillow, and does not see Shutterline."""
    ready = parts_in(tmp_path, **made)
    params = params_of(**made, publish_uri=str(tmp_path / "to"))
    evaluate(**ready.arguments(params=params))
    result = publish(model=ready.model, evaluation=ready.evaluation, params=params)
    version = Path(result.published)
    image = version / "image.png"
    Image.fromarray(np.random.default_rng(3).integers(0, 256, (37, 23, 3), dtype=np.uint8)).save(image)
    (code,) = re.findall(r"```python\n(.*?)```", result.card, re.DOTALL)
    blocked = "import sys\nsys.modules['components'] = None\n"

    done = subprocess.run(
        [sys.executable, "-c", blocked + code], cwd=version, capture_output=True, text=True, check=True
    )

    (prediction,) = predict(version / "model.onnx", image)
    name, probability = done.stdout.split()
    assert name == prediction.classes[0][0]
    assert ("the middle of 10 × 13" in result.card) is ("stored_width" in made)
    assert abs(float(probability) - prediction.classes[0][1]) < 1e-6
