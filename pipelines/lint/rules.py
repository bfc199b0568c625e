"""What a compiled pipeline is checked for before it is uploaded.

Any file: values of secrets, and images. A file of ours, which may have been edited by hand or compiled with settings
that take defaults away: all of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from components.shared.errors import InputError, ParamsError
from components.shared.kubeflow.train_job import NodeSpec
from components.shared.params.params import Params, parse
from components.shared.params.source import from_json
from pipelines.compiled import (
    PLACEHOLDER,
    PLATFORM_TITLES,
    PLATFORMS,
    TARGET_VARIABLE,
    CompiledPipeline,
    PlatformName,
    mapping,
)
from pipelines.lint.findings import Finding, Note, Rule, findings_of
from pipelines.lint.images import local_images, unpinned_images
from pipelines.lint.secrets import CREDENTIALS, names_credentials, secret_notes, secrets_in
from pipelines.lint.stock_runtime import stock_runtime
from pipelines.lint.view import Step, View, mappings, step_of, text
from pipelines.settings.kubeflow import FIRST_RELEASE, SHM_PATH

# Steps that KFP's driver does itself and for which no container is started.
_DRIVER_OPERATIONS = ("argostub/createpvc", "argostub/deletepvc")
# Labels and taints of nodes that may be taken away: cloud.google.com/gke-spot, eks.amazonaws.com/capacityType: SPOT, …
_SPOT = re.compile(r"(?<![a-z])(spot|preemptible)(?![a-z])", re.IGNORECASE)
_SELDOM_MINUTES = 5
_PROVIDING = ("secretAsVolume", "configMapAsVolume", "pvcMount")
_HOUR_S = 3600
_INPUTS = "root.inputDefinitions.parameters"


def _secret_value(view: View) -> Iterator[Note]:
    return secret_notes(view.documents, view.arguments)


def _images(view: View) -> Iterator[tuple[str, str]]:
    found = [
        (f"{step.where}.{'image_uri' if 'image_uri' in step.container else 'image'}", step.image) for step in view.steps
    ]
    found += [(step.nodes_where, text(step.nodes.get("image"))) for step in view.steps if step.nodes]
    for where, image in found:
        if not PLACEHOLDER.search(image) and image not in _DRIVER_OPERATIONS:
            yield where, image


def _unpinned_image(view: View) -> Iterator[Note]:
    return unpinned_images(_images(view))


def _local_image(view: View) -> Iterator[Note]:
    return local_images(_images(view))


def _foreign_platform(view: View) -> Iterator[Note]:
    if view.target is None:
        return
    advice = f"compile it with `shutterline compile --target {view.target}`"
    for step in view.steps:
        for where, name, value in step.environment:
            if name == TARGET_VARIABLE and value in PLATFORMS and value != view.target:
                yield Note("error", where, f"the step was compiled for {PLATFORM_TITLES[value]}", advice)
    if view.target == "vertex" and view.pipeline.documents > 1:
        message = "the file has a second document, of Kubernetes' settings, which Vertex AI's client cannot read"
        yield Note("error", "platforms", message, advice)


def _backend(view: View) -> Iterator[Note]:
    for step in view.steps if view.target == "kubeflow" else ():
        for key in {*step.pod, *(key for entry in mappings(step.pod.get("pvcMount")) for key in entry)}:
            if release := FIRST_RELEASE.get(key):
                message = f"Kubeflow Pipelines before {release} knows no {key}, and refuses the whole file for it"
                advice = f"leave it out where the file shall run on an older one, or run it on {release} or later"
                yield Note("warning", f"{step.pod_where}.{key}", message, advice)


def _nodes(view: View) -> Iterator[Note]:
    for step in view.steps:
        if step.component == "train_job":
            try:
                spec = NodeSpec.from_json(step.nodes_text)
            except InputError as error:
                yield Note("error", step.nodes_where, str(error), "correct the settings and compile anew")
            else:
                yield from stock_runtime(step.nodes_where, spec.runtime.kind, spec.runtime.name)


def _params(view: View) -> Iterator[Note]:
    if mapping(view.pipeline.inputs.get("params")).get("defaultValue") is None:
        return
    try:
        problems = parse(from_json(view.default("params"))).problems  # not Params.load, which may take a file's name
    except ParamsError as refused:
        problems = list(refused.problems)
    for problem in problems:
        yield Note("error", f"{_INPUTS}.params.defaultValue", str(problem), "correct the params and compile anew")


def _limits(view: View) -> Iterator[Note]:
    for step in (each for each in view.steps if view.target and not each.container.get("machine")):
        asked, where = mapping(step.container.get("resources")), f"{step.where}.resources"
        for resource, title in (("Cpu", "processors"), ("Memory", "memory")):
            if not (asked.get(f"resource{resource}Limit") or asked.get(f"{resource.lower()}Limit")):
                yield Note("warning", where, "the step has no limit", "set cpu and memory in the settings", title)
            if step.nodes and not step.nodes.get(resource.lower()):
                message = "the nodes that train have no limit"
                yield Note("warning", step.nodes_where, message, "set cpu and memory in the settings", title)


def _shared_memory(view: View) -> Iterator[Note]:
    for step in view.steps if view.target == "kubeflow" else ():
        if step.accelerates and not (step.nodes.get("shm") or step.mounted(SHM_PATH, "emptyDirMounts")):
            message = f"a step with accelerators has the 64 MiB of {SHM_PATH} that every container has"
            where = step.nodes_where if step.nodes else step.pod_where
            yield Note("warning", where, message, "set shm in the settings")


def _cached_side_effects(view: View) -> Iterator[Note]:
    for step in view.steps:
        where = f"{step.task_where}.cachingOptions.enableCache"
        if mapping(step.task.get("cachingOptions")).get("enableCache") is not True:
            continue
        if step.component == "exit_step":
            message = "the exit step is cached, so a run's end may go unreported"
            yield Note("warning", where, message, "set cache: false in the settings")
        elif step.component == "publish":
            message = "publishing is cached, so a version that was removed is not published again"
            yield Note("warning", where, message, "set cache: false in the settings")
        elif step.reads_data:
            message = "data prep is cached by the name of the location it reads, whatever is there now"
            yield Note("warning", where, message, "set cache: false where what is below that name may change")


def _seconds(value: Any) -> int:
    """Whole seconds of a duration as protobuf writes it: 30s, 1.5s."""
    match = re.fullmatch(r"([0-9]{1,12})(?:\.[0-9]{1,9})?s", text(value))
    return int(match[1]) if match else 0


def _retries(view: View) -> Iterator[Note]:
    for step in view.steps:
        policy, where = mapping(step.task.get("retryPolicy")), f"{step.task_where}.retryPolicy"
        if not policy.get("maxRetryCount"):
            continue
        if not _seconds(policy.get("backoffDuration")):
            yield Note("warning", where, "retries follow each other without a pause", "set retry.pause_s, such as 30")
        if step.component == "exit_step":
            message = "the exit step is started again after a failure, and may report the end twice"
            yield Note("warning", where, message, "leave its retries out")
        window = _seconds(policy.get("backoffMaxDuration"))
        if view.target == "kubeflow" and step.accelerates and 0 < window <= _HOUR_S:
            message = f"no retry begins later than {window} s after the first start, the step's own work included"
            yield Note("warning", where, message, "set retry.window_s to longer than the training")
        if view.target == "kubeflow" and (step.pod.get("activeDeadlineSeconds") or step.nodes.get("timeout_s")):
            # A stock 2.17 sets Argo's retryPolicy to OnError; up to 2.16 it is Argo's own, OnFailure.
            message = "an attempt that its time limit ends is not repeated by a stock Kubeflow Pipelines 2.17"
            advice = "set retryPolicy: Always in the workflow controller's defaults where it shall be"
            where = step.nodes_where if step.nodes else f"{step.pod_where}.activeDeadlineSeconds"
            yield Note("warning", where, message, advice)


def _is_path(value: str) -> bool:
    return value.startswith("/") and not PLACEHOLDER.search(value)


def _missing_at(view: View, step: Step, path: str, *kinds: str) -> bool:
    """Whether a path is not there in a step: on Vertex AI outside of buckets, on Kubeflow outside of these mounts."""
    if view.target == "vertex":
        return not PurePosixPath(path).is_relative_to("/gcs")
    return view.target == "kubeflow" and not step.mounted(path, *kinds)


def _checkpoint_location(view: View) -> Iterator[Note]:
    where, checkpoints = f"{_INPUTS}.checkpoints.defaultValue", view.default("checkpoints")
    advice = "keep them in a bucket (gs://…, s3://…), by auto beside the run's artifacts"
    if view.target != "vertex":
        advice += ", or on a volume's claim mounted at the step (volumes of train in the settings)"
    minutes = view.params.get("checkpoint_minutes", Params.model_fields["checkpoint_minutes"].default)
    seldom = minutes is None or (isinstance(minutes, int | float) and minutes > _SELDOM_MINUTES)
    for step in (each for each in view.steps if each.component in ("train", "train_job")):
        if not checkpoints:
            message = "checkpoints lie beside the model until the pod ends, and die with it"
            if step.nodes:
                message = "checkpoints are beside the model, where no other run finds them"
            yield Note("warning", where, message, advice)
        elif _is_path(checkpoints) and _missing_at(view, step, checkpoints, "pvcMount"):
            yield Note("error", where, f"checkpoints at {checkpoints} die with the machine", advice)
        placed = json.dumps([step.pod.get("nodeSelector"), step.pod.get("tolerations")], default=str)
        if view.target == "kubeflow" and seldom and _SPOT.search(placed):
            # KFP's launcher ends at once on SIGTERM, so that a container gets no time to save.
            often = "after epochs only" if minutes is None else f"every {minutes:g} minutes"
            message = f"training on spot nodes saves {often}, and gets no time to save when its pod is deleted"
            spot = f"set checkpoint_minutes to {_SELDOM_MINUTES} or less: --set checkpoint_minutes=2"
            yield Note("warning", f"{step.pod_where}.nodeSelector", message, spot)


def _data_location(view: View) -> Iterator[Note]:
    where, data = f"{_INPUTS}.data.defaultValue", view.default("data")
    advice = "mount a claim there (volumes in the settings), or name a bucket"
    for step in view.steps:
        if step.reads_data and _is_path(data) and _missing_at(view, step, data, *_PROVIDING):
            yield Note("error", where, f"{data} is not there in the step that reads it", advice)


def _model_location(view: View) -> Iterator[Note]:
    """Where models are published to, and where one is to compare with; both are in the params."""
    where = f"{_INPUTS}.params.defaultValue"
    for component, key, fate in (
        ("publish", "publish_uri", "models published to {} die with the machine"),
        ("evaluate", "baseline", "{} is not there in the step that reads it"),
    ):
        path = text(view.params.get(key))
        is_local = bool(path) and "://" not in path
        for step in (each for each in view.steps if each.component == component and is_local):
            is_there = _is_path(path) and not _missing_at(view, step, path, *_PROVIDING)
            if view.target is not None and not is_there:
                advice = f"name a bucket, or a volume's claim mounted there (volumes of {component} in the settings)"
                yield Note("error", where, f"{key}: {fate.format(path)}", advice)


def _credentials_file(view: View) -> Iterator[Note]:
    of_params = text(view.params.get(CREDENTIALS))
    advice = "mount the secret there (secret_files in the settings), or use the pod's service account"
    if view.target == "vertex":
        advice = "leave it out: the step has its service account; secrets are read from sm://projects/…"
    for step in view.steps:
        given = [*step.environment, (f"{step.where}", CREDENTIALS, of_params)]
        for where, name, path in given:
            if not names_credentials(name) or not _is_path(path):
                continue
            if not PurePosixPath(path).is_relative_to("/etc/ssl") and _missing_at(view, step, path, *_PROVIDING):
                yield Note("error", where, f"{name} names the file {path}, which nothing mounts", advice)


RULES: tuple[Rule[View], ...] = (
    Rule("secret-value", "values of secrets", _secret_value),
    Rule("unpinned-image", "images without a digest", _unpinned_image),
    Rule("local-image", "images that a cluster hardly can pull", _local_image),
    Rule("foreign-platform", "a file, or part of it, for another platform", _foreign_platform),
    Rule("backend", "fields that older releases of Kubeflow Pipelines refuse", _backend),
    Rule("params", "a default of `params` that is no valid params", _params),
    Rule("nodes", "what several nodes cannot get, and a runtime that tries bad input again", _nodes),
    Rule("limits", "steps without limits of processors or memory", _limits),
    Rule("shared-memory", "accelerators without shared memory", _shared_memory),
    Rule("cached-side-effects", "caching of steps that are run for what they do", _cached_side_effects),
    Rule("retries", "retries that harm or do not help", _retries),
    Rule("checkpoint-location", "checkpoints that die with the machine", _checkpoint_location),
    Rule("data-location", "data at a path that the step does not have", _data_location),
    Rule(
        "model-location", "models published to, or compared with, a path that the step does not have", _model_location
    ),
    Rule("credentials-file", "files of credentials that nothing mounts", _credentials_file),
)


_FOR_ANY = RULES[:3]  # also for pipelines of others


def lint(pipeline: CompiledPipeline, target: PlatformName | None) -> list[Finding]:
    """What is wrong with a compiled pipeline, or may be; errors first.

    Args:
        pipeline: As it was read.
        target: The platform that it shall run on; None: the one it says, or else any, without what depends on that.
    """
    view = View(pipeline, target or pipeline.target)
    secrets = (value for _, _, value in secrets_in(view.documents, view.arguments))
    return findings_of(RULES if view.is_ours else _FOR_ANY, view, secrets, step_of)
