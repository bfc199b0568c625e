"""The base image: the one an engine has or can pull, or one made of Debian's packages where no registry is reached."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from engine import BuildError, Engine

DEFAULT_BASE = "python:3.13-slim-trixie"
_SUITE = "trixie"
_PACKAGES = "ca-certificates,python3,python3-venv"


def provide_base(engine: Engine, base: str, *, make: bool, epoch: str) -> None:
    """See to it that the engine has the base image: pull it, or make it with files of one date."""
    if engine.has(base):
        return
    if make:
        _make(engine, base, epoch)
        return
    pulled = engine.run("pull", "--quiet", base)
    if pulled.returncode:
        raise BuildError(
            f"the base image {base} is not here, and cannot be pulled: {pulled.stderr.strip()}\n"
            "--base names another; --make-base makes one of Debian's packages, without a registry",
            2,
        )


def _make(engine: Engine, base: str, epoch: str) -> None:
    if "@" in base:
        raise BuildError(f"--make-base: {base} names a digest, which only a pulled image has; give a tag", 2)
    maker = shutil.which("mmdebstrap")
    if maker is None:
        raise BuildError("--make-base needs mmdebstrap (apt-get install mmdebstrap)", 2)
    with tempfile.TemporaryDirectory(prefix="shutterline-base-") as folder:
        tar = Path(folder) / "base.tar"
        command = [maker, "--quiet", "--variant=minbase", f"--include={_PACKAGES}", _SUITE, str(tar)]
        environment = {**os.environ, "SOURCE_DATE_EPOCH": epoch}
        made = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if made.returncode:
            raise BuildError(f"--make-base: mmdebstrap failed:\n{made.stderr.strip()[-2000:]}")
        # What every image of Debian's sets, and a bare file tree does not.
        path = "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        engine.output("import", "--change", path, str(tar), base)
