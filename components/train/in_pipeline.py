"""Training as a step of the pipeline: in this process, or on a node of several GPUs by a group of processes."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from components.shared.addresses import addresses_of
from components.shared.artifacts.artifact import manifest_digest, require_same
from components.shared.artifacts.dataset import DATASET
from components.shared.claims import require_writable
from components.shared.errors import EXIT_OK, InputError, ShutterlineError
from components.shared.events.data import Emit
from components.shared.params.params import Params, Parsed, parse
from components.shared.params.source import read_raw
from components.shared.process_group import leave_outcome
from components.shared.run import (
    CHECKPOINTS_AUTO,
    checkpoints_of_run,
    events_of_checkpoints,
    run_of_artifact,
    step_run,
)
from components.shared.run_lock import RUN_LOCK_VARIABLE, end_with_run
from components.shared.signals import Terminated, sigterm_raises
from components.shared.step import Reported, StepFailed, StepRecord, run_step
from components.shared.storage.location import AnyPath
from components.train.launch import RESTARTS, begin_member, is_launcher, is_member, launched, processes_for

PROCESSES_VARIABLE = "SHUTTERLINE_PROCESSES"


@dataclass(frozen=True)
class PipelineTraining:
    """What the pipeline hands to its training step.

    Attributes:
        params: The run's params as one JSON text.
        dataset: The dataset directory.
        model: The model directory to make.
        model_uri: Where the platform keeps it, which tells the run.
        dataset_sha256: SHA-256 of the dataset; another one is refused; empty: any.
        checkpoints: As :func:`~components.shared.run.checkpoints_of_run` takes it.
        dataset_uri: Where the platform keeps the dataset; empty: at its path.
    """

    params: str
    dataset: str
    model: str
    model_uri: str
    dataset_sha256: str = ""
    checkpoints: str = ""
    dataset_uri: str = ""

    def run(self) -> StepRecord:
        """Train: on all GPUs of the node, where the params' device is ``auto`` or ``cuda`` and there are several.

        The environment variable ``SHUTTERLINE_PROCESSES`` names another number of processes.

        Returns:
            The step's record.

        Raises:
            StepFailed: A SystemExit with the step's exit code; the reason is logged.
        """
        end_with_run()
        failure: BaseException | None = None
        parsed = cache(lambda: parse(*read_raw(self.params)))
        run = run_of_artifact(self.model_uri)
        with suppress(InputError):  # which is told where the step begins
            run = step_run(artifact=self.model_uri).run  # one id, whoever tells how the step ended
        try:
            if not is_member() and (record := self._by_group(run, parsed)) is not None:
                if record.exit_code:
                    raise StepFailed(record, record.exit_code)
                return record
        except (ShutterlineError, OSError, Terminated, KeyboardInterrupt) as error:
            failure = error

        def work(params: Params, emit: Emit) -> Reported:
            if failure is not None:
                raise failure
            return self._train(params, emit)

        _, record = run_step(
            "train",
            lambda: parsed().warned(),
            work,
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

    def _by_group(self, run: str, parsed: Callable[[], Parsed]) -> StepRecord | None:
        """The record of a group of processes; None if there is to be none."""
        with sigterm_raises():
            params = parsed().params
            wanted = os.environ.get(PROCESSES_VARIABLE) or "auto"
            if params is None or not is_launcher(processes := processes_for(wanted, params.device)):
                return None
            outcome = launched(
                "components.train.in_pipeline",
                [json.dumps(asdict(self))],
                processes=processes,
                restarts=RESTARTS,
                run=run,
            )
        return StepRecord.model_validate(outcome.document)

    def _train(self, params: Params, emit: Emit) -> Reported:
        from components.train.checkpoints.identity import training_id
        from components.train.checkpoints.resume import require_alone
        from components.train.group import joined
        from components.train.step import train_staged

        dataset, model = Path(self.dataset), Path(self.model)

        def checked() -> AnyPath | None:
            digest = manifest_digest(dataset, DATASET)
            require_same(DATASET, digest, self.dataset_sha256)
            kept = checkpoints_of_run(self.checkpoints, self.model_uri, training_id(params, digest))
            if isinstance(kept, Path) and RUN_LOCK_VARIABLE in os.environ:
                kept = require_alone(kept, params, digest)
            if isinstance(kept, Path) and group.is_first:
                require_writable("checkpoints", kept, kept if self.checkpoints == CHECKPOINTS_AUTO else kept.parent)
            return kept

        with joined() as group:
            checkpoints = group.together(checked)
            return train_staged(dataset=dataset, model=model, params=params, checkpoints=checkpoints, emit=emit)


def main(words: Sequence[str]) -> int:
    """One process of a group: train as the one argument says, a `PipelineTraining` as JSON."""
    if not begin_member():
        return EXIT_OK
    try:
        record = PipelineTraining(**json.loads(words[0])).run()
    except StepFailed as failed:
        record = failed.record
    return leave_outcome(record.model_dump(mode="json"), record.exit_code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
