"""All GPUs of a node by one command: torch elastic starts this step once for each, and starts all again.

What torchrun does is torch's own code, called from here so that the step ends as it does with one process: one
message, one document, its exit code, its signals. Where a platform sets torchrun's variables ``PET_NNODES`` and so on,
as Kubeflow Trainer does, the nodes find each other by them.
"""

from __future__ import annotations

import ctypes
import importlib
import io
import logging
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from components.shared.errors import DeviceError, GroupLostError, InputError, ShutterlineError
from components.shared.extras import extras_named
from components.shared.limits import usable_cpus
from components.shared.params.params import Params
from components.shared.params.parsed import ParamsWarning
from components.shared.process_group import (
    NODES_VARIABLE,
    OUTCOMES_VARIABLE,
    Outcome,
    forget_outcome,
    in_group,
    is_launched,
    is_one_of_nodes,
    is_started_by_elastic,
    member,
    outcome_in,
    require_rendezvous,
    settled,
)
from components.shared.run import RUN_VARIABLE
from components.shared.signals import Terminated, not_ignored, sigterm_raises
from components.shared.staging import SCRATCH_VARIABLE
from components.shared.text import first_line
from components.train.worker_pools import name_nodes

R = TypeVar("R")

RESTARTS = 3
IN_PIPELINE = "--in-pipeline"  # before a `PipelineStep` as JSON, to each process of its group
_LAUNCHER_VARIABLE = "SHUTTERLINE_GROUP_LAUNCHER"  # its process id
_PREFIX = "PET_"  # torchrun's
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)  # torch elastic's
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux's prctl


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
        if is_member or (processes == "1" and not is_node):
            return None
        try:
            with sigterm_raises(), extras_named("the step train", "train"), warnings.catch_warnings():
                warnings.simplefilter("ignore", ParamsWarning)
                loaded = params()
                count = processes_for(processes, loaded.device) if loaded is not None else 1
                if loaded is None or (count == 1 and not is_node):
                    return None
                from components.classifier.check import check

                check(loaded)  # once, and before anything is started
                self.run = run()
                return self._outcome_of(count, [] if is_node else _nodes())
        except (ShutterlineError, OSError, Terminated, KeyboardInterrupt) as error:
            self.failure = error
            return None

    def _outcome_of(self, processes: int, nodes: list[str]) -> Outcome:
        with TemporaryDirectory(prefix="shutterline-group-") as name:
            outcomes = Path(name) / "outcomes"
            outcomes.mkdir()
            # What the user has set is left as it is. torchrun's own answer for OMP_NUM_THREADS is one thread.
            defaults = {
                SCRATCH_VARIABLE: f"{name}/fetched",
                RUN_VARIABLE: self.run,
                "OMP_NUM_THREADS": str(max(1, usable_cpus() // processes)),
                # A store for each start: nodes may count starts differently, and must not read an earlier one's
                # addresses.
                "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
            }
            added = {variable: value for variable, value in defaults.items() if not os.environ.get(variable)}
            added |= {OUTCOMES_VARIABLE: str(outcomes), _LAUNCHER_VARIABLE: str(os.getpid())}
            options = [f"--nproc-per-node={processes}", f"--max-restarts={self.restarts}", f"--log-dir={name}/logs"]
            if (handled := not_ignored(*_SIGNALS)).keys() != set(_SIGNALS):
                # By itself torch elastic takes SIGHUP although nohup has it ignored.
                options.append(f"--signals-to-handle={','.join(number.name for number in handled)}")
            with _as_launcher(added):
                failure = _torchrun([*options, *nodes, "-m", "components.train", *self.arguments])
            outcome = outcome_in(outcomes)
            is_reported = (outcomes / "0.json").exists() or (outcome is not None and not outcome.is_lost)
        # The others do not report that they have lost one, and nobody else does where the first was killed.
        if outcome is not None and is_reported and (failure is None or outcome.exit_code):
            return outcome
        raise failure or GroupLostError("the processes of the group ended, and none left how")


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


def _nodes() -> list[str]:
    """What torchrun's options say of the nodes where its own variables say nothing."""
    if not in_group():
        return ["--standalone"]
    require_rendezvous()
    names = {"nnodes": "WORLD_SIZE", "node-rank": "RANK", "master-addr": "MASTER_ADDR", "master-port": "MASTER_PORT"}
    return [f"--{option}={os.environ[name]}" for option, name in names.items()]


def _torchrun(options: Sequence[str]) -> BaseException | None:
    """Run a group; what went wrong, as far as torch elastic knows."""
    run: Any = importlib.import_module("torch.distributed.run")  # has no types
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    arguments = _parsed(run, options)
    try:
        run.run(arguments)
    except ChildFailedError as error:
        codes = [(rank, one.exitcode) for rank, one in sorted(error.failures.items())]
        ends = [f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}" for _, code in codes]
        lost = [f"rank {rank} {end}" for (rank, _), end in zip(codes, ends, strict=True)]
        return GroupLostError(f"processes of the group were lost: {', '.join(lost)}")
    except SignalException as error:
        return KeyboardInterrupt() if error.sigval == signal.SIGINT else Terminated(error.sigval)
    except OSError:  # such as a disk that is full
        raise
    except Exception as error:  # of the rendezvous, and it has many
        why = first_line(error) or type(error).__name__
        return GroupLostError(f"the processes of the nodes did not find each other: {why}")
    return None


def _parsed(run: Any, options: Sequence[str]) -> Any:
    """What torchrun makes of its options and variables; `InputError` where one cannot be used."""
    printed = io.StringIO()
    try:
        with redirect_stderr(printed):
            arguments = run.parse_args([*options])
        run.config_from_args(copy(arguments))
    except (SystemExit, AssertionError, ValueError, RuntimeError) as error:
        why = printed.getvalue().rpartition("error: ")[2].strip() or first_line(error)
        why = why or f"{NODES_VARIABLE} must be a number of nodes from 1, or MIN:MAX"
        named = ", ".join(f"{name}={text}" for name, text in sorted(os.environ.items()) if name.startswith(_PREFIX))
        raise InputError(f"torchrun cannot use its variables ({named or 'none is set'}): {why}") from error
    return arguments


@contextmanager
def _as_launcher(added: dict[str, str]) -> Iterator[None]:
    """Within, what this process starts has more variables, and torch logs nothing.

    Its tables are for who writes launchers, and each process reports its end. After it signals do what they did before:
    torch elastic takes them and does not give them back.
    """
    is_main, logged = threading.current_thread() is threading.main_thread(), logging.root.manager.disable
    handlers = {number: signal.getsignal(number) for number in _SIGNALS} if is_main else {}
    before = {name: os.environ.get(name) for name in added}
    os.environ.update(added)
    logging.disable()
    try:
        yield
    finally:
        logging.disable(logged)
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
        for number, handler in handlers.items():
            if handler is not None:
                signal.signal(number, handler)
