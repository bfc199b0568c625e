"""What a real Kubeflow did with version 0.5.0, and what happens now; tests of it have the mark ``fact(number)``.

The numbers are those of the notes of the first runs on a real cluster (KFP 2.15.0, 2.16.1, 2.17.0), 2026-11-28.
"""

from __future__ import annotations

FACTS: dict[int, tuple[str, str]] = {
    1: (
        "every training failed after it had succeeded: null in an artifact's metadata",
        "metadata holds text, finite numbers, true/false; every test's outputs are checked as the launcher does",
    ),
    2: (
        "a cached run that succeeded published pipeline.failed: its final status is RUNNING",
        "Kubeflow's API is asked: succeeded, each step cached; without it: unknown; exit code 0",
    ),
    3: (
        "'not started' of steps that had run, where the folder of events could not be written",
        "Kafka is asked whenever the folder says less than everything; not knowing is unknown",
    ),
    4: (
        "after Retry the ids of the first attempt came again, and the last event stayed pipeline.failed",
        "a new source and the next attempt; the last step publishes the pipeline's new end",
    ),
    5: (
        "host names, cut at 63 characters, were the identity",
        "the pod's UID is, else a random id; the pod's name is in started",
    ),
    6: (
        "events and metadata named paths of a dead pod",
        "they name the artifacts' uris",
    ),
    7: (
        "--follow listed 36 nodes and said 'the platform does not say why'",
        "each step once, its attempts, why it waits, Argo's message and the last lines of its log",
    ),
    8: (
        "documentation and lint took retries for granted",
        "they say what each release retries: on 2.17 pods that are lost, never exit codes",
    ),
    9: (
        "documentation promised 30 seconds at SIGTERM",
        "it says that there are none; spot settings save every few minutes",
    ),
    10: (
        "training never hit the cache, and nothing said that data prep must be cached for that",
        "lint says so, and --cache turns it on where data do not change",
    ),
    11: (
        "a claim's fresh directory belongs to root: steps could not write, without a clue",
        "the step ends before work, naming user and claim; a Job's manifest hands the directory over",
    ),
    12: (
        "a second run with other params was refused where the first keeps its checkpoints",
        "each pair of params and dataset has a directory of its own",
    ),
    13: (
        "events of an OOMKilled step that were not delivered were gone with its pod",
        "they are in the bucket of events within seconds; the next step or a replay delivers them",
    ),
    14: (
        "2.15.0 refused the default file: unknown field securityContext",
        "the default file has only fields that 2.15 knows; settings say which release theirs need",
    ),
}
