"""Data prep of local folders and of buckets: prepare what is read where it is, publish."""

from __future__ import annotations

import os

from components.data_prep.prepare import prepare
from components.shared.artifacts.dataset import DATASET
from components.shared.errors import ArtifactError, InputError
from components.shared.events.data import Emit, ignore_events
from components.shared.logs import step_logger
from components.shared.params.params import Params
from components.shared.staging import Staging
from components.shared.step import Reported
from components.shared.storage.location import FOLLOW_LINKS_VARIABLE, AnyPath, overlap_problem
from components.shared.text import shortened


def prepare_staged(
    *,
    data: AnyPath,
    dataset: AnyPath,
    params: Params,
    emit: Emit = ignore_events,
    layout: str | None = None,
    follow_links: bool = False,
) -> Reported:
    """As :func:`~components.data_prep.prepare.prepare`, of images and for a dataset that may be in buckets.

    Links may lead out of the data folder, too, where the environment has ``SHUTTERLINE_FOLLOW_LINKS=1``.
    """
    wanted = os.environ.get(FOLLOW_LINKS_VARIABLE, "")
    if wanted not in ("", "0", "1"):
        raise InputError(f"{FOLLOW_LINKS_VARIABLE}: must be 1 or 0, got {shortened(wanted)}")
    if problem := overlap_problem(data, dataset):
        raise ArtifactError(problem)
    with Staging(step_logger("data-prep"), emit, params) as staging:
        prepared = prepare(
            data=data,
            dataset=staging.output(dataset, DATASET),
            params=params,
            emit=staging.emit,
            layout=layout,
            follow_links=follow_links or wanted == "1",
            fetch=staging.tree,
        )
        return staging.publish(prepared)
