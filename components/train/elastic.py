"""One start of a node's processes by torch elastic, as torchrun would start them, from its options and variables.

Torchrun itself (``torch/distributed/launcher/api.py`` of 2.15) waits up to 300 s for another node's agent where its own
processes have ended, in C++, where no signal is heeded, and starts again whatever the reason was.
"""

from __future__ import annotations

import importlib
import io
import os
import signal
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from copy import copy
from itertools import count
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.distributed.elastic.agent.server.api import WorkerSpec
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.rendezvous import RendezvousParameters
from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler
from torch.distributed.elastic.rendezvous.utils import parse_rendezvous_endpoint

from components.shared.errors import EXIT_OK, GroupLostError, InputError
from components.shared.process_group import (
    AGAIN_VARIABLE,
    NODES_VARIABLE,
    STARTS_VARIABLE,
    Outcome,
    lost_again,
    outcome_in,
)
from components.shared.signals import EXIT_TERMINATED, Terminated, ignore_termination
from components.shared.step import StepRecord
from components.shared.strict_json import read_json
from components.shared.text import first_line
from components.train.nodes import FinishedError, LostError, Nodes
from components.train.torchrun import PREFIX, unused_variables

_SHUTDOWN_VARIABLES = (f"{PREFIX}SHUTDOWN_TIMEOUT", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT")
# How long processes that save their state have after SIGTERM: the platform says it, by its own grace.
_SHUTDOWN_S = 3600
# torch's own rendezvous alone needs the barrier, whose agents take one that ended for one that came.
_BARRIER_S, _NO_BARRIER_S = 10.0, 0.1


class Elastic:
    """This node's processes, to be started again and again.

    Args:
        options: As for torchrun; its variables say the rest.
        is_alone: Whether there is no other node, whatever the variables say.
        warn: Gets which node is waited for, for people.

    Raises:
        InputError: Torchrun cannot use what it is given.
    """

    def __init__(self, options: Sequence[str], warn: Callable[[str], None], *, is_alone: bool) -> None:
        self._config, self._entry, self._arguments = _configured(options)
        config = self._config
        self.is_alone = is_alone
        self.rank = 0 if is_alone else int(config.rdzv_configs.get("rank", 0))
        self.nodes: Nodes | None = None
        try:
            timeout_s = float(config.rdzv_configs["timeout"])
        except ValueError as error:
            raise InputError(f"timeout of {PREFIX}RDZV_CONF must be a number of seconds") from error
        if is_alone:
            self.nodes = Nodes(0, 1, "localhost", 0, timeout_s, warn)
        elif config.rdzv_backend == "static":
            host, port = parse_rendezvous_endpoint(config.rdzv_endpoint, default_port=29500)
            if self.rank >= config.max_nodes:
                raise InputError(f"node {self.rank}: nodes are numbered from 0 to {config.max_nodes - 1}")
            self.nodes = Nodes(self.rank, config.max_nodes, host, port, timeout_s, warn)
        self._handler: Any = self.nodes or _torchs_handler(config)

    def start(self) -> BaseException | None:
        """Start the processes and wait for them; what went wrong, as far as torch elastic knows.

        Raises:
            OSError: Such as of a disk that is full.
        """
        config = self._config
        spec = WorkerSpec(
            role=config.role,
            local_world_size=config.nproc_per_node,
            entrypoint=self._entry,
            args=tuple(self._arguments),
            rdzv_handler=self._handler,
            max_restarts=0,
            monitor_interval=config.monitor_interval,
            local_addr=config.local_addr,
            numa_options=config.numa_options,
        )
        agent = LocalElasticAgent(
            spec,
            config.logs_specs,
            start_method=config.start_method,
            exit_barrier_timeout=_BARRIER_S if self.nodes is None else _NO_BARRIER_S,
            log_line_prefix_template=config.log_line_prefix_template,
            shutdown_timeout=config.shutdown_timeout,
        )
        os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = config.signals_to_handle
        try:
            result = agent.run()
        except SignalException as error:
            return KeyboardInterrupt() if error.sigval == signal.SIGINT else Terminated(error.sigval)
        except (OSError, LostError, FinishedError):
            raise
        except dist.DistError as error:  # one that had just met the others
            return LostError(f"another node was lost: {first_line(error)}")
        except Exception as error:  # of the rendezvous, and it has many
            why = first_line(error) or type(error).__name__
            return GroupLostError(f"the processes of the nodes did not find each other: {why}")
        if not result.is_failed():
            return None
        codes = [(rank, one.exitcode) for rank, one in sorted(result.failures.items())]
        ends = [f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}" for _, code in codes]
        lost = [f"rank {rank} {end}" for (rank, _), end in zip(codes, ends, strict=True)]
        return LostError(f"processes of the group were lost: {', '.join(lost)}")

    def farewell(self) -> bool:
        """Leave when all is done; false where it is not done on another node, and all are to begin anew."""
        if self.nodes is None:
            self._handler.shutdown()  # closes it for nodes that come later
            return True
        try:
            return self.nodes.farewell()
        except (SignalException, Terminated, KeyboardInterrupt):  # which wants what is done here already
            if self.rank:
                self.nodes.note_done()
            return True


def _configured(options: Sequence[str]) -> tuple[Any, Any, list[str]]:
    """What torchrun makes of its options and variables: its configuration, the program and the arguments of that."""
    run: Any = importlib.import_module("torch.distributed.run")  # has no types
    hidden = {name: os.environ.pop(name) for name in unused_variables()}
    shown = ", ".join(f"{name}={text}" for name, text in sorted(os.environ.items()) if name.startswith(PREFIX))
    if not any(os.environ.get(name) for name in _SHUTDOWN_VARIABLES):
        options = [f"--shutdown-timeout={_SHUTDOWN_S}", *options]
    printed = io.StringIO()
    try:
        with redirect_stderr(printed):
            parsed = run.parse_args([*options])
        if parsed.master_port is None:
            parsed.master_port = 29500
        found: tuple[Any, Any, list[str]] = run.config_from_args(copy(parsed))
    except (SystemExit, AssertionError, ValueError, RuntimeError) as error:
        why = printed.getvalue().rpartition("error: ")[2].strip() or first_line(error)
        why = why or f"{NODES_VARIABLE} must be a number of nodes from 1, or MIN:MAX"
        raise InputError(f"torchrun cannot use its variables ({shown or 'none is set'}): {why}") from error
    finally:
        os.environ.update(hidden)
    return found


def _torchs_handler(config: Any) -> Any:
    """The rendezvous that the variables name, where it is not the static one."""
    endpoint: dict[str, Any] = {"backend": config.rdzv_backend, "endpoint": config.rdzv_endpoint}
    nodes: dict[str, Any] = {"min_nodes": config.min_nodes, "max_nodes": config.max_nodes}
    try:
        return get_rendezvous_handler(
            RendezvousParameters(
                run_id=config.run_id, local_addr=config.local_addr, **endpoint, **nodes, **config.rdzv_configs
            )
        )
    except Exception as error:  # each backend has its own
        raise GroupLostError(
            f"the processes of the nodes did not find each other: {first_line(error) or type(error).__name__}"
        ) from error


def outcome_of_starts(elastic: Elastic, outcomes: Path, processes: int, restarts: int) -> Outcome:
    """Start a node's processes until there is an outcome; raises what kept them from one.

    Processes that were lost are started again so many times; where another node was asked to end that is not counted.
    """
    lost, left = 0, None
    for start in count():
        os.environ[STARTS_VARIABLE] = f"{start} {start + restarts - lost}"
        failure: BaseException | None
        try:
            failure = elastic.start()
            outcome = outcome_in(outcomes)
            if outcome is not None and _all_succeeded(outcomes, processes) and not isinstance(failure, LostError):
                if elastic.farewell():
                    if not elastic.is_alone:  # a start again would wait for nodes that have left
                        ignore_termination()
                    return outcome
                failure = LostError("another node was lost at the end")
        except FinishedError:
            elastic.farewell()
            return Outcome(
                EXIT_OK, StepRecord(step="train", status="succeeded", seconds=0.0).model_dump(mode="json"), True
            )
        except (LostError, Terminated, KeyboardInterrupt) as error:
            failure, outcome = error, outcome_in(outcomes)
        is_settled = outcome is not None and outcome.is_final and outcome.exit_code != EXIT_OK
        if failure is None and outcome is not None and outcome.goes_on:
            left, again = outcome, "all nodes are there again"
        elif isinstance(failure, LostError) and lost < restarts and not (is_settled and elastic.is_alone):
            left, lost = None, lost + 1
            again = lost_again(lost, restarts)
        else:
            break
        os.environ[AGAIN_VARIABLE] = again
        if not is_settled:  # which the others learn of once all have met
            for file in outcomes.glob("*.json"):
                file.unlink()
    if isinstance(failure, Terminated | KeyboardInterrupt):
        outcome = outcome or left
        is_reported = outcome is not None and outcome.exit_code != EXIT_OK and not outcome.is_lost
    else:
        # The others do not report that they have lost one, or that torch elastic ends them because of it; nobody else
        # does where the first was killed.
        is_own = outcome is not None and not outcome.is_lost and outcome.exit_code != EXIT_TERMINATED
        is_reported = (outcomes / "0.json").exists() or is_own
        is_reported = is_reported and (failure is None or (outcome is not None and outcome.exit_code != EXIT_OK))
    if outcome is not None and is_reported:
        return outcome
    if isinstance(failure, LostError) or failure is None:
        raise GroupLostError(str(failure or "the processes of the group ended, and none left how"))
    raise failure


def _all_succeeded(outcomes: Path, processes: int) -> bool:
    found = [read_json(file)["exit_code"] for file in outcomes.glob("*.json")]
    return found == [EXIT_OK] * processes
