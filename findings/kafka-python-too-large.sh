#!/usr/bin/env bash
# What a record above a topic's max.message.bytes does to a producer, in two Python clients of Kafka.
#
# Versions: kafka-python 3.0.12, confluent-kafka 2.16.1 (librdkafka); broker: noida-db 0.2.3, which enforces the limit.
# Seen: 2026-11-28, Python 3.11.7, Linux x86-64.
#
# Guess, before the first run: as Java's client does it. A refused batch is split until it fits; flush() returns once
# every record has its outcome; one record that is too large by itself fails alone, and the producer goes on.
#
# What the guess missed:
# - kafka-python splits, but flush() raises UnknownError "Future not done" at the first split, at once and before the
#   halves are answered, although every record fits and arrives. Waiting for each record's own future is sound.
# - After one record was refused, a kafka-python producer with default settings (idempotent) is finished: every later
#   record fails with that record's error, "message size too large", whatever its own size and topic state, and so does
#   what stood behind it in the same batch. Nothing of it is sent. A new producer delivers; so does the same one with
#   enable_idempotence=False, which carries on after the refusal.
# - librdkafka does not split: eight records that fit one by one are all refused, because their batch does not. Its
#   idempotent producer carries on afterwards. So neither client delivers everything that fits.
#
# The broker is no Apache Kafka. Apache Kafka 4.4.0 showed the second point to the project that wrote this: nothing
# behind such a record arrived.
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
import os
import sys
import time

import confluent_kafka
import kafka
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, NewTopic
from kafka.errors import KafkaError

SERVER = sys.argv[1]
LIMIT, SMALL, LARGE = 4_000, 1_000, 9_000
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


def topic(name):
    admin.create_topics([NewTopic(name, 1, 1)])
    admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, {"max.message.bytes": str(LIMIT)})])
    return name


def body(name, size):
    return f"{name} ".encode() + os.urandom(size)


def log(name):
    partition, names = TopicPartition(name, 0), []
    consumer = KafkaConsumer(bootstrap_servers=SERVER)
    consumer.assign([partition])
    end = consumer.end_offsets([partition])[partition]
    consumer.seek_to_beginning(partition)
    while consumer.position(partition) < end:
        for records in consumer.poll(500).values():
            names += [record.value.split(b" ", 1)[0].decode() for record in records]
    consumer.close()
    return " ".join(names)


def outcome(future):
    try:
        future.get(20)
        return "taken"
    except KafkaError as error:
        return type(error).__name__


def send(producer, name, records):
    """Send records as one batch; the outcome of each, once it has one."""
    futures = {each: producer.send(name, body(each, LARGE if each == "LARGE" else SMALL)) for each in records.split()}
    try:
        producer.flush(20)
        flushed = "returned"
    except KafkaError as error:
        flushed = f"raised {error.args[0] if error.args else type(error).__name__}"
    waiting = sum(not future.is_done for future in futures.values())
    return flushed, waiting > 0, {each: outcome(future) for each, future in futures.items()}


def producer(**settings):
    return KafkaProducer(bootstrap_servers=SERVER, linger_ms=300, **settings)


TOO_LARGE = "MessageSizeTooLargeError"
print(f"kafka-python {kafka.__version__}, librdkafka {confluent_kafka.libversion()[0]}, max.message.bytes {LIMIT}")
see("idempotent by default", KafkaProducer.DEFAULT_CONFIG["enable_idempotence"], True)

name = topic("all-fit")
one = producer()
flushed, waiting, outcomes = send(one, name, "a b c d e f g h")
see("kafka-python, 8 records of 1,000 bytes in one batch: flush", flushed, "raised Future not done")
see("  records without an outcome were left then", waiting, True)
see("  their own futures", set(outcomes.values()), {"taken"})
see("  the log", log(name), "a b c d e f g h")
one.close(timeout=5)

name = topic("one-too-large")
one = producer()
see("kafka-python, idempotent: a", send(one, name, "a")[2], {"a": "taken"})
see("  one record of 9,000 bytes", send(one, name, "LARGE")[2], {"LARGE": TOO_LARGE})
see("  small ones after it", send(one, name, "b c")[2], {"b": TOO_LARGE, "c": TOO_LARGE})
time.sleep(2)
see("  two seconds later", send(one, name, "d")[2], {"d": TOO_LARGE})
other = topic("another-topic")
see("  to another topic", send(one, other, "e")[2], {"e": TOO_LARGE})
see("  the logs", (log(name), log(other)), ("a", ""))
new = producer()
see("  a new producer", send(new, name, "b c d")[2], {"b": "taken", "c": "taken", "d": "taken"})
see("  the log", log(name), "a b c d")
new.close(timeout=5)

name = topic("in-the-middle")
one = producer()
outcomes = send(one, name, "a b LARGE c d")[2]
see(
    "kafka-python, idempotent, one batch",
    outcomes,
    {"a": "taken", "b": "taken", "LARGE": TOO_LARGE, "c": TOO_LARGE, "d": TOO_LARGE},
)
see("  the log", log(name), "a b")

name = topic("not-idempotent")
one = producer(enable_idempotence=False)
see("kafka-python, not idempotent: too large", send(one, name, "LARGE")[2], {"LARGE": TOO_LARGE})
see("  small ones after it", send(one, name, "b c")[2], {"b": "taken", "c": "taken"})
one.close(timeout=5)


def rd_send(producer, name, records):
    outcomes = {}

    def delivered(each):
        return lambda error, _: outcomes.update({each: error.name() if error else "taken"})

    for each in records.split():
        size = LARGE if each == "LARGE" else SMALL
        producer.produce(name, body(each, size), on_delivery=delivered(each))
    left = producer.flush(20)
    return left, outcomes


name = topic("librdkafka")
one = confluent_kafka.Producer({"bootstrap.servers": SERVER, "enable.idempotence": True, "linger.ms": 300})
left, outcomes = rd_send(one, name, "a b c d e f g h")
see("librdkafka, idempotent, 8 records of 1,000 bytes in one batch", set(outcomes.values()), {"MSG_SIZE_TOO_LARGE"})
see("  all have an outcome when flush returns, and the log is", (left, log(name)), (0, ""))
see("  small ones after it", rd_send(one, name, "i j"), (0, {"i": "taken", "j": "taken"}))
see("  the log", log(name), "i j")

if differs:
    raise SystemExit("this has changed:\n" + "\n".join(differs))
print("as it was seen")
PY
timeout 120 venv/bin/python -W ignore program.py "127.0.0.1:$port" 2>errors.log || {
    tail -n 30 errors.log broker.log >&2
    exit 1
}
