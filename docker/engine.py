"""The Docker engine, through its command line: what is asked of it, and what people read when it cannot."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

EXIT_BAD_INPUT, EXIT_FAILED = 2, 1
_LAST_LINES = 25


class BuildError(Exception):
    """What ends a command, for people; the exit code is 2 for what the user has to change, 1 for what failed."""

    def __init__(self, message: str, code: int = EXIT_FAILED) -> None:
        super().__init__(message)
        self.code = code


def run_command(name: str, work: Callable[[], int]) -> int:
    """Run a command of this folder and return its exit code; an error is one message on standard error."""
    try:
        return work()
    except BuildError as error:
        sys.stderr.write(f"docker/{name}: error: {error}\n")
        return error.code


def images_in(file: Path) -> dict[str, str]:
    """The references of the images that ``docker/build.py`` wrote to a file, by step."""
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        return {step: image["reference"] for step, image in document["images"].items()}
    except (OSError, ValueError) as error:
        raise BuildError(f"{file}: {error}; `make images` writes it", EXIT_BAD_INPUT) from error


class Engine:
    """The engine that ``DOCKER_HOST`` names, by the client that ``DOCKER`` names or PATH has."""

    def __init__(self) -> None:
        named = os.environ.get("DOCKER", "docker")
        client = shutil.which(named)
        if client is None:
            raise BuildError(f"no Docker client: {named} is not there; install Docker, or name it by DOCKER", 2)
        self.client = client
        answer = self.run("version", "--format", "{{.Server.Version}}")
        if answer.returncode:
            raise BuildError(
                f"no Docker engine answers {client}: {answer.stderr.strip()}\nStart one, or name it by DOCKER_HOST", 2
            )

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the client; its output is kept, and nothing is checked."""
        return subprocess.run([self.client, *arguments], capture_output=True, text=True, check=False)

    def output(self, *arguments: str) -> str:
        """What the client prints; an error if it fails."""
        done = self.run(*arguments)
        if done.returncode:
            raise BuildError(f"docker {' '.join(arguments[:2])}: {done.stderr.strip() or done.stdout.strip()[-2000:]}")
        return done.stdout

    def has(self, reference: str) -> bool:
        """Whether an image is here."""
        return self.run("image", "inspect", "--format", "{{.Id}}", reference).returncode == 0

    def image(self, reference: str) -> dict[str, Any]:
        """What the engine knows of an image: ``Id``, ``Size``, ``Config``, …; an error if it is not here."""
        found: list[dict[str, Any]] = json.loads(self.output("image", "inspect", reference))
        return found[0]

    def python(self, reference: str, code: str) -> Any:
        """The JSON that a Python program prints inside an image."""
        flags = ["--rm", "--network", "none", "--read-only", "--entrypoint", "python"]
        return json.loads(self.output("run", *flags, reference, "-c", code))

    def logged(self, log: Path, what: str, *arguments: str) -> None:
        """Run the client with its output in a file; an error for `what` is done has the last lines."""
        with log.open("w", encoding="utf-8") as output:
            done = subprocess.run(
                [self.client, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "DOCKER_BUILDKIT": "1"},
                check=False,
            )
        if done.returncode:
            lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-_LAST_LINES:]
            raise BuildError(f"{what} failed; the last lines of {log}:\n" + "\n".join(f"  {line}" for line in lines))
