"""What becomes of a TrainJob of two nodes: histories as a real cluster showed them, or as sources have them.

Times are seconds from the TrainJob's creation, as they were seen on Trainer 2.3.0, JobSet 0.12.0 and Kubernetes 1.34.4
where it was tried there; never scheduled, no image, out of memory as the kernel ends it, and what the API server does
while it is away are by their sources.
"""

from __future__ import annotations

from components.shared.events.data import (
    Cancelled,
    Checkpoint,
    Error,
    EventData,
    Failed,
    Progress,
    StepStarted,
    Succeeded,
)
from components.shared.events.status_lines import status_line
from tests.peers.trainer.plays import (
    Away,
    Change,
    History,
    Job,
    Outage,
    Prints,
    Stage,
    breaks_streams,
    ends,
    forgets,
    jobs,
    pod,
    reports,
    runs,
    starts,
    vanishes,
)

EPOCHS = 4
UNSCHEDULABLE = (
    "0/3 nodes are available: 3 Insufficient nvidia.com/gpu. no new claims to deallocate, preemption: "
    "0/3 nodes are available: 3 Preemption is not helpful for scheduling."
)
NO_IMAGE = 'Back-off pulling image "shutterline/train:latest": ErrImagePull: failed to resolve reference: not found'
BAD_INPUT = "/params/params.json: there is no such file"


def prints(*items: str | EventData, index: int = 0) -> Prints:
    """A pod prints lines, and its step's events as lines."""
    return Prints(index, tuple(each if isinstance(each, str) else status_line(each) for each in items))


def trained(epoch: int) -> Prints:
    """An epoch of training is done and saved."""
    progress = Progress(
        epoch * 25, EPOCHS * 25, "batches", epoch, EPOCHS, 1500.0, {"train": 1 / epoch, "validation": 0.5 / epoch},
        {"accuracy": 1 - 0.1 / epoch}, 0.003, 3.0 * (EPOCHS - epoch), "cpu",
    )  # fmt: skip
    saved = Checkpoint(epoch, EPOCHS, f"s3://bucket/digits/checkpoints/epoch-{epoch}.pt")
    return prints(f"12:00:00 train: epoch {epoch} of {EPOCHS}: loss {1 / epoch:.4f}", progress, saved)


BEGUN = prints("12:00:00 train: 2 processes on 2 nodes, gloo", StepStarted("0.11.0", "train-1-node-0-0"))
DONE = prints(Succeeded(38.5, {"loss": 0.125, "accuracy": 0.975}, {"model": "s3://bucket/digits/model"}))
RESUMED = prints("12:00:00 train: going on from a checkpoint of the beginning of epoch 3", StepStarted("0.11.0", "a"))
STOPPED = prints(Cancelled(12.0, "SIGTERM", 143))
REFUSED = prints(f"error: {BAD_INPUT}", Failed(0.4, Error("InputError", BAD_INPUT), 2))

_COMPLETE = ends("Complete", "AllJobsCompleted", "jobset completed successfully")


def succeeds(at: float) -> list[tuple[float, Change]]:
    """Both pods end well, in the seconds that a real one took for it."""
    return [
        (at, DONE),
        (at + 1, pod(0, "terminated", 0, phase="Succeeded")),
        (at + 1, pod(1, "terminated", 0, phase="Succeeded")),
        (at + 1, jobs(active=1)),
        (at + 3, Job((("Complete", "CompletionsReached", "Reached expected number of succeeded pods"),), _OVER)),
        (at + 3, jobs(ready=1)),
        (at + 3, _COMPLETE),
    ]


_OVER = (("active", 0), ("ready", 0))
_BEGINNING: list[tuple[float, Change]] = [(0, starts), (2, runs), (4, BEGUN), (12, trained(1))]

SUCCESS: History = [
    *_BEGINNING,
    (21, trained(2)),
    (21, reports(50, 12, train_loss=0.5, accuracy=0.95)),
    (30, trained(3)),
    (39, trained(4)),
    *succeeds(57),
]

