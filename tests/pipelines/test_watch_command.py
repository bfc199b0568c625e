"""`shutterline watch` as people and scripts use it: a process of its own, on real brokers."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from components.shared.events.data import (
    Cancelled,
    Error,
    Failed,
    PipelineEnded,
    PipelineStarted,
    StepOutcome,
    StepStarted,
)
from components.shared.events.event import PIPELINE
from tests.peers.noida import DurableKafkaBroker
from tests.pipelines.watchers import LONG_S, lines_of, parsed, publish, watched, watching
from tests.shared.events.sample_events import (
    A_SECOND,
    END,
    START,
    STEPS,
    Ending,
    EventSequence,
    a_pipeline,
    a_step,
    foreign,
    progress,
)

pytestmark = pytest.mark.usefixtures("leaky_kafka_client")

HOSTILE = "\x1b[2J\x1b]0;owned\x07\x1b[31mred\x9b1m \u202eevil [bold]x[/bold] \ud800 \r\n\tlong " * 20


def hostile(run: str) -> list[bytes]:
    """Events that are ours by every rule and bring whatever may stand in their texts and numbers."""
    bodies = []
    for step in ("étape", "x" * 500):
        voice = EventSequence(run, step)
        bodies.append(voice.next("started", StepStarted(HOSTILE, HOSTILE, None, HOSTILE)))
        bodies.append(voice.next("progress", progress(10**300, 10**30)))
        bodies.append(voice.next("progress", progress(0, 0, device=HOSTILE)))
        bodies.append(voice.next("failed", Failed(1e300, Error(HOSTILE, HOSTILE * 5), 10**60)))
    bodies.append(EventSequence(run, PIPELINE, 7).next("started", PipelineStarted(HOSTILE, [HOSTILE] * 100, "1", "h")))
    raw = json.loads(bodies[0])
    for number, moment in enumerate(("0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59")):
        changes = {
            "id": f"{run}/étape/0/{100 + number}",
            "time": moment,
            "data": {"version": "\ud800", "host": HOSTILE},
        }
        bodies.append(json.dumps(raw | changes).encode())
    return bodies


def a_long_run(run: str) -> tuple[list[bytes], bytes]:
    """Everything a run of many attempts tells, and its end."""
    *bodies, end = a_pipeline(run)
    for attempt in range(1, 50):
        voice = EventSequence(run, "train", attempt)
        bodies += [voice.next("progress", progress(epoch, 10)) for epoch in range(10)]
    return bodies + hostile(run), end


@pytest.mark.parametrize("as_json", [True, False])
def test_a_thousand_foreign_messages_break_nothing_and_hide_nothing(status: str, as_json: bool) -> None:
    good, end = a_long_run("fuzz")
    places = [True] * 1_000 + [False] * len(good)
    random.Random(5).shuffle(places)  # noqa: S311 - the same mixture again, protects nothing
    noise, events = foreign(20_261_123), iter(good)
    mixture = [next(noise) if is_foreign else next(events) for is_foreign in places]
    publish(status, [*mixture, end])

    done = watched("--kafka", status, "--until-done", "--run", "fuzz", *(["--json"] if as_json else []))

    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(good) + 1
    if as_json:
        assert sorted(map(repr, parsed(lines))) == sorted(map(repr, parsed([*good, end])))
        assert done.stdout.isascii()
    assert all(line.isprintable() for line in lines), "nothing a terminal would obey"
    assert done.stderr.splitlines()[1].startswith(f"{len(good) + 1:,} events, 1,000 foreign (the last ")
    assert done.stderr.count("\n") == 2


@pytest.mark.parametrize(("outcome", "code"), [("succeeded", 0), ("failed", 1), ("cancelled", 130)])
@pytest.mark.parametrize("events_of", [a_pipeline, a_step])
def test_the_exit_code_is_the_runs_outcome(
    status: str, events_of: Callable[[str, Ending], list[bytes]], outcome: Ending, code: int
) -> None:
    bodies = events_of("mine", outcome)
    publish(status, [*events_of("other", "succeeded"), *bodies, *a_step("later")])

    done = watched("--kafka", status, "--json", "--until-done", "--run", "mine")

    assert (done.returncode, parsed(done.stdout.splitlines())) == (code, parsed(bodies))


def test_a_run_that_was_retried_has_its_newest_outcome(status: str) -> None:
    pod = "a-pod-of-" + 70 * "x"
    again = EventSequence("run-1", "train", begin=START + 60 * A_SECOND, process=pod)
    retry = [again.next("started", StepStarted("1.0", pod, None, "image-classifier"))]
    publish(status, [*a_pipeline("run-1", "failed"), *retry])

    going_on = watched("--kafka", status, "--until-done", "--run", "run-1", "--timeout", "2")
    outcomes = [StepOutcome(step, "succeeded") for step in STEPS]
    end = PipelineEnded("image-classifier", "succeeded", "SUCCEEDED", "", outcomes)
    retry.append(again.next("succeeded", END["succeeded"]))
    retry.append(EventSequence("run-1", PIPELINE, begin=START + 90 * A_SECOND, process="pod-2").next("succeeded", end))
    publish(status, retry[1:])
    done = watched("--kafka", status, "--until-done", "--run", "run-1")

    assert (going_on.returncode, done.returncode) == (1, 0)
    assert "no end of run-1 within 2 s" in going_on.stderr
    assert f"train started: on {pod}\n" in done.stdout, "whole, as kubectl wants it"
    assert len(done.stdout.splitlines()) == 12 + len(retry)


def test_a_step_that_a_platform_starts_again_is_waited_for(status: str) -> None:
    """A container that was started again in its pod: the same host, and an attempt that knows of none before it."""

    def start(begin: int, process: str, state: Ending, end: Any) -> list[bytes]:
        voice = EventSequence("run-1", "train", begin=begin, process=process)
        started = StepStarted("1.0", "train-node-0-0")
        return [voice.next("started", started), voice.next("progress", progress(1, 3)), voice.next(state, end)]

    taken_away = Cancelled(9.5, "SIGTERM", 143, starts_again=True)
    publish(status, start(START, "1", "cancelled", taken_away))
    options = ("--kafka", status, "--until-done", "--run", "run-1", "--since", "beginning")
    ended = watched(*options)
    publish(status, start(time.time_ns() - 9 * A_SECOND, "2", "cancelled", taken_away))
    with watching(*options) as process:
        shown = lines_of(process, 6)
        publish(status, start(time.time_ns(), "3", "succeeded", END["succeeded"]))
        rest, _ = process.communicate(timeout=LONG_S)
    shown += rest.splitlines(keepends=True)

    assert (ended.returncode, process.returncode) == (130, 0)
    assert ended.stderr.endswith("\nrun-1: train cancelled, and did not start again within 15 min 00 s\n")
    assert len(shown) == 9
    assert [line[9:] for line in shown if " cancelled" in line] == [
        "run-1 train cancelled: after 10 s, SIGTERM, likely to start again\n"
    ] * 2


def test_without_a_run_the_first_one_that_comes_is_waited_for(status: str) -> None:
    publish(status, a_step("old", "failed"))
    first, second = a_step("first"), a_step("second", "failed")

    with watching("--kafka", status, "--until-done", "--json") as process, ThreadPoolExecutor() as pool:
        line = pool.submit(lines_of, process, 1)
        while not line.done():  # it reports that it watches before it is connected
            publish(status, first[:1])
            time.sleep(0.1)
        publish(status, [*second, *first[1:]])
        printed, _ = process.communicate(timeout=LONG_S)

    assert process.returncode == 0
    assert parsed([*line.result(), *printed.splitlines()]) == parsed([first[0], *second, *first[1:]])


def test_since_leaves_out_what_is_older(status: str) -> None:
    old, new = a_step("old"), a_step("new")
    publish(status, old, age_s=2 * 3600)
    publish(status, new)
    for since, bodies in ((["1h"], new), (["3h"], old + new), (["beginning"], old + new), ([], old + new)):
        with watching("--kafka", status, "--json", *(["--since"] * len(since)), *since) as process:
            assert parsed(lines_of(process, len(bodies))) == parsed(bodies)


def test_a_line_an_event_where_there_is_no_terminal(status: str) -> None:
    publish(status, a_pipeline("run-1", "failed"))

    done = watched("--kafka", status, "--until-done", "--run", "run-1", TZ="UTC")

    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert len(lines) == 12
    assert " run-1 train progress: epoch 2/3, 200/300 batches, train loss 0.3333, accuracy 0.6667" in lines[8]
    assert lines[10].endswith(
        " run-1 train failed: after 3 s, DataError: images/cat.png: is not an image; leave it out"
    )
    assert lines[11].endswith(" run-1 pipeline failed: image-classifier, train did not succeed")


def test_text_that_the_output_cannot_encode_is_no_crash(status: str) -> None:
    publish(status, [*hostile("run-1"), *a_step("run-2")])

    done = watched("--kafka", status, "--run", "run-1", "--timeout", "5", PYTHONIOENCODING="ascii", PYTHONUTF8="0")

    assert done.returncode == 0, done.stderr
    assert "\\xe9tape" in done.stdout


def test_a_broker_that_is_killed_and_comes_back_loses_nothing_and_shows_nothing_twice(
    own_kafka_broker: DurableKafkaBroker,
) -> None:
    own_kafka_broker.create_topic("status")
    address = f"{own_kafka_broker.bootstrap}/status"
    bodies = a_pipeline("run-1")

    with watching("--kafka", address, "--json", "--until-done", "--run", "run-1") as process:
        printed = []
        for start in range(0, len(bodies), 6):
            part = bodies[start : start + 6]
            publish(address, part)
            printed += lines_of(process, len(part))
            own_kafka_broker.kill()
            own_kafka_broker.start()
        rest, _ = process.communicate(timeout=LONG_S)

    assert process.returncode == 0
    assert rest == ""
    assert parsed(printed) == parsed(bodies)


def test_a_broker_that_stays_away_is_reported_on_standard_error(own_kafka_broker: DurableKafkaBroker) -> None:
    own_kafka_broker.create_topic("status")
    address = f"{own_kafka_broker.bootstrap}/status"
    own_kafka_broker.kill()
    bodies = a_step("run-1")

    with watching("--kafka", address, "--json", "--until-done", "--since", "now") as process:
        assert process.stderr is not None
        assert process.stderr.readline().endswith("; trying again\n")
        own_kafka_broker.start()
        publish(address, bodies)
        printed, log = process.communicate(timeout=LONG_S)

    assert process.returncode == 0
    assert parsed(printed.splitlines()) == parsed(bodies)
    assert log.splitlines() == [f"Kafka {own_kafka_broker.bootstrap} topic status is back",
                                "6 events, broker away 1 time"]  # fmt: skip
