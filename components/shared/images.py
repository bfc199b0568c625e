"""Names of the container images, one per step."""

from __future__ import annotations

from typing import Literal

from components.shared.version import __version__


def image_of(step: Literal["data-prep", "train", "evaluate"]) -> str:
    """The image of a step, tagged with the version; the exit step runs on the smallest, data-prep's."""
    return f"shutterline/{step}:{__version__}"
