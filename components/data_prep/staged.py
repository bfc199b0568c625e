"""Data prep wherever images and dataset lie: fetch, prepare, publish."""

from __future__ import annotations

from components.data_prep.prepare import prepare
from components.shared.dataset import DATASET
from components.shared.events.data import Emit, unheard
from components.shared.logs import step_logger
from components.shared.params import Params
from components.shared.staging import Staging
from components.shared.step import Reported
from components.shared.storage.location import Place


def prepare_staged(*, data: Place, dataset: Place, params: Params, emit: Emit = unheard) -> Reported:
    """As :func:`~components.data_prep.prepare.prepare`, of images and for a dataset that may lie in buckets.

    Raises:
        DataError: The data cannot be used.
        ArtifactError: The dataset directory cannot be written.
        StorageRefusedError: A place in a bucket is not there or may not be used.
        StorageUnavailableError: The storage does not answer.
    """
    with Staging(step_logger("data-prep"), emit, params) as staging:
        folder = staging.tree(data)
        output = staging.output(dataset, DATASET)
        return staging.publish(prepare(data=folder, dataset=output, params=params, emit=staging.emit))
