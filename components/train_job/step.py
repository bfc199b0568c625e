"""The pipeline's training step where several nodes train: has Kubeflow Trainer train, follows, and reports.

Nothing here needs torch or numpy: the nodes run the train image, and write model and checkpoints straight to the
artifacts' locations in the bucket.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ConfigDict

from components.shared.artifacts.artifact import (
    ArtifactKind,
    Manifest,
    manifest_digest,
    read_manifest,
    require_same,
)
from components.shared.artifacts.model import MODEL, ModelManifest
from components.shared.errors import ArtifactError, InputError, PlatformRefusedError, ShutterlineError
from components.shared.events.data import Emit
from components.shared.kubeflow.api import is_kubeflow
from components.shared.kubeflow.train_job import NodeSpec
from components.shared.locks import end_with_run
from components.shared.logs import step_logger
from components.shared.params.params import Params, parse
from components.shared.params.source import read_raw
from components.shared.params.training_id import training_id
from components.shared.process_group import PROCESSES_VARIABLE
from components.shared.run import (
    checkpoints_beside,
    checkpoints_of_run,
    current_run,
    events_of_checkpoints,
    run_id_of,
    step_run,
)
from components.shared.signals import Terminated
from components.shared.staging import Staging, addresses_of
from components.shared.step import StepRecord, run_step
from components.shared.storage.location import AnyPath, Location, lies_within, parse_location
from components.shared.strict_json import read_json
from components.shared.train_result import TrainResult, write_outputs
from components.train_job.api import Api, Pace
from components.train_job.follow import Follower
from components.train_job.jobs import TrainJobs, names_being_deleted, next_attempt
from components.train_job.reasons import error_of_job
from components.train_job.relay import Relay
from components.train_job.status import ending_of, is_being_deleted

_log = step_logger("train")


class _AnyDataset(Manifest):
    """A dataset's manifest by what every manifest has; its digest says which it is, and the nodes read the rest."""

    model_config = ConfigDict(extra="allow", frozen=True)


_DATASET = ArtifactKind("dataset", "dataset.json", _AnyDataset)


@dataclass(frozen=True)
class _Locations:
    dataset: AnyPath
    dataset_sha256: str
    model: AnyPath
    checkpoints: AnyPath | None  # named, if they are

    @property
    def of_checkpoints(self) -> AnyPath:
        """Where checkpoints are kept."""
        return self.checkpoints or checkpoints_beside(self.model)


