"""Two pods on this machine as Kubeflow Trainer 2.3 makes them for a TrainJob of two nodes, and what Kubernetes does.

A container that fails is started again with an empty ``/tmp``; a pod that is deleted gets SIGTERM, after 30 s SIGKILL,
and is replaced by another (restartPolicy OnFailure, as in the stock runtime torch-distributed).
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

GRACE_S = 30
RESTART_S, REPLACE_S = 0.2, 1.0  # on a cluster 1 s and 15 s
HANGS_S = 300
BEGUN = " images in batches of "
_LOOK_S = 0.02


@dataclass
class Pod:
    """One of the pods, by its index; `codes` are how its containers ended, of its replacements too."""

    index: int
    command: Sequence[str]
    environment: Mapping[str, str]
    folder: Path
    codes: list[int] = field(default_factory=list)
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0
    _start_at: float = 0.0
    _deleted_at: float | None = None

    @property
    def log(self) -> str:
        return "".join(self.log_of(start) for start in range(self.starts))

    def log_of(self, start: int) -> str:
        return (self.folder / f"pod-{self.index}-{start}.log").read_text(errors="replace")

    @property
    def is_done(self) -> bool:
        return bool(self.codes) and self.codes[-1] == 0

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def delete(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        self._deleted_at = time.monotonic()

    def look(self) -> None:
        """Do what the kubelet and the controllers would do now."""
        now = time.monotonic()
        if self.is_done:
            return
        if self.process is None:
            if now >= self._start_at:
                self._start()
        elif (code := self.process.poll()) is not None:
            self.codes.append(code)
            self.process = None
            shutil.rmtree(self._tmp, ignore_errors=True)
            self._start_at = now + (REPLACE_S if self._deleted_at is not None else RESTART_S)
            self._deleted_at = None
        elif self._deleted_at is not None and now > self._deleted_at + GRACE_S:
            self.process.kill()

    def end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    @property
    def _tmp(self) -> Path:
        return self.folder / f"tmp-{self.index}-{self.starts}"

    def _start(self) -> None:
        with (self.folder / f"pod-{self.index}-{self.starts}.log").open("wb") as log:
            self.starts += 1
            self._tmp.mkdir()
            variables = {**os.environ, **self.environment, "TMPDIR": str(self._tmp)}
            self.process = subprocess.Popen(self.command, env=variables, stdout=log, stderr=log)


@dataclass
class Pods:
    """Both pods of a job."""

    pods: list[Pod]

    @property
    def log(self) -> str:
        return "".join(f"--- pod {pod.index}: {pod.codes}\n{pod.log}" for pod in self.pods)

    @property
    def begun(self) -> int:
        """How often the group has begun to train."""
        return self.pods[0].log.count(BEGUN)

    def until(self, has_happened: Callable[[], bool]) -> None:
        hung_at = time.monotonic() + HANGS_S
        while not has_happened():
            assert time.monotonic() < hung_at, f"it hangs\n{self.log}"
            for pod in self.pods:
                pod.look()
            time.sleep(_LOOK_S)

    def for_seconds(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        self.until(lambda: time.monotonic() > until)

    def until_done(self) -> None:
        self.until(lambda: all(pod.is_done for pod in self.pods))


@contextmanager
def job_of_two(folder: Path, port: str, dataset: Path, params: Path, *words: str, **environment: str) -> Iterator[Pods]:
    """A TrainJob's pods, with the environment that Trainer gives them; what they share is in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    places = {"dataset": dataset, "model": folder / "model", "checkpoints": folder / "checkpoints", "params": params}
    command = [sys.executable, "-m", "components.train", *[f"--{name}={place}" for name, place in places.items()]]

    def pod(index: int) -> Pod:
        variables = {
            "PET_NNODES": "2",
            "PET_NPROC_PER_NODE": "1",
            "PET_NODE_RANK": str(index),
            "PET_MASTER_ADDR": "localhost",
            "PET_MASTER_PORT": port,
            "SHUTTERLINE_RUN_ID": "night-7",
            "OMP_NUM_THREADS": "1",
        }
        return Pod(index, [*command, "--processes=auto", *words], variables | environment, folder)

    pods = Pods([pod(0), pod(1)])
    try:
        yield pods
    finally:
        for each in pods.pods:
            each.end()
