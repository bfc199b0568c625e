"""What a compiled pipeline is checked for before it is uploaded.

Any file: values of secrets, and images. A file of ours, which may have been edited by hand or compiled with settings
that take defaults away: all of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal, NamedTuple

from components.shared.errors import InputError, ParamsError
from components.shared.events.redaction import REDACTED, names_a_secret, redact
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
from pipelines.lint.secrets import secrets_in
from pipelines.lint.view import Step, View, mappings, step_of, text
from pipelines.settings.kubeflow import FIRST_RELEASE, SHM_PATH

Severity = Literal["error", "warning"]

_LONGEST = 500  # shown in a message, a longer text would only hide what it says
_REFERENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]*")
_DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")
_TAG = re.compile(r":([A-Za-z0-9_][A-Za-z0-9._-]{0,127})$")
# Steps that KFP's driver does itself and for which no container is started.
_DRIVER_OPERATIONS = ("argostub/createpvc", "argostub/deletepvc")
_CREDENTIALS = "GOOGLE_APPLICATION_CREDENTIALS"
# Labels and taints of nodes that may be taken away: cloud.google.com/gke-spot, eks.amazonaws.com/capacityType: SPOT, …
_SPOT = re.compile(r"(?<![a-z])(spot|preemptible)(?![a-z])", re.IGNORECASE)
_SELDOM_MINUTES = 5
_PROVIDING = ("secretAsVolume", "configMapAsVolume", "pvcMount")
_HOUR_S = 3600
_INPUTS = "root.inputDefinitions.parameters"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a compiled pipeline, or may be.

    Attributes:
        rule: Id of the rule that found it.
        severity: ``error``: a run fails, does something else than the file says, or gives a secret away; ``warning``:
            it may.
        steps: The steps it is about; empty: the whole.
        where: Its paths in the file, such as ``deploymentSpec.executors.exec-train.container.image``.
        message: What is wrong; never a secret.
        advice: What to do.
    """

    rule: str
    severity: Severity
    steps: tuple[str, ...]
    where: tuple[str, ...]
    message: str
    advice: str

    def __str__(self) -> str:
        """The finding in a line."""
        about = ", ".join(self.steps or self.where[:3])
        return f"{self.severity}: {about}: {self.message}; {self.advice} ({self.rule})"


class Note(NamedTuple):
    """One path where a rule finds something; notes that differ in path and value alone make one finding."""

    severity: Severity
    where: str
    message: str
    advice: str
    value: str = ""


def _secret_value(view: View) -> Iterator[Note]:
    advice = (
        "remove it and change the secret, because all who saw the file know it; keep it in a Kubernetes secret "
        "(secret_env or secret_files in the settings) or in Secret Manager (a …_FILE variable with sm://projects/…)"
    )
    found = {where: what for where, what, _ in reversed(list(secrets_in(view)))}  # the first of each path
    for where, what in reversed(found.items()):
        yield Note("error", where, what, advice)


def _images(view: View) -> Iterator[tuple[str, str, str]]:
    """Path, image, and its name for messages: what stands before an @ may be somebody's login."""
    found = [
        (f"{step.where}.{'image_uri' if 'image_uri' in step.container else 'image'}", step.image) for step in view.steps
    ]
    found += [(step.nodes_where, text(step.nodes.get("image"))) for step in view.steps if step.nodes_text]
    for where, image in found:
        if not PLACEHOLDER.search(image) and image not in _DRIVER_OPERATIONS:
            yield where, image, image if _DIGEST.search(image) else re.sub(r".*@(?!sha256:)", "…@", image)


def _unpinned_image(view: View) -> Iterator[Note]:
    advice = "name it by its digest, NAME@sha256:…; `shutterline compile --images` takes the digests of a build"
    for where, image, shown in _images(view):
        tag, message = _TAG.search(image.rpartition("/")[2]), ""
        severity: Severity = "error"
        if not image:
            message = "the container has no image"
        elif not _REFERENCE.fullmatch(image):
            message = "no name of an image"
        elif "@" in image:
            message = "" if _DIGEST.search(image) else "no valid digest, which is sha256: and 64 hexadecimal digits"
        elif tag is None or tag[1] == "latest":
            message = "without a tag or with latest, it is whatever was pushed last"
        else:
            severity, message = "warning", "the image has a tag, which may be moved, and no digest"
        if message:
            yield Note(severity, where, message, advice, shown)


