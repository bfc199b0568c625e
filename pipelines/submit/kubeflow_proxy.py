"""The proxy that the environment names for the way to a Kubeflow Pipelines API."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from components.shared.errors import InputError
from components.shared.events.redaction import register_secret


@dataclass(frozen=True)
class Proxy:
    """Who is asked in the API's place.

    Attributes:
        url: Its address, without credentials.
        variable: What names it.
        headers: What signs in there.
    """

    url: str
    variable: str
    headers: Mapping[str, str] = field(repr=False)

    def __str__(self) -> str:
        return f"the proxy {self.url} ({self.variable})"


def proxy_to(host: str) -> Proxy | None:
    """The proxy on the way to an address; None: none is.

    Raises:
        InputError: What the environment names is none that can be used.
    """
    parts = urlsplit(host)
    address = getproxies().get(parts.scheme)
    if not address or proxy_bypass(parts.netloc):
        return None
    variable = f"{parts.scheme.upper()}_PROXY"
    proxy = _split(variable, address if "://" in address else f"http://{address}")
    signing_in, _, place = proxy.netloc.rpartition("@")
    headers = {"Proxy-Authorization": _basic(signing_in)} if signing_in else {}
    return Proxy(f"{proxy.scheme}://{place}", variable, headers)


def _split(variable: str, address: str) -> SplitResult:
    # The address may hold a password, so it is not shown.
    allowed = "allowed is http(s)://HOST[:PORT], perhaps with USER:PASSWORD@ before the host"
    try:
        proxy = urlsplit(address)
        usable = proxy.hostname and proxy.port != 0 and address.isascii() and address.isprintable()
    except ValueError as error:
        raise InputError(f"{variable}: is no address; {allowed}") from error
    if proxy.scheme not in ("http", "https"):
        raise InputError(f"{variable}: {proxy.scheme}:// is not spoken to proxies; {allowed}")
    if not usable or " " in address:
        raise InputError(f"{variable}: is no address; {allowed}")
    return proxy


def _basic(signing_in: str) -> str:
    """User and password as a header's value; every form of them is a secret from now on."""
    plain = unquote(signing_in)
    encoded = base64.b64encode(plain.encode()).decode()
    for secret in (signing_in, plain, signing_in.partition(":")[2], plain.partition(":")[2], encoded):
        register_secret(secret)
    return f"Basic {encoded}"
