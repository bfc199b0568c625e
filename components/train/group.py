"""The processes of one training: one alone, or a group that torchrun has started.

Every process holds the whole network and computes its part of every batch; torch's DistributedDataParallel averages
the gradients. What decides how the run goes on is agreed on first (``components.train.agreement``), because processes
that do not do the same at the same step wait for each other for ever.
"""

from __future__ import annotations

import os
import pickle
import re
import signal
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from datetime import timedelta
from hashlib import sha256
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from components.classifier.device import choose_device
from components.classifier.graphs import GraphedCalls
from components.classifier.images import Normaliser, StoredImages
from components.classifier.inference import Predictions, chunks_of, predict
from components.classifier.network import Network
from components.shared.errors import DeviceError, GroupLostError, InputError, ShutterlineError
from components.shared.process_group import (
    MEETING_VARIABLE,
    error_of,
    in_group,
    mark_end,
    member,
    node,
    require_rendezvous,
    settled,
)
from components.shared.retry import bounded
from components.shared.signals import Deferred, Terminated, ignore_termination
from components.shared.staging import SCRATCH_VARIABLE
from components.shared.text import first_line
from components.train.nodes import unused_store

T = TypeVar("T")

# How long a process waits for the others: longer than fetching a dataset or writing a model takes.
_TIMEOUT = timedelta(minutes=60)


