"""Images stored larger than the model takes them, in every step, against torchvision and plain ONNX Runtime."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from components.classifier.check import check
from components.data_prep.prepare import prepare
from components.evaluate.evaluate import evaluate
from components.predict.predict import predict
from components.shared.artifacts.dataset import open_dataset
from components.shared.artifacts.model import open_model
from components.shared.errors import ParamsError
from components.shared.params.params import Params
from components.train.start import trial_trainer
from components.train.train import train
from components.train.trials import smoke
from tests.configs import Entry, layer, refused, transform
from tests.examples import small
from tests.shared.decoding.pictures import random_pixels

# As many as in other tests, which export the same network.
CLASSES = [f"shade {label}" for label in range(10)]
SMALL = {"stored_height": 12, "stored_width": 13}
CLASSIC = {
    "image_height": 224,
    "image_width": 224,
    "stored_height": 256,
    "stored_width": 256,
    "is_image_color": True,
    "net_arch": [
        layer("Conv2d", in_channels=3, out_channels=8, kernel_size=16, stride=16),
        layer("BatchNorm2d", num_features=8),
        layer("ReLU"),
        layer("AdaptiveAvgPool2d", output_size=1),
    ],
    "additional_transforms": [transform("RandomResizedCrop", size=224), transform("RandomHorizontalFlip")],
}


@dataclass(frozen=True)
class Chain:
    """What the steps made of a folder of photos."""

    folder: Path
    params: Params

    @property
    def photos(self) -> Path:
        return self.folder / "photos"

    def by_hand(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Probabilities of stored images by torchvision's crop and nothing of ours."""
        middle = v2.CenterCrop(self.params.image_shape[:2])(torch.tensor(pixels).permute(0, 3, 1, 2))
        session = onnxruntime.InferenceSession(self.folder / "model" / "model.onnx")
        images = middle.permute(0, 2, 3, 1).contiguous().numpy()
        found: npt.NDArray[np.float32] = session.run(None, {"images": images})[0]
        return found


@pytest.fixture(scope="module", params=[SMALL, pytest.param(CLASSIC, marks=pytest.mark.slow)], ids=["8", "224"])
def chain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    folder = tmp_path_factory.mktemp("stored")
    for label, name in enumerate(CLASSES):
        (folder / "photos" / name).mkdir(parents=True)
        for index in range(4):
            pixels = random_pixels(20 + index + label, 30 - index, 3, seed=100 * label + index) // 2 + 10 * label
            Image.fromarray(pixels.astype(np.uint8)).save(folder / "photos" / name / f"{index}.png")
    params = small(test_fraction=0.5, batch_size=8, **request.param)
    prepare(data=folder / "photos", dataset=folder / "dataset", params=params)
    train(dataset=folder / "dataset", model=folder / "model", params=params)
    evaluate(model=folder / "model", dataset=folder / "dataset", evaluation=folder / "evaluation", params=params)
    return Chain(folder, params)


def test_every_image_is_stored_at_the_stored_size(chain: Chain) -> None:
    data, (height, width, channels) = open_dataset(chain.folder / "dataset"), chain.params.stored_shape
    assert data.manifest.image.as_tuple() == (height, width, channels)
    name = next(iter(data.splits["test"].names() or ())).file
    with Image.open(chain.photos / name) as image:
        resized = image.convert("RGB" if channels == 3 else "L").resize((width, height), Image.Resampling.BILINEAR)
    assert np.array_equal(data.splits["test"].image(0), np.asarray(resized).reshape(height, width, channels))


def test_the_model_says_both_sizes_and_takes_its_own(chain: Chain) -> None:
    manifest = json.loads((chain.folder / "model" / "model.json").read_text())
    for key, shape in (("image", chain.params.image_shape), ("stored_image", chain.params.stored_shape)):
        assert manifest[key] == dict(zip(("height", "width", "channels"), shape, strict=True))
    session = onnxruntime.InferenceSession(chain.folder / "model" / "model.onnx")
    assert tuple(session.get_inputs()[0].shape[1:]) == chain.params.image_shape
    stored = session.get_modelmeta().custom_metadata_map["shutterline.stored_image"]
    assert json.loads(stored) == list(chain.params.stored_shape)