# Trainer's own runtime: the container is started again in its pod until all pods together have used up 6, and the Job
# deletes the pods with their logs.
EXIT_2_STOCK: History = [
    (0, starts),
    (2, runs),
    *(
        change
        for attempt, at in enumerate((3.0, 5.0, 17.0, 43.0))
        for change in (
            (at, pod(0, "running") if attempt else jobs(active=1, ready=1)),
            (at, pod(1, "running") if attempt else jobs(active=1, ready=1)),
            (at, REFUSED),
            (at + 1, pod(0, "terminated", 2)),
            (at + 1, pod(1, "terminated", 2)),
            (at + 1, jobs(active=1)),
            (at + 1, pod(0, "waiting", "CrashLoopBackOff", "back-off 20s restarting failed container=node")),
            (at + 1, pod(1, "waiting", "CrashLoopBackOff", "back-off 20s restarting failed container=node")),
        )
    ),
    (
        46,
        Job(
            (("Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit"),),
            (*_OVER, ("failed", 2)),
        ),
    ),
    (46, pod(0, "remove")),
    (46, pod(1, "remove")),
    (46, ends("Failed", "FailedJobs", "jobset failed due to one or more job failures (first failed job: {job})")),
]

_MATCHED = "Container node for pod {namespace}/{pod0} failed with exit code 2 matching FailJob rule at index 0"
# The runtime that this project ships: pods and logs stay.
EXIT_2: History = [
    (0, starts),
    (2, runs),
    (2.5, REFUSED),
    (3, pod(0, "terminated", 2, phase="Failed")),
    (3, pod(1, "terminated", 2, phase="Failed")),
    (3, Job((("Failed", "PodFailurePolicy", _MATCHED),), (*_OVER, ("failed", 2)))),
    (
        3,
        ends(
            "Failed",
            "FailJobSetFailurePolicyAction",
            "applying FailJobSet failure policy action (first failed job: {job})",
        ),
    ),
]


def _lost_in_place(code: int, reason: str) -> History:
    """A node's process is killed; its container starts anew in its pod, and the group goes on. The stock runtime."""
    return [
        *_BEGINNING,
        (21, trained(2)),
        (25, pod(1, "terminated", code, reason)),
        (26, pod(1, "running")),
        (36, RESUMED),
        (40, trained(3)),
        (49, trained(4)),
        *succeeds(60),
    ]


OOM_ONCE: History = _lost_in_place(137, "OOMKilled")


def oom_for_good(restarts: int = 3) -> History:
    """Each start ends for want of memory, under our runtime, until the set has been started again so often."""
    history: list[tuple[float, Change]] = list(_BEGINNING)
    for restart in range(restarts + 1):
        at = 20.0 + 30 * restart
        history += [
            (at, pod(1, "terminated", 137, "OOMKilled", phase="Failed")),
            (at + 1, Job((("Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit"),))),
            (at + 1, pod(0, "mark_deleted")),
            (at + 1.5, STOPPED),
            (at + 1.9, pod(0, "remove")),
        ]
        if restart < restarts:
            history += [(at + 2, _restarts_set), (at + 12, runs), (at + 13, RESUMED)]
    words = "jobset failed due to reaching max number of restarts (first failed job: {job})"
    end = 20.0 + 30 * restarts + 2
    return [*history, (end, ends("Failed", "ReachedMaxRestarts", words))]


def _restarts_set(stage: Stage) -> None:
    """JobSet deletes the Job with all its pods, and makes new ones."""
    stage.pods.remove_all()
    stage.pods.restarts += 1
    starts(stage)


OOM: History = oom_for_good()

# A drained node under the stock runtime: its pod is replaced, the other waits for it.
POD_DELETED: History = [
    *_BEGINNING,
    (21, trained(2)),
    (25, pod(1, "mark_deleted", why="EvictionByEvictionAPI")),
    (26, STOPPED),
    (26, pod(1, "terminated", 143, phase="Failed")),
    (27, pod(1, "remove")),
    (27, pod(0, "terminated", 143)),
    (28, pod(0, "running")),
    (28, jobs(active=1)),
    (40, pod(1, "create")),
    (41, pod(1, "waiting")),
    (42, pod(1, "running")),
    (42, jobs(active=1, ready=1)),
    (44, RESUMED),
    (50, trained(3)),
    (59, trained(4)),
    *succeeds(70),
]

