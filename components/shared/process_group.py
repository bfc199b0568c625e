"""This process among those that do one step together, from torchrun's environment; without torch.

A group that ``components.train.launch`` has started has a directory, in which every process leaves how it ended: torch
elastic itself knows no more of that than success and failure.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from components.shared import errors
from components.shared.errors import (
    EXIT_BAD_INPUT,
    EXIT_OK,
    DivergedError,
    GroupLostError,
    InputError,
    ParamsError,
    Problem,
    ShutterlineError,
)
from components.shared.files import write_json
from components.shared.signals import Terminated
from components.shared.strict_json import read_json

PROCESSES_VARIABLE = "SHUTTERLINE_PROCESSES"  # of a pipeline's step on each node: a number, or auto
OUTCOMES_VARIABLE = "SHUTTERLINE_GROUP_OUTCOMES"  # the launcher's: the directory
STARTS_VARIABLE = "SHUTTERLINE_GROUP_STARTS"  # the launcher's: starts before this one, and how many there may be
AGAIN_VARIABLE = "SHUTTERLINE_GROUP_AGAIN"  # the launcher's: why all were started again
MEETING_VARIABLE = "SHUTTERLINE_GROUP_MEETING"  # the launcher's: name of this start, the same on all nodes
_RESTARTED_CLEAN = "restarted-clean"  # there
NODES_VARIABLE = "PET_NNODES"  # torchrun's, set by a platform that starts its processes, as Kubeflow Trainer
_NODE_VARIABLE = "PET_NODE_RANK"
_NEEDED = ("RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Member:
    """This process in its group: ranks from 0, also on its node; how often the group was and may be started again."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    restarts: int = 0
    max_restarts: int = 0


def member() -> Member:
    """This process in its group; without a ``WORLD_SIZE`` of several it is the first, whatever ``RANK`` is."""
    starts = os.environ.get(STARTS_VARIABLE, "").split()
    if len(starts) == 2:
        restarts = {"restarts": int(starts[0]), "max_restarts": int(starts[1])}
    else:
        counts = "TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_MAX_RESTARTS"
        restarts = {"restarts": _number(counts[0]), "max_restarts": _number(counts[1])}
    size = _number("WORLD_SIZE")
    if size <= 1:
        return Member(**restarts)
    return Member(_number("RANK"), size, _number("LOCAL_RANK"), max(1, _number("LOCAL_WORLD_SIZE")), **restarts)


def _number(name: str) -> int:
    text = os.environ.get(name, "")
    return int(text) if text.isascii() and text.isdigit() else 0


def why_started_again() -> str:
    """Why all processes of this group were started again; empty at their first start."""
    if STARTS_VARIABLE in os.environ:
        return os.environ.get(AGAIN_VARIABLE, "")
    one = member()
    return lost_again(one.restarts, one.max_restarts) if one.restarts else ""


def lost_again(number: int, most: int) -> str:
    """What is logged where all are started again because one was lost, for the how-manieth time of at most so many."""
    return f"a process of the group was lost, and all were started again: {number} of at most {most} times"


def node() -> int:
    """The rank of this process's node, where torch elastic has started it."""
    return _number("GROUP_RANK")


def ignored_rank() -> str | None:
    """The warning about a ``RANK`` without effect, as one that another program left; None where there is none."""
    rank, size = os.environ.get("RANK", ""), os.environ.get("WORLD_SIZE", "")
    if in_group() or rank in ("", "0"):
        return None
    there = f"WORLD_SIZE is {size}" if size else "WORLD_SIZE is not set"
    return f"RANK is {rank}, and is ignored: {there}, so this process is alone"


def in_group() -> bool:
    """Whether this process is one of several."""
    return member().size > 1


def is_rank_zero() -> bool:
    """Whether this process is the first of its group, which reports how the step is doing.

    Where a platform starts one command a node, and that has the node's processes started, it is so on the first node.
    """
    is_later_node = is_one_of_nodes() and not is_started_by_elastic() and _number(_NODE_VARIABLE) > 0
    return member().rank == 0 and not is_later_node


def is_one_of_nodes() -> bool:
    """Whether a platform says, by torchrun's variable, that the step is done on several nodes."""
    return os.environ.get(NODES_VARIABLE, "") not in ("", "1", "1:1")


def require_rendezvous() -> None:
    """See that one of several processes can find the others; or InputError: what torchrun would have set."""
    missing = [name for name in _NEEDED if not os.environ.get(name)]
    if missing:
        raise InputError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, and {', '.join(missing)} is not set; start the processes by "
            "torchrun or --processes, or set RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT for each"
        )
    if member().rank >= member().size:
        raise InputError(f"RANK is {member().rank}, and must be less than WORLD_SIZE, which is {member().size}")


@dataclass(frozen=True)
class Outcome:
    """How one process of a group ended."""

    exit_code: int
    document: dict[str, Any]  # the step's record
    is_final: bool  # starting the group again would change nothing
    goes_on: bool = False  # another node was asked to end, and the group goes on once that is back

    @property
    def is_lost(self) -> bool:
        """Whether it ended because another one had."""
        return (self.document.get("error") or {}).get("type") == GroupLostError.__name__


