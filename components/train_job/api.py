"""The API server of the cluster that this process is in, or that KUBECONFIG names, by Kubernetes' own client.

Every request has a timeout and is made once: the caller knows whether and when to make it again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from components.shared.errors import PlatformRefusedError, RetryableError
from components.shared.events.redaction import redact, register_secret
from components.shared.extras import extras_named
from components.shared.logs import silence
from components.shared.retry import retry_after_s
from components.shared.text import first_line, shortened

KUBECONFIG_VARIABLE = "KUBECONFIG"
_NEEDS = "training on several nodes"


@dataclass(frozen=True)
class Pace:
    """Seconds that things take or are waited for.

    Attributes:
        poll_s: Between two looks at the job and its pods.
        answer_s: For the answer to one request.
        setup_s: For which what has to be done before the job runs is tried.
        refused_s: For which a refusal while the job runs is taken for passing.
        gone_s: What the start of a job waits for the end of the one before.
        stop_s: What a job that is deleted is given to save; Kubernetes gives the step itself 30 s.
        silence_s: After which a log's connection that brings nothing is made anew.
        drain_s: For what is left of a log at the job's end.
        quiet_s: After which nothing more of it comes.
        pauses_s: The first pause after a request that failed, and the longest.
    """

    poll_s: float = 3.0
    answer_s: float = 15.0
    setup_s: float = 60.0
    refused_s: float = 300.0
    gone_s: float = 90.0
    stop_s: float = 20.0
    silence_s: float = 60.0
    drain_s: float = 10.0
    quiet_s: float = 3.0
    pauses_s: tuple[float, float] = (0.5, 10.0)


class ApiError(Exception):
    """The API server refuses a request: `status` is HTTP's, `reason` Kubernetes' own, `message` in full."""

    def __init__(self, status: int, message: str, reason: str = "") -> None:
        super().__init__(f"the API server answers {status}: {message}")
        self.status = status
        self.message = message
        self.reason = reason

    @property
    def is_gone(self) -> bool:
        """Whether a resource is not there; a server that begins, or a proxy, answers 404 to all."""
        return self.status == 404 and self.reason == "NotFound"


class Api:
    """Requests to the API server. Threads may share it.

    Attributes:
        namespace: This process's own.
        answer_s: For the answer to a request without a time of its own; may become less.

    Raises:
        PlatformRefusedError: There is no API server that this process may ask.
        InputError: The client is not installed.
    """

    def __init__(self, pace: Pace) -> None:
        with extras_named(_NEEDS, "train-job"):
            from kubernetes import client, config
            from urllib3.exceptions import HTTPError
        # Their warnings repeat every attempt that fails.
        for name in ("kubernetes", "urllib3"):
            silence(name)
        self.pace = pace
        self.answer_s = pace.answer_s
        self._client_module, self._config_module = client, config
        self._broken = (OSError, ValueError, HTTPError)  # of a connection, or of an answer that comes over it
        try:
            self._client = self._connected()
        except (config.ConfigException, OSError, ValueError) as error:
            raise PlatformRefusedError(
                f"the cluster cannot be asked: {redact(first_line(error))}; {_NEEDS} takes a pod with a service "
                f"account's token, or {KUBECONFIG_VARIABLE}"
            ) from error
        self.namespace = self._own_namespace()

    def _connected(self) -> Any:
        """A client with the credentials that are valid now."""
        configuration = self._client_module.Configuration()
        if named := os.environ.get(KUBECONFIG_VARIABLE):  # which the client itself reads when it is imported
            self._config_module.load_kube_config(named, client_configuration=configuration)
        else:
            self._config_module.load_incluster_config(client_configuration=configuration)
            configuration.proxy = None  # which leads out of the cluster
        configuration.retries = False
        register_secret((configuration.get_api_key_with_prefix("authorization") or "").rpartition(" ")[2])
        return self._client_module.ApiClient(configuration)

    def _own_namespace(self) -> str:
        if named := os.environ.get(KUBECONFIG_VARIABLE):
            _, context = self._config_module.list_kube_config_contexts(named)
            return str(context["context"].get("namespace") or "default")
        token = Path(self._config_module.incluster_config.SERVICE_TOKEN_FILENAME)
        with suppress(OSError):
            return token.with_name("namespace").read_text(encoding="ascii").strip() or "default"
        return "default"

    def path(self, group: str, kind: str, *names: str) -> str:
        """The path of resources in the namespace, or with a name of one, or with another of a part of it."""
        root = "/api/v1" if group == "v1" else f"/apis/{group}"
        return "/".join([root, "namespaces", quote(self.namespace), kind, *(quote(name) for name in names)])

    def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, str] | None = None,
        answer_s: float | None = None,
    ) -> dict[str, Any]:
        """What the API server answers, as JSON.

        Raises:
            ApiError: It refuses.
            RetryableError: It cannot be reached, does not answer in time, or asks to come again.
        """
        response = self._response(method, path, body, query or {}, answer_s or self.answer_s)
        try:
            document = json.loads(response.data)
        except (RecursionError, *self._broken) as error:
            raise RetryableError(f"the API server's answer breaks off: {first_line(error)}") from error
        if not isinstance(document, dict):
            raise foreign_answer()
        return document

    def stream(self, path: str, query: Mapping[str, str]) -> Iterator[bytes]:
        """An answer's bytes as they come; raises as `request`, also while they come."""
        response = self._response("GET", path, None, query, self.pace.silence_s)
        try:
            yield from response.stream(amt=None, decode_content=False)
        except self._broken as error:
            raise RetryableError(f"the connection broke: {first_line(error)}") from error
        finally:
            response.close()

    def _response(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        query: Mapping[str, str],
        answer_s: float,
        *,
        is_repeated: bool = False,
    ) -> Any:
        try:
            return self._client.call_api(
                path,
                method,
                query_params=list(query.items()),
                header_params={"Accept": "application/json, */*", "Content-Type": "application/json"},
                body=body,
                auth_settings=["BearerToken"],
                _return_http_data_only=True,
                _preload_content=False,
                _request_timeout=(min(5.0, answer_s), answer_s),
            )
        except self._client_module.ApiException as error:
            if error.status != 401 or is_repeated:
                raise _error_of(error) from error
        except self._broken as error:
            raise RetryableError(redact(f"{self._client.configuration.host}: {first_line(error)}")) from error
        # Kubernetes renews tokens, and the client reads the file once a minute.
        with suppress(self._config_module.ConfigException, OSError, ValueError):
            self._client = self._connected()
        return self._response(method, path, body, query, answer_s, is_repeated=True)


def foreign_answer() -> RetryableError:
    """The error of an answer that Kubernetes does not give, such as a page of a proxy in between."""
    return RetryableError("the API server's answer is none of Kubernetes'")


def _error_of(error: Any) -> Exception:
    """An answer that is no success, by its Status; a client's trouble with TLS has no status."""
    text = error.body.decode("utf-8", "replace") if isinstance(error.body, bytes) else str(error.body or error.reason)
    reason = ""
    with suppress(ValueError, LookupError, TypeError, RecursionError):
        document = json.loads(text)
        text, reason = str(document["message"]), str(document.get("reason", ""))
    status, message = int(error.status or 0), redact(shortened(" ".join(text.split()), 1000))
    if status == 0 or status in (408, 429) or status >= 500:
        headers = error.headers or {}
        return RetryableError(
            f"the API server answers {status}: {message}" if status else message,
            retry_after_s(headers.get("Retry-After", "")),
        )
    return ApiError(status, message, reason)
