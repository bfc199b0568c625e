"""This machine's pip settings for a build: index, proxy, certificates; handed over as secrets that no layer keeps."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

# Where the Dockerfile mounts the certificates.
_CA_IN_BUILD = "/dev/build/ca.pem"
_HANDED_OVER = ("index-url", "extra-index-url", "trusted-host", "proxy", "default-timeout", "retries", "no-index")
_OF_CERTIFICATES = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


@dataclass(frozen=True)
class PipSettings:
    """What pip is set to on this machine.

    Attributes:
        options: By name, such as ``index-url``; those that make sense in a build.
        certificates: File with the certificates to trust; None: pip's own.
    """

    options: dict[str, str]
    certificates: Path | None

    def text(self) -> str:
        """The settings as a pip.conf."""
        options = dict(self.options)
        if self.certificates:
            options["cert"] = _CA_IN_BUILD
        # Several values of one option stand on lines of their own.
        lines = ["[global]"] + [f"{name} = " + "\n    ".join(value.split()) for name, value in options.items()]
        return "\n".join(lines) + "\n"


def pip_settings() -> PipSettings:
    """The settings of the pip that belongs to this Python; without one, none."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    )
    found: dict[str, str] = {}
    for line in listed.stdout.splitlines():
        # global.index-url='https://…', install.…, :env:.index-url='…'; what comes later goes before.
        named = re.fullmatch(r"(?:global|install|:env:)\.([a-z-]+)=(.+)", line)
        if named:
            found[named.group(1)] = str(ast.literal_eval(named.group(2)))
    options = {name: found[name] for name in _HANDED_OVER if name in found}
    for name in ("index-url", "extra-index-url"):
        # Folders of this machine are not there in a build.
        urls = [url for url in options.pop(name, "").split() if not url.startswith("file:") and "://" in url]
        if urls:
            options[name] = " ".join(urls)
    return PipSettings(options, _certificates(found))


def _certificates(found: dict[str, str]) -> Path | None:
    named = [found.get("cert", ""), *(os.environ.get(name, "") for name in _OF_CERTIFICATES)]
    return next((Path(name) for name in named if name and Path(name).is_file()), None)
