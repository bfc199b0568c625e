"""The rules about how steps are repeated: from the cache, and after a failure."""

from __future__ import annotations

from collections.abc import Iterator

from pipelines.lint.finding import Note, warning
from pipelines.lint.images import DRIVER_OPERATIONS, MAKES_A_CLAIM
from pipelines.lint.quantities import whole_seconds
from pipelines.lint.view import Step, View, mapping

_HOUR_S = 3600


def _container_steps(view: View) -> Iterator[Step]:
    told = set()
    for step in view.steps:
        if step.executor.container and step.executor.image not in DRIVER_OPERATIONS and step.where not in told:
            told.add(step.where)
            yield step


def cached_side_effects(view: View) -> Iterator[Note]:
    """Steps served from a cache although they are run for what they do beside.

    The exit step; a step without outputs, such as a notification; our data prep, whose input is a location: what is
    there may change while its name stays; a step of KFP's that makes a claim of a fixed name. That training and
    evaluation are cached is no finding: on Kubeflow they are served only behind a data prep that was served itself.
    """
    advice = "turn caching off for it: set_caching_options(False), cache: false in the settings"
    for step in view.steps:
        if step.cached and step.executor.image == MAKES_A_CLAIM and _is_given(step, "pvc_name"):
            where = f"{step.where}.cachingOptions.enableCache"
            message = (
                "a claim of one name is made by the first run alone: from then on the cache says it is there, also "
                "once it was deleted"
            )
            yield warning(where, message, advice)
    for step in _container_steps(view):
        where = f"{step.where}.cachingOptions.enableCache"
        if not step.cached:
            continue
        if step.at_exit:
            yield warning(where, "the exit step is cached, so a run's end may go unreported", advice)
        elif not step.has_outputs:
            message = "a step without outputs is run for what it does, and the cache would do without"
            yield warning(where, message, advice)
        elif step.executor.ours == "data_prep":
            message = "data prep is cached by the name of the location it reads, whatever is there now"
            yield warning(where, message, f"where what is below that name may change, {advice}")


def _is_given(step: Step, name: str) -> bool:
    """Whether an input has a value, known now or by a run."""
    given = step.values.get(name)
    inputs = mapping(mapping(step.task.get("inputs")).get("parameters"))
    return name in inputs if given is None else given.value not in ("", None)


def retries(view: View) -> Iterator[Note]:
    """Retries that harm or do not help.

    Without a pause, so that an outage of a minute ends them all; of the exit step, which would tell the end twice; on
    Kubeflow of a step with accelerators within an hour of its first start, its own work included, and of an attempt
    that a time limit ends: a stock 2.17 sets Argo's ``retryPolicy`` to OnError, which repeats a step whose pod was
    deleted, and none that failed: by its exit code, OOMKilled, evicted, at its time limit. Up to 2.16 it is Argo's own,
    OnFailure, which does the reverse.
    """
    for step in _container_steps(view):
        if step.retries <= 0:
            continue
        policy, where = mapping(step.task.get("retryPolicy")), f"{step.where}.retryPolicy"
        if not whole_seconds(policy.get("backoffDuration")):
            message = f"{step.retries} retries follow each other without a pause"
            advice = "set backoff_duration (retry.pause_s in the settings), such as 30s"
            yield warning(f"{where}.backoffDuration", message, advice)
        if step.at_exit:
            message = "the exit step is started again after a failure, and may tell the end twice"
            yield warning(f"{where}.maxRetryCount", message, "leave its retries out")
        window = whole_seconds(policy.get("backoffMaxDuration"))
        if view.target == "kubeflow" and step.executor.accelerates and 0 < window <= _HOUR_S:
            message = f"no retry begins later than {window} s after the first start, the step's own work included"
            advice = "set backoff_max_duration (retry.window_s in the settings) to longer than the training"
            yield warning(f"{where}.backoffMaxDuration", message, advice)
        if view.target == "kubeflow" and step.executor.kubernetes.get("activeDeadlineSeconds"):
            message = "an attempt that its time limit ends is not repeated by a stock Kubeflow Pipelines 2.17"
            advice = (
                "pods that are deleted are; where the limit shall be repeated too, set retryPolicy: Always in the "
                "workflow controller's defaults"
            )
            yield warning(f"{step.executor.kubernetes_where}.activeDeadlineSeconds", message, advice)
