"""The pipeline as KFP's YAML: for any platform, or with what Kubeflow or Vertex AI shall give each step."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from components.shared.container_images import Image, ImageStep
from components.shared.errors import InputError
from components.shared.files import CLAIMS_VARIABLE, is_full, write_atomically
from components.shared.params.params import Params
from components.shared.run import EVENTS_VARIABLE
from components.shared.step import StepName
from components.shared.storage.location import parse_location
from components.shared.strict_yaml import Dumper
from components.shared.version import __version__
from pipelines.compiled import PLATFORM_TITLES, TARGET_VARIABLE, documents_of, secret_named_by
from pipelines.settings.kubeflow import SHM_PATH, SHM_VOLUME, KubeflowSettings, KubeflowStep, KubeflowTrain
from pipelines.settings.read import AnySettings
from pipelines.settings.vertex import VertexSettings
from pipelines.targets.custom_job import run_as_custom_job
from pipelines.targets.kfp_import import import_kfp

# The first lines are kfp's: its loader takes a component's description from them.
_HEADER = """\
# PIPELINE DEFINITION
# Name: {name}
# Description: {description}
# Compiled for {target} by Shutterline {version}; `shutterline validate` checks it, `shutterline submit` runs it.
"""


def check_output(file: Path) -> None:
    """Refuse a name that does not end as kfp and Kubeflow expect it."""
    if file.suffix not in (".yaml", ".yml"):
        raise InputError(f"--output {file}: the name of what is compiled ends in .yaml")


def write_pipeline(file: Path, text: str) -> None:
    """Write a compiled pipeline; a link stays one, to the file that is written."""
    try:
        target = file.resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, text.encode())
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        if isinstance(error, OSError) and is_full(error):
            raise
        raise InputError(f"--output {file}: cannot be written: {getattr(error, 'strerror', None) or error}") from error


def compiled_pipeline(
    params: Params,
    images: Mapping[ImageStep, Image],
    settings: AnySettings | None,
    *,
    data: str | None = None,
    checkpoints: str | None = None,
) -> str:
    """The text of the compiled pipeline; params, data and checkpoints are the defaults of its inputs.

    Without settings nothing is asked of any platform.

    Raises:
        InputError: A location is none, or the file would hold a secret of this environment.
    """
    import_kfp()
    from kfp.compiler import Compiler

    from pipelines.image_classifier import DESCRIPTION, pipeline_for

    inputs = {"params": params.to_json()}
    for name, value in (("data", data), ("checkpoints", checkpoints or (settings.checkpoints if settings else None))):
        if value is not None:
            if "{{" in value:  # a platform would fill something in
                raise InputError(f"{name} {value}: must not have {{{{ in it, by which KFP marks what it fills in")
            parse_location(value)
            inputs[name] = value

    distributed = nodes_of(settings)
    nodes = distributed.node_spec(images["train"].reference).to_json() if distributed else ""

    def configure(step: StepName, task: Any) -> None:
        has_nodes = bool(nodes) and step in ("train", "exit")
        task.set_container_image(images["train-job"].reference if has_nodes else reference_of(step, images))
        if settings is not None:
            _configure(settings, step, task)

    with tempfile.TemporaryDirectory(prefix="shutterline-") as directory, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # kfp's own deprecations
        file = Path(directory) / "pipeline.yaml"
        Compiler().compile(
            pipeline_func=pipeline_for(configure, nodes, settings.shards if settings else 1),
            package_path=str(file),
            pipeline_parameters=inputs,
        )
        documents = documents_of(file.read_text(encoding="utf-8"))
    # kfp repeats defaults in comments of one line each, so a text of several lines would break its file.
    documents[0]["root"]["inputDefinitions"]["parameters"]["params"]["defaultValue"] = params.to_form()
    for executor in documents[0]["deploymentSpec"]["executors"].values():
        executor["container"]["command"] = without_shell(executor["container"]["command"])
    if isinstance(settings, VertexSettings) and settings.train and settings.train.is_distributed:
        run_as_custom_job(documents[0], "train", settings.train)
    if (variable := secret_named_by(documents)) is not None:
        raise InputError(
            f"the compiled pipeline would hold the secret that {variable} has here; leave it out, and "
            "name where it is kept: secret_env, secret_files or sm://…"
        )
    header = _HEADER.format(
        name=documents[0]["pipelineInfo"]["name"],
        description=DESCRIPTION,
        target=PLATFORM_TITLES[settings.target] if settings else "any platform",
        version=__version__,
    )
    return header + str(yaml.dump_all(documents, Dumper=Dumper, sort_keys=True, width=120, allow_unicode=True))


def nodes_of(settings: AnySettings | None) -> KubeflowTrain | None:
    """What each node gets where several train; None: one does."""
    return settings.distributed if isinstance(settings, KubeflowSettings) else None


def reference_of(step: StepName, images: Mapping[ImageStep, Image]) -> str:
    """The image of a step; the exit step runs on the smallest, data prep's, and publishing on evaluation's."""
    if step == "exit":
        return images["data-prep"].reference
    return images["evaluate" if step == "publish" else step].reference


def without_shell(command: Iterable[str]) -> list[str]:
    """A command of kfp's whose shell becomes the step.

    kfp starts a step's interpreter below a shell, which as a container's first process keeps SIGTERM to itself.
    """
    return [part.replace("_KFP_RUNTIME=true python3 -m", "_KFP_RUNTIME=true exec python3 -m") for part in command]


def _configure(settings: AnySettings, step_name: StepName, task: Any) -> None:
    """Put a step's settings on kfp's PipelineTask."""
    distributed = nodes_of(settings) if step_name == "train" else None
    step = distributed.waiting() if distributed else settings.step(step_name)
    variables = {EVENTS_VARIABLE: settings.events} if settings.events else {}
    if isinstance(step, KubeflowStep) and step.volumes:
        claims = {volume.path: volume.claim for volume in step.volumes}
        variables[CLAIMS_VARIABLE] = json.dumps(claims, sort_keys=True)
    if step.cpu:
        task.set_cpu_limit(step.cpu)
    if step.memory:
        task.set_memory_limit(step.memory)
    # In one order whatever order they were written in: a container's environment is part of a cache's key.
    for name, value in sorted({**step.env, **variables, TARGET_VARIABLE: settings.target}.items()):
        task.set_env_variable(name, value)
    task.set_caching_options(bool(step.cache))
    if (retry := step.retry) and retry.times:
        task.set_retry(
            num_retries=retry.times,
            backoff_duration=f"{retry.pause_s}s",
            backoff_factor=retry.factor,
            # kfp's own is an hour from the first start, training included.
            backoff_max_duration=f"{retry.window_s}s",
        )
    if isinstance(step, KubeflowStep):
        _configure_pod(step, task)
    elif accelerator := step.accelerates:
        task.set_accelerator_type(accelerator.type).set_accelerator_limit(accelerator.count)


def _configure_pod(step: KubeflowStep, task: Any) -> None:
    from kfp import kubernetes

    if step.cpu_request:
        task.set_cpu_request(step.cpu_request)
    if step.memory_request:
        task.set_memory_request(step.memory_request)
    if step.gpu and step.gpu.count:
        task.set_accelerator_type(step.gpu.resource).set_accelerator_limit(step.gpu.count)
    if step.shm:
        kubernetes.empty_dir_mount(task, SHM_VOLUME, SHM_PATH, medium="Memory", size_limit=step.shm)
    for key, value in step.node_selector.items():
        kubernetes.add_node_selector(task, key, value)
    for toleration in step.tolerations:
        given = toleration.model_dump(exclude={"seconds"})
        kubernetes.add_toleration(task, **given, toleration_seconds=toleration.seconds)
    for variable, secret in step.secret_env.items():
        kubernetes.use_secret_as_env(task, secret.secret, {secret.key: variable}, optional=secret.optional)
    for files in step.secret_files:
        kubernetes.use_secret_as_volume(task, files.secret, files.path, optional=files.optional)
    for volume in step.volumes:
        kubernetes.mount_pvc(task, volume.claim, volume.path, sub_path=volume.sub_path or "")
    for key, value in step.labels.items():
        kubernetes.add_pod_label(task, key, value)
    for key, value in step.annotations.items():
        kubernetes.add_pod_annotation(task, key, value)
    if step.pull_secrets:
        kubernetes.set_image_pull_secrets(task, step.pull_secrets)
    if step.pull_policy:
        kubernetes.set_image_pull_policy(task, step.pull_policy)
    if step.timeout_s:
        kubernetes.set_timeout(task, step.timeout_s)
    if step.security and (given := step.security.model_dump(exclude_none=True)):
        kubernetes.set_security_context(task, **given)
