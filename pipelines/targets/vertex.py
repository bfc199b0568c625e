"""Compiling for Vertex AI: what machine a step runs on, put on its task. Nothing here knows of Kubernetes."""

from __future__ import annotations

from typing import Any

from components.shared.run import EVENTS_VARIABLE
from components.shared.step import StepName
from pipelines.settings.vertex import VertexSettings, VertexStep
from pipelines.targets.task_options import set_common


def configure_vertex(settings: VertexSettings, step_name: StepName, task: Any) -> None:
    """Put a step's settings on its task.

    Args:
        settings: Put together with the defaults.
        step_name: Which step it is.
        task: kfp's PipelineTask.
    """
    step: VertexStep = settings.step(step_name)
    set_common(task, step, "vertex", {EVENTS_VARIABLE: settings.events} if settings.events else {})
    if accelerator := step.accelerates:
        task.set_accelerator_type(accelerator.type).set_accelerator_limit(accelerator.count)
