"""Containers as processes of this machine: the environment that Trainer and Kubernetes give them, and their ends."""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from tests.peers.ports import HOST
from tests.peers.trainer.store import Object

if TYPE_CHECKING:
    from tests.peers.trainer.api import TrainerApi

ROOT = Path(__file__).parents[3]
_MARK = "CONTAINER_OF_A_TEST"


class MissingError(Exception):
    """What a container's environment refers to is not there."""


def processes_per_node(trainer: Object) -> str:
    """PET_NPROC_PER_NODE, by pkg/runtime/framework/plugins/torch/torch.go."""
    if (given := trainer.get("numProcPerNode")) is not None:
        return str(given)
    resources = trainer.get("resourcesPerNode") or {}
    requests, limits = resources.get("requests") or {}, resources.get("limits") or {}
    if any("gpu" in name for name in {**limits, **requests}):
        return "auto"
    return str(max(1, math.ceil(_cpus(requests.get("cpu") or limits.get("cpu") or 0))))


def _cpus(quantity: Any) -> float:
    text = str(quantity)
    return int(text[:-1]) / 1000 if text.endswith("m") else float(text)


def trainers_environment(job: Object, index: int, port: int) -> dict[str, str]:
    """What Trainer adds for the node of an index; its address is this machine's, where a pod has a DNS name."""
    trainer = job["spec"].get("trainer") or {}
    return {
        "PET_NNODES": str(trainer.get("numNodes", 1)),
        "PET_NPROC_PER_NODE": processes_per_node(trainer),
        "PET_NODE_RANK": str(index),
        "PET_MASTER_ADDR": HOST,
        "PET_MASTER_PORT": str(port),
    }


def users_environment(container: Object, pod: Object, secrets: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """The environment of a container's manifest, with what it refers to.

    Raises:
        MissingError: A secret or its key is not there.
    """
    found: dict[str, str] = {}
    for entry in container.get("env", []):
        source = entry.get("valueFrom") or {}
        if key := source.get("secretKeyRef"):
            secret = secrets.get(key["name"])
            if (secret is None or key["key"] not in secret) and not key.get("optional"):
                what = (
                    f'secret "{key["name"]}" not found'
                    if secret is None
                    else f"couldn't find key {key['key']} in Secret"
                )
                raise MissingError(what)
            if secret and key["key"] in secret:
                found[entry["name"]] = secret[key["key"]]
        elif field := source.get("fieldRef"):
            found[entry["name"]] = _field(pod, field["fieldPath"])
        else:
            found[entry["name"]] = filled(entry.get("value", ""), found)
    return found


def filled(text: str, environment: Mapping[str, str]) -> str:
    """A text with the variables that Kubernetes puts in: $(NAME), where there is such a one; $$ is a dollar."""
    return re.sub(
        r"\$\$|\$\(([^)]*)\)", lambda found: "$" if found[0] == "$$" else environment.get(found[1], found[0]), text
    )


def _field(pod: Object, path: str) -> str:
    if keyed := re.fullmatch(r"metadata\.(labels|annotations)\['(.+)'\]", path):
        return str(pod["metadata"].get(keyed[1], {}).get(keyed[2], ""))
    value: Any = pod
    for name in path.split("."):
        value = value[name]
    return str(value)


class Container:
    """One start of a container.

    Args:
        api: Its server, whose log it prints to.
        pod: Its pod.
        command: With its arguments; ``python`` is this one.
        environment: Of the container; PATH and such are added.
        folder: Its home.

    Attributes:
        out_of_memory: It was killed as the kernel does it.
    """

    def __init__(
        self, api: TrainerApi, pod: Object, command: list[str], environment: Mapping[str, str], folder: Path
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.out_of_memory = False
        self._mark = uuid4().hex
        self._api = api
        self._key = (pod["metadata"]["namespace"], pod["metadata"]["name"])
        inherited = {name: os.environ[name] for name in ("PATH", "LANG", "SHUTTERLINE_GRAPHS") if name in os.environ}
        own = {"HOME": str(folder), "TMPDIR": str(folder), "HOSTNAME": pod["spec"]["hostname"], _MARK: self._mark}
        paths = {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]), "OMP_NUM_THREADS": "1"}
        python = [sys.executable] if command[0] == "python" else [command[0]]
        self._process = subprocess.Popen(
            [*python, *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**inherited, **paths, **environment, **own},
            cwd=folder,
            start_new_session=True,
            text=True,
            errors="replace",
        )
        self._reader = threading.Thread(target=self._read, name=f"log of {self._key[1]}")
        self._reader.start()

    @property
    def pid(self) -> int:
        """Of its first process, which signals are for."""
        return self._process.pid

    def poll(self) -> int | None:
        """Its exit code, as a kubelet gives it; None: it runs. With the first process all others end."""
        code = self._process.poll()
        if code is None:
            return None
        if self._reader.is_alive():
            self._kill_rest()
            self._reader.join()
        return 128 - code if code < 0 else code

    def terminate(self) -> None:
        """Ask it to end."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)

    def kill(self, *, out_of_memory: bool = False) -> None:
        """End it at once."""
        self.out_of_memory = self.out_of_memory or out_of_memory
        with suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()
        self._kill_rest()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with suppress(LookupError):  # the pod is gone
                self._api.logs.write(*self._key, line.rstrip("\n"))
        self._process.stdout.close()

    def _kill_rest(self) -> None:
        """All processes of a container end with its first one; here they are found by a mark in their environment."""
        mark = f"{_MARK}={self._mark}".encode()
        for found in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if mark in found.read_bytes().split(b"\0"):
                    os.kill(int(found.parent.name), signal.SIGKILL)


def status_environment(api: TrainerApi, job: Object, folder: Path) -> dict[str, str]:
    """What names Trainer's own server to the pods of a job, with files as they are mounted there."""
    folder.mkdir(parents=True, exist_ok=True)
    namespace, name = job["metadata"]["namespace"], job["metadata"]["name"]
    token = api.methods.tokens.setdefault((namespace, name), uuid4().hex)
    (folder / "token").write_text(token, "ascii")
    (folder / "ca.crt").write_bytes((api.service_account / "ca.crt").read_bytes())
    return {
        "KUBEFLOW_TRAINER_SERVER_URL": (
            f"{api.url}/apis/trainer.kubeflow.org/v1alpha1/namespaces/{namespace}/trainjobs/{name}/status"
        ),
        "KUBEFLOW_TRAINER_SERVER_CA_CERT": str(folder / "ca.crt"),
        "KUBEFLOW_TRAINER_SERVER_TOKEN": str(folder / "token"),
    }
