"""``shutterline events``: delivering later, and the schema."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from components.shared import status
from components.shared.errors import StatusRefusedError
from components.shared.events import delivery
from components.shared.events.event import event_schema
from components.shared.run import EVENTS_VARIABLE, RUN_VARIABLE
from pipelines.cli import main
from tests.configs import small
from tests.peers.http_faults import Refuse
from tests.peers.noida import DurableKafkaBroker
from tests.peers.object_store import Bucket
from tests.pipelines.conftest import Capsys, Environment
from tests.shared.events.transports import WAIT_S, ScriptedTransport, Takes, left_spool, lines_of, stream_to, until


class Brokers(dict[str, ScriptedTransport]):
    """The brokers that the command finds, by name; those that no test has put here take everything."""

    def __call__(self, name: str, target: dict[str, Any]) -> ScriptedTransport:
        return self.setdefault(name, ScriptedTransport(name, address=f"{name} {target['topic']}"))


@pytest.fixture
def brokers(monkeypatch: Environment) -> Brokers:
    brokers = Brokers()
    monkeypatch.setattr(status, "transport_of", brokers)
    monkeypatch.setattr(delivery, "PAUSES_S", (0.001, 0.001))
    return brokers


def params_file(directory: Path, **changes: Any) -> str:
    file = directory / "params.json"
    file.write_text(json.dumps(small(**changes)))
    return str(file)


def test_replay_delivers_what_is_left_in_order_and_repeating_is_harmless(
    tmp_path: Path, capsys: Capsys, brokers: Brokers
) -> None:
    prepared = left_spool(tmp_path, lines_of(3, step="data-prep"), "kafka", "pubsub", step="data-prep")
    trained = left_spool(tmp_path, lines_of(2), "kafka")

    assert main(["events", "replay", str(tmp_path)]) == 0
    assert capsys.readouterr() == (
        f"{prepared}: 3 events to kafka status\n"
        f"{trained}: 2 events to kafka status\n"
        f"{prepared}: 3 events to pubsub status\n",
        "",
    )
    prepared_ids = [f"run-1/data-prep/0/{number}" for number in range(3)]
    assert brokers["kafka"].ids == [*prepared_ids, "run-1/train/0/0", "run-1/train/0/1"]
    assert brokers["pubsub"].ids == prepared_ids

    assert main(["events", "replay", str(prepared), str(trained)]) == 0
    assert capsys.readouterr().out.count(": 0 events to ") == 3
    assert len(brokers["kafka"].taken) == 5


def test_what_stays_undelivered_is_reported_and_exits_1(tmp_path: Path, capsys: Capsys, brokers: Brokers) -> None:
    path = left_spool(tmp_path, lines_of(3), "kafka")
    refused = StatusRefusedError("kafka status: no such topic")
    brokers["kafka"] = ScriptedTransport(
        acts=[Takes(1), *[refused] * 100_000], address="kafka status"
    )  # fmt: skip

    assert main(["events", "replay", str(path), "--timeout", "0.3"]) == 1
    assert capsys.readouterr().out == f"{path}: 1 events to kafka status, 2 not: kafka status: no such topic\n"

    assert main(["events", "replay", str(path), "--timeout", "0.3", "--json"]) == 1
    of_broker = {"broker": "kafka", "place": "kafka status", "trouble": "kafka status: no such topic"}
    counts = {"delivered": 0, "undelivered": 2, "too_large": 0}
    assert json.loads(capsys.readouterr().out) == {
        "status": "undelivered",
        "spools": [{"spool": str(path), **of_broker, **counts}],
    }
    del brokers["kafka"]
    assert main(["events", "replay", str(path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["status"] == "delivered"
    assert [(entry["delivered"], entry["undelivered"]) for entry in document["spools"]] == [(2, 0)]


def test_params_name_other_brokers(tmp_path: Path, capsys: Capsys, brokers: Brokers) -> None:
    path = left_spool(tmp_path / "events", lines_of(2), "kafka")
    params = params_file(tmp_path, PUB_SUB_PROJECT="vision-1", PUB_SUB_TOPIC="rescue")
    assert main(["events", "replay", str(path), "--params", params]) == 0
    assert capsys.readouterr().out == f"{path}: 2 events to pubsub projects/vision-1/topics/rescue\n"
    assert list(brokers) == ["pubsub"]
    assert brokers["pubsub"].ids == ["run-1/train/0/0", "run-1/train/0/1"]


def test_a_spool_that_was_meant_for_nobody_is_delivered_where_params_say(
    tmp_path: Path, capsys: Capsys, brokers: Brokers
) -> None:
    path = left_spool(tmp_path / "events", lines_of(2))
    assert main(["events", "replay", str(path)]) == 2
    assert capsys.readouterr().err == f"error: {path}: its run named no broker; name one by --params\n"
    params = params_file(tmp_path, KAFKA_HOST="localhost", KAFKA_TOPIC="status")
    assert main(["events", "replay", str(path), "--params", params]) == 0
    assert brokers["kafka"].ids == ["run-1/train/0/0", "run-1/train/0/1"]


def bad(capsys: Capsys, *arguments: object) -> str:
    """The one line that a call with exit code 2 leaves; with --json also the document."""
    command = ["events", "replay", *map(str, arguments)]
    assert main(command) == 2
    out, err = capsys.readouterr()
    assert main([*command, "--json"]) == 2
    document = json.loads(capsys.readouterr().out)
    assert (out, document["status"], err) == ("", "failed", f"error: {document['error']['message']}\n")
    return err


def test_what_cannot_be_replayed_exits_2_with_one_line(tmp_path: Path, capsys: Capsys, brokers: Brokers) -> None:
    notes, empty = tmp_path / "notes.txt", tmp_path / "empty"
    notes.touch()
    empty.mkdir()
    path = left_spool(tmp_path / "events", lines_of(1), "kafka")

    assert "nowhere: is not there" in bad(capsys, tmp_path / "nowhere")
    assert "empty: has no spools; a run keeps them in its directory events/" in bad(capsys, empty)
    assert "notes.txt: is not a spool; its name would be RUN.STEP.ATTEMPT.jsonl" in bad(capsys, notes)
    assert "names no broker" in bad(capsys, path, "--params", params_file(tmp_path))
    assert "batch_size" in bad(capsys, path, "--params", params_file(tmp_path, batch_size=0))
    assert brokers == {}

    stream = stream_to(tmp_path / "live", ScriptedTransport())
    assert "its step is still running and delivers it itself" in bad(capsys, tmp_path / "live")
    stream.close(WAIT_S)


def test_wrong_credentials_exit_2(tmp_path: Path, capsys: Capsys, monkeypatch: Environment) -> None:
    def refuse(name: str, target: dict[str, Any]) -> ScriptedTransport:
        raise StatusRefusedError("KAFKA_SASL_PASSWORD is missing")

    monkeypatch.setattr(status, "transport_of", refuse)
    path = left_spool(tmp_path, lines_of(1), "kafka")
    assert bad(capsys, str(path)) == "error: KAFKA_SASL_PASSWORD is missing\n"


# The real frame around work that only reports progress, so that it starts in half a second.
TALKING = """
import os, sys, time
from components.shared.events.data import Checkpoint, Progress
from components.shared.run import step_run
from components.shared.step import run_step

