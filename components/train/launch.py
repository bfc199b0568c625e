"""All GPUs of a node by one command: torch elastic starts this command line once for each, and starts all again.

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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from copy import copy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from components.shared.errors import DeviceError, GroupLostError, InputError
from components.shared.limits import usable_cpus
from components.shared.params.types import first_line
from components.shared.process_group import (
    OUTCOMES_VARIABLE,
    Outcome,
    forget_outcome,
    in_group,
    is_launched,
    is_started_by_elastic,
    member,
    outcome_in,
    require_rendezvous,
    settled,
)
from components.shared.run import RUN_VARIABLE
from components.shared.signals import Terminated, not_ignored
from components.shared.staging import SCRATCH_VARIABLE

RESTARTS = 3
_LAUNCHER_VARIABLE = "SHUTTERLINE_GROUP_LAUNCHER"  # its process id
_PREFIX = "PET_"  # torchrun's
_NODES_VARIABLE = f"{_PREFIX}NNODES"
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)  # torch elastic's
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux's prctl


def processes_for(wanted: str, device: str) -> int:
    """How many processes train on this node.

    Args:
        wanted: A number, or ``auto``: as many as there are GPUs; on the CPU, or on one GPU by name, one.
        device: The params' ``device``.

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
        import torch  # takes seconds, and is asked for no more than it must be

        from components.classifier.device import choose_device

        choose_device(device)
        gpus = torch.cuda.device_count()
    if wanted == "auto":
        return max(1, gpus)
    if device.startswith("cuda:"):
        raise DeviceError(
            f'device: "{device}" is one GPU, and --processes is {wanted}; set device to "cuda" or "auto", or '
            "--processes to 1"
        )
    if 0 < gpus < int(wanted):
        raise DeviceError(
            f"--processes is {wanted}, and this node has {gpus} GPU(s); each process needs one: set --processes to auto"
        )
    return int(wanted)


def is_launcher(processes: int) -> bool:
    """Whether this process has others do the step: it is not one of them itself, and there is more than one."""
    return not is_member() and (processes > 1 or has_nodes())


def is_member() -> bool:
    """Whether this process is one of those of a node, as torchrun starts them.

    RANK and WORLD_SIZE alone, as Vertex AI sets them, are of nodes: one process of each may join the others as it is.
    """
    return is_started_by_elastic() or (in_group() and "LOCAL_RANK" in os.environ)


def has_nodes() -> bool:
    """Whether the platform says by torchrun's own variable that there are several nodes."""
    return os.environ.get(_NODES_VARIABLE, "") not in ("", "1", "1:1")


def _nodes() -> list[str]:
    """What torchrun must be told of the nodes, beside what it reads in the environment itself."""
    if has_nodes():
        return []
    if not in_group():
        return ["--standalone"]
    require_rendezvous()
    names = {"--nnodes": "WORLD_SIZE", "--node-rank": "RANK", "--master-addr": "MASTER_ADDR"}
    names["--master-port"] = "MASTER_PORT"
    return [f"{option}={os.environ[name]}" for option, name in names.items()]


def launched(module: str, arguments: Sequence[str], *, processes: int, restarts: int, run: str) -> Outcome:
    """Have a group of processes do the step, and start all of them again where one is lost.

    Args:
        module: What each of them runs, as by ``python -m``; it calls :func:`begin_member` first.
        arguments: Its command line.
        processes: How many on this node.
        restarts: How often they may be started again.
        run: The run's id, the same for every start.

    Raises:
        InputError: A variable of torchrun's cannot be used.
        GroupLostError: Processes were lost again and again, and none could tell how it ended; or nodes did not come.
        Terminated: The signal came, and none could tell how it ended.
        KeyboardInterrupt: Likewise.
    """
    with TemporaryDirectory(prefix="shutterline-group-") as name, _environment(Path(name), processes, run) as outcomes:
        options = [f"--nproc-per-node={processes}", f"--max-restarts={restarts}", f"--log-dir={name}/logs"]
        if (heeded := not_ignored(*_SIGNALS)).keys() != set(_SIGNALS):
            # By itself torch elastic takes SIGHUP although nohup has it ignored.
            options.append(f"--signals-to-handle={','.join(number.name for number in heeded)}")
        options += _nodes()
        failure = _torchrun([*options, "-m", module, *arguments])
        outcome = outcome_in(outcomes)
        is_told = (outcomes / "0.json").exists() or (outcome is not None and not outcome.is_lost)
    # Of the others none tells that it has lost one, and nobody else does where the first was killed.
    if outcome is not None and is_told and (failure is None or outcome.exit_code):
        return outcome
    raise failure or GroupLostError("the processes of the group have ended without a word of how")


