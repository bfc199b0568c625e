"""Processes that watch, and what is published for them."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, redirect_stderr, redirect_stdout
from typing import Any

from kafka import KafkaProducer

from pipelines.cli import main
from tests.pipelines.conftest import ROOT

LONG_S = 120.0
WATCH = (sys.executable, "-m", "pipelines.cli", "watch")


def publish(address: str, bodies: Sequence[bytes], age_s: float = 0) -> None:
    bootstrap, _, topic = address.rpartition("/")
    milliseconds = int((time.time() - age_s) * 1000)
    with closing(KafkaProducer(bootstrap_servers=bootstrap, acks="all")) as producer:
        for sent in [producer.send(topic, body, key=b"run", timestamp_ms=milliseconds) for body in bodies]:
            sent.get(timeout=30)


@contextmanager
def watching(*options: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A watcher that has begun to watch."""
    process = subprocess.Popen(
        [*WATCH, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        env=os.environ | environment,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("watching ")
        yield process
    finally:
        process.kill()
        process.communicate()


def watched(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A watcher that comes to an end by itself: in a process of its own where that needs an environment."""
    command = [*WATCH, *options]
    if environment:
        return subprocess.run(
            command, capture_output=True, text=True, cwd=ROOT, env=os.environ | environment, timeout=LONG_S, check=False
        )
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        code = main(["watch", *options])
    return subprocess.CompletedProcess(command, code, out.getvalue(), err.getvalue())


def lines_of(process: subprocess.Popen[str], count: int) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline() for _ in range(count)]


def parsed(lines: Sequence[str | bytes]) -> list[Any]:
    return [json.loads(line) for line in lines]