# The pod that reports is the one that goes.
SPEAKER_DELETED: History = [
    *_BEGINNING,
    (21, trained(2)),
    (25, pod(0, "mark_deleted")),
    (26, STOPPED),
    (26, pod(0, "terminated", 143, phase="Failed")),
    (27, pod(0, "remove")),
    (28, pod(0, "create")),
    (29, pod(0, "waiting")),
    (30, pod(1, "terminated", 143)),
    (31, pod(1, "running")),
    (40, pod(0, "running")),
    (42, RESUMED),
    (50, trained(3)),
    (59, trained(4)),
    *succeeds(70),
]

# Under our runtime a lost pod has the whole set start again.
SET_RESTARTED: History = [
    *_BEGINNING,
    (21, trained(2)),
    (25, pod(1, "mark_deleted")),
    (26, STOPPED),
    (26, pod(1, "terminated", 143, phase="Failed")),
    (27, Job((("Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit"),))),
    (57, _restarts_set),
    (60, runs),
    (62, RESUMED),
    (70, trained(3)),
    (79, trained(4)),
    *succeeds(90),
]

NEVER_SCHEDULED: History = [
    (0, starts),
    (0, pod(0, "unschedulable", UNSCHEDULABLE)),
    (0, pod(1, "unschedulable", UNSCHEDULABLE)),
    (0, pod(0, "warn", "FailedScheduling", UNSCHEDULABLE)),
]

NO_SUCH_IMAGE: History = [
    (0, starts),
    (1, pod(0, "waiting")),
    (1, pod(1, "waiting")),
    (3, pod(0, "waiting", "ErrImagePull", NO_IMAGE.partition(": ErrImagePull: ")[2])),
    (15, pod(0, "waiting", "ImagePullBackOff", NO_IMAGE)),
    (15, pod(1, "waiting", "ImagePullBackOff", NO_IMAGE)),
]

ENDED_BY_DEADLINE: History = [
    *_BEGINNING,
    (21, trained(2)),
    (22, ends("Failed", "DeadlineExceeded", "TrainJob exceeded its active deadline")),
    (22, pod(0, "mark_deleted")),
    (22, pod(1, "mark_deleted")),
    (24, STOPPED),
    (25, pod(0, "remove")),
    (25, pod(1, "remove")),
]


def _suspends(stage: Stage) -> None:
    stage.status.suspend(True)
    for index in stage.pods.indices():
        stage.pods.mark_deleted(index)


def _is_suspended(stage: Stage) -> None:
    for index in stage.pods.indices():
        stage.pods.remove(index)
    stage.pods.job_status(("Suspended", "JobSuspended", "Job suspended"), active=0, ready=0)
    stage.status.jobs(suspended=1)


def _resumes(stage: Stage) -> None:
    stage.status.suspend(False)
    for index in range(stage.pods.nodes):
        stage.pods.create(index)
    stage.status.jobs(active=1)


SUSPENDED: History = [
    *_BEGINNING,
    (21, trained(2)),
    (25, _suspends),
    (26, STOPPED),
    (28, _is_suspended),
    (50, _resumes),
    (52, runs),
    (54, RESUMED),
    (60, trained(3)),
    (69, trained(4)),
    *succeeds(75),
]

GONE: History = [*_BEGINNING, (20, vanishes)]

LOG_BREAKS: History = sorted(
    [*SUCCESS, *((moment, breaks_streams) for moment in (8, 13, 25, 41, 55))], key=lambda each: each[0]
)
WATCH_EXPIRES: History = sorted([*SUCCESS, *((moment, forgets) for moment in (8, 25, 41))], key=lambda each: each[0])

# When the TrainJob is deleted: both pods are asked to end, save, and are gone within 10 s.
DELETED: History = [(0, pod(0, "mark_deleted")), (0, pod(1, "mark_deleted")), (2, STOPPED), (10, lambda stage: None)]


def away(how: Outage, seconds: float = 60.0, begins: float = 15.0, history: History = SUCCESS) -> History:
    """The API server goes away for a while, as the rest of a history goes on: "refused", "hanging" or a status."""
    outage: list[tuple[float, Change]] = [(begins, Away(how)), (begins + seconds, Away(None))]
    return sorted([*history, *outage], key=lambda each: each[0])
