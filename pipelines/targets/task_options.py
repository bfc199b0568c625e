"""What both platforms take of a step's settings alike: processors, memory, environment, cache, retries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.compiled import TARGET_VARIABLE, PlatformName
from pipelines.settings.common import StepSettings


def set_common(task: Any, step: StepSettings, target: PlatformName, variables: Mapping[str, str]) -> None:
    """Put them on a task.

    Args:
        task: kfp's PipelineTask.
        step: The step's settings, put together with the defaults.
        target: The platform, which the file says of itself.
        variables: Further environment variables.
    """
    if step.cpu:
        task.set_cpu_limit(step.cpu)
    if step.memory:
        task.set_memory_limit(step.memory)
    # In one order whatever order they were written in: a container's environment is part of a cache's key.
    for name, value in sorted({**step.env, **variables, TARGET_VARIABLE: target}.items()):
        task.set_env_variable(name, value)
    task.set_caching_options(bool(step.cache))
    retry = step.retry
    if retry and retry.times:
        task.set_retry(
            num_retries=retry.times,
            backoff_duration=f"{retry.pause_s}s",
            backoff_factor=retry.factor,
            # kfp's own is an hour from the first start, training included.
            backoff_max_duration=f"{retry.window_s}s",
        )
