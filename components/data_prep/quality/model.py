"""``quality.json``: what is to be known of a dataset's images before a model learns from them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from components.shared.artifacts.artifact import ClassNames, ImageShape, Record
from components.shared.artifacts.dataset import LeftOut, SplitName
from components.shared.events.data import Severity

FindingKind = Literal[
    "leakage",
    "near_leakage",
    "label_conflict",
    "near_label_conflict",
    "duplicates",
    "near_duplicates",
    "constant",
    "nearly_constant",
    "tiny",
    "enlarged",
    "unreadable",
    "left_out",
    "missing_classes",
    "small_classes",
    "imbalance",
    "similar_class_names",
]
SCHEMA_VERSION: Literal[1] = 1
MAX_EXAMPLES = 10


class ImageRef(Record):
    """An image of the dataset: its split and its position in it, its file, and the name of its class."""

    split: SplitName
    index: int = Field(ge=0)
    file: str
    label: str


class Example(Record):
    """One case of a finding: the images that it is about, and what else there is to say."""

    images: list[ImageRef] = Field(default_factory=list)
    text: str = ""


class Finding(Record):
    """Something found in the data, once for each kind."""

    kind: FindingKind
    severity: Severity = Field(description="problem: figures or labels are wrong; warning: a look is worth it; note.")
    count: int = Field(ge=1)
    of: Literal["images", "classes", "files"]
    at_least: bool = Field(False, description="Whether there may be more, as not all that are alike were compared.")
    splits: dict[SplitName, int] = Field(default_factory=dict, description="The count by split, where it has one.")
    text: str = Field(description="What was found, as a sentence.")
    advice: str = Field(description="What to do about it.")
    examples: list[Example] = Field(max_length=MAX_EXAMPLES)


class Spread(Record):
    """The smallest, the middle and the largest of some numbers."""

    min: float
    median: float
    max: float


class SizeCount(Record):
    """How many images have one size."""

    width: int
    height: int
    count: int


class Sizes(Record):
    """How large images were before they were resized."""

    width: Spread
    height: Spread
    aspect_ratio: Spread = Field(description="Width over height.")
    different: int = Field(description="How many sizes there are.")
    most_common: list[SizeCount] = Field(max_length=10)


class SplitQuality(Record):
    """One split: its images, those of each class, and whether the data brought it."""

    count: int
    class_counts: list[int]
    origin: Literal["given", "held out"]


class QualityReport(Record):
    """``quality.json``; the same images give the same report."""

    kind: Literal["shutterline.quality"] = "shutterline.quality"
    schema_version: Literal[1] = SCHEMA_VERSION
    source: str
    classes: ClassNames
    image: ImageShape = Field(description="As images are stored.")
    splits: dict[SplitName, SplitQuality]
    sizes: Sizes
    kinds: dict[str, int] = Field(description="How many images were of each format and mode, such as 'PNG RGBA'.")
    unreadable: int
    left_out: LeftOut
    findings: list[Finding] = Field(description="The most severe first.")
    compared_with_some: int = Field(
        0,
        ge=0,
        description="How many images resemble so many others that they were compared with the most similar ones alone: "
        "there may be more near duplicates.",
    )