def work(params, emit):
    for epoch in range(1, 6):
        emit(Progress(epoch, 5, "batches", epoch, 5, metrics={"accuracy": 0.5}))
    emit(Checkpoint(5, 5, "gs://bucket/" + os.environ["SOME_API_KEY"]))
    time.sleep(600)

run_step("train", open(sys.argv[1]).read(), work, lambda: step_run(in_pipeline=True))
"""


def test_what_a_killed_step_left_in_a_bucket_is_delivered(
    bucket: Bucket, tmp_path: Path, capsys: Capsys, topic: str, leaky_kafka_client: None
) -> None:
    events = f"{bucket.uri}/runs/7/events"
    with DurableKafkaBroker() as broker:
        broker.create_topic(topic)
        broker.kill()
        params = params_file(tmp_path, KAFKA_HOST=broker.bootstrap, KAFKA_TOPIC=topic, TIMEOUT=1)
        environment = {EVENTS_VARIABLE: events, RUN_VARIABLE: "run-1", "SOME_API_KEY": "hunter2-hunter2"}
        command = [sys.executable, "-c", TALKING, params]
        step = subprocess.Popen(command, env=os.environ | environment, stderr=subprocess.PIPE)
        try:
            spool = f"{events}/run-1.train.0.jsonl"
            name = spool.removeprefix(f"{bucket.uri}/")
            until(
                lambda: step.poll() is not None or (name in bucket.names() and b"step.checkpoint" in bucket.read(name))
            )
        finally:
            step.kill()
            said = step.communicate()[1]
        assert step.returncode == -signal.SIGKILL, said
        left = bucket.read(name)
        assert b"hunter2" not in b"".join(bucket.objects().values())
        broker.start()

        assert main(["events", "replay", events]) == 0
        count = left.count(b"\n")
        assert capsys.readouterr().out.startswith(f"{spool}: {count} events to Kafka")
        assert [record.value for record in broker.records(topic)] == left.splitlines()
        assert bucket.read(name) == left

        for named in (events, f"{events}/", spool):
            assert main(["events", "replay", named]) == 0
            assert capsys.readouterr().out.startswith(f"{spool}: 0 events to Kafka")
        assert len(broker.records(topic)) == count


@pytest.mark.parametrize("bucket", ["gs"], indirect=True)
def test_what_in_a_bucket_cannot_be_replayed_exits_2_with_one_line(bucket: Bucket, capsys: Capsys) -> None:
    bucket.write("empty/run-1.train.0.jsonl", b"a claim")
    for uri, expected in (
        (f"{bucket.uri}/empty", "empty: has no spools with events (RUN.STEP.ATTEMPT.jsonl); check the address"),
        (f"{bucket.uri}/empty/run-1.train.1.jsonl", "run-1.train.1.jsonl: is not there, or holds no events"),
        ("gs://no-such-bucket-here/events", "there is no bucket no-such-bucket-here"),
        ("azure://bucket/events", "azure:// is not known here"),
    ):
        assert expected in bad(capsys, uri)


@pytest.mark.parametrize("bucket", ["gs"], indirect=True)
def test_a_ledger_that_cannot_be_put_back_is_reported_and_the_events_are_there(
    bucket: Bucket, tmp_path: Path, brokers: Brokers, capsys: Capsys
) -> None:
    path = left_spool(tmp_path, lines_of(3), "kafka")
    for file in tmp_path.iterdir():
        bucket.write(f"events/{file.name}", file.read_bytes())
    bucket.faults.inject(Refuse(403), "write", times=None)
    assert main(["events", "replay", f"{bucket.uri}/events"]) == 0
    reported = capsys.readouterr()
    assert reported.out == f"{bucket.uri}/events/{path.name}: 3 events to kafka status\n"
    assert reported.err.count("\n") == 1
    assert "the next replay delivers the same events again, under the same ids" in reported.err
    assert len(brokers["kafka"].taken) == 3


def test_the_schema_is_printed_as_it_is_published(capsys: Capsys) -> None:
    assert main(["events", "schema"]) == 0
    printed = capsys.readouterr().out
    published = Path(delivery.__file__).with_name("schema-v1.json").read_text(encoding="utf-8")
    assert printed == published
    assert json.loads(printed) == event_schema()
