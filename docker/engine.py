"""The Docker engine, through its command line: what is asked of it, and what people read when it cannot."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

EXIT_BAD_INPUT, EXIT_FAILED = 2, 1
_LAST_LINES = 25


class BuildError(Exception):
    """What ends a build; the message is for people.

    Attributes:
        code: The exit code: 2 for what the user has to change, 1 for what failed.
    """

    def __init__(self, message: str, code: int = EXIT_FAILED) -> None:
        super().__init__(message)
        self.code = code


class Engine:
    """The engine that ``DOCKER_HOST`` names, by the client that ``DOCKER`` names or PATH has.

    Raises:
        BuildError: There is no client, or no engine answers it.
    """

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
        command = [self.client, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def json(self, *arguments: str) -> Any:
        """What the client says, as JSON.

        Raises:
            BuildError: It ended with an error.
        """
        done = self.run(*arguments)
        if done.returncode:
            raise BuildError(f"docker {' '.join(arguments[:2])}: {done.stderr.strip()}")
        return json.loads(done.stdout)

    def has(self, reference: str) -> bool:
        """Whether an image is here."""
        return self.run("image", "inspect", "--format", "{{.Id}}", reference).returncode == 0

    def image(self, reference: str) -> dict[str, Any]:
        """What the engine knows of an image: ``Id``, ``Size``, ``Config``, ``RepoDigests``, ….

        Raises:
            BuildError: It is not here.
        """
        found: list[dict[str, Any]] = self.json("image", "inspect", reference)
        return found[0]

    def logged(self, log: Path, what: str, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        """Run the client with its output in a file.

        Args:
            log: The file.
            what: What is done, for the error.
            arguments: The client's.
            environment: Added to the process's own.

        Raises:
            BuildError: It ended with an error; the message holds the last lines.
        """
        with log.open("w", encoding="utf-8") as output:
            done = subprocess.run(
                [self.client, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                check=False,
            )
        if done.returncode:
            lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-_LAST_LINES:]
            raise BuildError(f"{what} failed; the last lines of {log}:\n" + "\n".join(f"  {line}" for line in lines))
