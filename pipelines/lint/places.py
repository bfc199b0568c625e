"""The rules about places: checkpoints that outlive the machine, data that is there, credentials that are mounted."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any

from components.shared.events.redaction import names_a_secret
from components.shared.params.params import Params
from components.shared.run import CHECKPOINTS_AUTO
from pipelines.compiled import PLACEHOLDER
from pipelines.lint.finding import Note, error, warning
from pipelines.lint.view import Executor, Step, View, child, listing, mapping, text, walk

_CREDENTIALS = "GOOGLE_APPLICATION_CREDENTIALS"
_CHECKPOINTS = re.compile(r"(checkpoint|ckpt)s?([_-]?(dir|directory|folder|path|place|root))?", re.IGNORECASE)
# Certainly where they are written.
_WRITTEN = ("checkpoints", "checkpoint_dir", "checkpoints_dir", "checkpoint_path")
_OPTION = re.compile(r"--?([A-Za-z][\w-]*)(?:=(.*))?", re.DOTALL)
# The authorities that every image trusts.
_OF_THE_IMAGE = "/etc/ssl"
# Labels and taints of nodes that may be taken away: cloud.google.com/gke-spot, eks.amazonaws.com/capacityType: SPOT, …
_SPOT = re.compile(r"(?<![a-z])(spot|preemptible)(?![a-z])", re.IGNORECASE)
_SELDOM_MINUTES = 5
_PROVIDING = ("secretAsVolume", "configMapAsVolume", "pvcMount")


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and bool(value) and "://" not in value and not PLACEHOLDER.search(value)


def _in_bucket(path: str) -> bool:
    """Whether Vertex AI mounts a bucket there."""
    return PurePosixPath(path).is_relative_to("/gcs")


def checkpoint_place(view: View) -> Iterator[Note]:
    """Checkpoints that end with the machine the step runs on, so that a preempted training begins anew.

    Empty (warning): beside the model, until the pod ends. A path on Kubeflow where no claim is mounted, on Vertex AI
    one outside ``/gcs/`` (errors; warnings where an input or an option may as well name what the step only reads). A
    bucket's place and ``auto`` outlive it. On Kubeflow's spot nodes also those that are saved seldom (warning): a
    container whose pod is deleted gets no time to save, because KFP's launcher ends at once on SIGTERM.
    """
    for step in view.steps:
        for name, given in step.values.items():
            if not _CHECKPOINTS.fullmatch(name) or not isinstance(given.value, str):
                continue
            if given.value == "" and step.executor.ours == "train":
                message = "checkpoints lie beside the model until the pod ends, and die with it"
                yield warning(given.where, message, _advice(view))
            elif name in _WRITTEN and _is_path(given.value) and given.value != CHECKPOINTS_AUTO:
                yield from _checkpoint_path(view, step.executor, given.where, given.value, error)
            elif _is_path(given.value) and given.value.startswith("/"):
                yield from _checkpoint_path(view, step.executor, given.where, given.value, warning)
        if view.target == "kubeflow" and step.executor.ours == "train" and _on_spot(step.executor):
            yield from _seldom_saved(step)
    for executor in view.containers:
        for where, path in _checkpoint_options(executor):
            yield from _checkpoint_path(view, executor, where, path, warning)


def _on_spot(executor: Executor) -> bool:
    placed = (executor.kubernetes.get("nodeSelector"), executor.kubernetes.get("tolerations"))
    return any(_SPOT.search(f"{where} {item}") for part in placed for where, _, item in walk(part, ""))


def _seldom_saved(step: Step) -> Iterator[Note]:
    minutes = _params_of(step).get("checkpoint_minutes", Params.model_fields["checkpoint_minutes"].default)
    if minutes is not None and (not isinstance(minutes, int | float) or minutes <= _SELDOM_MINUTES):
        return  # what is no number is a finding of the rule params
    often = "after epochs only" if minutes is None else f"every {minutes:g} minutes"
    yield warning(
        step.values["params"].where if "params" in step.values else step.where,
        f"training on spot nodes saves {often}, and Kubernetes gives it no time to save when its pod is deleted",
        f"set checkpoint_minutes to {_SELDOM_MINUTES} or less: --set checkpoint_minutes=2",
    )


def _checkpoint_options(executor: Executor) -> Iterator[tuple[str, str]]:
    """Literal paths on a container's command line, by options such as ``--checkpoint-dir``."""
    words = [text(word) for word in listing(executor.container.get("args"))]
    for index, word in enumerate(words):
        match = _OPTION.fullmatch(word)
        if match is None or not _CHECKPOINTS.fullmatch(match[1]):
            continue
        at = index if match[2] is not None else index + 1
        path = match[2] if at == index else "".join(words[at : at + 1])
        if path.startswith("/") and _is_path(path):
            yield child(f"{executor.container_where}.args", at), path


