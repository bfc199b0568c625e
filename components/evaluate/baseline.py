"""The model that the params name as a baseline, on the same images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from components.evaluate.comparison import compare
from components.evaluate.fit import check_data
from components.evaluate.inference import parts_of
from components.evaluate.metrics import Scores, figures_of, joined
from components.shared.artifacts.dataset import Dataset
from components.shared.artifacts.evaluation import ComparisonRecord
from components.shared.artifacts.model import MODEL, Model, onnx_file, onnx_of, open_model
from components.shared.errors import ArtifactError
from components.shared.inference.classifier import OnnxClassifier
from components.shared.metrics import per_class
from components.shared.params.params import Params
from components.shared.seeds import derived_seed
from components.shared.staging import Staging
from components.shared.storage.location import parse_location


@dataclass(frozen=True)
class Baseline:
    """A model directory that is ready to run on a dataset; `location` is what the params name."""

    location: str
    model: Model
    classifier: OnnxClassifier
    data: Dataset
    manual_seed: int

    @classmethod
    def open(cls, params: Params, data: Dataset, staging: Staging) -> Self | None:
        """The baseline of the params, fetched where it is in a bucket; None where they name none.

        InputError: It is no complete model, of other classes or images than the dataset, or cannot run.
        """
        if params.baseline is None:
            return None
        try:
            model = open_model(staging.artifact(parse_location(params.baseline), MODEL, onnx_file), onnx_file)
            check_data(model, data)
            classifier = OnnxClassifier.open(model, params.device)
        except ArtifactError as error:
            raise ArtifactError(f"baseline {error}") from error
        return cls(params.baseline, model, classifier, data, params.manual_seed)

    def compare(self, ours: Scores) -> ComparisonRecord:
        """Run on the test split, and compare a model that has these scores there; ArtifactError: it cannot run."""
        split, manifest = self.data.splits["test"], self.model.manifest
        theirs = joined([scores for _, scores in parts_of(self.classifier, split, self.model.path)])
        of = per_class(split.labels, theirs.predicted, len(manifest.classes))
        return compare(
            split.labels,
            ours,
            theirs,
            metrics=figures_of(split.labels, theirs, of),
            where=self.location,
            onnx_sha256=onnx_of(manifest, self.location).sha256,
            seed=derived_seed(self.manual_seed, "evaluate/comparison"),
        )
