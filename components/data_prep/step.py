"""Data prep of local folders and of buckets: prepare what is read where it is, publish."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path

from components.data_prep.parts.merge import merge_parts
from components.data_prep.parts.part import prepare_part
from components.data_prep.prepare import prepare
from components.shared.artifacts.dataset import DATASET
from components.shared.artifacts.dataset_part import DATASET_PART
from components.shared.errors import ArtifactError, InputError
from components.shared.events.data import Emit, ignore_events
from components.shared.logs import step_logger
from components.shared.params.params import Params
from components.shared.staging import Staging
from components.shared.step import Reported
from components.shared.storage.fetch import list_names
from components.shared.storage.location import FOLLOW_LINKS_VARIABLE, AnyPath, Location, overlap_problem
from components.shared.text import shortened


def prepare_part_staged(
    *,
    data: AnyPath,
    part: AnyPath,
    shard: tuple[int, int],
    params: Params,
    emit: Emit = ignore_events,
    layout: str | None = None,
    follow_links: bool = False,
) -> Reported:
    """As :func:`~components.data_prep.parts.part.prepare_part`, otherwise as :func:`prepare_staged`."""
    if problem := overlap_problem(data, part):
        raise ArtifactError(problem)
    follow = follow_links or _follows_links()
    with Staging(step_logger("data-prep"), emit, params) as staging:
        made = prepare_part(
            data=data,
            part=staging.output(part, DATASET_PART),
            shard=shard,
            params=params,
            emit=staging.emit,
            layout=layout,
            follow_links=follow,
            fetch=staging.tree,
        )
        return staging.publish(made)


def merge_staged(
    *,
    parts: Sequence[AnyPath],
    dataset: AnyPath,
    params: Params,
    emit: Emit = ignore_events,
    digests: Collection[str] = (),
) -> Reported:
    """As :func:`~components.data_prep.parts.merge.merge_parts`, of parts and for a dataset that may be in buckets.

    Each of `parts` is a part's place, or one that has several below it.
    """
    with Staging(step_logger("data-prep"), emit, params) as staging:
        places = [place for part in parts for place in _parts_at(part)]
        for place in places:
            if problem := overlap_problem(place, dataset, "the part"):
                raise ArtifactError(problem)
        output = staging.output(dataset, DATASET)
        paths = [staging.artifact(place, DATASET_PART) for place in places]
        return staging.publish(
            merge_parts(parts=paths, dataset=output, params=params, emit=staging.emit, digests=digests)
        )


def _parts_at(place: AnyPath) -> list[AnyPath]:
    """A part's own place, or those of the parts right below."""
    name = DATASET_PART.manifest_file
    if isinstance(place, Location):
        found = list_names(place)
        below = sorted({each.partition("/")[0] for each in found if each.endswith(f"/{name}") and each.count("/") == 1})
        inner: list[AnyPath] = [place.child(each) for each in below]
    else:
        found = [name] if (place / name).exists() else []
        inner = [file.parent for file in sorted(place.glob(f"*/{name}"))]
    return inner if inner and name not in found else [place]


def _follows_links() -> bool:
    wanted = os.environ.get(FOLLOW_LINKS_VARIABLE, "")
    if wanted not in ("", "0", "1"):
        raise InputError(f"{FOLLOW_LINKS_VARIABLE}: must be 1 or 0, got {shortened(wanted)}")
    return wanted == "1"


def prepare_staged(
    *,
    data: AnyPath,
    dataset: AnyPath,
    params: Params,
    emit: Emit = ignore_events,
    layout: str | None = None,
    follow_links: bool = False,
    reuse: AnyPath | None = None,
    stamp: bool = False,
) -> Reported:
    """As :func:`~components.data_prep.prepare.prepare`, of images and for a dataset that may be in buckets.

    With `stamp`, `reuse` is by default the dataset that is replaced. Links may lead out of the data folder, too, where
    the environment has ``SHUTTERLINE_FOLLOW_LINKS=1``.
    """
    follow = follow_links or _follows_links()
    if isinstance(reuse, Path) and not (reuse / DATASET.manifest_file).exists():
        raise ArtifactError(f"{reuse}: holds no dataset that could be used again")
    if problem := overlap_problem(data, dataset):
        raise ArtifactError(problem)
    with Staging(step_logger("data-prep"), emit, params) as staging:
        output = staging.output(dataset, DATASET)
        earlier = output if stamp else None  # the one that is replaced, if there is one
        prepared = prepare(
            data=data,
            dataset=output,
            params=params,
            emit=staging.emit,
            layout=layout,
            follow_links=follow,
            fetch=staging.tree,
            reuse=earlier if reuse is None else staging.artifact(reuse, DATASET),
            stamp=stamp,
        )
        return staging.publish(prepared)
