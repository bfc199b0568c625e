"""The exception tree: everything Shutterline raises on purpose, InputError and all below it with exit code 2.

Anything else that escapes a step is a defect or a broken machine and ends with exit code 1 and a traceback.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

EXIT_OK = 0
EXIT_FAILURE = 1
EXIT_BAD_INPUT = 2


class ShutterlineError(Exception):
    """Base of every exception raised on purpose."""

    exit_code = EXIT_FAILURE


class DivergedError(ShutterlineError):
    """Training left the numbers: the loss is NaN or infinite."""


class HostMemoryError(ShutterlineError):
    """This machine has no memory for the copy of the state that a checkpoint is written from."""


class NotLearningError(ShutterlineError):
    """A trial shows that the network does not learn as the params are; the message says what usually is wrong."""


class GroupLostError(ShutterlineError):
    """Another process of the group that trains together ended, and alone this one cannot go on."""


class StatusUnavailableError(ShutterlineError):
    """A broker does not answer at the start of a step whose params say ``on_status_error: fail``."""


class StorageUnavailableError(ShutterlineError):
    """A bucket's store was asked again and again, and does not answer or sends bytes of a wrong checksum."""


class PlatformUnavailableError(ShutterlineError):
    """Kubeflow or Vertex AI was asked again and again, and does not answer."""


class TrainJobError(ShutterlineError):
    """The TrainJob that trains for a step failed, was deleted, or took too long; the message says why."""


class RetryableError(Exception):
    """The same request may succeed later, perhaps after as many seconds as the service asks to wait.

    Caught where the request is made again, and never the end of a step.
    """

    def __init__(self, message: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class InputError(ShutterlineError):
    """What the user gave cannot be used; the message says where, why and what to do."""

    exit_code = EXIT_BAD_INPUT


class DataError(InputError):
    """Images, labels or their folder cannot be used."""


class ArtifactError(InputError):
    """A dataset or model directory is missing, incomplete, damaged or does not fit the other one."""


class CheckpointError(InputError):
    """Checkpoints of other params or data are where this run keeps its own; `differences`, if any, in lines."""

    def __init__(self, message: str, differences: str = "") -> None:
        super().__init__(message)
        self.differences = differences

    def __reduce__(self) -> tuple[type[CheckpointError], tuple[str, str]]:
        return type(self), (str(self), self.differences)


class DeviceError(InputError):
    """The device asked for is not there."""


class StatusRefusedError(InputError):
    """A broker refuses status, and will go on doing so until somebody changes a setting."""


class StorageRefusedError(InputError):
    """A location in a bucket cannot be used: no bucket or object, no permission, something else there, taken over."""


class PlatformRefusedError(InputError):
    """Kubeflow or Vertex AI refuses what was asked of it, and asking again will not help."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with the params."""

    path: str  # as a user would write it: net_arch[8].kwargs.in_channels; empty for the whole document
    message: str  # what is wrong, what is allowed and what to do, in one line

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class ParamsError(InputError):
    """The options of a run cannot be used: all problems, in the order of the document, and the file they came from."""

    subject = "params"  # what has the problems, where no file is named

    def __init__(self, problems: Iterable[Problem], source: str | None = None) -> None:
        self.problems = tuple(problems)
        self.source = source
        super().__init__(self._text())

    def __reduce__(self) -> tuple[type[ParamsError], tuple[tuple[Problem, ...], str | None]]:
        """As one process of a group hands it to the others."""
        return type(self), (self.problems, self.source)

    def _text(self) -> str:
        where = (self.source or self.subject).replace("\n", "\\n")  # a path may hold one, and a message is one line
        if len(self.problems) == 1:
            return f"{where}: {self.problems[0]}"
        lines = "".join(f"\n  {problem}" for problem in self.problems)
        return f"{where} has {len(self.problems)} problems:{lines}"


class SettingsError(ParamsError):
    """The settings of a platform cannot be used."""

    subject = "settings"


def causes_of(error: BaseException) -> Iterator[BaseException]:
    """Walk an exception chain, nearest first: causes, contexts, and what libraries keep as reason or argument."""
    seen: set[int] = set()
    waiting: list[Any] = [error]
    while waiting:
        each = waiting.pop(0)
        if isinstance(each, BaseException) and id(each) not in seen:
            seen.add(id(each))
            yield each
            waiting += [each.__cause__, each.__context__, getattr(each, "reason", None), *each.args]