@dataclass(frozen=True)
class TrainJobStep:
    """The pipeline's training step on several nodes, as its component has it; an empty path or URI: there is none.

    `model_uri`, where the platform keeps the model, says which run this is, and is where the nodes write it; at `model`
    on this machine nothing is made. `dataset_location` is a file of JSON: the uri and the sha256 of the dataset.
    `nodes` is a `NodeSpec` as JSON. `checkpoints` is as for :func:`~components.shared.run.checkpoints_of_run`;
    `metrics`, `learning_curves` and `model_sha256` are files to write.
    """

    params: str
    dataset_location: str
    model: str
    model_uri: str
    nodes: str
    dataset_sha256: str = ""
    checkpoints: str = ""
    metrics: str = ""
    learning_curves: str = ""
    model_sha256: str = ""
    pace: Pace = field(default_factory=Pace)

    def run(self) -> StepRecord:
        """Train on several nodes.

        Raises:
            StepFailed: A SystemExit with the step's exit code; the reason is logged.
        """
        end_with_run()
        run = run_id_of(self.model_uri)
        _, record = run_step(
            "train",
            lambda: parse(*read_raw(self.params)).warned(),
            self._train,
            lambda: step_run(
                Path(self.model),
                in_pipeline=True,
                artifact=self.model_uri,
                platform_run=run,
                durable=events_of_checkpoints(self.checkpoints, self.model_uri),
            ),
            addresses_of((self.model, self.model_uri)),
            is_recorded=False,  # the nodes record
        )
        return record

    def _train(self, params: Params, emit: Emit) -> TrainResult[AnyPath]:
        spec = NodeSpec.from_json(self.nodes)
        with Staging(_log, emit, params) as staging:
            where = self._locations(staging, spec, params)
            api = Api(self.pace)
            jobs = TrainJobs(api, _log, current_run.get(), spec, self._arguments(where, spec, params))
            found, rights = jobs.found(), jobs.rights()
            job = _to_take_up(found, jobs, lambda: _fetched_model(staging, where))
            relay = Relay(emit, _log, since=datetime.now(UTC) if job is not None else None)
            if job is None:
                job = jobs.manifest(next_attempt(found))
                jobs.try_out(job)
                jobs.await_gone(names_being_deleted(found))
            follower = Follower(api, jobs, job, rights, relay, emit)
            try:
                follower.begin()
                ending = follower.until_over()
                if ending is not None and ending.is_deadline:
                    follower.end()
            except BaseException as error:  # nobody would wait for it
                follower.end()
                saved = relay.saved_in(where.of_checkpoints)
                if isinstance(error, Terminated | KeyboardInterrupt) and saved:
                    error.add_note(saved)
                raise
            if ending is None or ending.state == "failed":
                raise error_of_job(
                    follower.name,
                    ending,
                    relay.end,
                    follower.losses,
                    state=follower.state,
                    job_failure=jobs.failure_of(follower.name) if rights.jobs else "",
                    saved=relay.saved_in(where.of_checkpoints),
                )
            return self._result(staging, where, relay)

    def _arguments(self, where: _Locations, spec: NodeSpec, params: Params) -> list[str]:
        """Of the nodes' command line."""
        return [
            f"--dataset={where.dataset}",
            f"--model={where.model}",
            *([f"--checkpoints={where.checkpoints}"] if where.checkpoints is not None else []),
            f"--params={params.to_json()}",
            f"--processes={spec.env.get(PROCESSES_VARIABLE) or 'auto'}",
        ]

    def _locations(self, staging: Staging, spec: NodeSpec, params: Params) -> _Locations:
        """Where everything is, which the nodes can reach, and the dataset is the one that was made."""
        try:
            document = read_json(Path(self.dataset_location))
            dataset, sha256 = parse_location(document["uri"]), str(document["sha256"])
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise ArtifactError(f"{self.dataset_location}: does not name the dataset's location: {error}") from error
        require_same(_DATASET, sha256, self.dataset_sha256)
        model = parse_location(self.model_uri.partition("?")[0])
        for what, where in (("the dataset", dataset), ("the model", model)):
            _require_shared(what, where, spec)
        manifest = staging.artifact(dataset, _DATASET, lambda manifest: ())
        digest = manifest_digest(manifest, _DATASET)
        require_same(_DATASET, digest, sha256)
        checkpoints = checkpoints_of_run(self.checkpoints, self.model_uri, training_id(params, digest))
        if checkpoints is not None:
            _require_shared("checkpoints", checkpoints, spec)
        return _Locations(dataset, digest, model, checkpoints)

    def _result(self, staging: Staging, where: _Locations, relay: Relay) -> TrainResult[AnyPath]:
        """What training reports, by the model that it has published."""
        fetched = _fetched_model(staging, where)
        result: TrainResult[AnyPath] = TrainResult.of_model(
            read_manifest(fetched, MODEL),
            where.model,
            where.of_checkpoints,
            relay.resumed_from,
            relay.end.mlflow_run if relay.end is not None else None,
        )
        write_outputs(
            result,
            fetched,
            metrics=self.metrics,
            learning_curves=self.learning_curves,
            model_sha256=self.model_sha256,
        )
        return result


def _to_take_up(
    found: Sequence[Mapping[str, Any]], jobs: TrainJobs, model: Callable[[], object]
) -> Mapping[str, Any] | None:
    """The job of an earlier attempt of this step that trains, or has trained; None: a new one is needed."""
    job = next((each for each in found if not is_being_deleted(each)), None)
    if job is None:
        return None
    name, ending = job["metadata"]["name"], ending_of(job)
    if ending is None and not jobs.is_own(job):
        raise PlatformRefusedError(
            f"TrainJob {name} of this run trains with other params, locations or nodes; wait for its end, or delete "
            f"it: kubectl delete trainjob {name}"
        )
    if ending is None:
        _log.info("TrainJob %s of an earlier attempt of this step goes on; its log from the beginning:", name)
        return job
    if ending.state == "failed" or not jobs.is_own(job):
        return None
    try:
        model()
    except ShutterlineError as error:
        _log.warning("TrainJob %s of an earlier attempt has succeeded, and there is no model of it: %s", name, error)
        return None
    _log.info("TrainJob %s of an earlier attempt of this step has succeeded; its log:", name)
    return job


def _fetched_model(staging: Staging, where: _Locations) -> Path:
    """A directory with the manifest and the learning curves of the model, which is of this dataset."""
    fetched = staging.artifact(where.model, MODEL, lambda manifest: filter(None, [manifest.learning_curves]))
    manifest: ModelManifest = read_manifest(fetched, MODEL)
    if manifest.provenance.dataset_sha256 != where.dataset_sha256:
        raise ArtifactError(f"{where.model}: is a model of another dataset; something else was stored there")
    return fetched


def _require_shared(what: str, where: AnyPath, spec: NodeSpec) -> None:
    """Refuse a location that pods on other machines do not reach."""
    is_shared = isinstance(where, Location) or any(lies_within(where, Path(volume.path)) for volume in spec.volumes)
    if not is_shared and is_kubeflow():  # elsewhere, as in kfp's local runner, all is on one machine
        raise InputError(
            f"{what}: {where} is on this pod's own disk, which the nodes do not reach; use gs:// or s3://, or a path "
            "in one of train's volumes"
        )
