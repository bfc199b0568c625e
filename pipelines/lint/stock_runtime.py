"""Trainer's own runtime for torch, under which bad input costs four starts and its log."""

from __future__ import annotations

from collections.abc import Iterator

from components.shared.kubeflow.train_job import DEFAULT_RUNTIME
from pipelines.lint.findings import Note

STOCK_RUNTIME = "torch-distributed"
RUNTIME_FILE = "pipelines/examples/trainer/runtime.yaml"


def stock_runtime(where: str, kind: str, name: str) -> Iterator[Note]:
    """A note where a runtime is that one."""
    if (kind, name) == ("ClusterTrainingRuntime", STOCK_RUNTIME):
        message = "Trainer's own runtime tries bad input again, and deletes pods and logs when it gives up"
        advice = f"name the TrainingRuntime {DEFAULT_RUNTIME} of {RUNTIME_FILE}, once in the namespace"
        yield Note("warning", where, message, advice)
