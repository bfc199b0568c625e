"""The training step, where bytes and processes are: fetch what is read, start a group or join one, train, publish.

torch takes seconds to import, and what only starts other processes, or is interrupted meanwhile, does without it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from components.shared.artifacts.artifact import manifest_digest, require_same
from components.shared.artifacts.dataset import DATASET, training_files
from components.shared.artifacts.model import MODEL, starting_weights
from components.shared.errors import InputError
from components.shared.events.data import Emit, ignore_events
from components.shared.files import require_writable, sha256_of
from components.shared.locks import RUN_LOCK_VARIABLE, end_with_run
from components.shared.logs import step_logger
from components.shared.params.params import Params, parse
from components.shared.params.source import read_raw
from components.shared.params.training_id import training_id
from components.shared.process_group import (
    PROCESSES_VARIABLE,
    has_restarted_clean,
    is_rank_zero,
    leave_outcome,
    why_started_again,
)
from components.shared.run import (
    AUTO,
    checkpoints_beside,
    checkpoints_of_run,
    events_of_checkpoints,
    run_id_of,
    step_run,
)
from components.shared.signals import Terminated
from components.shared.staging import Staging, addresses_of
from components.shared.step import Reported, StepFailed, StepRecord, run_step
from components.shared.storage.location import AnyPath, Location, parse_location
from components.shared.train_result import write_outputs
from components.train.checkpoints.format import list_checkpoints
from components.train.checkpoints.resume import Checkpoints, of_another_length, require_alone
from components.train.garbage import collect_rarely
from components.train.gpu_context import wake_gpu
from components.train.graph_export import GraphExport
from components.train.launch import IN_PIPELINE, Launch

if TYPE_CHECKING:
    from components.classifier.check import Checked
    from components.train.group import Group

_log = step_logger("train")


@dataclass(frozen=True)
class PipelineStep:
    """The pipeline's training step, as its component has it; where a path or URI is empty, there is none.

    `model_uri`, where the platform keeps the model, says which run this is. `checkpoints` is as for
    :func:`~components.shared.run.checkpoints_of_run`; the last three are files to write.
    """

    params: str
    dataset: str
    model: str
    model_uri: str
    dataset_uri: str = ""
    dataset_sha256: str = ""
    checkpoints: str = ""
    metrics: str = ""
    learning_curves: str = ""
    model_sha256: str = ""

    def run(self) -> StepRecord:
        """Train: on all GPUs of the node, where the params' device is ``auto`` or ``cuda`` and there are several.

        The environment variable ``SHUTTERLINE_PROCESSES`` names another number of processes.

        Raises:
            StepFailed: A SystemExit with the step's exit code; the reason is logged.
        """
        end_with_run()
        collect_rarely()
        parsed = cache(lambda: parse(*read_raw(self.params)))
        run = run_id_of(self.model_uri)  # one, whichever process reports how the step ended
        launch = Launch([IN_PIPELINE, json.dumps(asdict(self))])
        processes = os.environ.get(PROCESSES_VARIABLE) or "auto"
        if (outcome := launch.outcome(processes, lambda: parsed().params, lambda: run)) is not None:
            record = StepRecord.model_validate(outcome.document)
            if record.exit_code:
                raise StepFailed(record, record.exit_code)
            return record
        _, record = run_step(
            "train",
            lambda: parsed().warned(),
            launch.unless_failed(self._train),
            lambda: step_run(
                Path(self.model),
                in_pipeline=True,
                artifact=self.model_uri,
                platform_run=run,
                durable=events_of_checkpoints(self.checkpoints, self.model_uri),
            ),
            addresses_of((self.dataset, self.dataset_uri), (self.model, self.model_uri)),
        )
        return record

    def _train(self, params: Params, emit: Emit) -> Reported:
        return train_step(
            dataset=Path(self.dataset),
            model=Path(self.model),
            params=params,
            checkpoints=lambda: self._checkpoints(params),
            emit=emit,
            finish=self._write_outputs,
        )

    def _checkpoints(self, params: Params) -> AnyPath | None:
        digest = manifest_digest(Path(self.dataset), DATASET)
        require_same(DATASET, digest, self.dataset_sha256)
        kept = checkpoints_of_run(self.checkpoints, self.model_uri, training_id(params, digest))
        if isinstance(kept, Path):
            if RUN_LOCK_VARIABLE in os.environ:
                kept = require_alone(kept, params, digest)
            require_writable("checkpoints", kept, kept if self.checkpoints == AUTO else kept.parent)
        return kept

    def _write_outputs(self, result: Reported) -> None:
        """What the platform gets beside the model, before the step is reported as succeeded."""
        write_outputs(
            result,
            Path(self.model),
            metrics=self.metrics,
            learning_curves=self.learning_curves,
            model_sha256=self.model_sha256,
        )


def run_member(arguments: Sequence[str]) -> int:
    """Train as one process of a pipeline step's group, whose one argument is a `PipelineStep` as JSON."""
    error = None
    try:
        record = PipelineStep(**json.loads(arguments[0])).run()
    except StepFailed as failed:
        record, error = failed.record, failed.__cause__
    return leave_outcome(record.model_dump(mode="json"), record.exit_code, error)


def trial_step(
    *, dataset: AnyPath, params: Params, trial: Callable[[Path, Params], Reported], emit: Emit = ignore_events
) -> Reported:
    """A trial, from a dataset directory and params to a result, on a dataset that may be in a bucket."""
    wake_gpu(params.device)
    from components.classifier.check import check
    from components.train.group import own_device

    with Staging(_log, emit, params) as staging:
        if isinstance(dataset, Location):
            check(params)
            own_device(params.device)  # before anything is fetched
        images = staging.artifact(dataset, DATASET, training_files)
        if (start := _initial_weights(staging, params)) is not None:
            params = params.model_copy(update={"initial_weights": str(start)})
        return staging.publish(trial(images, params))


