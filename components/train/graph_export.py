"""The export of the network's graph, by a process of its own beside the training; without torch, so that it is early.

``python -m components.train.graph_export`` reads a line of JSON and writes the graph, or what is wrong with it, and
ends when its input does: with the process that has started it, however that ends. It writes no file; the process that
has started it keeps the graph beside the run's checkpoints.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, Self

from components.shared.errors import EXIT_BAD_INPUT, EXIT_OK, ParamsError, Problem, ShutterlineError
from components.shared.logs import step_logger
from components.shared.params.params import Params
from components.shared.params.types import LayerSpec
from components.shared.text import first_line, shortened
from components.train.garbage import collect_rarely
from components.train.graph_files import find_graph, graph_key, keep_graph, shared_graphs

_log = step_logger("train")

# Below the training that it runs beside.
_NICENESS = 19
_POLL_S = 0.1
# Of waiting, after which the log says so.
_SILENT_S = 5.0
# What it prints may stay open beyond its end, by a process that an operator has started.
_COMPLAINT_S = 1.0
# Graphs by what they are of: a process that trains one network again, as a search does, exports it once.
_exported: dict[str, bytes] = {}
_MOST_KEPT = 16


class GraphExport:
    """A network's graph, exported while this context is open; leaving it ends what is still under way.

    Args:
        params: Whose network it is.
        directory: Of the run's checkpoints, where an earlier attempt may have kept the graph.
        is_later: Whether :meth:`begin` is called once that directory is known; by default the export begins at once.
    """

    def __init__(self, params: Params, directory: Path | None = None, *, is_later: bool = False) -> None:
        net_arch = [layer.model_dump(by_alias=True) for layer in params.net_arch]
        request = {"net_arch": net_arch, "image": params.image_shape, "classes": params.n_classes}
        self._params, self._request = params, json.dumps(request)
        self._directory, self._is_later = directory, is_later
        # An operator's own layer may change under its name.
        is_torchs = all(layer["class"].startswith(("torch.", "torchvision.")) for layer in net_arch)
        self._key = graph_key(request) if is_torchs else ""
        self._graph: Future[bytes] = Future()
        self._process: subprocess.Popen[bytes] | None = None
        self._file: Path | None = None  # which the graph is from
        self._keeping = threading.Lock()
        self._is_behind = True  # what runs beside it

    def __enter__(self) -> Self:
        return self if self._is_later else self.begin(self._directory)

    def begin(self, directory: Path | None) -> Self:
        """Take the graph that is kept in a directory, or begin to export it."""
        directory = shared_graphs() or directory
        found = find_graph(directory, self._key) if self._key and directory is not None else None
        if found is not None:
            self._file, content = found
        elif (known := _exported.get(self._request)) is not None:
            content = known
        else:
            return self._export()
        self._graph.set_result(content)
        return self

    def keep_in(self, directory: Path) -> None:
        """Keep the graph beside the run's checkpoints, now or once it is there."""
        with self._keeping:
            self._directory = directory
            if self._graph.done() and self._graph.exception() is None:
                self._keep(self._graph.result())

    def _keep(self, content: bytes) -> None:
        directory = shared_graphs() or self._directory
        if self._key and directory is not None and self._file is None:
            keep_graph(directory, self._key, content)

    def _export(self) -> Self:
        # No GPU, one thread and no group: those are the training's.
        added = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
        environment = {name: text for name, text in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
        try:
            self._process = subprocess.Popen(  # noqa: S603 - this file
                [sys.executable, "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment | added,
                start_new_session=True,  # a Ctrl-C is the training's, which may have a checkpoint to write
            )
        except OSError as error:  # raised where the graph is waited for: what else is wrong comes first
            message = f"the process that exports the network to ONNX cannot be started: {error.strerror or error}"
            self._graph.set_exception(ShutterlineError(message))
            return self
        if self._is_behind:  # by this process, which may change it any moment
            _weigh_session(self._process.pid, _NICENESS)
        threading.Thread(target=self._receive, args=(self._process,), name="graph export", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            with suppress(Exception):  # how it ended is of no interest now
                self._graph.result()

    def has_failed(self) -> bool:
        """Whether it is known by now that there is no graph, and :meth:`wait` raises why. Called after each step."""
        if self._graph.done():
            return self._graph.exception() is not None
        if self._is_behind:
            self._weigh_as_others()
        return False

    def is_done(self) -> bool:
        """Whether :meth:`wait` returns or raises at once; for those who wait for it otherwise."""
        self._weigh_as_others()
        return self._graph.done()

    def wait(self, poll: Callable[[], None] = lambda: None) -> bytes:
        """The graph, as :func:`~components.classifier.onnx_graph.export_graph` gives it; `poll` is called meanwhile.

        Raises:
            ParamsError: The network cannot be expressed in ONNX.
            ShutterlineError: The process that exports was killed, or failed.
        """
        begun, is_reported = time.monotonic(), False
        while True:
            with suppress(TimeoutError):
                return self._graph.result(_POLL_S)
            if not is_reported and time.monotonic() - begun > _SILENT_S:
                is_reported = True
                _log.info("waiting for the network's export to ONNX")
            self._weigh_as_others()
            poll()

    def _weigh_as_others(self) -> None:
        """Once the first step is made, or nothing else is computed, the export gives way to nobody else."""
        self._is_behind = False
        if self._process is not None and self._process.returncode is None:
            _weigh_session(self._process.pid, 0)

    def again(self, why: Exception) -> bool:
        """Export anew where the graph was an earlier attempt's and has turned out to be wrong; false where it was not.

        It goes through the same check as every model's; what is wrong with a file is no end of the training.
        """
        if self._file is None:
            return False
        _log.warning("%s: is not this network's, and it is exported again: %s", self._file, first_line(why))
        with suppress(OSError):
            self._file.unlink()
        self._graph, self._file = Future(), None
        self._export()
        return True

    def _receive(self, process: subprocess.Popen[bytes]) -> None:
        """Hand over the request and get the graph; the process's input stays open for as long as this one lives."""
        assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018 - as they were asked for
        complaint: deque[bytes] = deque(maxlen=1)
        complaining = threading.Thread(target=_keep_last_line, args=(process.stderr, complaint), daemon=True)
        complaining.start()
        # What could not be written is tried again when its pipe is closed.
        with suppress(BrokenPipeError), process.stdin, process.stdout:
            with suppress(OSError):  # it has ended already
                process.stdin.write(self._request.encode() + b"\n")
                process.stdin.flush()
            content, code = process.stdout.read(), process.wait()
        complaining.join(_COMPLAINT_S)
        if code == EXIT_OK:
            if self._key:
                _exported[self._request] = content
            for earlier in list(_exported)[:-_MOST_KEPT]:
                del _exported[earlier]
            with self._keeping:
                if self._directory is not None or shared_graphs() is not None:
                    self._keep(content)
                self._graph.set_result(content)
        elif code == EXIT_BAD_INPUT and content:
            self._graph.set_exception(ParamsError([Problem(**problem) for problem in json.loads(content)]))
        else:
            how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
            last_line = b"".join(complaint).decode(errors="replace").strip() if code != -signal.SIGKILL else ""
            why = f": {shortened(last_line, 300)}" if last_line else "; is memory short?"
            message = f"the process that exports the network to ONNX ended {how}{why}"
            self._graph.set_exception(ShutterlineError(message))


def _keep_last_line(stream: IO[bytes], last: deque[bytes]) -> None:
    """Of what a process prints, which may be a traceback, as it must not wait for a reader."""
    with stream:
        last.extend(filter(bytes.strip, stream))


def main() -> int:
    """Export one graph, as the process beside a training."""
    os.nice(_NICENESS)
    collect_rarely()
    request: dict[str, Any] = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as output:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what layers print is no graph
        from components.classifier.onnx_graph import export_graph  # torch takes seconds, and the request is there

        net_arch = [LayerSpec.model_validate(layer) for layer in request["net_arch"]]
        try:
            output.write(export_graph(net_arch, tuple(request["image"]), request["classes"]))
        except ParamsError as error:
            output.write(json.dumps([asdict(problem) for problem in error.problems]).encode())
            return EXIT_BAD_INPUT
    return EXIT_OK


def _weigh_session(process: int, niceness: int) -> None:
    """Set what Linux weighs a process's session by, before it weighs processes by their own niceness.

    The export's session is its own: at 0, a first step beside it takes 0.4 s longer; at 19, three other processes
    on two cores made the export take 92 s instead of 8.
    """
    with suppress(OSError):  # a Linux without autogroups, or a process that has ended
        Path(f"/proc/{process}/autogroup").write_text(f"{niceness}")


def _end_with_parent() -> None:
    os.read(sys.stdin.fileno(), 1)  # not by its buffer, whose lock a process cannot end with
    os._exit(1)


if __name__ == "__main__":
    os._exit(main())  # the graph is handed over, and Python would take 0.5 s to forget torch
