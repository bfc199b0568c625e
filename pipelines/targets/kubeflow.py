"""Compiling for Kubeflow Pipelines: what a step's pod asks for, put on its task."""

from __future__ import annotations

import json
from typing import Any

from components.shared.claims import CLAIMS_VARIABLE
from components.shared.run import EVENTS_VARIABLE
from components.shared.step import StepName
from pipelines.settings.kubeflow import SHM_PATH, SHM_VOLUME, KubeflowSettings, KubeflowStep
from pipelines.targets.task_options import set_common


def configure_kubeflow(settings: KubeflowSettings, step_name: StepName, task: Any) -> None:
    """Put a step's settings on its task.

    Args:
        settings: Put together with the defaults.
        step_name: Which step it is.
        task: kfp's PipelineTask.
    """
    from kfp import kubernetes

    step: KubeflowStep = settings.step(step_name)
    variables = {EVENTS_VARIABLE: settings.events} if settings.events else {}
    if step.volumes:
        claims = {volume.path: volume.claim for volume in step.volumes}
        variables[CLAIMS_VARIABLE] = json.dumps(claims, sort_keys=True)
    set_common(task, step, "kubeflow", variables)
    if request := step.cpu_request:
        task.set_cpu_request(request)
    if request := step.memory_request:
        task.set_memory_request(request)
    if step.gpu and step.gpu.count:
        task.set_accelerator_type(step.gpu.resource).set_accelerator_limit(step.gpu.count)
    if step.shm:
        kubernetes.empty_dir_mount(task, SHM_VOLUME, SHM_PATH, medium="Memory", size_limit=step.shm)
    _place(kubernetes, task, step)
    _mount(kubernetes, task, step)
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


def _place(kubernetes: Any, task: Any, step: KubeflowStep) -> None:
    """Which nodes the pod may be placed on."""
    for key, value in step.node_selector.items():
        kubernetes.add_node_selector(task, key, value)
    for toleration in step.tolerations:
        kubernetes.add_toleration(
            task,
            key=toleration.key,
            operator=toleration.operator,
            value=toleration.value,
            effect=toleration.effect,
            toleration_seconds=toleration.seconds,
        )


def _mount(kubernetes: Any, task: Any, step: KubeflowStep) -> None:
    """Secrets by their names, and volumes."""
    for variable, secret in step.secret_env.items():
        kubernetes.use_secret_as_env(task, secret.secret, {secret.key: variable}, optional=secret.optional)
    for files in step.secret_files:
        kubernetes.use_secret_as_volume(task, files.secret, files.path, optional=files.optional)
    for volume in step.volumes:
        kubernetes.mount_pvc(task, volume.claim, volume.path, sub_path=volume.sub_path or "")