def _torchrun(words: Sequence[str]) -> BaseException | None:
    """Run a group; what went wrong, as far as torch elastic knows."""
    run: Any = importlib.import_module("torch.distributed.run")  # has no types
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    with _quiet("torch"), _signals_as_they_were():
        arguments = _parsed(run, words)
        try:
            run.run(arguments)
        except ChildFailedError as error:
            lost = [f"rank {rank} {_ended(one.exitcode)}" for rank, one in sorted(error.failures.items())]
            return GroupLostError(f"processes of the group were lost: {', '.join(lost)}")
        except SignalException as error:
            return KeyboardInterrupt() if error.sigval == signal.SIGINT else Terminated(error.sigval)
        except OSError:  # such as a disk that is full
            raise
        except Exception as error:  # of the rendezvous, and it has many
            said = first_line(error) or type(error).__name__
            return GroupLostError(f"the processes of the nodes did not find each other: {said}")
    return None


def _parsed(run: Any, words: Sequence[str]) -> Any:
    """What torchrun makes of its options and variables.

    Raises:
        InputError: A variable cannot be used.
    """
    _require_numbers()
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            arguments = run.parse_args([*words])
        run.config_from_args(copy(arguments))
    except (SystemExit, AssertionError, ValueError, RuntimeError) as error:
        message = said.getvalue().rpartition("error: ")[2].strip() or first_line(error)
        named = ", ".join(sorted(name for name in os.environ if name.startswith(_PREFIX))) or "none is set"
        raise InputError(f"torchrun cannot use its variables ({named}): {message}") from error
    return arguments


def _require_numbers() -> None:
    nodes = os.environ.get(_NODES_VARIABLE, "1")
    least, _, most = nodes.partition(":")
    bounds = [int(text) if text.isascii() and text.isdigit() else 0 for text in (least, most or least)]
    if nodes and not 0 < bounds[0] <= bounds[1]:
        raise InputError(f"{_NODES_VARIABLE}: must be a number of nodes from 1, or MIN:MAX, got {nodes!r}")
    for name in (f"{_PREFIX}NODE_RANK", f"{_PREFIX}MASTER_PORT"):
        text = os.environ.get(name, "0")
        if not (text.isascii() and text.isdigit()):
            raise InputError(f"{name}: must be a number from 0, got {text!r}")


def _ended(exit_code: int) -> str:
    """How a process ended, for people."""
    return f"by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"with exit code {exit_code}"


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Within, a library's log says nothing: its tables are for who writes launchers, and each process tells its end."""
    loggers = [logging.getLogger(one) for one in (name, *logging.root.manager.loggerDict) if one.split(".")[0] == name]
    for logger in loggers:
        logger.addFilter(_nothing)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(_nothing)


def _nothing(record: logging.LogRecord) -> bool:
    return False


@contextmanager
def _signals_as_they_were() -> Iterator[None]:
    """After it, signals do what they did before: torch elastic takes them and does not give them back."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)


@contextmanager
def _environment(scratch: Path, processes: int, run: str) -> Iterator[Path]:
    """Within, what this process starts knows the group; yields where each leaves how it ended."""
    outcomes = scratch / "outcomes"
    outcomes.mkdir()
    added = {OUTCOMES_VARIABLE: str(outcomes), _LAUNCHER_VARIABLE: str(os.getpid())}
    # What the user has set is left as it is. torchrun's own answer for OMP_NUM_THREADS is one thread.
    threads = max(1, usable_cpus() // processes)
    wishes = {SCRATCH_VARIABLE: str(scratch / "fetched"), RUN_VARIABLE: run, "OMP_NUM_THREADS": str(threads)}
    # A store for each start: nodes may count starts differently, and must not read an earlier one's addresses.
    wishes["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    added |= {name: value for name, value in wishes.items() if not os.environ.get(name)}
    before = {name: os.environ.get(name) for name in added}
    os.environ.update(added)
    try:
        yield outcomes
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def begin_member() -> bool:
    """Begin as a process of a group, if this is one; whether there is something to do.

    There is not where all were started again although an earlier start has ended for good; of several nodes the others
    may not know, and are told once all have found each other. A process whose launcher
    is killed is killed with it: whoever kills it starts anew, and two groups must not write to one place.
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