def _advice(view: View) -> str:
    advice = "keep them in a bucket (gs://…, s3://…), by auto beside the run's artifacts"
    if view.target != "vertex":
        advice += ", or on a volume's claim mounted at the step (volumes of train in the settings)"
    return advice


def _checkpoint_path(
    view: View, executor: Executor, where: str, path: str, note: Callable[[str, str, str], Note]
) -> Iterator[Note]:
    if view.target == "vertex" and not _in_bucket(path):
        yield note(where, f"checkpoints at {path} die with the machine", _advice(view))
    elif view.target == "kubeflow" and not executor.mounted(path, "pvcMount"):
        kinds = [kind for kind in ("emptyDirMounts", "genericEphemeralVolume") if executor.mounted(path, kind)]
        why = "a volume that ends with the pod" if kinds else "no claim is mounted there"
        yield note(where, f"checkpoints at {path} die with the pod: {why}", _advice(view))


def data_place(view: View) -> Iterator[Note]:
    """Our pipeline's data at a path that is not there: on Vertex AI outside ``/gcs/``, on Kubeflow without a mount."""
    for step in view.steps:
        given = step.values.get("data")
        if step.executor.ours != "data_prep" or given is None or not _is_path(given.value):
            continue
        if view.target == "vertex" and not _in_bucket(given.value):
            yield error(given.where, f"Vertex AI's machines have no {given.value}", "name a bucket: gs://…")
        elif view.target == "kubeflow" and not step.executor.mounted(given.value, *_PROVIDING):
            message = f"nothing is mounted at {given.value} in the step that reads it"
            yield error(given.where, message, "mount a claim there (volumes in the settings), or name a bucket")


def credentials_file(view: View) -> Iterator[Note]:
    """Files of credentials and secrets that a step is told to read and that nothing mounts for it.

    ``GOOGLE_APPLICATION_CREDENTIALS`` in params or environment; variables such as ``KAFKA_SASL_PASSWORD_FILE``. On
    Vertex AI nothing can be mounted, and the machine has a service account.
    """
    told = set()
    for step in view.steps:
        for where, name, path in _credentials_of(step):
            note = _missing(view, step.executor, where, name, path)
            if note is not None and (where, name) not in told:
                told.add((where, name))
                yield note


def _credentials_of(step: Step) -> Iterator[tuple[str, str, str]]:
    """Place, name and path of the files."""
    path = _params_of(step).get(_CREDENTIALS)
    if isinstance(path, str):
        yield step.values["params"].where, _CREDENTIALS, path
    for where, name, value in step.executor.environment:
        if name == _CREDENTIALS or _names_a_file(name):
            yield f"{where}.value", name, value


def _params_of(step: Step) -> dict[str, Any]:
    """The params of a step of ours, as far as they are known and readable."""
    given = step.values.get("params")
    if not step.executor.ours or given is None or not isinstance(given.value, str):
        return {}
    try:
        return mapping(json.loads(given.value))
    except (ValueError, RecursionError):
        return {}


def _names_a_file(variable: str) -> bool:
    """Whether a variable names a file of a secret, or of Kafka's TLS."""
    secret = variable.endswith("_FILE") and names_a_secret(variable.removesuffix("_FILE"))
    return secret or (variable.startswith("KAFKA_SSL_") and variable.endswith("FILE"))


def _missing(view: View, executor: Executor, where: str, name: str, path: str) -> Note | None:
    if not _is_path(path) or not path.startswith("/") or PurePosixPath(path).is_relative_to(_OF_THE_IMAGE):
        return None
    if view.target == "vertex" and not _in_bucket(path):
        advice = "leave it out: the step has its service account; secrets are read from sm://projects/…"
        return error(where, f"{name} names the file {path}, and Vertex AI mounts buckets alone, at /gcs", advice)
    if view.target == "kubeflow" and not executor.mounted(path, *_PROVIDING):
        advice = "mount the secret there (secret_files in the settings), or use the pod's service account"
        return error(where, f"{name} names the file {path}, which no mount of {executor.label} provides", advice)
    return None
