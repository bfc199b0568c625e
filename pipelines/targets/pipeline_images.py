"""The pipeline with the images that its steps shall run in."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from components.shared.images import IMAGE_STEPS, Image, ImageStep, image_of


def pipeline_with(images: Mapping[ImageStep, Image]) -> Any:
    """A pipeline of kfp's like ours, each step on the image given for it.

    A step's face names its image when it is imported, so what kfp made of the pipeline is changed, in a copy.

    Args:
        images: One per step; the exit step gets data prep's.
    """
    from pipelines.image_classifier import image_classifier

    pipeline = copy.deepcopy(image_classifier)
    references = {image_of(step): images[step].reference for step in IMAGE_STEPS}
    for executor in pipeline.pipeline_spec.deployment_spec["executors"].values():
        container = executor["container"]
        container["image"] = references[container["image"]]
    return pipeline