def mark_end(error: BaseException, *, ends_together: bool, goes_on: bool = False) -> None:
    """Note on an error that this process leaves its group with it: alone, or all for the same reason.

    `goes_on`: another node was asked to end, and the group goes on once that is back.
    """
    error.__dict__.update(ends_together=ends_together, goes_on=goes_on)


def should_report(error: BaseException) -> bool:
    """Whether this process logs the error that it ends with.

    The first always does, and one whose error is its own. Before they have found each other, what is wrong is wrong
    for every process of a node, and one of them is enough.
    """
    if is_rank_zero():
        return True
    if _ends_together(error) or (isinstance(error, GroupLostError) and in_group()):
        return False
    return "ends_together" in error.__dict__ or member().local_rank == 0


def _ends_together(error: BaseException | None) -> bool:
    return error is not None and error.__dict__.get("ends_together") is True


def _goes_on(error: BaseException) -> bool:
    return error.__dict__.get("goes_on") is True


def is_started_by_elastic() -> bool:
    """Whether torch elastic, by torchrun or by the launcher, has started this process."""
    return "TORCHELASTIC_RESTART_COUNT" in os.environ


def is_launched() -> bool:
    """Whether the launcher waits for this process's outcome, and prints what is to be printed."""
    return _outcomes() is not None


def _outcomes() -> Path | None:
    named = os.environ.get(OUTCOMES_VARIABLE)
    return Path(named) if named and is_started_by_elastic() else None


def _outcome_file(directory: Path) -> Path:
    return directory / f"{member().local_rank}.json"


def leave_outcome(document: dict[str, Any], exit_code: int, error: BaseException | None = None) -> int:
    """Leave how this process ends, where a launcher wants to know.

    Returns:
        What the process is to end with: 0 also where all processes end for the same reason, because torch elastic
        ends the others of this node at once where one fails.
    """
    directory = _outcomes()
    if directory is None:
        return exit_code
    kind = (document.get("error") or {}).get("type")
    goes_on = error is not None and _goes_on(error)
    is_final = exit_code in (EXIT_OK, EXIT_BAD_INPUT) or kind == DivergedError.__name__ or _ends_together(error)
    outcome = Outcome(exit_code, document, is_final and not goes_on, goes_on)
    write_json(_outcome_file(directory), asdict(outcome))
    return EXIT_OK if _ends_together(error) else exit_code


def starts_again(error: BaseException) -> bool:
    """Whether this step is likely to be started again after it has ended with an error or a signal.

    Torch elastic starts a group again a few times, unless that would change nothing; it ends where a signal ends it.
    Kubeflow Trainer starts a container again that ended otherwise than with 0, and a pod that was taken away.
    """
    is_platforms = NODES_VARIABLE in os.environ
    if isinstance(error, Terminated):
        return is_platforms or _goes_on(error)
    if isinstance(error, InputError | DivergedError | KeyboardInterrupt) or _ends_together(error):
        return False
    return is_platforms or (is_started_by_elastic() and member().restarts < member().max_restarts)


def outcome_in(directory: Path) -> Outcome | None:
    """How the processes of this node ended: for good before another end, then the lowest local rank's."""
    files = sorted(directory.glob("*.json"), key=lambda file: int(file.stem))
    found = [Outcome(**read_json(file)) for file in files]
    for_good = [outcome for outcome in found if outcome.is_final and outcome.exit_code != EXIT_OK]
    return next(iter(for_good or found), None)


def has_restarted_clean() -> bool:
    """Whether an earlier start of this group has removed what was there; without a launcher any start counts."""
    directory = _outcomes()
    return (directory / _RESTARTED_CLEAN).exists() if directory is not None else member().restarts > 0


def note_restarted_clean() -> None:
    """From now on what this group has saved is its own, for later starts as well."""
    if (directory := _outcomes()) is not None:
        (directory / _RESTARTED_CLEAN).touch()


def settled() -> Outcome | None:
    """How an earlier start of this group has ended, as far as this node knows; None: starting again may change it."""
    directory = _outcomes()
    outcome = outcome_in(directory) if directory is not None else None
    return outcome if outcome is not None and outcome.is_final and outcome.exit_code != EXIT_OK else None


def forget_outcome() -> None:
    """Remove what this process left at an earlier start."""
    if (directory := _outcomes()) is not None:
        _outcome_file(directory).unlink(missing_ok=True)


def error_of(outcome: Outcome) -> ShutterlineError:
    """The error that a process has recorded, as another may raise it."""
    recorded = outcome.document.get("error") or {}
    kind, message = getattr(errors, recorded.get("type", ""), None), recorded.get("message", "")
    problems = [Problem(**problem) for problem in recorded.get("problems") or ()]
    if isinstance(kind, type) and issubclass(kind, ParamsError) and problems:
        return kind(problems, recorded.get("source"))
    if not isinstance(kind, type) or not issubclass(kind, ShutterlineError) or issubclass(kind, ParamsError):
        kind = InputError if outcome.exit_code == EXIT_BAD_INPUT else ShutterlineError
    return kind(message)
