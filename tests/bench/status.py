"""What status costs: the caller of `emit`, a training, and the way of an event to the broker."""

from __future__ import annotations

import logging
import os
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from kafka import KafkaProducer
from kafka.record import default_records
from kafka.record.util import calc_crc32c

from components.classifier.device import make_repeatable
from components.shared.events.data import Checkpoint, Emit, Progress, ignore_events
from components.shared.events.event import EventSource, encode
from components.shared.events.spool import Spool
from components.shared.events.stream import StatusStream
from components.shared.params.params import Params
from components.shared.status import transport_of
from components.train.progress import TrainingProgress
from components.train.state import manifest_of
from tests.bench.measure import Ratio, seconds
from tests.bench.training import COUNT, images_28, reference, trainer_on
from tests.peers.emulator import PubSubEmulator
from tests.peers.noida import KafkaBroker

TOPIC, PROJECT = "bench", "vision-1"
SOURCE = EventSource("run-bench", "train", 0, "bench")
EMITS, DELIVERED, ROUNDS = 5_000, 20_000, 41
_log = logging.getLogger("bench")


@contextmanager
def stream_to_both(folder: Path, *, healthy: bool) -> Iterator[StatusStream]:
    """A stream to Kafka and Pub/Sub, both of which answer, or accept and never answer."""
    with ExitStack() as stack:
        if healthy:
            kafka, emulator = stack.enter_context(KafkaBroker()), stack.enter_context(PubSubEmulator())
            kafka.create_topic(TOPIC)
            emulator.create_topic(PROJECT, TOPIC)
            kafka_host, pub_sub_host = kafka.bootstrap, emulator.host
        else:
            kafka_host, pub_sub_host = (stack.enter_context(_black_hole()) for _ in range(2))
        os.environ["PUBSUB_EMULATOR_HOST"] = pub_sub_host
        stack.callback(os.environ.pop, "PUBSUB_EMULATOR_HOST")
        named = {"KAFKA_HOST": kafka_host, "KAFKA_TOPIC": TOPIC}
        named |= {"PUB_SUB_PROJECT": PROJECT, "PUB_SUB_TOPIC": TOPIC}
        with stream_of(folder, reference(**named)) as stream:
            stream.emit(Progress(0, 1))
            stream.first_answers(3.0)
            yield stream