def test_training_evaluation_and_prediction_take_the_middle(chain: Chain) -> None:
    split = open_dataset(chain.folder / "dataset").splits["test"]
    found = chain.by_hand(split.images())
    losses, accuracy = -np.log(found[np.arange(len(split)), split.labels]), (found.argmax(1) == split.labels).mean()
    selected = open_model(chain.folder / "model").manifest.selection
    assert (selected.loss, selected.accuracy) == pytest.approx((losses.mean(), accuracy))

    with (chain.folder / "evaluation" / "predictions.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [float(row["loss"]) for row in rows] == pytest.approx(losses.tolist(), abs=1e-5)

    files = [chain.photos / row["file"] for row in rows]
    for model in (chain.folder / "model", chain.folder / "model" / "model.onnx"):
        predictions = [dict(each.classes) for each in predict(model, files, top_k=len(CLASSES))]
        by_class = [[each[name] for name in CLASSES] for each in predictions]
        np.testing.assert_allclose(by_class, found, atol=1e-6)


ON_DIGITS = {"image_height": 6, "image_width": 6, "stored_height": 8, "stored_width": 8}
ANYWHERE = "held-out ones are cropped to their middle 6×6, training ones anywhere, each by itself"
BY_TRANSFORMS = "held-out ones are cropped to their middle 6×6, training ones by additional_transforms"


@pytest.mark.parametrize(
    ("entries", "line"),
    [
        ([], ANYWHERE),
        ([transform("RandomHorizontalFlip")], ANYWHERE),
        ([transform("RandAugment")], ANYWHERE),
        ([transform("RandomCrop", size=6)], BY_TRANSFORMS),
        ([transform("CenterCrop", size=[6, 6]), transform("RandomErasing")], BY_TRANSFORMS),
        ([transform("Resize", size=[6, 6])], BY_TRANSFORMS),
        ([transform("RandomResizedCrop", size=6), transform("RandomHorizontalFlip")], BY_TRANSFORMS),
        ([transform("Resize", size=[9, 9]), transform("RandomCrop", size=6)], BY_TRANSFORMS),
    ],
)
def test_training_images_end_at_the_models_size(
    few: Path, heard: pytest.LogCaptureFixture, entries: list[Entry], line: str
) -> None:
    trainer = trial_trainer(few, small(**ON_DIGITS, flip_images=True, additional_transforms=entries or None))

    images = trainer.training.images.take(torch.arange(16))
    for _ in range(3):
        prepared = trainer.training_step.prepare(images, of=16)
        assert prepared.shape == (16, 1, 6, 6)
        assert prepared.dtype is torch.float32
    assert heard.text.count("images are stored as 8×8: ") == 1
    assert line in heard.text


def test_training_images_are_parts_of_the_stored_ones(few: Path) -> None:
    trainer = trial_trainer(few, small(**ON_DIGITS, normalise_images=False))
    stored = trainer.training.images.take(torch.arange(60))

    parts = (trainer.training_step.prepare(stored, of=60) * 255).round().to(torch.uint8)[:, 0]

    windows = stored[..., 0].unfold(1, 6, 1).unfold(2, 6, 1)
    found = (windows == parts.view(60, 1, 1, 6, 6)).all(-1).all(-1)
    assert found.flatten(1).any(1).all()
    assert found.any(0).all()


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            [transform("RandomHorizontalFlip"), transform("RandomCrop", size=5)],
            "additional_transforms[1]: torchvision.transforms.v2.RandomCrop turns (1, 8, 8) into (1, 5, 5); end at the "
            "6×6 of image_height and image_width, or at the 8×8 of stored_height and stored_width, of which a part is "
            "then taken at random",
        ),
        (
            [transform("RandomApply", transforms=[transform("CenterCrop", size=6)])],
            "additional_transforms[0]: torchvision.transforms.v2.RandomApply leaves some images at (1, 8, 8) and turns "
            "others into (1, 6, 6); let it do so to all, by a p of 1",
        ),
        (
            [transform("CenterCrop", size=6), transform("RandomInvert", p=1)],
            "additional_transforms[1]: torchvision.transforms.v2.RandomInvert does the same to every training image",
        ),
    ],
)
def test_transforms_that_end_elsewhere_are_refused(entries: list[Entry], message: str) -> None:
    with pytest.raises(ParamsError) as caught:
        check(small(**ON_DIGITS, additional_transforms=entries))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("entries", "note"),
    [
        (
            [transform("CenterCrop", size=6), transform("RandomHorizontalFlip")],
            "stored_height and stored_width have no",
        ),
        ([transform("Resize", size=[6, 6])], "additional_transforms crop or resize every training image in the same"),
        ([transform("RandomHorizontalFlip"), transform("RandomResizedCrop", size=6)], None),
        ([transform("Identity")], "additional_transforms have no effect"),
    ],
)
def test_crops_that_never_vary_are_reported(entries: list[Entry], note: str | None) -> None:
    notes = check(small(**ON_DIGITS, additional_transforms=entries)).notes
    assert [found.startswith(note or "") for found in notes] == ([True] if note else [])


def test_transforms_of_large_images_are_tried_on_small_ones() -> None:
    entries = [transform("RandomResizedCrop", size=224), transform("RandomHorizontalFlip")]
    sizes = {"image_height": 224, "image_width": 224, "stored_height": 256, "stored_width": 256}
    assert check(small(**sizes, additional_transforms=entries)).notes == ()


def test_a_dataset_of_another_size_is_refused(few: Path) -> None:
    sizes = {"image_height": 6, "image_width": 6}
    assert refused(trial_trainer, few, small(**sizes, stored_height=7, stored_width=9)) == {
        "stored_height": f"is 7, and the dataset {few} has 8; prepare the data again",
        "stored_width": f"is 9, and the dataset {few} has 8; prepare the data again",
    }
    assert list(refused(trial_trainer, few, small(**sizes))) == ["image_height", "image_width"]
    otherwise = small(image_fit="crop", image_interpolation="box")
    assert refused(trial_trainer, few, otherwise) == {
        "image_fit": f"is crop, and the dataset {few} has stretch; prepare the data again",
        "image_interpolation": f"is box, and the dataset {few} has bilinear; prepare the data again",
    }


def test_a_dataset_of_another_background_is_refused(chain: Chain) -> None:
    data, params = chain.folder / "dataset", chain.params.model_copy(update={"alpha_background": "black"})
    assert refused(trial_trainer, data, params) == {
        "alpha_background": f"is [0, 0, 0], and the dataset {data} has [255, 255, 255]; prepare the data again"
    }


def test_one_batch_is_learnt_by_heart_from_the_middle_of_its_images(few: Path) -> None:
    random = smoke(few, small(**ON_DIGITS))
    assert (
        random.losses == smoke(few, small(**ON_DIGITS, additional_transforms=[transform("CenterCrop", size=6)])).losses
    )
