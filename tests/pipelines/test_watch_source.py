"""What `shutterline watch` watches, by its options and params, and what it refuses with exit code 2."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.watch_command import one_line
from pipelines.watch_source import subscribe
from tests.examples import SMALL
from tests.peers.kafka_topics import KafkaTopics
from tests.peers.pubsub_topics import PubSubTopics
from tests.pipelines.conftest import ROOT, Environment, Refused, Shutterline
from tests.pipelines.watchers import LONG_S, WATCH, lines_of, publish, watching
from tests.shared.events.sample_events import a_step

KAFKA = {"KAFKA_HOST": "a,b:9093", "KAFKA_TOPIC": "status"}
PUB_SUB = {"PUB_SUB_PROJECT": "project-x", "PUB_SUB_TOPIC": "status", "PUB_SUB_SUBSCRIPTION": "watchers"}


def params(**more: str) -> str:
    return json.dumps(SMALL | more)


def address(
    kafka: str | None = None, pubsub: str | None = None, params: str | None = None, overrides: tuple[str, ...] = ()
) -> str:
    return subscribe(kafka, pubsub, params, overrides, None, None, from_now=False).address


def test_what_is_watched() -> None:
    watchers = "Pub/Sub projects/project-x/subscriptions/watchers"
    assert address("localhost/status") == "Kafka localhost:9092 topic status"
    assert address("a:1,[::1]:2/s.t-1") == "Kafka a:1,[::1]:2 topic s.t-1"
    assert address("", params=params(**KAFKA)) == "Kafka a:9092,b:9093 topic status"
    assert address(params=params(**KAFKA, **PUB_SUB)) == "Kafka a:9092,b:9093 topic status"
    assert address("c/t", params=params(**KAFKA)) == "Kafka c:9092 topic t"
    assert address(params=params(**KAFKA), overrides=("KAFKA_TOPIC=other",)) == "Kafka a:9092,b:9093 topic other"
    assert address(params=params(**PUB_SUB)) == watchers
    assert address(pubsub="", params=params(**KAFKA, **PUB_SUB)) == watchers
    for project in ("project-y", "example.com:project-y"):
        mine = f"projects/{project}/subscriptions/mine"
        assert address(pubsub=f"{project}/mine") == address(pubsub=mine) == f"Pub/Sub {mine}"


def test_params_may_be_a_file_of_any_kind(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(params(**KAFKA))
    (tmp_path / "p.py").write_text(f"params = {SMALL | KAFKA!r}")
    (tmp_path / "p.yaml").write_text(params(**KAFKA))  # JSON is YAML

    for file in ("p.json", "p.py", "p.yaml"):
        assert address(params=str(tmp_path / file)) == "Kafka a:9092,b:9093 topic status"


@pytest.mark.parametrize("since", ["beginning", "now", "90s", "10m", "24h", "7d", "2026-01-01", "2026-01-01T10:00Z"])
def test_moments_that_are_allowed(since: str) -> None:
    subscribe("a/b", None, None, (), since, None, from_now=False)


BAD: dict[str, tuple[list[str], str]] = {
    "nothing named": ([], "nothing to watch: name it by --kafka HOST/TOPIC, --pubsub SUBSCRIPTION or --params FILE"),
    "both named": (["--kafka", "a/b", "--pubsub", "project-x/s"], "only one can be watched at a time"),
    "params without brokers": (["--params", params()], "params: names neither KAFKA_TOPIC nor PUB_SUB_SUBSCRIPTION"),
    "params without a topic": (["--kafka", "--params", params(**PUB_SUB)], "params: no KAFKA_TOPIC"),
    "params without a subscription": (["--pubsub", "--params", params(**KAFKA)], "params: no PUB_SUB_SUBSCRIPTION"),
    "--kafka without params": (["--kafka"], "--kafka: no --params are given"),
    "--pubsub without params": (["--pubsub"], "--pubsub: no --params are given"),
    "--set without params": (["--kafka", "a/b", "--set", "x=1"], "--set: changes params, and none are given"),
    "no topic": (["--kafka", "localhost:9092"], "--kafka: must be HOST[,HOST]/TOPIC, got 'localhost:9092'"),
    "an empty topic": (["--kafka", "localhost:9092/"], "--kafka: must be 1 to 249 letters"),
    "a topic with a space": (["--kafka", "localhost/a b"], "--kafka: must be 1 to 249 letters"),
    "a host that is none": (["--kafka", "a b/t"], "--kafka: 'a b' is not host or host:port"),
    "a port that is none": (["--kafka", "a:99999/t"], "--kafka: 'a:99999' is not host or host:port"),
    "a topic's name for Pub/Sub": (["--pubsub", "projects/project-x/topics/t"], "--pubsub: must be projects/P/sub"),
    "a subscription alone": (["--pubsub", "watchers"], "--pubsub: must be projects/P/subscriptions/S or P/S"),
    "a project that is none": (["--pubsub", "X/watchers"], "--pubsub: must be a project id"),
    "a subscription that is none": (["--pubsub", "project-x/a"], "--pubsub: must be 3 to 255 letters"),
    "--since of Pub/Sub": (["--pubsub", "project-x/sub", "--since", "1h"], "--since: is for Kafka"),
    "--group of Pub/Sub": (["--pubsub", "project-x/sub", "--group", "g"], "--group: is for Kafka"),
    "--group with a space": (["--kafka", "a/b", "--group", "a b"], "--group: must be 1 to 249 letters"),
    "--since yesterday": (["--kafka", "a/b", "--since", "yesterday"], "--since: must be beginning, now, a span"),
    "--since too long ago": (["--kafka", "a/b", "--since", "999999999d"], "--since: must be beginning, now, a span"),
    "--since in the future": (["--kafka", "a/b", "--since", "9000-01-01"], "--since: 9000-01-01 is in the future"),
    "--run that is none": (["--kafka", "a/b", "--run", "../x"], "--run: '../x' is not a run's id"),
    "params that are not there": (["--params", "nowhere.json"], "nowhere.json: there is no such file"),
    "params that are wrong": (["--params", params(KAFKA_HOST="a")], "KAFKA_TOPIC"),
    "credentials not there": (
        ["--params", params(**PUB_SUB, GOOGLE_APPLICATION_CREDENTIALS="nowhere.json")],
        "GOOGLE_APPLICATION_CREDENTIALS: nowhere.json cannot be read: No such file or directory; mount it",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_options(case: str, refused: Refused, shutterline: Shutterline) -> None:
    options, message = BAD[case]
    assert message in refused("watch", *options)
    done = shutterline("watch", *options, "--json")
    assert (done.code, done.out, message in done.err) == (2, "", True), "standard output is for events alone"


def test_a_topic_or_subscription_that_is_not_there(
    kafka_broker: KafkaTopics, pubsub_emulator: PubSubTopics, shutterline: Shutterline, monkeypatch: Environment
) -> None:
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", pubsub_emulator.host)

    kafka = shutterline("watch", "--kafka", f"{kafka_broker.bootstrap}/missing")
    pubsub = shutterline("watch", "--pubsub", "project-x/missing")

    address = f"Kafka {kafka_broker.bootstrap} topic missing"
    assert kafka.code == pubsub.code == 2
    assert kafka.err.splitlines()[-1] == (
        f"error: {address}: there is no such topic; create it, it is not made by itself"
    )
    assert "missing" not in kafka_broker.topics()
    assert "has no subscription projects/project-x/subscriptions/missing; create it" in pubsub.err.splitlines()[-1]


def test_security_settings_that_are_wrong(refused: Refused, monkeypatch: Environment) -> None:
    monkeypatch.setenv("KAFKA_SASL_USERNAME", "somebody")
    message = refused("watch", "--kafka", "a/b")
    assert "KAFKA_SASL_USERNAME is set, but KAFKA_SECURITY_PROTOCOL is PLAINTEXT" in message


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)])
def test_being_asked_to_stop_is_quiet(status: str, number: signal.Signals, code: int) -> None:
    publish(status, a_step("run-1"))

    with watching("--kafka", status, "--since", "beginning", "--json") as process:
        lines_of(process, 6)
        process.send_signal(number)
        printed, reported = process.communicate(timeout=LONG_S)

    assert (process.returncode, printed) == (code, "")
    assert reported in ("6 events\n", "5 events\n"), (
        "the last one may be interrupted between its showing and its counting"
    )


def in_a_shell(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/bash", "-c", script], capture_output=True, text=True, cwd=ROOT, timeout=LONG_S, check=False
    )


def test_a_reader_that_has_seen_enough_is_no_traceback(status: str) -> None:
    publish(status, a_step("run-1", epochs=300))

    done = in_a_shell(f"{' '.join(WATCH)} --kafka {status} --since beginning --json | head -2; echo ${{PIPESTATUS}}")

    *events, code = done.stdout.splitlines()
    assert [json.loads(event)["sequence"] for event in events] == ["000000000", "000000001"]
    assert code == "1"
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


def test_a_full_disk_is_one_message(status: str) -> None:
    publish(status, a_step("run-1"))

    done = in_a_shell(f"{' '.join(WATCH)} --kafka {status} > /dev/full")

    message = "error: standard output cannot be written: No space left on device"
    assert (done.returncode, done.stderr.splitlines()[1:]) == (1, ["0 events", message])


def test_nothing_heavy_is_loaded_to_watch_without_a_terminal() -> None:
    probe = (
        "import sys; from pipelines.cli import main; code = main(['watch', '--kafka', '127.0.0.1:1/t', '--json', "
        "'--timeout', '0.1']); print(code, sorted(m for m in ('torch', 'kfp', 'rich', 'google.pubsub_v1', 'numpy') "
        "if m in sys.modules))"
    )
    assert subprocess.check_output([sys.executable, "-c", probe], text=True, cwd=ROOT) == "0 []\n"


@pytest.mark.parametrize(
    ("document", "line"),
    [
        ('{\n "a": [1,\t2.50]}', '{"a":[1,2.5]}'),
        ('{"a": NaN, "b": -Infinity, "c": 1e999}', '{"a":null,"b":null,"c":null}'),
        ('{"a": "\\u001b[31m \x9b é\u2028 \\ud800"}', '{"a":"\\u001b[31m \\u009b \\u00e9\\u2028 \\ud800"}'),
        ('{"a": 1, "a": 2}', '{"a":2}'),
    ],
)
def test_a_document_on_one_line(document: str, line: str) -> None:
    assert one_line(document.encode()) == line
