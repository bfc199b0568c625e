"""All GPUs of a node by one command: torch elastic starts this step once for each, and starts all again.

What torchrun does is torch's own code, called from here so that the step ends as it does with one process: one
message, one document, its exit code, its signals. Where a platform sets torchrun's variables ``PET_NNODES`` and so on,
as Kubeflow Trainer does, the nodes find each other by them.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from components.shared.errors import DeviceError, InputError, ShutterlineError
from components.shared.extras import extras_named
from components.shared.limits import usable_cpus
from components.shared.logs import log_to_stderr, step_logger
from components.shared.params.params import Params
from components.shared.params.parsed import ParamsWarning
from components.shared.process_group import (
    AGAIN_VARIABLE,
    MEETING_VARIABLE,
    OUTCOMES_VARIABLE,
    STARTS_VARIABLE,
    Outcome,
    forget_outcome,
    in_group,
    is_launched,
    is_one_of_nodes,
    is_rank_zero,
    is_started_by_elastic,
    member,
    settled,
)
from components.shared.run import RUN_VARIABLE
from components.shared.signals import Terminated, not_ignored, restore, sigterm_raises
from components.shared.staging import SCRATCH_VARIABLE
from components.train.torchrun import nodes_options, warn_of_variables
from components.train.worker_pools import name_nodes

R = TypeVar("R")

RESTARTS = 3
IN_PIPELINE = "--in-pipeline"  # before a `PipelineStep` as JSON, to each process of its group
_LAUNCHER_VARIABLE = "SHUTTERLINE_GROUP_LAUNCHER"  # its process id
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)  # torch elastic's
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux's prctl

# Where another node ends, or is not there yet, torch's C++ warns of each question that nobody answers, with its own
# traces. It reads this when torch is imported.
_QUIET = {"TORCH_CPP_LOG_LEVEL": "ERROR"}

_log = step_logger("train")


@dataclass
class Launch:
    """The step as a group of processes that this one starts and waits for, where there is to be one.

    Each process gets the `arguments` of ``python -m components.train``; `restarts` is how often all of them may be
    started again. Then `run` is the run's id, and `failure` what kept the group from doing the step, which reports it.
    """

    arguments: Sequence[str]
    restarts: int = RESTARTS
    run: str = ""
    failure: BaseException | None = None

    def unless_failed(self, work: Callable[..., R]) -> Callable[..., R]:
        """A step's work, which raises the group's failure where there is one."""

        def checked(*arguments: Any) -> R:
            if self.failure is not None:
                raise self.failure
            return work(*arguments)

        return checked

    def outcome(self, processes: str, params: Callable[[], Params | None], run: Callable[[], str]) -> Outcome | None:
        """How the group ended; None: the step is this process's, which then raises a `failure` in it.

        What the params warn of, and what is wrong with them (None), is reported where the step begins.
        """
        try:
            name_nodes()
        except InputError as error:
            self.failure = error
            return None
        is_node = is_one_of_nodes()
        # RANK and WORLD_SIZE alone, as Vertex AI sets them, are of nodes: one process of each may join as it is.
        is_member = is_started_by_elastic() or (in_group() and "LOCAL_RANK" in os.environ)
        if is_member:
            return None
        if processes == "1" and not is_node:
            warn_of_variables(processes, 1)
            return None
        try:
            quiet = _unset(_QUIET) if is_node or in_group() else {}
            with (
                _with_variables(quiet),
                sigterm_raises(),
                extras_named("the step train", "train"),
                warnings.catch_warnings(),
            ):
                warnings.simplefilter("ignore", ParamsWarning)
                loaded = params()
                count = processes_for(processes, loaded.device) if loaded is not None else 1
                if is_rank_zero():
                    warn_of_variables(processes, count)
                if loaded is None or (count == 1 and not is_node):
                    return None
                from components.classifier.check import check

                check(loaded)  # once, and before anything is started
                self.run = run()
                return self._outcome_of(count, nodes_options(), is_alone=not is_node and not in_group())
        except (ShutterlineError, OSError, Terminated, KeyboardInterrupt) as error:
            self.failure = error
            return None

    def _outcome_of(self, processes: int, nodes: list[str], *, is_alone: bool) -> Outcome:
        log_to_stderr()
        with TemporaryDirectory(prefix="shutterline-group-") as name:
            outcomes = Path(name) / "outcomes"
            outcomes.mkdir()
            # What the user has set is left as it is. torchrun's own answer for OMP_NUM_THREADS is one thread.
            defaults = {
                SCRATCH_VARIABLE: f"{name}/fetched",
                RUN_VARIABLE: self.run,
                "OMP_NUM_THREADS": str(max(1, usable_cpus() // processes)),
                # torch's own rendezvous: a store for each start, without an earlier one's addresses.
                "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
            }
            added = _unset(defaults | _QUIET)
            added |= {OUTCOMES_VARIABLE: str(outcomes), _LAUNCHER_VARIABLE: str(os.getpid())}
            added |= {STARTS_VARIABLE: f"0 {self.restarts}", AGAIN_VARIABLE: "", MEETING_VARIABLE: ""}
            options = [f"--nproc-per-node={processes}", f"--log-dir={name}/logs"]
            if (handled := not_ignored(*_SIGNALS)).keys() != set(_SIGNALS):
                # By itself torch elastic takes SIGHUP although nohup has it ignored.
                options.append(f"--signals-to-handle={','.join(number.name for number in handled)}")
            with _as_launcher(added) as warn:
                from components.train.elastic import Elastic, outcome_of_starts  # torch takes seconds

                options += [*nodes, "-m", "components.train", *self.arguments]
                elastic = Elastic(options, warn, is_alone=is_alone)
                return outcome_of_starts(elastic, outcomes, processes, self.restarts)


def begin_member() -> bool:
    """Begin as a process of a group, if this is one; whether there is something to do.

    There is not where all were started again although an earlier start has ended for good; of several nodes the others
    may not know, and learn of it once all have found each other. A process whose launcher is killed is killed with it:
    the platform that kills it starts it again, and two groups must not write to one location.
    """
    if not is_launched():
        return True
    ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != int(os.environ[_LAUNCHER_VARIABLE]):  # it was killed before that
        os.kill(os.getpid(), signal.SIGKILL)
    if settled() is None:
        forget_outcome()
        return True
    return member().local_size < member().size


def processes_for(wanted: str, device: str) -> int:
    """How many processes train on this node: a number, or by ``auto`` as many as there are GPUs, on the CPU one.

    Raises:
        InputError: It is neither.
        DeviceError: There are not so many GPUs.
    """
    if wanted != "auto" and not (wanted.isascii() and wanted.isdigit() and int(wanted) > 0):
        raise InputError(f'--processes must be "auto" or a number from 1, got {wanted!r}')
    if wanted == "1" or (wanted == "auto" and (device == "cpu" or device.startswith("cuda:"))):
        return 1
    gpus = 0
    if device != "cpu":
        import torch  # takes seconds

        from components.classifier.device import choose_device

        choose_device(device)
        gpus = torch.cuda.device_count()
    if wanted == "auto":
        return max(1, gpus)
    if device.startswith("cuda:"):
        what = f'device: "{device}" is one GPU, and --processes is {wanted}'
        raise DeviceError(f'{what}; set device to "cuda" or "auto", or --processes to 1')
    if 0 < gpus < int(wanted):
        what = f"--processes is {wanted}, and this node has {gpus} GPU(s)"
        raise DeviceError(f"{what}; each process needs one: set --processes to auto")
    return int(wanted)


@contextmanager
def _with_variables(added: dict[str, str]) -> Iterator[None]:
    """Within, there are more variables of the environment."""
    before = {name: os.environ.get(name) for name in added}
    os.environ.update(added)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _unset(defaults: dict[str, str]) -> dict[str, str]:
    return {variable: value for variable, value in defaults.items() if not os.environ.get(variable)}


@contextmanager
def _as_launcher(added: dict[str, str]) -> Iterator[Callable[[str], None]]:
    """Within, what this process starts has more variables, and nothing is logged but by what is yielded.

    torch's tables are for who writes launchers, and each process reports its end. After it signals do what they did
    before: torch elastic takes them and does not give them back.
    """
    is_main, logged = threading.current_thread() is threading.main_thread(), logging.root.manager.disable
    handlers = {number: signal.getsignal(number) for number in _SIGNALS} if is_main else {}
    logging.disable()

    def warn(message: str) -> None:
        logging.disable(logged)
        _log.warning("%s", message)
        logging.disable()

    try:
        with _with_variables(added):
            yield warn
    finally:
        logging.disable(logged)
        restore(handlers)
