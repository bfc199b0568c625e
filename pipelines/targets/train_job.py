"""A TrainJob of Kubeflow Trainer by itself: the training step on its nodes, without a pipeline."""

from __future__ import annotations

import hashlib
import shlex
import textwrap
from pathlib import Path
from typing import Any

import yaml

from components.shared.errors import InputError
from components.shared.kubeflow.train_job import DEFAULT_RUNTIME, REFUSED, RUN_REFERENCE, RuntimeRef, train_job
from components.shared.params.params import Params
from components.shared.params.training_id import training_id
from components.shared.run import AUTO, EVENTS_VARIABLE
from components.shared.storage.location import parse_location
from components.shared.strict_yaml import Dumper
from components.shared.version import __version__
from pipelines.compiled import secret_named_by
from pipelines.settings.kubeflow import KubeflowSettings, KubeflowTrain, kubeflow_defaults

# What the job's name begins with; Kubernetes puts five characters after it.
NAME_PREFIX = "shutterline-"
RUN = "{run}"  # in a location: the run's id, which is the job's name

_ABOUT = (
    "Trains an image classifier on {nodes}: a TrainJob of Kubeflow Trainer 2.2 or later, by Shutterline {version}; "
    "`shutterline validate` checks it. Where it is created there must be {needs}. To create a job, which is a run by "
    "its name, to see its log and how it ended, and to end it, which removes its pods and their logs, too:"
)
_COMMANDS = """\
#   kubectl create --filename {file}
#   kubectl logs --follow --tail=-1 --selector jobset.sigs.k8s.io/jobset-name=NAME
#   kubectl get trainjob NAME
#   kubectl delete trainjob NAME
"""


def train_job_manifest(
    params: Params, image: str, settings: KubeflowSettings, *, dataset: str, model: str, checkpoints: str | None = None
) -> dict[str, Any]:
    """The manifest of a TrainJob.

    Args:
        params: The run's params.
        image: Reference of the train image.
        settings: Of them what the step train gets, for each node; where checkpoints and events are kept.
        dataset: Where data prep's dataset is; a path is one in the nodes.
        model: Where the model is published; ``{run}`` in it is the run's id.
        checkpoints: Where exactly checkpoints are kept, likewise; None: as the settings say, or else beside the model.

    Raises:
        InputError: A location is none, or the manifest would hold a secret of this environment.
    """
    given = {"dataset": dataset, "model": model}
    if (kept := checkpoints or _checkpoints(settings, params, dataset)) is not None:
        given["checkpoints"] = kept
    for name, value in given.items():
        try:
            parse_location(value)
        except InputError as error:
            raise InputError(f"--{name} {error}") from error
    if RUN in dataset:
        raise InputError(
            f"--dataset {dataset}: {RUN} is for --model and --checkpoints; a dataset is there before a run"
        )
    options = [f"--{name}={value}" for name, value in given.items()]
    train = settings.train or KubeflowTrain()
    events = {EVENTS_VARIABLE: settings.events} if settings.events and settings.events != AUTO else {}
    arguments = [*options, f"--params={params.to_form()}", "--processes=auto"]
    job = train_job(NAME_PREFIX, train.node_spec(image), arguments, env=events, generate_name=True)
    # What Kubernetes puts into the model's and the checkpoints' locations when a pod starts.
    args = job["spec"]["trainer"]["args"]
    args[1 : len(options)] = [option.replace(RUN, RUN_REFERENCE) for option in args[1 : len(options)]]
    if (variable := secret_named_by(job)) is not None:
        raise InputError(
            f"the TrainJob would hold the secret that {variable} has here; leave it out, and name where it is kept: "
            "secret_env or secret_files"
        )
    return job


def train_job_text(job: dict[str, Any], settings: KubeflowSettings, file: Path) -> str:
    """The text of a file with a TrainJob, which begins with what it needs and how to create it."""
    count = job["spec"]["trainer"]["numNodes"]
    nodes = "a node" if count == 1 else f"{count} nodes"
    about = _ABOUT.format(nodes=nodes, version=__version__, needs=", ".join(_needs(settings.train or KubeflowTrain())))
    header = textwrap.fill(about, 119, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)
    commands = _COMMANDS.format(file=shlex.quote(file.name) if file.name.isprintable() else "FILE")
    body = yaml.dump(job, Dumper=Dumper, sort_keys=False, width=120, allow_unicode=True)
    return f"{header}\n{commands}{body}"


def train_job_warnings(settings: KubeflowSettings, params: Params) -> list[str]:
    """What of the settings has no effect in a TrainJob, or costs money for nothing."""
    train = settings.train or KubeflowTrain()
    stock = KubeflowTrain.model_validate(kubeflow_defaults(gpu=False)["train"])
    found = [f"train.{key}: {why}" for key, why in REFUSED.items() if getattr(train, key) is not None]
    if train.retry != stock.retry:
        found.append("train.retry: has no effect; a TrainJob's runtime says how often it is started again")
    if train.cache != stock.cache:
        found.append("train.cache: has no effect; a TrainJob is never served from a cache")
    if settings.events == AUTO:
        found.append("events: auto has no effect; a TrainJob has no artifacts to keep them beside")
    if params.device == "cpu" and train.is_accelerated:
        found.append("train: an accelerator is rented, but the params say device cpu")
    return found


def _checkpoints(settings: KubeflowSettings, params: Params, dataset: str) -> str | None:
    """The directory of these params and this dataset where the settings have all checkpoints."""
    if settings.checkpoints in (None, AUTO):
        return None
    return f"{settings.checkpoints}/{training_id(params, hashlib.sha256(dataset.encode()).hexdigest())}"


def _needs(train: KubeflowTrain) -> list[str]:
    """What must be there beside Trainer."""
    runtime = RuntimeRef.parse(train.runtime or DEFAULT_RUNTIME)
    ours = " (pipelines/examples/trainer/runtime.yaml)" if runtime == RuntimeRef() else ""
    secrets = [
        *(secret.secret for secret in train.secret_env.values() if not secret.optional),
        *(files.secret for files in train.secret_files if not files.optional),
        *train.pull_secrets,
    ]
    return [
        f"the {runtime.kind} {runtime.name}{ours}",
        *(f"the secret {name}" for name in dict.fromkeys(secrets)),
        *(f"the claim {volume.claim}" for volume in train.volumes),
        *([f"the service account {train.service_account}"] if train.service_account else []),
    ]
