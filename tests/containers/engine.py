"""The Docker engine as the tests of the images use it: through its command line, as README's readers do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

FOLDER = Path(__file__).parents[2] / "docker"
# Nobody's user id, in no image's /etc/passwd.
SOMEBODY = 12345
# What README says every component works with.
HARDENED = (
    "--read-only",
    "--tmpfs=/tmp",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    f"--user={SOMEBODY}:{SOMEBODY}",
)


@dataclass(frozen=True)
class Ended:
    """How a container or a command ended, and what it wrote."""

    code: int
    out: str
    err: str


class Docker:
    """Runs the client that ``DOCKER`` names, or the one on PATH."""

    def __init__(self) -> None:
        self._client = os.environ.get("DOCKER", "docker")

    def answers(self) -> bool:
        """Whether there is a client, and an engine that it reaches."""
        if shutil.which(self._client) is None:
            return False
        return subprocess.run([self._client, "info"], capture_output=True, check=False).returncode == 0

    def has(self, image: str) -> bool:
        """Whether an image is here."""
        command = [self._client, "image", "inspect", image]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def output(self, *arguments: str) -> str:
        """What the client writes; an error if it fails."""
        done = subprocess.run([self._client, *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"docker {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def image(self, name: str) -> dict[str, Any]:
        """All that the engine knows of an image."""
        found: list[dict[str, Any]] = json.loads(self.output("image", "inspect", name))
        return found[0]

    def run(self, image: str, *arguments: str | Path, flags: Sequence[str] = HARDENED, network: str = "none") -> Ended:
        """Run a container to its end, and remove it."""
        command = [self._client, "run", "--rm", f"--network={network}", *flags, image, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return Ended(done.returncode, done.stdout, done.stderr)

    def python(self, image: str, code: str, *arguments: str, flags: Sequence[str] = HARDENED) -> str:
        """What a Python program prints inside an image."""
        ended = self.run(image, "-c", code, *arguments, flags=[*flags, "--entrypoint=python"])
        assert ended.code == 0, ended.err
        return ended.out

    @contextmanager
    def running(
        self, image: str, *arguments: str | Path, flags: Sequence[str] = HARDENED, network: str = "none"
    ) -> Iterator[str]:
        """A container that goes on, by its name; it is removed at the end, whatever it does."""
        name = f"shutterline-test-{uuid4().hex[:12]}"
        options = ["--detach", f"--name={name}", f"--network={network}", *flags]
        try:
            self.output("run", *options, image, *map(str, arguments))
            yield name
        finally:
            subprocess.run([self._client, "rm", "--force", name], capture_output=True, check=False)

    def state(self, container: str) -> dict[str, Any]:
        """Whether a container is running, and how it ended."""
        found: dict[str, Any] = json.loads(self.output("inspect", "--format", "{{json .State}}", container))
        return found

    def logs(self, container: str) -> str:
        """What a container has written, to either output."""
        command = [self._client, "logs", container]
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False).stdout

    @contextmanager
    def saved(self, *images: str) -> Iterator[IO[bytes]]:
        """Images as the stream of one tar file."""
        with subprocess.Popen([self._client, "save", *images], stdout=subprocess.PIPE) as saving:
            assert saving.stdout is not None
            yield saving.stdout
            saving.stdout.read()  # the padding at the end of the file, which its reader may leave
        assert saving.returncode == 0, f"docker save {images} ended with {saving.returncode}"


def flags_of(*, mounts: Mapping[Path, str] | None = None, environment: Mapping[str, str] | None = None) -> list[str]:
    """Flags for what a container sees besides its image: files by their path in it, such as ``/data:ro``; variables."""
    flags = [f"--volume={source}:{target}" for source, target in (mounts or {}).items()]
    return flags + [f"--env={name}={value}" for name, value in (environment or {}).items()]


def script(name: str, *arguments: str | Path) -> Ended:
    """Run a script of the folder docker/."""
    command: list[str | Path] = [sys.executable, "-W", "error", FOLDER / name, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return Ended(done.returncode, done.stdout, done.stderr)
