"""predict(): from a model and image files of any kind to class probabilities, one file after another."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from components.predict.image_files import ImageFile, ImageFiles
from components.shared.artifacts.model import MODEL, ONNX_FILE, onnx_file, open_model
from components.shared.decoding.batches import LEAST_SIZE, AnyFile, DecodedBatch, decode_batches
from components.shared.decoding.pixels import Note
from components.shared.decoding.rendering import Rendering
from components.shared.errors import InputError
from components.shared.inference.classifier import OnnxClassifier
from components.shared.inference.guard import OnnxMetadata
from components.shared.inference.runtime import check_device
from components.shared.logs import step_logger
from components.shared.storage.location import AnyPath, Location, parse_location

TOP_K = 3
# Decoded images of a batch: enough for ONNX Runtime to be fast, few enough that the first results come soon.
_BATCH_BYTES = 16 << 20
# Batches that wait for the network, or are in it, while others are decoded.
_AHEAD = 2
_NOT_FINITE = "the network gives values for it that are not finite; train it again, with a smaller learning rate"

_log = step_logger("predict")


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model predicts of one file.

    Attributes:
        file: The file's name as one printable line.
        classes: Names and probabilities of the most probable classes, in that order; empty if there are none.
        error: Why there are none: it could not be read, or the network's values for it are not finite; else empty.
    """

    file: str
    classes: tuple[tuple[str, float], ...] = ()
    error: str = ""


@dataclass(frozen=True)
class Predictor:
    """A model that is ready, and what it takes of every image."""

    classifier: OnnxClassifier
    rendering: Rendering
    noted: Counter[Note] = field(default_factory=Counter)  # of how many images there was something to report

    @classmethod
    def open(cls, model: Path, device: str = "auto") -> Predictor:
        """Open a model.

        Args:
            model: A model directory, a run directory, or a model.onnx alone.
            device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

        Raises:
            ArtifactError: It is none, is damaged, or of version 0.8 or earlier.
            DeviceError: There is no such device.
            InputError: `device` is none of these.
        """
        check_device(device, _log)
        if model.is_file() and model.name != MODEL.manifest_file:
            classifier = OnnxClassifier.from_file(model, device)
            return cls(classifier, _rendering(classifier.metadata))
        if model.name == MODEL.manifest_file:
            raise InputError(f"{model}: is a model's manifest; name its directory")
        if (model / ONNX_FILE).exists() and not (model / MODEL.manifest_file).exists():
            raise InputError(f"{model}: has no {MODEL.manifest_file}; name {model / ONNX_FILE} itself")
        opened = open_model(model, onnx_file)
        background = opened.manifest.background(opened.path / MODEL.manifest_file)
        classifier = OnnxClassifier.open(opened, device)
        return cls(classifier, replace(_rendering(classifier.metadata), background=background))

    def batches(self, files: Iterable[ImageFile], top_k: int = TOP_K) -> Generator[list[Prediction], None, None]:
        """Predictions of files in order, some at a time; the next files are decoded while these are in the network.

        Raises:
            ArtifactError: The network cannot run, or gives no probabilities.
            StorageUnavailableError: A store does not answer.
        """
        names: deque[str] = deque()

        def named() -> Iterator[AnyFile]:
            for file in files:
                names.append(file.name)
                yield file.opened

        size = max(LEAST_SIZE, min(self.classifier.batch_size, _BATCH_BYTES // math.prod(self.rendering.shape)))
        waiting: deque[tuple[DecodedBatch, Future[npt.NDArray[np.float32]]]] = deque()

        def predicted() -> list[Prediction]:
            batch, running = waiting.popleft()
            self.noted.update(batch.noted)
            return self._predictions([names.popleft() for _ in batch.reasons], batch.reasons, running.result(), top_k)

        # One thread runs the network, and this one asks for files, so that neither waits for the other.
        with (
            ThreadPoolExecutor(1, thread_name_prefix="network") as network,
            closing(decode_batches(named(), self.rendering, size=size)) as decoded,
        ):
            try:
                for batch in decoded:
                    readable = [position for position, reason in enumerate(batch.reasons) if not reason]
                    images = batch.images if len(readable) == len(batch.reasons) else batch.images[readable]
                    waiting.append((batch, network.submit(self.classifier, images)))
                    while waiting and (len(waiting) > _AHEAD or waiting[0][1].done()):
                        yield predicted()
                while waiting:
                    yield predicted()
            finally:
                network.shutdown(cancel_futures=True)

    def _predictions(
        self, names: list[str], reasons: list[str], probabilities: npt.NDArray[np.float32], top_k: int
    ) -> list[Prediction]:
        # Of equal probabilities the class with the lower index counts, as in evaluation.
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top_k]
        classes = self.classifier.classes
        # The shortest decimal number that is the same float32.
        chosen = (
            tuple((classes[label], float(str(row[label]))) for label in labels)
            for row, labels in zip(probabilities, order.tolist(), strict=True)
        )
        are_finite = np.isfinite(probabilities.sum(axis=1)).tolist()
        found = iter(zip(chosen, are_finite, strict=True))
        predictions = []
        for name, reason in zip(names, reasons, strict=True):
            row, is_finite = next(found) if not reason else ((), True)
            error = reason if is_finite else _NOT_FINITE
            predictions.append(Prediction(name, error=error) if error else Prediction(name, row))
        return predictions


def predict(
    model: Path | str,
    images: AnyPath | str | Iterable[AnyPath | str],
    *,
    top_k: int = TOP_K,
    device: str = "auto",
    follow_links: bool = False,
) -> Iterator[Prediction]:
    """Predict the classes of image files, decoded, brought upright and resized as in training.

    The model is opened at once, files as predictions are asked for. One without a result gets a prediction with
    the reason.

    Args:
        model: A model directory, a run directory, or a model.onnx alone.
        images: Files, folders and locations in buckets (``gs://…``, ``s3://…``); one of these, or several. Folders are
            read with all that is below them, 2.png before 10.png; what has no image's ending there is passed over.
        top_k: How many classes each prediction has, the most probable first.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        follow_links: Whether links may lead out of a folder.

    Raises:
        ArtifactError: The model cannot be used.
        DeviceError: There is no such device.
        InputError: `top_k` is below 1, or `device` none of these.
        StorageRefusedError: A bucket cannot be read.
        StorageUnavailableError: A bucket's store does not answer.
    """
    check_top_k(top_k)
    predictor = Predictor.open(Path(model), device)
    given = [images] if isinstance(images, Path | str | Location) else images
    locations = (parse_location(location) if isinstance(location, str) else location for location in given)

    def predictions() -> Iterator[Prediction]:
        files = ImageFiles(locations, follow_links=follow_links)
        batches = predictor.batches(files, top_k)
        with closing(batches), files:  # given up, what is being fetched is so first, as threads wait for it
            for batch in batches:
                yield from batch

    return predictions()


def check_top_k(top_k: int) -> None:
    """Refuse a number of classes below 1."""
    if top_k < 1:
        raise InputError(f"top_k: must be 1 or more, got {top_k}")


def _rendering(of: OnnxMetadata) -> Rendering:
    red, green, blue = of.alpha_background
    return Rendering(of.resized, (red, green, blue), of.image_fit, of.image_interpolation)
