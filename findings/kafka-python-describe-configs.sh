#!/usr/bin/env bash
# What kafka-python's admin client says of a topic's settings when there is nothing to say, or no such topic.
#
# Versions: kafka-python 3.0.12, confluent-kafka 2.16.1 (librdkafka); broker: noida-db 0.2.3.
# Seen: 2026-11-28, Python 3.11.7, Linux x86-64.
#
# Guess, before the first run: describe_configs lists every setting of a topic, defaults included, as Java's client and
# kafka-configs --all do; a topic that does not exist raises UnknownTopicOrPartitionError.
#
# What the guess missed: without an argument it lists only what differs from a default (the documentation of the method
# says so), so a setting that is asked for by its name may be absent, and a topic with defaults alone is an empty dict.
# A topic that does not exist, for which the broker answers error 3, is the same empty dict: the answer's error code is
# dropped, whatever config_filter is. So "no limit is set", "ask differently" and "there is no such topic" cannot be
# told apart. librdkafka lists the defaults and raises the broker's error for the same two requests.
set -euo pipefail

work=$(mktemp -d)
broker=
cleanup() {
    if [ -n "$broker" ]; then
        kill "$broker" 2>/dev/null || true
        wait "$broker" 2>/dev/null || true
    fi
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 143' INT TERM
cd "$work"

"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check kafka-python==3.0.12 confluent-kafka==2.16.1 noida-db==0.2.3

port=$(venv/bin/python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
binary=$(venv/bin/python -c 'import importlib.resources as r; print(r.files("noida_db") / "noida-db")')
chmod +x "$binary"
"$binary" start --only kafka --host 127.0.0.1 --kafka-port "$port" --data-dir "$work/data" >broker.log 2>&1 &
broker=$!

cat >program.py <<'PY'
import sys
import time

import confluent_kafka
import kafka
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin import ConfigResource as RdResource
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType, NewTopic
from kafka.errors import KafkaError

SERVER, SETTING = sys.argv[1], "max.message.bytes"
differs = []


def see(what, seen, expected):
    print(f"{what}: {seen}")
    if seen != expected:
        differs.append(f"{what}: saw {seen!r}, and it was {expected!r}")


def admin_client():
    for _ in range(100):
        try:
            return KafkaAdminClient(bootstrap_servers=SERVER)
        except KafkaError:
            time.sleep(0.1)
    raise SystemExit("the broker does not answer")


admin = admin_client()
rd_admin = AdminClient({"bootstrap.servers": SERVER})


def ask(topic, **options):
    asked = ConfigResource(ConfigResourceType.TOPIC, topic, [SETTING])
    return {name: found["value"] for name, found in admin.describe_configs([asked], **options)["topic"][topic].items()}


def rd_ask(topic):
    (future,) = rd_admin.describe_configs([RdResource(RdResource.Type.TOPIC, topic)]).values()
    try:
        return SETTING in future.result(20)
    except confluent_kafka.KafkaException as error:
        return error.args[0].name()


print(f"kafka-python {kafka.__version__}, librdkafka {confluent_kafka.libversion()[0]}")
admin.create_topics([NewTopic("defaults", 1, 1), NewTopic("limited", 1, 1)])
admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, "limited", {SETTING: "4000"})])
see("kafka-python, a topic with a limit", ask("limited"), {SETTING: "4000"})
see("kafka-python, a topic with defaults", ask("defaults"), {})
see("kafka-python, the same, config_filter='all'", ask("defaults", config_filter="all").keys(), {SETTING})
see("kafka-python, no such topic", ask("absent"), {})
see("kafka-python, the same, config_filter='all'", ask("absent", config_filter="all"), {})
see("librdkafka, a topic with defaults: listed", rd_ask("defaults"), True)
see("librdkafka, no such topic", rd_ask("absent"), "UNKNOWN_TOPIC_OR_PART")

if differs:
    raise SystemExit("this has changed:\n" + "\n".join(differs))
print("as it was seen")
PY
timeout 120 venv/bin/python -W ignore program.py "127.0.0.1:$port" 2>errors.log || {
    tail -n 30 errors.log broker.log >&2
    exit 1
}