def train_step(
    *,
    dataset: AnyPath,
    model: AnyPath,
    params: Params,
    checkpoints: AnyPath | Callable[[], AnyPath | None] | None = None,
    start_over: bool = False,
    emit: Emit = ignore_events,
    group: Group | None = None,
    finish: Callable[[Reported], None] = lambda result: None,
) -> Reported:
    """As :func:`~components.train.train.train`, of and for directories that may be in buckets.

    In a group of processes each one fetches what it reads, and the first publishes.

    Args:
        dataset: A complete dataset directory; of one in a bucket what training reads is fetched.
        model: Where the model directory is made.
        params: The run's options.
        checkpoints: Where checkpoints are kept, or what finds that out; by default beside `model`.
        start_over: Remove the checkpoints that are there.
        emit: Gets the status of the step.
        group: The processes that train together; by default those that the environment names.
        finish: Called in the first process with the result, once it is published.
    """
    wake_gpu(params.device)
    kept = None
    if isinstance(checkpoints, Path):
        kept = Checkpoints(checkpoints)
    elif checkpoints is None and isinstance(model, Path):
        kept = Checkpoints.beside(model)
    with (
        _noting_what_is_saved(kept, dataset, params),
        # Before torch is imported, which the other process does meanwhile.
        GraphExport(params, kept.directory if kept else None, is_later=callable(checkpoints))
        if is_rank_zero()
        else nullcontext() as graph,
    ):
        from components.train.group import join_group, own_device, shared_scratch

        with (
            join_group() if group is None else nullcontext(group) as group,
            shared_scratch(group),
            Staging(_log, emit, params) as staging,
        ):
            if group.is_first and (why := why_started_again()):
                _log.warning("%s", why)
            # Torch elastic starts all again with the same arguments, and what this run has saved since is its own.
            start_over = start_over and not any(group.gathered(has_restarted_clean()))

            def prepare() -> tuple[Checked, Path, Path, Checkpoints, Path | None]:
                """Only the first process claims and writes; of the others' directories nothing is made or read."""
                output, kept, location = Path(os.devnull), Checkpoints(Path(os.devnull), start_over), None
                if group.is_first:
                    location = checkpoints() if callable(checkpoints) else checkpoints
                from components.classifier.check import check

                checked = check(params)  # before anything is fetched or claimed
                own_device(params.device)
                if group.is_first:
                    kept = _checkpoints(staging, model, params, location, start_over=start_over)
                    if graph is not None and callable(checkpoints):
                        graph.begin(kept.directory)
                images = staging.artifact(dataset, DATASET, training_files)
                start = _initial_weights(staging, params)
                if group.is_first:
                    output = staging.output(model, MODEL)
                return checked, images, output, kept, start

            checked, images, output, kept, start = group.together(prepare)
            from components.train.train import train  # seconds, which what is refused before need not take

            with _noting_what_is_saved(kept, images, params):
                result: Reported = train(
                    dataset=images,
                    model=output,
                    params=params,
                    checkpoints=kept,
                    initial_weights=start,
                    emit=staging.emit,
                    group=group,
                    checked=checked,
                    graph=graph,
                )

            def publish() -> Reported:
                published = staging.publish(result)
                finish(published)
                return published

            return group.on_first(publish)  # what the others have is not where the user's names say


@contextmanager
def _noting_what_is_saved(kept: Checkpoints | None, dataset: AnyPath, params: Params) -> Iterator[None]:
    """Within, an interruption gets a note of how far the run is saved, where it has none yet."""
    try:
        yield
    except (Terminated, KeyboardInterrupt) as error:
        with suppress(Exception):  # the import of torch, which knows the schedules, may be what was interrupted
            if kept is not None and isinstance(dataset, Path) and not getattr(error, "__notes__", ()):
                digest = sha256_of(dataset / DATASET.manifest_file)
                if saved := kept.saved(params, digest):
                    error.add_note(saved)
        raise


def _checkpoints(
    staging: Staging, model: AnyPath, params: Params, location: AnyPath | None, *, start_over: bool
) -> Checkpoints:
    """The first process's directory of checkpoints; of one in a bucket with what it can go on from."""
    is_beside = location is None
    if location is None and isinstance(model, Location) and model.key:
        location = checkpoints_beside(model)
    if location is None:
        return Checkpoints.beside(Path(str(model)), start_over=start_over)
    directory = staging.directory(location)
    if not isinstance(location, Location):
        require_writable("checkpoints", directory)
        return Checkpoints(directory, start_over, name=str(location))
    from components.train.checkpoints.writer import RemoteCheckpoints

    remote = RemoteCheckpoints(directory, location, params.keep_checkpoints, _log)
    is_beside_whole_model = False
    if not start_over:
        remote.restore(lambda manifest: of_another_length(manifest, params) is None)
        if is_beside and isinstance(model, Location) and list_checkpoints(directory):
            with suppress(InputError):  # before it is claimed, from where on no reader opens it
                staging.artifact(model, MODEL, lambda manifest: ())
                is_beside_whole_model = True
    return Checkpoints(directory, start_over, remote, str(location), is_beside_whole_model)


def _initial_weights(staging: Staging, params: Params) -> Path | None:
    """What training starts from, on this machine: of an earlier model its weights, checked against its manifest."""
    from components.classifier.weight_files import WEIGHT_FILES

    if params.initial_weights is None:
        return None
    where = parse_location(params.initial_weights)
    if isinstance(where, Location) and where.name.lower().endswith(WEIGHT_FILES):
        return staging.tree(where)
    return staging.artifact(where, MODEL, starting_weights)
