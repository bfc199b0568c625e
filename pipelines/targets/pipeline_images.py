"""The pipeline with the images that its steps shall run in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.shared.images import Image, ImageStep
from components.shared.step import StepName


def reference_of(step: StepName, images: Mapping[ImageStep, Image]) -> str:
    """The image of a step; the exit step runs on the smallest, data prep's."""
    return images["data-prep" if step == "exit" else step].reference


def pipeline_with(images: Mapping[ImageStep, Image]) -> Any:
    """A pipeline of kfp's like ours, each step on the image given for it.

    Args:
        images: One per step; the exit step gets data prep's.
    """
    from pipelines.image_classifier import pipeline_for

    return pipeline_for(lambda step, task: task.set_container_image(reference_of(step, images)))
