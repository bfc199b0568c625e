"""What the exit step costs where it asks everything that it can ask."""

from __future__ import annotations

import logging
import os
import statistics
import time
from contextlib import ExitStack
from pathlib import Path

from components.exit_step.step import report_end
from components.shared.events.data import Progress, StepStarted, Succeeded
from components.shared.events.event import EncodedEvent, EventSource, encode
from components.shared.events.kafka.publisher import KafkaTransport
from components.shared.events.targets import StatusTargets
from components.shared.retry import countdown
from components.shared.run import PIPELINE_NAME, StepRun
from tests.peers.kubeflow_runs import KubeflowRuns
from tests.peers.noida import KafkaBroker

TOPIC = "bench"
RUNS, EVENTS = 200, 100  # of other runs on the topic


def exit_step_time(_: Path) -> str:
    """(p) Seconds that an exit step takes to read a topic of 20,000 events and to ask Kubeflow."""
    with ExitStack() as stack:
        broker, api = stack.enter_context(KafkaBroker()), stack.enter_context(KubeflowRuns("succeeded"))
        broker.create_topic(TOPIC)
        transport = KafkaTransport([broker.bootstrap], TOPIC)
        for number in range(RUNS):
            event_source = EventSource(f"run-{number}", "train", 0, "bench")
            progress = [Progress(step, EVENTS, "batches", 1, 10, 1.0, {"train": 0.5}) for step in range(EVENTS - 2)]
            told = [("started", StepStarted("0", "pod")), *(("progress", each) for each in progress)]
            told.append(("succeeded", Succeeded(1.0)))
            lines = [encode(event_source, i, state, time.time_ns(), data).body for i, (state, data) in enumerate(told)]  # type: ignore[arg-type] # states
            transport.send([EncodedEvent.from_body(line) for line in lines], countdown(30))
        transport.close()
        targets = StatusTargets(kafka_servers=(broker.bootstrap,), kafka_topic=TOPIC)
        run = StepRun("run-7", PIPELINE_NAME, 0, None, shared=False, host="pod", platform_run="run-7")
        stack.callback(os.environ.pop, "KFP_POD_NAME")
        stack.callback(os.environ.pop, "KF_PIPELINES_ENDPOINT")
        os.environ |= {"KFP_POD_NAME": "pod", "KF_PIPELINES_ENDPOINT": api.url}
        logging.disable(logging.WARNING)
        times = []
        for _round in range(6):
            start = time.perf_counter()
            report_end(state="COMPLETE", run=run, targets=targets)
            times.append(time.perf_counter() - start)
        logging.disable(logging.INFO)
    name = "(p) exit step: Kafka (20,000 events) and Kubeflow asked"
    return f"{name:<58} median {statistics.median(times[1:]):.2f} s   longest {max(times[1:]):.2f} s   at most 2"