@dataclass
class Group:
    """This process among those that train together.

    They agree by `control`, on the CPU whatever trains; `ends_together` is whether all of them end for the same reason,
    and `goes_on` whether the group goes on from there once another node is back.
    """

    rank: int = 0
    size: int = 1
    control: Any = None
    ends_together: bool = False
    goes_on: bool = False

    @property
    def is_first(self) -> bool:
        """Whether this process reports and saves."""
        return self.rank == 0

    def own(self, part: slice) -> slice:
        """This process's share of a batch: contiguous, and all shares together are the batch."""
        count = part.stop - part.start
        start, stop = (part.start + count * rank // self.size for rank in (self.rank, self.rank + 1))
        return slice(start, stop)

    def summed(self, values: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def share(self, values: Iterable[Tensor]) -> None:
        """Put rank 0's values into every process's tensors: those of one type together, as each exchange takes time."""
        if self.size == 1:
            return
        by_type: defaultdict[torch.dtype, list[Tensor]] = defaultdict(list)
        for value in values:
            by_type[value.dtype].append(value)
        for alike in by_type.values():
            together = torch.cat([value.reshape(-1) for value in alike])
            dist.broadcast(together, src=0)
            for value, own in zip(alike, torch.split(together, [value.numel() for value in alike]), strict=True):
                value.copy_(own.view_as(value))

    def gathered(self, value: T) -> list[T]:
        """The values of all processes by rank."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value, group=self.control)
        return found

    def from_first(self, value: T) -> T:
        """The value of rank 0."""
        if self.size == 1:
            return value
        box: list[Any] = [value if self.is_first else None]
        dist.broadcast_object_list(box, src=0, group=self.control)
        return box[0]  # type: ignore[no-any-return]

    def require_alike(self, values: Mapping[str, Any]) -> None:
        """See that these values, by their names for people, are the same in all processes; or InputError in all.

        Processes that train otherwise wait for each other for ever, or end by gloo's SIGABRT.
        """
        if len(set(self.gathered(sha256(repr(sorted(values.items())).encode()).digest()))) == 1:
            return
        self.ends_together = True
        (_, first), *others = self.gathered((node(), dict(values)))
        rank, (at, other) = next((rank, found) for rank, found in enumerate(others, 1) if found[1] != first)
        names = [name for name in sorted({*first, *other}) if first.get(name) != other.get(name)]
        raise InputError(
            f"rank {rank}, on node {at}, is to train otherwise than rank 0, by {', '.join(names)}; give all nodes the "
            "same params, dataset and image"
        )

    def on_first(self, work: Callable[[], T]) -> T:
        """What rank 0 makes of some work, or the error it makes of it; every process of the group gets either."""
        value: T | None = self.together(lambda: work() if self.is_first else None)
        return self.from_first(value)  # type: ignore[return-value] # rank 0's own

    def leaving(self, asked: signal.Signals | None, position: str) -> Terminated:
        """What this process ends with where some were asked to end, and all have left at one step.

        The processes of a node that was asked end for good, all of them after Ctrl-C; another node's go on from
        `position` once that node is back.
        """
        found = [(at, one) for at, one in self.gathered((node(), asked)) if one is not None]
        self.ends_together = True
        nodes = sorted({at for at, _ in found})
        self.goes_on = node() not in nodes and signal.SIGINT not in [one for _, one in found]
        if not self.goes_on:
            return Terminated()
        names = " and ".join(
            f"node {at} ended by {next(one for each, one in found if each == at).name}" for at in nodes
        )
        return Terminated(reason=f"{names}; the group goes on from {position} once it is back")

    def together(self, work: Callable[[], T]) -> T:
        """This process's own work, which must wait for no other; an error in any process is raised in all of them."""
        if self.size == 1:
            return work()
        value, failure = None, None
        try:
            value = work()
        except Exception as error:  # is raised below, and by the others
            failure = error
        for rank, other in enumerate(self.gathered(_portable(failure))):
            if other is not None:
                self.ends_together = True
                raise failure if rank == self.rank and failure is not None else other
        return value  # type: ignore[return-value] # nobody has failed


def _portable(error: Exception | None) -> Exception | None:
    """An error as the others can have it."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    except Exception:  # what it refers to cannot leave the process
        return ShutterlineError(f"{type(error).__name__}: {error}")
    return error


@contextmanager
def join_group() -> Iterator[Group]:
    """Join the group that the environment names; without one, be alone.

    Raises:
        InputError: The environment does not say how to find the others.
        GroupLostError: Another process ended.
        ShutterlineError: An earlier start ended so, and starting again does not change that.
    """
    if not in_group():
        yield Group()
        return
    require_rendezvous()
    # Each tensor is exchanged where it is.
    has_nccl = torch.cuda.is_available() and dist.is_nccl_available()
    # In a thread: torch waits in C++ for a process that may be gone, where no signal would be heeded.
    with _others_needed():
        try:
            control = bounded(lambda: _met("cpu:gloo,cuda:nccl" if has_nccl else "gloo"), 2 * _TIMEOUT.total_seconds())
        except TimeoutError as error:
            raise GroupLostError(f"the {member().size} processes did not meet: {error}") from error
    group = Group(dist.get_rank(), dist.get_world_size(), control)
    try:
        with _others_needed():
            if earlier := [outcome for outcome in group.gathered(settled()) if outcome is not None]:
                group.ends_together = True
                raise error_of(earlier[0])
            yield group
    except BaseException as error:
        mark_end(error, ends_together=group.ends_together, goes_on=group.goes_on)
        # What waits on a GPU for a process that is gone would keep this one from ending; the process ends anyway.
        if not has_nccl:
            dist.destroy_process_group()
        raise
    dist.destroy_process_group()


def _met(backend: str) -> Any:
    """Meet the others, and make the group by which all of them agree."""
    store, rank, size = next(rendezvous("env://", timeout=_TIMEOUT))
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        # It outlives the processes, and an earlier start's addresses in it would be waited for for ever.
        meeting = os.environ.get(MEETING_VARIABLE)
        store = PrefixStore(meeting, store) if meeting else unused_store(store, rank, size, _TIMEOUT)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_TIMEOUT)
    return dist.new_group(backend="gloo", timeout=_TIMEOUT)


@contextmanager
def _others_needed() -> Iterator[None]:
    """Within, what torch raises when another process is gone is a `GroupLostError`."""
    try:
        yield
    except RuntimeError as error:
        # gloo's errors have no type of their own, and name its source files.
        if not isinstance(error, dist.DistError) and not any(name in str(error) for name in ("gloo", "NCCL")):
            raise
        why = re.sub(r"^\[\S+\.cc:\d+\] |\. This is typically.*", "", first_line(error))  # gloo's source, and its guess
        message = f"lost another of the {member().size} processes that train together: {why}"
        raise GroupLostError(message) from error


@contextmanager
def loss_before_signal(ending: Deferred) -> Iterator[None]:
    """Within, SIGTERM is forgotten where another process is gone: torchrun then ends the others, to start all again.

    From then on it is ignored: one that comes while this process ends would hide why.
    """
    try:
        with _others_needed():
            yield
    except GroupLostError:
        ignore_termination()
        ending.signal = None
        raise


@contextmanager
def shared_scratch(group: Group) -> Iterator[None]:
    """Within, the processes of a node fetch into one directory, and so what is fetched by one is there for the others.

    The directory that the environment names stays; one that is made here goes with the first process of the node, as
    what the others have mapped can.
    """
    if group.size == 1 or os.environ.get(SCRATCH_VARIABLE):
        yield
        return
    one = member()
    with ExitStack() as stack:
        made = stack.enter_context(TemporaryDirectory(prefix="shutterline-")) if one.local_rank == 0 else ""
        os.environ[SCRATCH_VARIABLE] = group.gathered(made)[group.rank - one.local_rank]
        stack.callback(os.environ.pop, SCRATCH_VARIABLE, None)
        yield


def own_device(wanted: str) -> torch.device:
    """The device of this process for the params' ``device``: in a group, one GPU for each process of a node."""
    one = member()
    if one.size > 1 and wanted.startswith("cuda:"):
        what = f'device: "{wanted}" is one GPU, and {one.size} processes train together'
        raise DeviceError(f'{what}; set device to "cuda" or "auto"')
    device = choose_device(wanted)
    if one.size == 1 or device.type != "cuda":
        return device
    gpus = torch.cuda.device_count()
    if max(one.local_size, one.local_rank + 1) > gpus:
        raise DeviceError(f"{one.local_size} processes were started on a node with {gpus} GPU(s); each needs one")
    torch.cuda.set_device(one.local_rank)
    return torch.device("cuda", one.local_rank)


def evaluated(
    network: Network,
    images: StoredImages,
    labels: Tensor,
    normalise: Normaliser,
    group: Group,
    *,
    every_class: bool = False,
    poll: Callable[[], None] = lambda: None,
    graphed: GraphedCalls | None = None,
) -> Predictions:
    """As :func:`~components.classifier.inference.predict`, shared out among the processes of a group.

    The images are cut into the same chunks as for one process, and each process takes some chunks whole, so the
    figures are one process's to the last digit, and no image is counted twice. `poll` is called between chunks and may
    end the evaluation: in every process equally often, and before it waits for the others, so that it may ask them.
    """
    chunks = chunks_of(len(images), network)
    first, last = (len(chunks) * rank // group.size for rank in (group.rank, group.rank + 1))
    own, mine = None, chunks[first:last]
    if mine:
        options: dict[str, Any] = {"every_class": every_class, "chunks": mine, "poll": poll, "graphed": graphed}
        own = predict(network, images, labels, normalise, **options)
    for _ in range(len(mine), -(-len(chunks) // group.size)):  # one at most
        poll()
    if group.size == 1 and own is not None:
        return own
    parts = [part for part in group.gathered(own) if part is not None]
    columns = {
        each.name: np.concatenate([getattr(part, each.name) for part in parts])
        for each in fields(Predictions)
        if each.name != "n_classes" and (every_class or each.name != "probabilities")
    }
    return Predictions(n_classes=network.n_classes, **columns)