@contextmanager
def _black_hole() -> Iterator[str]:
    """An address where the system accepts connections and nobody ever answers; it costs this process no thread."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@contextmanager
def stream_of(folder: Path, params: Params) -> Iterator[StatusStream]:
    """A stream to the brokers of some params."""
    targets = params.status_targets
    spool = Spool.create(folder, SOURCE.run, SOURCE.step, 0, targets.as_ledger())
    stream = StatusStream(SOURCE, spool, [transport_of(*target) for target in targets.as_ledger().items()], log=_log)
    try:
        yield stream
    finally:
        stream.close(3.0)


def emit_times(folder: Path, *, healthy: bool) -> tuple[float, float]:
    """Median and 99th percentile of one `emit` on the caller's thread, microseconds.

    A millisecond passes between two, about what a fast training step takes.
    """
    progress = Progress(5, 100, "batches", 1, 10, 1234.5, {"train": 0.5}, {"accuracy": 0.9}, 1e-3, 60.0, "cpu")
    took = []
    with stream_to_both(folder, healthy=healthy) as stream:
        for _ in range(EMITS):
            start = time.perf_counter_ns()
            stream.emit(progress)
            took.append((time.perf_counter_ns() - start) / 1000)
            time.sleep(0.001)
    return statistics.median(took), statistics.quantiles(took, n=100)[98]


def training_with_status(folder: Path) -> Iterator[Ratio]:
    """(e) Training images a second with both brokers healthy and both black-holed, against no status at all."""
    images, labels = images_28()
    params = reference(num_epochs=10_000, eval_freq=10_000)

    def rate(emit: Emit) -> Callable[[], float]:
        trainer = trainer_on(images, labels, params)
        make_repeatable(params.manual_seed)
        status = TrainingProgress(
            params, emit, _log, batches=len(trainer.slices), images=COUNT, split="test", device="cpu"
        )
        position = trainer.position

        def epoch() -> None:
            trainer.train_epoch(lambda: status.step(position.epoch, position.batch, lambda: trainer.loss_so_far))
            record, _ = trainer.end_epoch()
            status.emit_epoch(record)
            status.emit_checkpoint(manifest_of(trainer, ""), folder)

        return lambda: COUNT / seconds(epoch)

    for healthy, name in ((True, "healthy"), (False, "black-holed")):
        with stream_to_both(folder / name, healthy=healthy) as stream:
            ours, theirs = rate(stream.emit), rate(ignore_events)
            ours(), theirs()
            pairs = [_alternating(ours, theirs, number) for number in range(ROUNDS)]
        yield Ratio(
            f"(e) training: status, both brokers {name} / none",
            [pair[0] for pair in pairs],
            [pair[1] for pair in pairs],
            "images/s",
            "at least 0.99",
        )


def _alternating(ours: Callable[[], float], theirs: Callable[[], float], number: int) -> tuple[float, float]:
    """One round; which side comes first alternates, so that a machine that slows down favours neither."""
    if number % 2:
        mine = ours()
        return mine, theirs()
    other = theirs()
    return ours(), other


def delivery_rates(folder: Path) -> Iterator[Ratio]:
    """(f) Events from `emit` to the broker's answer, against a bare loop of kafka-python's producer as it comes.

    By the clock, and by this process's CPU time, which a busy machine changes less.
    """
    event = Checkpoint(5, 100, "/checkpoints/epoch-00005.pt")  # a kind that is never let go
    body = encode(SOURCE, 0, "checkpoint", time.time_ns(), event).body
    ours, theirs = [], []
    with KafkaBroker() as broker, pytest.MonkeyPatch.context() as patch:
        broker.create_topic(TOPIC)
        params = reference(KAFKA_HOST=broker.bootstrap, KAFKA_TOPIC=TOPIC)
        for number in range(5):
            with stream_of(folder / str(number), params) as stream:
                stream.emit(event)
                stream.first_answers(10.0)

                def emit_all(stream: StatusStream = stream) -> None:
                    for _ in range(DELIVERED):
                        stream.emit(event)
                    assert stream.close(120.0).brokers["kafka"].undelivered == 0

                ours.append(_rates(emit_all))
            patch.setattr(default_records, "calc_crc32c", calc_crc32c)  # the client's own again
            producer = KafkaProducer(bootstrap_servers=[broker.bootstrap], linger_ms=20)
            producer.send(TOPIC, key=b"run", value=body).get(10)

            def send_all(producer: KafkaProducer = producer) -> None:
                for _ in range(DELIVERED):
                    producer.send(TOPIC, key=b"run", value=body)
                producer.flush(120.0)

            theirs.append(_rates(send_all))
            producer.close()
    for index, unit in enumerate(("events/s", "ev/CPU-s")):
        name = "(f) events to Kafka: the stream / a bare producer loop"
        yield Ratio(name, [rate[index] for rate in ours], [rate[index] for rate in theirs], unit, "at least 0.9")


def _rates(work: Callable[[], object]) -> tuple[float, float]:
    """Events a second, and a second of CPU time."""
    start = time.process_time()
    took = seconds(work)
    return DELIVERED / took, DELIVERED / (time.process_time() - start)


def emit_costs(folder: Path) -> Iterator[str]:
    """(d) One line for healthy brokers and one for black-holed ones."""
    for healthy in (True, False):
        median, p99 = emit_times(folder / f"emit-{healthy}", healthy=healthy)
        name = f"(d) emit(), both brokers {'healthy' if healthy else 'black-holed'}"
        yield f"{name:<58} median {median:6.1f} µs   p99 {p99:6.1f} µs   p99 at most 50"
