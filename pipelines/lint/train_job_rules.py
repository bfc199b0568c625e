"""What a TrainJob is checked for before it is created.

Any TrainJob: secrets, images, and what the API server or Trainer's webhooks refuse or drop. One that runs the training
step: all of it. What Trainer does follows its source at v2.3.0, and a run of it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from components.shared.errors import ParamsError
from components.shared.kubeflow.train_job import API_VERSION, DEFAULT_RUNTIME, GROUP, variable_problem
from components.shared.params.params import Params, parse
from components.shared.params.source import from_json, with_overrides
from components.shared.run import RUN_VARIABLE
from pipelines.compiled import mapping
from pipelines.lint.findings import Finding, Note, Rule, Severity, findings_of
from pipelines.lint.images import local_images, unpinned_images
from pipelines.lint.secrets import names_credentials, secret_notes, secrets_in
from pipelines.lint.stock_runtime import RUNTIME_FILE, stock_runtime
from pipelines.lint.train_job_fields import misfits
from pipelines.lint.train_job_view import TrainJob, TrainJobFile
from pipelines.lint.view import mappings, text
from pipelines.settings.kubeflow import SHM_PATH

_DOMAIN = r"(?=.{1,253}/)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_MANAGER = re.compile(rf"{_DOMAIN}/[A-Za-z0-9/\-._~%!$&'()*+,;=:]+")
_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
# A pod is called NAME-node-0-INDEX-abcde: JobSet's webhook refuses longer ones, when the TrainJob is there already.
_LONGEST_POD = 63
# Of Trainer 2.0 and 2.1.
_EARLIER = ("podSpecOverrides", "podTemplateOverrides")
_FIELD_ADVICE = {
    **dict.fromkeys(_EARLIER, "write runtimePatches, which Trainer has in its place since 2.2"),
    "imagePullPolicy": "set it in the runtime's container node; no TrainJob can",
    "resources": "write spec.trainer.resourcesPerNode",
    "image": "write spec.trainer.image",
}
_RESTART_FIELDS = frozenset(
    {"restartPolicy", "backoffLimit", "podFailurePolicy", "failurePolicy", "maxRestarts", "ttlSecondsAfterFinished"}
)


def _jobs(check: Callable[[TrainJob], Iterable[Note]], *, ours: bool) -> Callable[[TrainJobFile], Iterator[Note]]:
    """A rule for each TrainJob of a file, or for those of ours."""

    def checked(file: TrainJobFile) -> Iterator[Note]:
        for job in file.jobs:
            if job.is_ours or not ours:
                yield from check(job)

    return checked


def _secret_value(file: TrainJobFile) -> Iterator[Note]:
    return secret_notes(file.documents, file.arguments, "(valueFrom: {secretKeyRef: …}, or mounted as files)")


def _images(job: TrainJob) -> Iterator[tuple[str, str]]:
    if "image" in job.trainer:  # else it is the runtime's
        yield job.at("spec", "trainer", "image"), text(job.trainer["image"])


def _fields(job: TrainJob) -> Iterator[Note]:
    version = text(job.manifest.get("apiVersion"))
    if version != API_VERSION:
        message = f"the TrainJob is of {version}, and Trainer 2 knows {API_VERSION}"
        yield Note("error", job.at("apiVersion"), message, "write it for that one")
        return
    for path, message, is_unknown in misfits(job.manifest, where=job.where):
        name = path.rpartition(".")[2]
        if not is_unknown:
            yield Note("error", path, message, "the API server refuses the job otherwise")
        elif name in _RESTART_FIELDS:
            advice = f"say it in the runtime, as {RUNTIME_FILE} does; no TrainJob can"
            yield Note("error", path, "a TrainJob has no such field, so it has no effect", advice, name)
        else:
            advice = _FIELD_ADVICE.get(name, message)
            yield Note("error", path, "a TrainJob has no such field, so it has no effect", advice, name)


def _names(job: TrainJob) -> Iterator[Note]:
    metadata = mapping(job.manifest.get("metadata"))
    name, prefix = text(metadata.get("name")), text(metadata.get("generateName"))
    where, shown = job.at("metadata", "name" if name else "generateName"), name or f"{prefix}abcde"
    if not (name or prefix):
        yield Note(
            "error", job.at("metadata"), "the job has no name", "set metadata.generateName, such as shutterline-"
        )
    elif not _NAME.fullmatch(shown):
        rule = "small letters, digits and hyphens, a letter first"
        yield Note("error", where, f"Trainer takes no such name, only {rule}", "rename it", name or prefix)
    nodes = job.trainer.get("numNodes")
    pod = f"{shown}-node-0-{nodes - 1 if isinstance(nodes, int) else 0}-abcde"
    if len(pod) > _LONGEST_POD:
        message = (
            f"JobSet makes no pods of a job whose pods' names, NAME-node-0-0-abcde, are longer than {_LONGEST_POD}"
        )
        yield Note("error", where, message, f"shorten it by {len(pod) - _LONGEST_POD} characters", name or prefix)
    reference = mapping(job.spec.get("runtimeRef"))
    group = reference.get("apiGroup", GROUP)
    if not job.runtime[1] or group != GROUP or job.runtime[0] not in ("TrainingRuntime", "ClusterTrainingRuntime"):
        advice = f"name one: {{apiGroup: {GROUP}, kind: TrainingRuntime, name: {DEFAULT_RUNTIME}}}"
        yield Note("error", job.at("spec", "runtimeRef"), "the job names no runtime that Trainer has", advice)


def _patches(job: TrainJob) -> Iterator[Note]:
    for index, patch in enumerate(mappings(job.spec.get("runtimePatches"))):
        if not _MANAGER.fullmatch(text(patch.get("manager"))):
            advice = "name who sets it, such as example.com/shutterline"
            where = job.at("spec", "runtimePatches", index)
            yield Note("error", where, "Trainer takes no patch whose manager is not DOMAIN/NAME", advice)
    for where, container in job.containers:
        if container.get("env"):
            message = "Trainer takes no variables of the container node in a patch"
            yield Note("error", f"{where}.env", message, "move them to spec.trainer.env")
    listed = [(job.at("spec", "trainer", "env"), job.trainer.get("env"), "name")]
    listed += [(job.at("spec", "runtimePatches"), job.spec.get("runtimePatches"), "manager")]
    listed += [(f"{where}.volumes", pod.get("volumes"), "name") for where, pod in job.pods]
    listed += [(f"{where}.volumeMounts", each.get("volumeMounts"), "name") for where, each in job.containers]
    for where, entries, key in listed:
        for name, times in Counter(text(entry.get(key)) for entry in mappings(entries)).items():
            if times > 1:
                message = f"the API server takes no list with the same {key} twice"
                yield Note("error", where, message, "keep one of them", name)


def _reserved_variable(job: TrainJob) -> Iterator[Note]:
    for where, name, _ in job.environment:
        if problem := variable_problem(name):
            yield Note("error", where, f"the variable {problem}", "leave it out", name)


def _arguments(job: TrainJob) -> Iterator[Note]:
    where = job.at("spec", "trainer", "args")
    for name in ("dataset", "model", "params"):
        if not job.options.get(name, ("", ""))[1]:
            yield Note("error", where, "the step cannot train without these options", "add them", f"--{name}")
    advice = "name a bucket (gs://…, s3://…), or a path in a volume that runtimePatches mount"
    for name in ("dataset", "model", "checkpoints"):
        path, value = job.options.get(name, ("", ""))
        if value and "://" not in value and not value.startswith("/"):
            yield Note("error", path, f"--{name} {value}: is relative to wherever the container starts", advice)


def _params_of(job: TrainJob) -> tuple[Params | None, list[Note]]:
    where, value = job.options.get("params", ("", ""))
    if not value.lstrip().startswith("{"):
        return None, []
    try:
        parsed = parse(with_overrides(from_json(value), job.changes))
        problems = list(parsed.problems)
    except ParamsError as refused:
        return None, [Note("error", where, str(each), "correct the params") for each in refused.problems]
    notes = [Note("error", where, str(problem), "correct the params") for problem in problems]
    return None if problems else parsed.params, notes


def _params(job: TrainJob) -> Iterator[Note]:
    params, notes = _params_of(job)
    yield from notes
    where, value = job.options.get("params", ("", ""))
    if value.startswith("/"):
        yield from _read(job, where, value, "params", "a ConfigMap, or give them as JSON text: --params={…}")
    if params is not None and params.device.startswith("cuda") and not any(job.devices.values()):
        message = f"the params ask for device {params.device}, and the nodes have no GPU"
        yield Note("error", job.at("spec", "trainer", "resourcesPerNode"), message, "ask for nvidia.com/gpu in limits")


def _read(job: TrainJob, where: str, path: str, what: str, how: str) -> Iterator[Note]:
    """What is wrong with a path that the step reads."""
    if job.mount_of(path) is None:
        severity: Severity = "error" if job.is_runtime_known else "warning"
        unless = "" if job.is_runtime_known else ", unless the runtime does"
        yield Note(severity, where, f"{what}: nothing mounts {path}{unless}", f"mount {how}")


def _written(job: TrainJob, option: str, what: str) -> Iterator[Note]:
    """What is wrong with a path that the step writes, by its option."""
    where, path = job.options.get(option, ("", ""))
    if not path.startswith("/"):
        return
    if (mount := job.mount_of(path)) is None:
        severity: Severity = "error" if job.is_runtime_known else "warning"
        unless = "" if job.is_runtime_known else ", unless the runtime mounts a volume there"
        advice = "name a bucket, or mount a persistentVolumeClaim there by runtimePatches"
        yield Note(severity, where, f"{what} at {path} die with the pod{unless}", advice)
    elif not mount.keeps:
        advice = "name a bucket, or mount a persistentVolumeClaim there instead"
        yield Note("error", where, f"{what} at {path} are in a volume that ends with the pod", advice)


def _data_location(job: TrainJob) -> Iterator[Note]:
    where, value = job.options.get("dataset", ("", ""))
    how = "a volume there by runtimePatches, or name a bucket"
    if value.startswith("/"):
        yield from _read(job, where, value, "dataset", how)
    params, _ = _params_of(job)
    if params is not None and params.initial_weights and "://" not in params.initial_weights:
        yield from _read(job, job.options["params"][0], params.initial_weights, "initial_weights", how)


def _run_id(job: TrainJob) -> Iterator[Note]:
    advice = "let it be the job's name, as pipelines/examples/trainer/trainjob-cpu.yaml does"
    metadata = mapping(job.manifest.get("metadata"))
    if RUN_VARIABLE not in {name for _, name, _ in job.environment}:
        message = f"without {RUN_VARIABLE} a pod that is started again is another run to `shutterline watch`"
        yield Note("warning", job.at("spec", "trainer", "env"), message, advice)
    for where, name, _ in job.environment:
        if name == RUN_VARIABLE and name in job.variables and "name" not in metadata:
            message = "every job that is created of this file is taken for the same run"
            yield Note("warning", where, message, advice, job.variables[name])


def _limits(job: TrainJob) -> Iterator[Note]:
    resources = mapping(job.trainer.get("resourcesPerNode"))
    for name, title in (("cpu", "processors"), ("memory", "memory")):
        if not mapping(resources.get("limits")).get(name):
            where = job.at("spec", "trainer", "resourcesPerNode")
            yield Note("warning", where, "the nodes have no limit", "set cpu and memory in limits", title)


def _shared_memory(job: TrainJob) -> Iterator[Note]:
    if job.gpus and not any(mount.path == SHM_PATH for mount in job.mounts) and job.is_runtime_known:
        message = f"nodes with GPUs have the 64 MiB of {SHM_PATH} that every container has, and nccl uses it"
        advice = "mount an emptyDir of medium Memory there by runtimePatches"
        yield Note("warning", job.at("spec", "runtimePatches"), message, advice)


def _idle_gpus(job: TrainJob) -> Iterator[Note]:
    where, processes = job.options.get("processes", (job.at("spec", "trainer", "args"), "1"))
    if job.gpus > 1 and processes == "1":
        message = f"each node has {job.gpus} GPUs, and trains on one"
        yield Note("warning", where, message, "add --processes=auto")


def _credentials_file(job: TrainJob) -> Iterator[Note]:
    for where, name, entry in job.environment:
        path = text(entry.get("value"))
        if names_credentials(name) and path.startswith("/") and not path.startswith("/etc/ssl/"):
            how = "the secret there by runtimePatches, or leave it to the pods' service account"
            yield from _read(job, where, path, name, how)


# Of each job; the first six also of those that run something else than our step.
_OF_A_JOB: tuple[tuple[str, str, Callable[[TrainJob], Iterable[Note]]], ...] = (
    ("unpinned-image", "images without a digest", lambda job: unpinned_images(_images(job))),
    ("local-image", "images that a cluster hardly can pull", lambda job: local_images(_images(job))),
    ("fields", "fields that a TrainJob does not have, and values of another type than theirs", _fields),
    ("names", "names of the job or its runtime that Trainer or JobSet refuse", _names),
    ("patches", "`runtimePatches` that Trainer refuses", _patches),
    ("reserved-variable", "variables that Trainer or torch's launcher sets", _reserved_variable),
    ("arguments", "options that the training step needs, and relative paths", _arguments),
    ("params", "params that are not valid, or at a path that nothing mounts", _params),
    ("limits", "nodes without limits of processors or memory", _limits),
    ("shared-memory", "GPUs without shared memory", _shared_memory),
    ("idle-gpus", "GPUs of a node that no process uses", _idle_gpus),
    ("restarts", "a runtime that tries bad input again and deletes its log",
     lambda job: stock_runtime(job.at("spec", "runtimeRef"), *job.runtime)),
    ("run-id", "jobs that status takes for one run, or one that it takes for several", _run_id),
    ("checkpoint-location", "checkpoints that die with the pod",
     lambda job: _written(job, "checkpoints", "checkpoints")),
    ("data-location", "a dataset or weights at a path that nothing mounts", _data_location),
    ("model-location", "a model that dies with the pod", lambda job: _written(job, "model", "models")),
    ("credentials-file", "files of credentials that nothing mounts", _credentials_file),
)  # fmt: skip
TRAIN_JOB_RULES: tuple[Rule[TrainJobFile], ...] = (
    Rule("secret-value", "values of secrets", _secret_value),
    *(Rule(id, title, _jobs(check, ours=index >= 6)) for index, (id, title, check) in enumerate(_OF_A_JOB)),
)


def lint_train_jobs(file: TrainJobFile) -> list[Finding]:
    """What is wrong with the TrainJobs of a file, or may be; errors first."""
    secrets = (value for _, _, value in secrets_in(file.documents, file.arguments))
    return findings_of(TRAIN_JOB_RULES, file, secrets)
