"""Kubeflow's API through kfp_server_api, the generated client that kfp.Client wraps, and what its errors mean.

kfp.Client's own methods take no timeout, print, and read the cookie that another program kept for another host.

A request raises InputError where it is refused or what answers is no API, and PlatformUnavailableError where the server
fails or does not answer.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from functools import cached_property
from typing import Any
from urllib.parse import quote, unquote

import urllib3
from kfp_server_api import (  # type: ignore[import-untyped] # it publishes no types
    ApiClient,
    ApiException,
    Configuration,
)
from urllib3.exceptions import HTTPError

from components.shared.errors import PlatformRefusedError, PlatformUnavailableError, causes_of
from components.shared.events.redaction import redact, register_secret
from components.shared.retry import retry_after_s
from pipelines.submit.connection import RetryableError, connection_error, proxy_refusal, retried
from pipelines.submit.kubeflow_access import HOW_TO_SIGN_IN, Access, proxy_for
from pipelines.watch_text import printable

API, OLD_API, LOGS_API = "/apis/v2beta1", "/apis/v1beta1", "/apis/v1alpha1"
LARGEST_LOG = 256 * 1024 * 1024  # where reading it is given up
_CONNECT_S = 10.0
_PIECE, _TAIL = 64 * 1024, 1024 * 1024
_LONGEST = 600  # characters of a server's message
# Besides its own: the client takes for granted that an error has a body, and in UTF-8.
_FAILURES = (ApiException, HTTPError, AttributeError, UnicodeError)


class AlreadyExistsError(Exception):
    """Something of that name is there; the text is the server's."""


