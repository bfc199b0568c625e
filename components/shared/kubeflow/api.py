"""What Kubeflow Pipelines itself knows of a run, asked from inside one of its steps.

``GET runs/ID`` needs no token where Kubeflow has one namespace, answers in 10 to 30 ms, and is right where the final
status that the exit task is given says RUNNING: of runs that came from the cache, and of runs that were terminated
(seen on 2.16.1, 2.17.0 and the development head of 2026-08-21). ``v1beta1`` gives Argo's workflow, which alone knows
why a pod failed. By the standard library, since the images hold no client of Kubeflow's.
"""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from components.shared.kubeflow.report import RunReport
from components.shared.kubeflow.run import read_run
from components.shared.retry import bounded
from components.shared.run import POD_NAME_VARIABLE

# kfp.Client's own: the address, and the file of a token that is meant for the API.
HOST_VARIABLE, TOKEN_VARIABLE = "KF_PIPELINES_ENDPOINT", "KF_PIPELINES_SA_TOKEN_PATH"
_TOKEN_FILE = "/var/run/secrets/kubeflow/pipelines/token"  # noqa: S105 - its path
_HOST = "http://ml-pipeline.kubeflow:8888"
_LARGEST_ANSWER = 32 * 1024 * 1024
_PAUSE_S = 0.2
_LARGEST_TOKEN = 64 * 1024


class NoAnswerError(Exception):
    """Kubeflow's API cannot be asked from here; the text says why."""


def is_kubeflow() -> bool:
    """Whether this process is a step of Kubeflow Pipelines."""
    return bool(os.environ.get(POD_NAME_VARIABLE))


def ask_run(run: str, within_s: float, *, is_over: bool) -> RunReport:
    """What Kubeflow knows of a run that this step is part of; NoAnswerError: it does not answer, or refuses.

    Where its steps are over, as for the exit task, it is asked again while Kubeflow's tables, which follow the cluster
    a moment later, take them for running.
    """
    end = time.monotonic() + within_s
    host = (os.environ.get(HOST_VARIABLE) or _HOST).rstrip("/")
    host = host if "://" in host else f"http://{host}"
    while True:
        answer, workflow = _get(f"{host}/apis/v2beta1/runs/{run}", end), None
        with suppress(NoAnswerError):  # a later release may have no such path: then nobody says why a pod failed
            workflow = _get(f"{host}/apis/v1beta1/runs/{run}", end)
        report = read_run(answer, workflow)
        if not is_over or report.body not in ("running", "unknown") or time.monotonic() + 2 * _PAUSE_S > end:
            return report
        time.sleep(_PAUSE_S)


def _get(url: str, end: float) -> Mapping[str, Any]:
    left = end - time.monotonic()
    if left <= 0:
        raise NoAnswerError(f"{url}: no time left")
    # A proxy leads out of the cluster, and this address is inside it.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ask() -> bytes:
        request = urllib.request.Request(url)  # noqa: S310 - of the cluster, or what its settings name
        for name, value in _credentials().items():
            request.add_unredirected_header(name, value)  # for this API, not for whatever it redirects to
        with opener.open(request, timeout=left) as answer:
            return cast("bytes", answer.read(_LARGEST_ANSWER))

    try:
        document = json.loads(bounded(ask, left))
    except urllib.error.HTTPError as error:
        error.close()
        raise NoAnswerError(f"{url}: answers {error.code}") from error
    except (OSError, ValueError, RecursionError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise NoAnswerError(f"{url}: {reason}") from error
    if not isinstance(document, dict):
        raise NoAnswerError(f"{url}: is no API of Kubeflow Pipelines")
    return document


def _credentials() -> dict[str, str]:
    token = token_of(Path(os.environ.get(TOKEN_VARIABLE) or _TOKEN_FILE))
    return {"Authorization": f"Bearer {token}"} if token else {}


def token_of(file: Path) -> str | None:
    """The bearer's token in a file, as it is now; None where there is none that a header can have."""
    try:
        with file.open("rb") as stream:
            token = stream.read(_LARGEST_TOKEN).decode("ascii").strip()
    except (OSError, ValueError):
        return None
    return token if token.isprintable() and token else None
