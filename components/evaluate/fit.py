"""Whether a model, a dataset and params belong together, checked before anything is computed."""

from __future__ import annotations

import unicodedata

from components.shared.artifacts.dataset import Dataset
from components.shared.artifacts.model import Model
from components.shared.errors import ArtifactError, ParamsError, Problem
from components.shared.params.params import Params
from components.shared.text import shortened


def check_fit(model: Model, dataset: Dataset, params: Params) -> None:
    """Refuse a model, a dataset and params that do not belong together."""
    check_data(model, dataset)
    _params_agree(model, params)


def check_data(model: Model, dataset: Dataset) -> None:
    """Refuse a model and a dataset of different classes or images, and a dataset without a test split."""
    _same_classes(model, dataset)
    taken, ours, theirs = model.manifest.image, model.manifest.resized, dataset.manifest.image
    if ours != theirs:
        middle = f", of which it takes the middle {taken.height}×{taken.width}" if taken != ours else ""
        raise ArtifactError(
            f"{model.path}: takes images of {_spelled(ours.as_tuple())}{middle}, and the dataset {dataset.path} has "
            f"images of {_spelled(theirs.as_tuple())}; evaluate the model on data prepared like its own"
        )
    for key in ("image_fit", "image_interpolation"):
        if (of_model := getattr(model.manifest, key)) != (of_data := getattr(dataset.manifest, key)):
            raise ArtifactError(
                f"{model.path}: was trained with {key} {of_model}, and the dataset {dataset.path} was prepared with "
                f"{of_data}; evaluate the model on data prepared like its own"
            )
    if "test" not in dataset.splits:
        raise ArtifactError(f"{dataset.path}: has no test split to evaluate on; prepare the data again")


def _same_classes(model: Model, dataset: Dataset) -> None:
    # Earlier versions kept names as the file system gave them, which may be decomposed.
    ours, theirs = (
        [unicodedata.normalize("NFC", name) for name in manifest.classes]
        for manifest in (model.manifest, dataset.manifest)
    )
    if ours == theirs:
        return
    if len(ours) != len(theirs):
        what = f"has {len(ours)} classes, and the dataset {dataset.path} has {len(theirs)}"
    elif sorted(ours) == sorted(theirs):
        what = f"has the classes of the dataset {dataset.path} in another order"
    else:
        index = next(index for index, name in enumerate(ours) if name != theirs[index])
        what = (
            f"calls class {index} {shortened(ours[index])!r}, and the dataset {dataset.path} calls it "
            f"{shortened(theirs[index])!r}"
        )
    raise ArtifactError(f"{model.path}: {what}; evaluate the model on data with its own classes")


def _params_agree(model: Model, params: Params) -> None:
    image, stored = model.manifest.image, model.manifest.resized
    wanted_stored, has_stored = params.stored_shape, model.manifest.stored_image is not None
    problems = [
        Problem(key, f"{what}, and the model {model.path} has {got}; evaluate with the params it was made by")
        for key, wanted, got, what in (
            ("image_height", params.image_height, image.height, f"is {params.image_height}"),
            ("image_width", params.image_width, image.width, f"is {params.image_width}"),
            ("is_image_color", params.channels, image.channels, f"means {params.channels} channel(s)"),
            *(
                (key, wanted, got, f"is {given or 'null'}")
                for key, wanted, got, given in (
                    ("stored_height", wanted_stored[0], stored.height, params.stored_height),
                    ("stored_width", wanted_stored[1], stored.width, params.stored_width),
                )
                if given is not None or has_stored
            ),
            ("n_classes", params.n_classes, len(model.manifest.classes), f"is {params.n_classes}"),
            *(
                (key, getattr(params, key), getattr(model.manifest, key), f"is {getattr(params, key)}")
                for key in ("image_fit", "image_interpolation")
            ),
        )
        if wanted != got
    ]
    if problems:
        raise ParamsError(problems)


def _spelled(shape: tuple[int, int, int]) -> str:
    height, width, channels = shape
    return f"{height}×{width} pixels with {channels} channel(s)"
