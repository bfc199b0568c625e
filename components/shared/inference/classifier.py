"""A trained classifier as it is shipped: model.onnx, images in, probabilities out."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from components.shared.artifacts.model import Model, onnx_of
from components.shared.cropping import central_crop
from components.shared.errors import ArtifactError, DeviceError
from components.shared.inference.guard import INPUT, OUTPUT, CheckedOnnx, check_onnx
from components.shared.inference.runtime import describe_device, open_session
from components.shared.text import first_line

# By how much probabilities of float32 may miss 1 together.
_MAX_EXCESS = 1e-3


class OnnxClassifier:
    """A checked model.onnx in a session of ONNX Runtime; call it with images.

    Attributes:
        classes: Names, in the order of the probabilities.
        image_shape: Height and width in pixels, and channels, of each image that the network takes.
        stored_shape: The same of images before their middle is taken; as `image_shape` where they are taken whole.
        metadata: What the file says of itself, such as how images get `stored_shape`.
        batch_size: Images that go through the network at once. It follows from network and image size alone, so that
            no caller's batch changes a result.
        device: What it runs on, for people.
        provider: ONNX Runtime's name of it.
    """

    def __init__(self, file: Path, checked: CheckedOnnx, device: str) -> None:
        self._file, self._checked = file, checked
        self.classes: list[str] = checked.metadata.classes
        self.image_shape: tuple[int, int, int] = checked.metadata.image
        self.stored_shape: tuple[int, int, int] = checked.metadata.resized
        self.metadata = checked.metadata
        self.batch_size = checked.batch_size
        try:
            self._session = open_session(file, device)
        except DeviceError:
            raise
        except Exception as error:  # ONNX Runtime's have no common base
            raise ArtifactError(
                f"{file}: ONNX Runtime refuses it: {first_line(error)}; train the model again"
            ) from error
        self.device = describe_device(self._session)
        self.provider: str = self._session.get_providers()[0]

    @classmethod
    def open(cls, model: Model, device: str = "auto") -> Self:
        """The classifier of a model directory.

        Args:
            model: An opened model directory, whose file has been checked against its manifest.
            device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; a build for the CPU alone runs on the CPU.

        Raises:
            ArtifactError: The model has no model.onnx, or one that is damaged or another model's.
            DeviceError: A GPU was asked for by name, and there is none.
        """
        file = model.path / onnx_of(model.manifest, model.path).file
        return cls(file, check_onnx(file, model.manifest), device)

    @classmethod
    def from_file(cls, file: Path, device: str = "auto") -> Self:
        """The classifier of a model.onnx without its model.json: classes and image shape are those of its metadata."""
        return cls(file, check_onnx(file), device)

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Class probabilities of the middle of images.

        Args:
            images: uint8, (images, height, width, channels), of `stored_shape`; or of `image_shape`, cropped already.

        Returns:
            float32, (images, classes); not finite where the network gives such values.

        Raises:
            ArtifactError: The network cannot run, gives another shape, or numbers that are no probabilities.
        """
        found = np.empty((len(images), len(self.classes)), np.float32)
        for start in range(0, len(images), self.batch_size):
            chunk = images[start : start + self.batch_size]
            if chunk.shape[1:] == self.stored_shape:
                chunk = central_crop(chunk, self.image_shape)
            found[start : start + len(chunk)] = self._run(chunk)
        return found

    def _run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        self._checked.check_batch(len(images))
        try:
            (result,) = self._session.run([OUTPUT], {INPUT: images})
        except Exception as error:  # ONNX Runtime's have no common base
            raise ArtifactError(f"{self._file}: cannot run: {first_line(error)}") from error
        wanted = (len(images), len(self.classes))
        if result.dtype != np.float32 or result.shape != wanted:
            raise ArtifactError(f"{self._file}: gives {result.dtype} {result.shape}, and must give float32 {wanted}")
        # Not values that are not finite, which the caller counts: those come of training, not of another file.
        if (result < 0).any() or (abs(result.sum(1) - 1) > _MAX_EXCESS).any():
            raise ArtifactError(f"{self._file}: gives values that are no probabilities; train the model again")
        return result  # type: ignore[no-any-return]
