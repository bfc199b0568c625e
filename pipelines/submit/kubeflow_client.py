"""kfp's own client, kept quiet and bounded.

Its methods for people print links (in notebooks, show them), wait for ever, take a page to sign in for an empty list,
and look up pipelines without a namespace. The generated API that it carries, ``client.pipelines`` and the like, takes
a timeout and prints nothing; so kfp.Client says where to connect and signs in, and the generated API asks.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import urllib3
from kfp_server_api import ApiException  # type: ignore[import-untyped] # it publishes no types

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # kfp's own deprecations
    import kfp.client
    import kfp.client.auth

from components.shared.errors import PlatformRefusedError
from components.shared.events.redaction import redact, register_secret
from pipelines.submit.kubeflow_access import APP_VARIABLES, HOW_TO_SIGN_IN, Access, needs_browser
from pipelines.submit.kubeflow_api_errors import FAILURES, Answers, is_json
from pipelines.submit.kubeflow_proxy import Proxy
from pipelines.submit.patience import Patience

_CONNECT_S = 10.0
_PAGE_SIZE = 100
_MOST_PAGES = 100
_PIECE = 64 * 1024
# Of a text that is read to its end, what is kept, and where its reading is given up.
_TAIL, _MOST = 1024 * 1024, 256 * 1024 * 1024

T = TypeVar("T")


class _Client(kfp.client.Client):  # type: ignore[misc] # kfp publishes no types
    """kfp's client without the memory of other programs, and with what signs in at a proxy.

    Args:
        proxy: Stands on the way; None: nobody does.
        without_iap: Do not sign in through Google's IAP although the environment names it.
        options: kfp's own.
    """

    def __init__(self, proxy: Proxy | None, *, without_iap: bool, **options: Any) -> None:
        self._proxy = proxy
        self._without_iap = without_iap
        super().__init__(**options)

    def _load_config(self, host: str | None, client_id: str | None, *others: Any) -> Any:
        config = super()._load_config(host, None if self._without_iap else client_id, *others)
        if self._proxy is not None:
            config.proxy, config.proxy_headers = self._proxy.url, dict(self._proxy.headers)
        return config

    def _load_context_setting_or_default(self) -> None:
        """Leave ~/.config/kfp/context.json alone: its namespace and cookie are of another host, perhaps.

        With a namespace the constructor asks nothing: without one it asks up to five times, 5 s apart, whether there
        are several users. Each request of ours says its namespace, so this one is never sent.
        """
        self._context_setting = {"namespace": "said by each request"}


class KubeflowClient:
    """The API of one host; nothing is connected before the first call.

    Args:
        host: Address of the API.
        access: By what it is asked.
        answers: What its errors mean; and which proxy stands on the way.
    """

    def __init__(self, host: str, access: Access, answers: Answers) -> None:
        self._host = host
        self._access = access
        self._answers = answers
        self._heard = False

    @cached_property
    def api(self) -> Any:
        """The client, whose attributes ``pipelines``, ``pipeline_uploads``, ``experiments`` and ``runs`` are services.

        Raises:
            PlatformRefusedError: kfp cannot sign in by the means its environment names.
        """
        browser = needs_browser(self._access, Path(kfp.client.auth.LOCAL_KFP_CREDENTIAL))
        if browser and not self._access.cookie:
            raise PlatformRefusedError(
                f"{self._host}: to sign in as {' and '.join(APP_VARIABLES)} say takes a browser, and there is no "
                f"terminal; do so once at a terminal, or {HOW_TO_SIGN_IN}"
            )
        ca_file = None if self._access.ca_file is None else str(self._access.ca_file)
        try:
            # Who signs in through Google's IAP is told by print where to; standard output is for our result.
            with redirect_stdout(sys.stderr), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                client = _Client(
                    self._answers.proxy,
                    without_iap=browser,
                    host=self._host,
                    existing_token=self._access.token,
                    cookies=self._access.cookie,
                    ssl_ca_cert=ca_file,
                )
        except Exception as error:  # Google's libraries raise what they like
            why = f"{type(error).__name__}: {redact(' '.join(str(error).split()))}"
            raise PlatformRefusedError(f"{self._host}: kfp cannot sign in: {why}; {HOW_TO_SIGN_IN}") from error
        transport = client.pipelines.api_client
        # Attempts and the time between them are ours, and a page to sign in is not to be followed.
        pool = transport.rest_client.pool_manager.connection_pool_kw
        pool["retries"] = urllib3.Retry(0, raise_on_redirect=False)
        if token := transport.configuration.api_key.get("authorization"):
            register_secret(token)
        if self._access.token_file is not None:
            transport.configuration.refresh_api_key_hook = self._refresh
        return client

    def _refresh(self, configuration: Any) -> None:
        if token := self._access.current_token():
            configuration.api_key["authorization"] = token

    def call(self, patience: Patience, method: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Make one request that asks.

        Args:
            patience: Says how long it may take.
            method: Of one of the services.
            arguments: The method's.
            options: The method's.

        Raises:
            Later: Not now.
            InputError: It is refused, or what answers is no API.
            PlatformUnavailableError: The server failed.
        """
        return self._request(patience, method, arguments, options, creates=False)

    def create(self, patience: Patience, method: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Make one request that makes something; as `call`, and besides.

        Raises:
            AlreadyExists: The name is taken.
        """
        return self._request(patience, method, arguments, options, creates=True)

    def _request(
        self,
        patience: Patience,
        method: Callable[..., Any],
        arguments: tuple[Any, ...],
        options: dict[str, Any],
        *,
        creates: bool,
    ) -> Any:
        seconds = patience.request_s()
        given = {name: value for name, value in options.items() if value is not None}
        try:
            result = method(*arguments, **given, _request_timeout=(min(_CONNECT_S, seconds), seconds))
        except FAILURES as failure:
            raise self._answers.error(failure, creates=creates, heard=self._heard) from failure
        # The generated client makes an object without attributes of whatever is no JSON.
        if not is_json(self.api.pipelines.api_client.last_response.data):
            raise self._answers.no_api("answers with a page")
        self._heard = True
        return result

    def get(self, patience: Patience, path: str) -> dict[str, Any]:
        """What the API answers, as it is: the generated models know neither every version's fields nor its states.

        Args:
            patience: Says how long it may take.
            path: Below the host, such as ``/apis/v2beta1/runs/ID``.

        Raises:
            Later: Not now.
            InputError: It is refused, or what answers is no API.
            PlatformUnavailableError: The server failed.
        """
        try:
            response = self._open(path, patience.request_s())
            body = response.read().decode("utf-8", "replace")
            response.release_conn()
            if not 200 <= response.status < 300:
                refused = ApiException(status=response.status)
                refused.body, refused.headers = body, response.headers
                raise refused
        except FAILURES as failure:
            raise self._answers.error(failure, creates=False, heard=self._heard) from failure
        if not is_json(body):
            raise self._answers.no_api("answers with a page")
        self._heard = True
        document: dict[str, Any] = json.loads(body)
        return document

    def tail(self, patience: Patience, path: str) -> str | None:
        """The last MiB of a text; None where it is not to be had, for whatever reason, or has no end in that time."""
        seconds = patience.request_s()
        end, kept, total = time.monotonic() + seconds, b"", 0
        try:
            response = self._open(path, seconds)
            try:
                if response.status != 200 or "html" in response.headers.get("Content-Type", ""):
                    return None
                for piece in response.stream(_PIECE):
                    kept, total = (kept + piece)[-_TAIL:], total + len(piece)
                    if total > _MOST or time.monotonic() > end:
                        return None
            finally:
                response.close()
        except FAILURES:
            return None
        return kept.decode("utf-8", "replace")

    def _open(self, path: str, seconds: float) -> Any:
        """Ask as the generated API does: through its pool, with what it sends to sign in."""
        transport = self.api.pipelines.api_client
        headers = dict(transport.default_headers)
        if transport.cookie:
            headers["Cookie"] = transport.cookie
        transport.update_params_for_auth(headers, [], ["Bearer"])
        return transport.rest_client.pool_manager.request(
            "GET",
            f"{transport.configuration.host}{path}",
            headers=headers,
            preload_content=False,
            timeout=urllib3.Timeout(connect=min(_CONNECT_S, seconds), read=seconds),
        )

    def identified(self, thing: T, key: str) -> T:
        """What the API has told of, which then has an id: other services answer with JSON as well.

        Args:
            thing: What it told.
            key: Where its id is.

        Raises:
            PlatformRefusedError: It has none.
        """
        if not (thing.get(key) if isinstance(thing, dict) else getattr(thing, key, None)):
            raise self._answers.no_api(f"answers without a {key}")
        return thing

    def listed(
        self, patience: Patience, method: Callable[..., Any], key: str, *arguments: Any, **options: Any
    ) -> Iterator[Any]:
        """Everything that a listing method lists, page by page.

        Args:
            patience: As for `call`.
            method: As for `call`.
            key: Where in an answer the things are.
            arguments: The method's.
            options: The method's.
        """
        token = None
        for _ in range(_MOST_PAGES):
            page = self.call(patience, method, *arguments, page_token=token, page_size=_PAGE_SIZE, **options)
            yield from getattr(page, key) or []
            token = page.next_page_token
            if not token:
                return
