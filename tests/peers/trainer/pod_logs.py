"""What containers print, with its times, and how the kubelet hands it out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from tests.peers.trainer.refusals import Refused, bad_request
from tests.peers.trainer.store import Store


@dataclass
class Start:
    """What one start of a container has printed.

    Attributes:
        lines: Each with its moment, without its end.
        is_cut: The last one has no end.
        has_ended: Nothing is printed any more.
    """

    lines: list[tuple[datetime, str]] = field(default_factory=list)
    is_cut: bool = False
    has_ended: bool = False


@dataclass(frozen=True)
class LogQuery:
    """What of a log is asked for; None: not restricted."""

    follow: bool = False
    previous: bool = False
    timestamps: bool = False
    since: datetime | None = None
    tail: int | None = None
    limit_bytes: int | None = None

    @classmethod
    def read(cls, query: dict[str, str]) -> LogQuery:
        """The parameters of a request.

        Raises:
            Refused: One is wrong, or two do not go together.
        """
        if "sinceTime" in query and "sinceSeconds" in query:
            words = "Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified"
            raise Refused(422, "Invalid", f'PodLogOptions "" is invalid: : {words}')
        since = None
        if "sinceTime" in query:
            try:
                since = datetime.fromisoformat(query["sinceTime"])
            except ValueError as error:
                raise bad_request(f'parsing time "{query["sinceTime"]}": {error}') from error
            since = (since if since.tzinfo else since.replace(tzinfo=UTC)).replace(microsecond=0)
        if "sinceSeconds" in query:
            if int(query["sinceSeconds"]) < 1:
                words = f"sinceSeconds: Invalid value: {query['sinceSeconds']}: must be greater than 0"
                raise Refused(422, "Invalid", f'PodLogOptions "" is invalid: {words}')
            since = datetime.now(UTC) - timedelta(seconds=int(query["sinceSeconds"]))
        flags = {name: query.get(name, "").lower() in ("true", "1") for name in ("follow", "previous", "timestamps")}
        numbers = [int(query[name]) if name in query else None for name in ("tailLines", "limitBytes")]
        return cls(**flags, since=since, tail=numbers[0], limit_bytes=numbers[1])


class PodLogs:
    """The logs of all containers, by namespace, pod and container."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._starts: dict[tuple[str, str, str], list[Start]] = {}
        self._epoch = 0

    def start(self, namespace: str, pod: str, container: str = "node") -> None:
        """A container starts: for the first time, or anew."""
        with self._store.changed:
            starts = self._starts.setdefault((namespace, pod, container), [])
            for each in starts:
                each.has_ended = True
            starts.append(Start())
            self._store.changed.notify_all()

    def write(self, namespace: str, pod: str, *lines: str, container: str = "node", is_cut: bool = False) -> None:
        """Lines that it prints now; `is_cut`: the last one without its end."""
        with self._store.changed:
            moment, start = datetime.now(UTC), self._starts[namespace, pod, container][-1]
            start.lines += [(moment, line) for line in lines]
            start.is_cut = is_cut
            self._store.changed.notify_all()

    def end(self, namespace: str, pod: str, container: str = "node") -> None:
        """The container ends; its log stays."""
        with self._store.changed:
            for each in self._starts.get((namespace, pod, container), []):
                each.has_ended = True
            self._store.changed.notify_all()

    def drop(self, namespace: str, pod: str) -> None:
        """The pod is gone, and its logs with it."""
        with self._store.changed:
            for key in [key for key in self._starts if key[:2] == (namespace, pod)]:
                for each in self._starts.pop(key):
                    each.has_ended = True
            self._store.changed.notify_all()

    def text(self, namespace: str, pod: str, container: str = "node") -> str:
        """What the newest start has printed."""
        with self._store.changed:
            starts = self._starts.get((namespace, pod, container), [])
            return "".join(f"{line}\n" for _, line in starts[-1].lines) if starts else ""

    def break_streams(self) -> None:
        """End all streams that follow, as when the connection to the kubelet breaks."""
        with self._store.changed:
            self._epoch += 1
            self._store.changed.notify_all()

    def read(
        self, namespace: str, pod: str, container: str, query: LogQuery, is_over: Callable[[], bool]
    ) -> Iterator[bytes]:
        """What is asked for, piece by piece; a stream that follows ends with its container.

        Raises:
            Refused: There is no such pod or container, or it has printed nothing yet; before the first piece.
        """
        with self._store.changed:
            start = self._chosen(namespace, pod, container, query.previous)
            epoch = self._epoch
            lines = [each for each in start.lines if query.since is None or each[0] >= query.since]
            seen = len(start.lines)
            if query.tail is not None:
                lines = lines[len(lines) - min(query.tail, len(lines)) :]
        return self._pieces(start, query, lines, seen, lambda: is_over() or epoch != self._epoch)

    def _pieces(
        self, start: Start, query: LogQuery, lines: list[tuple[datetime, str]], seen: int, is_over: Callable[[], bool]
    ) -> Iterator[bytes]:
        given = 0
        while True:
            data = "".join(_line(each, query.timestamps) for each in lines).encode()
            if start.is_cut and seen == len(start.lines):
                data = data.removesuffix(b"\n")
            if query.limit_bytes is not None:
                data = data[: query.limit_bytes - given]
            given += len(data)
            if data:
                yield data
            if not query.follow or given == query.limit_bytes:
                return
            with self._store.changed:
                while len(start.lines) == seen and not start.has_ended and not is_over():
                    self._store.changed.wait(0.2)
                lines, seen = start.lines[seen:], len(start.lines)
                if not lines:
                    return

    def _chosen(self, namespace: str, pod: str, container: str, previous: bool) -> Start:
        item = self._store.get("pods", namespace, pod)
        names = [each["name"] for each in item["spec"]["containers"]]
        if not container and len(names) > 1:
            raise bad_request(f"a container name must be specified for pod {pod}, choose one of: [{' '.join(names)}]")
        container = container or names[0]
        if container not in names:
            raise bad_request(f"container {container} is not valid for pod {pod}")
        starts = self._starts.get((namespace, pod, container), [])
        if previous:
            if len(starts) < 2:
                raise bad_request(f'previous terminated container "{container}" in pod "{pod}" not found')
            return starts[-2]
        if not starts:
            states = item["status"].get("containerStatuses") or [{}]
            waiting = states[0].get("state", {}).get("waiting")
            if waiting is None:
                return Start(has_ended=True)  # no node has it: pkg/registry/core/pod/strategy.go, LogLocation
            why = waiting.get("reason", "ContainerCreating")
            beginning = "trying and failing to pull image" if "Image" in why else f"waiting to start: {why}"
            raise bad_request(f'container "{container}" in pod "{pod}" is {beginning}')
        return starts[-1]


def _line(line: tuple[datetime, str], timestamps: bool) -> str:
    """With nine digits of a second, as container runtimes write them."""
    return f"{line[0]:%Y-%m-%dT%H:%M:%S.%f}000Z {line[1]}\n" if timestamps else f"{line[1]}\n"