def _local_image(view: View) -> Iterator[Note]:
    advice = "push the image to a registry that the platform reaches, and name it by that: HOST/NAME@sha256:…"
    for where, image, shown in _images(view):
        host, slash, _ = image.partition("/")
        if host.split(":")[0] in ("localhost", "127.0.0.1"):
            yield Note("error", where, "the image is looked for on the machine that the step runs on", advice, shown)
        elif slash and "." not in host and ":" not in host:  # python:3.11 and the like are Docker Hub's own
            hub = f"{advice}; docker.io/ in front of it says that Docker Hub is meant"
            yield Note("warning", where, "the image names no registry, so it is looked for on Docker Hub", hub, shown)


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
                NodeSpec.from_json(step.nodes_text)
            except InputError as error:
                yield Note("error", step.nodes_where, str(error), "correct the settings and compile anew")


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
        elif step.component == "data_prep":
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
                message = "checkpoints lie beside the model, where no other run finds them"
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
        if step.component == "data_prep" and _is_path(data) and _missing_at(view, step, data, *_PROVIDING):
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
    of_params = text(view.params.get(_CREDENTIALS))
    advice = "mount the secret there (secret_files in the settings), or use the pod's service account"
    if view.target == "vertex":
        advice = "leave it out: the step has its service account; secrets are read from sm://projects/…"
    for step in view.steps:
        given = [*step.environment, (f"{step.where}", _CREDENTIALS, of_params)]
        for where, name, path in given:
            of_kafka = name.startswith("KAFKA_SSL_") and name.endswith("FILE")
            secret = name.endswith("_FILE") and names_a_secret(name.removesuffix("_FILE"))
            if not (name == _CREDENTIALS or of_kafka or secret) or not _is_path(path):
                continue
            if not PurePosixPath(path).is_relative_to("/etc/ssl") and _missing_at(view, step, path, *_PROVIDING):
                yield Note("error", where, f"{name} names the file {path}, which nothing mounts", advice)


class Rule(NamedTuple):
    """A rule: its id, what it looks for, in a line, and what finds it."""

    id: str
    title: str
    check: Callable[[View], Iterable[Note]]


RULES = (
    Rule("secret-value", "values of secrets", _secret_value),
    Rule("unpinned-image", "images without a digest", _unpinned_image),
    Rule("local-image", "images that a cluster hardly can pull", _local_image),
    Rule("foreign-platform", "a file, or part of it, for another platform", _foreign_platform),
    Rule("backend", "fields that older releases of Kubeflow Pipelines refuse", _backend),
    Rule("params", "a default of `params` that is no valid params", _params),
    Rule("nodes", "what several nodes shall get that is nothing of the kind", _nodes),
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
    # Without short plain text such as "train", which messages have of themselves; longest first.
    secrets = {value for _, _, value in secrets_in(view) if len(value) >= (8 if value.isalpha() else 4)}

    def shown(text: str) -> str:
        for secret in sorted(secrets, key=len, reverse=True):
            text = text.replace(secret, REDACTED)
        # Of a foreign file nothing reaches a terminal that could steer it, or that no encoding has.
        text = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in redact(text))
        return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"

    findings = []
    for rule in RULES if view.is_ours else _FOR_ANY:
        groups: dict[tuple[Severity, str, str], list[Note]] = {}
        for note in rule.check(view):
            groups.setdefault((note.severity, note.message, note.advice), []).append(note)
        for (severity, message, advice), notes in groups.items():
            where = tuple(dict.fromkeys(shown(note.where) for note in notes))
            steps = tuple(dict.fromkeys(step for path in where if (step := step_of(path))))
            values = ", ".join(dict.fromkeys(note.value for note in notes if note.value))
            text = shown(f"{message}: {values}" if values else message)
            findings.append(Finding(rule.id, severity, steps, where, text, shown(advice)))
    return sorted(findings, key=lambda finding: finding.severity != "error")
