"""An MLflow tracking server, by MLflow's client, which is imported here alone.

Every call may block as long as the client's settings say, and raises whatever the client raises: it is for a thread
that nobody waits for. The settings are those of this process's environment; what the user has set stays.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.shared.logs import silence
from components.shared.tracking.figures import Point

URI_VARIABLE = "MLFLOW_TRACKING_URI"
RUN_TAG = "shutterline.run_id"
_EXPERIMENT = "shutterline"

_CALL_S, _FILE_S = 10, 60
_SETTINGS = {
    # By default 120 s and seven retries: one call to a port that refuses blocks for 246 s, and one that asks for more
    # time by Retry-After for as long as it says. The recorder tries again by itself.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": str(_CALL_S),
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
    "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
    "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_CONFIGURE_LOGGING": "false",
    # It reports its use to its makers, and addresses a coding agent on standard error.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_DISABLE_AGENT_HINT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}
# What asking again does not change.
_REFUSALS = frozenset({"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE"})
_ENDED = frozenset({"FINISHED", "FAILED", "KILLED"})


@dataclass(frozen=True)
class TrackedRun:
    """An MLflow run: `params` and `status` are what it had when it was found.

    Attributes:
        is_ours_to_end: False of the run that Kubeflow Pipelines made for the pipeline, which it also ends.
        is_new: Whether it was made just now.
    """

    id: str
    experiment: str
    status: str
    params: Mapping[str, str]
    is_ours_to_end: bool = True
    is_new: bool = False


def tracking_uri() -> str:
    """Where runs are recorded; empty: nowhere."""
    return os.environ.get(URI_VARIABLE, "").strip()


def is_refusal(error: Exception) -> bool:
    """Whether the same call would be refused again."""
    return getattr(error, "error_code", None) in _REFUSALS


class TrackingServer:
    """The server that the environment names; making this imports MLflow's client, about a second.

    Raises:
        ImportError: The client, or a package that it needs for such a server, is not installed.
    """

    def __init__(self) -> None:
        self._is_ours = {name for name in _SETTINGS if os.environ.setdefault(name, _SETTINGS[name]) == _SETTINGS[name]}
        silence("mlflow")
        from mlflow.entities import Metric, Param, RunTag
        from mlflow.tracking import MlflowClient
        from mlflow.version import VERSION

        self.version: str = VERSION
        self._entities = Metric, Param, RunTag
        self._client: Any = MlflowClient(tracking_uri())

    def find(self, run: str) -> TrackedRun | None:
        """The MLflow run for a run of ours: what the environment or Kubeflow Pipelines names, else by its tag."""
        client = self._client
        if named := os.environ.get("MLFLOW_RUN_ID", "").strip():
            found = client.get_run(named)
            # Kubeflow Pipelines 2.17 makes a run for the pipeline, and below it one for each task, which it names here.
            if above := found.data.tags.get("mlflow.parentRunId"):
                parent = client.get_run(above)
                if "kfp.pipeline_run_id" in parent.data.tags:
                    return _tracked(parent, is_ours_to_end=False)
            return _tracked(found)
        if (experiment := self._experiment()) is None:
            return None
        runs = client.search_runs(
            [experiment], f"tags.`{RUN_TAG}` = '{run}'", max_results=1, order_by=["attributes.start_time ASC"]
        )
        return _tracked(runs[0]) if runs else None

    def create(self, run: str) -> TrackedRun:
        """A new MLflow run, named as ours; its experiment is made where there is none."""
        experiment = self._experiment()
        if experiment is None:
            experiment = self._client.create_experiment(_experiment_name())
        return _tracked(self._client.create_run(experiment, tags={RUN_TAG: run}, run_name=run), is_new=True)

    def _experiment(self) -> str | None:
        if number := os.environ.get("MLFLOW_EXPERIMENT_ID", "").strip():
            return number
        found = self._client.get_experiment_by_name(_experiment_name())
        return None if found is None else str(found.experiment_id)

    def reopen(self, run: TrackedRun) -> None:
        """Let a run that has ended go on."""
        if run.is_ours_to_end and run.status in _ENDED:
            self._client.update_run(run.id, status="RUNNING")

    def end(self, run: TrackedRun, status: str) -> None:
        """End a run as FINISHED, FAILED or KILLED."""
        if run.is_ours_to_end:
            self._client.set_terminated(run.id, status)

    def log(
        self,
        run: TrackedRun,
        points: Sequence[Point] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Record metrics, params and tags; the client sends as many requests as the server's limits ask for."""
        metric, param, tag = self._entities
        self._client.log_batch(
            run.id,
            [metric(*point) for point in points],
            [param(*item) for item in (params or {}).items()],
            [tag(*item) for item in (tags or {}).items()],
            synchronous=True,
        )

    def epochs_of(self, run: TrackedRun) -> set[int]:
        """The epochs that a run has figures of."""
        return {point.step for point in self._client.get_metric_history(run.id, "train/loss")}

    def log_text(self, run: TrackedRun, text: str, name: str) -> None:
        """Record a text as a file."""
        self._with_time(lambda: self._client.log_text(run.id, text, name))

    def log_file(self, run: TrackedRun, file: Path, folder: str | None = None) -> None:
        """Record a file by its name."""
        self._with_time(lambda: self._client.log_artifact(run.id, str(file), folder))

    def _with_time(self, call: Callable[[], None]) -> None:
        """A server that hands a file on to a bucket answers when it is there."""
        name = "MLFLOW_HTTP_REQUEST_TIMEOUT"
        if name not in self._is_ours:
            call()
            return
        os.environ[name] = str(_FILE_S)
        try:
            call()
        finally:
            os.environ[name] = str(_CALL_S)


def _experiment_name() -> str:
    return os.environ.get("MLFLOW_EXPERIMENT_NAME", "").strip() or _EXPERIMENT


def _tracked(run: Any, *, is_ours_to_end: bool = True, is_new: bool = False) -> TrackedRun:
    info = run.info
    return TrackedRun(info.run_id, info.experiment_id, info.status, run.data.params, is_ours_to_end, is_new)
