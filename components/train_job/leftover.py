"""Ends what the training of a run has left on a cluster: its TrainJobs that nobody waits for any more.

    python -m components.train_job.leftover RUN

Where a run is terminated, KFP's launcher ends at once, and the kernel kills the step with it: the step has no time to
delete its TrainJob, whose machines would be rented to the end of the training. The exit step, which always runs, starts
this.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from components.shared.errors import EXIT_OK, ShutterlineError
from components.shared.kubeflow.train_job import NodeSpec
from components.shared.logs import log_to_stderr, step_logger
from components.train_job.api import Api, Pace
from components.train_job.jobs import TrainJobs
from components.train_job.status import ending_of, is_being_deleted

# The report of the run's end waits for this.
_PACE = Pace(answer_s=5.0, setup_s=10.0, stop_s=10.0)


def end_leftover(run: str) -> None:
    """Delete the TrainJobs of a run that have not ended; what cannot be done is logged."""
    log = step_logger("exit")
    try:
        jobs = TrainJobs(Api(_PACE), log, run, NodeSpec(image="of any"), ())
        for job in jobs.found():
            name = job["metadata"]["name"]
            if ending_of(job) is None and not is_being_deleted(job):
                log.warning("TrainJob %s goes on although its run is over, and is deleted", name)
                jobs.delete(name, job["metadata"].get("uid", ""))
    except ShutterlineError as error:
        log.warning("whether a TrainJob of this run goes on is not known: %s", error)


def main(arguments: Sequence[str]) -> int:
    """End what a run has left, whose id is the one argument."""
    log_to_stderr()
    (run,) = arguments
    end_leftover(run)
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