class KubeflowApi:
    """The API of one host; nothing is connected before the first request.

    Args:
        host: Address of the API.
        access: By what it is asked.
        namespace: Of the user; None: Kubeflow has none.

    Raises:
        InputError: The environment names a proxy that cannot be used.
    """

    def __init__(self, host: str, access: Access, namespace: str | None) -> None:
        self.host = host
        self.namespace = namespace
        self._access = access
        self._proxy = proxy_for(host)
        self._answered = False

    @cached_property
    def _client(self) -> Any:
        access, configuration = self._access, Configuration(host=self.host)
        if access.token is not None:
            configuration.api_key_prefix["authorization"] = "Bearer"
            configuration.api_key["authorization"] = access.token
        if access.token_file is not None:
            configuration.refresh_api_key_hook = self._refresh
        if access.ca_file is not None:
            configuration.ssl_ca_cert = str(access.ca_file)
        if self._proxy is not None:
            configuration.proxy, signing_in = self._proxy
            configuration.proxy_headers = urllib3.make_headers(proxy_basic_auth=unquote(signing_in))
            register_secret(configuration.proxy_headers.get("proxy-authorization", "").removeprefix("Basic "))
            register_secret(unquote(signing_in.partition(":")[2]))
        # Attempts and the time between them are ours, and a page to sign in is not to be followed.
        configuration.retries = urllib3.Retry(0, raise_on_redirect=False)
        return ApiClient(configuration, cookie=access.cookie)

    def _refresh(self, configuration: Any) -> None:
        if token := self._access.current_token():
            configuration.api_key["authorization"] = token

    def get(self, path: str, timeout_s: float, **query: str | None) -> dict[str, Any]:
        """What the API answers in one attempt, as it is: the generated models do not know every version's states."""
        return self._json("GET", path, timeout_s, query)

    def first(self, path: str, key: str, name: tuple[str, str], **query: str | None) -> dict[str, Any] | None:
        """The first thing in a list at `key` that has a name, by which field and which; None: there is none."""
        predicate = {"operation": "EQUALS", "key": name[0], "string_value": name[1]}
        # The server takes what it was sent for encoded once more.
        text = json.dumps({"predicates": [predicate]}).replace("+", r"\u002b").replace("%", r"\u0025")
        query |= {"filter": text, "page_size": "1"}
        found = retried(lambda timeout_s: self._json("GET", f"{API}/{path}", timeout_s, query))
        things = found.get(key)
        thing = things[0] if isinstance(things, list) and things else None
        return thing if isinstance(thing, dict) else None

    def create(self, path: str, what: str, body: Any = None, file: str = "", **query: str | None) -> dict[str, Any]:
        """Make something of a JSON body or a file's content; AlreadyExistsError: the name is taken."""
        # Kubeflow looks at the name's ending.
        fields = [("uploadfile", ("pipeline.yaml", file, "application/yaml"))] if file else None
        return retried(
            lambda timeout_s: self._json("POST", f"{API}/{path}", timeout_s, query, body=body, post_params=fields),
            creates=what,
        )

    def log(self, run: str, pod: str, timeout_s: float) -> str | None:
        """The last MiB of a pod's log; None where it is not to be had, for whatever reason, or has no end by then."""
        end, kept, total = time.monotonic() + timeout_s, b"", 0
        path = f"{LOGS_API}/runs/{quote(run, safe='')}/nodes/{quote(pod, safe='')}/log"
        try:
            response = self._request("GET", path, timeout_s, {})
            try:
                if "html" in response.headers.get("Content-Type", ""):
                    return None
                for piece in response.stream(_PIECE):
                    kept, total = (kept + piece)[-_TAIL:], total + len(piece)
                    if total > LARGEST_LOG or time.monotonic() > end:
                        return None
            finally:
                response.close()
        except _FAILURES:
            return None
        return kept.decode("utf-8", "replace")

    def identified(self, thing: dict[str, Any], key: str) -> dict[str, Any]:
        """What the API answered, which then has an id: other services answer with JSON as well."""
        if not thing.get(key):
            raise self._no_api(f"answers without a {key}")
        return thing

    def _json(
        self, method: str, path: str, timeout_s: float, query: Mapping[str, str | None], **content: Any
    ) -> dict[str, Any]:
        try:
            response = self._request(method, path, timeout_s, query, **content)
            body = response.read().decode("utf-8", "replace")
            response.release_conn()
        except _FAILURES as failure:
            answer = next((each for each in causes_of(failure) if isinstance(each, ApiException) and each.status), None)
            if answer is not None:
                raise self._refusal(answer, creates=method == "POST") from failure
            proxy = {} if self._proxy is None else {"proxy": f"the proxy {self._proxy[0]}"}
            trust = "name its authority's certificate by --ca-file"
            raise connection_error(failure, self.host, answered=self._answered, trust=trust, **proxy) from failure
        document = _object(body)
        if document is None:
            raise self._no_api("answers with a page")
        self._answered = True
        return document

    def _request(
        self, method: str, path: str, timeout_s: float, query: Mapping[str, str | None], **content: Any
    ) -> Any:
        kind = "multipart/form-data" if content.get("post_params") else "application/json"
        return self._client.call_api(
            path,
            method,
            query_params=[(name, value) for name, value in query.items() if value is not None],
            header_params={"Accept": "application/json", "Content-Type": kind},
            auth_settings=["Bearer"],
            _preload_content=False,
            _request_timeout=(min(_CONNECT_S, timeout_s), timeout_s),
            **content,
        )

    def _no_api(self, what: str) -> PlatformRefusedError:
        """Something else answers there, most often a page to sign in."""
        causes = [] if self.host.endswith("/pipeline") else [f"Kubeflow's API is below /pipeline: {self.host}/pipeline"]
        if kinds := self._access.kinds:
            causes.append(f"or that is a page to sign in, and the {kinds} is not valid, or no longer")
        else:
            causes.append(f"or that is a page to sign in: {HOW_TO_SIGN_IN}")
        return PlatformRefusedError(f"{self.host}: is no Kubeflow Pipelines API: it {what}; {', '.join(causes)}")

    def _refusal(self, answer: Any, *, creates: bool) -> Exception:
        status, headers = int(answer.status), answer.headers or {}
        body = answer.body.decode("utf-8", "replace") if isinstance(answer.body, bytes) else str(answer.body or "")
        document = _object(body)
        # The API's own, the upload's, and what proxies use.
        keys = ("message", "error_details", "error_message", "error")
        texts = [text for key in keys if isinstance(text := (document or {}).get(key), str) and text]
        message = printable(redact(texts[0]), _LONGEST) if texts else ""
        wait_s = retry_after_s(headers.get("Retry-After", ""))
        said = f"{self.host} answers {status}" + (f": {message}" if message else "")
        where = f" in namespace {self.namespace}" if self.namespace else ""
        kinds = self._access.kinds
        if status == 407 and self._proxy is not None:
            return proxy_refusal(self.host, f"the proxy {self._proxy[0]}", status)
        if status == 429:
            return RetryableError(f"{said} (a quota is used up)", quota=True, retry_after_s=wait_s)
        if status in (502, 503, 504):
            return RetryableError(said, perhaps_done=True, retry_after_s=wait_s)
        # Where files are uploaded, a name that is taken has been told by other codes in some versions.
        if creates and (status == 409 or (status in (400, 500) and "already exist" in message.lower())):
            return AlreadyExistsError(message)
        if status >= 500:
            return PlatformUnavailableError(said)
        if status not in (401, 403) and document is None:
            return self._no_api(f"answers {status} with a page" if status >= 400 else f"leads elsewhere ({status})")
        advice = ""
        if status == 401:
            advice = f"; it does not accept the {kinds}" if kinds else "; it wants to know who asks"
            advice += f": {HOW_TO_SIGN_IN}"
        elif status == 403:
            advice = f"; ask for the role kubeflow-edit{where}, or choose another namespace by --namespace"
            advice += "" if kinds else f"; nothing was sent to sign in: {HOW_TO_SIGN_IN}"
        elif "namespace" in message.lower() and self.namespace is None:
            advice = "; name yours by --namespace"
        elif status == 404 and self.namespace:
            advice = f"; is --namespace {self.namespace} right?"
        return PlatformRefusedError(f"{said}{advice}")


def _object(body: str) -> dict[str, Any] | None:
    """The JSON object that a body is; None: it is another thing, such as a page."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None
