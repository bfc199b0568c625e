"""What manifests record of how images were rendered."""

from __future__ import annotations

from components.shared.artifacts.dataset_part import RenderingRecord
from components.shared.decoding.rendering import Rendering
from components.shared.decoding.version import decoder_version


def record_of(rendering: Rendering) -> RenderingRecord:
    """The record of a rendering by what decodes here."""
    return RenderingRecord(
        background="#{:02x}{:02x}{:02x}".format(*rendering.background),
        fit=rendering.fit,
        interpolation=rendering.interpolation,
        decoder=decoder_version(),
    )
