"""The part directory: the decoded share of one of several steps, which are joined to a dataset.

Layout::

    part.json              the manifest, written last
    train/images-00000.npy uint8, shape (images, height, width, channels): a row for each position of the share
    train/facts.npy        what is known of each of them
    train/names.jsonl      ["cat/1.png"] a line, with more where there is something to report
    test/…                 the same, for every split of the data
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from components.shared.artifacts.artifact import ArtifactKind, ClassNames, FileRecord, ImageShape, Manifest, Record
from components.shared.artifacts.dataset import LeftOut, ShardRecord, SplitName


class RenderingRecord(Record):
    """What was made of every image, besides its size."""

    background: str = Field(description="What transparent and padded parts show, as #rrggbb.")
    fit: str
    interpolation: str
    decoder: str = Field(description="Versions of what the pixels depend on.")


class PartSplit(Record):
    """The share of one split: consecutive positions of those that the data have."""

    folder: str = Field(description="The split's folder below the data.")
    total: int = Field(ge=1, description="Positions of the whole split.")
    start: int = Field(ge=0, description="The first of the share.")
    count: int = Field(ge=0)
    kinds: list[str] = Field(description="What the facts' kinds index.")
    images: list[ShardRecord]
    facts: FileRecord
    names: FileRecord

    @model_validator(mode="after")
    def _adds_up(self) -> PartSplit:
        if self.start + self.count > self.total or sum(shard.count for shard in self.images) != self.count:
            raise ValueError("its positions do not add up")
        return self


class PartManifest(Manifest):
    """``part.json``."""

    kind: Literal["shutterline.dataset-part"] = "shutterline.dataset-part"
    shard: int = Field(ge=0, description="Which part it is.")
    shards: int = Field(ge=1, description="How many there are.")
    data: str = Field(description="Where the data were, for messages.")
    listing: str = Field(pattern="^[0-9a-f]{32}$", description="Digest of all that was listed: the same of all parts.")
    source: str = Field(description="The layout of the data, such as 'IDX files'.")
    classes: ClassNames = Field(min_length=1)
    left_out: LeftOut
    image: ImageShape
    rendering: RenderingRecord
    splits: dict[SplitName, PartSplit]

    @model_validator(mode="after")
    def _agrees(self) -> PartManifest:
        if self.shard >= self.shards:
            raise ValueError(f"it is part {self.shard} of {self.shards}")
        return self


DATASET_PART = ArtifactKind("dataset part", "part.json", PartManifest)
