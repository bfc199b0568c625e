"""librdkafka's mock cluster: several brokers in one process, whose answers are chosen."""

from __future__ import annotations

import ctypes
from functools import cache
from importlib.metadata import files

from tests.peers.kafka_topics import KafkaTopics
from tests.peers.peer import Peer

# The protocol's numbers of requests that tests make fail.
PRODUCE, INIT_PRODUCER_ID = 0, 22

_PRODUCER = 0


@cache
def _librdkafka() -> ctypes.CDLL:
    """The library that confluent-kafka brings along, with the types of what is called in it."""
    found = [path.locate() for path in files("confluent-kafka") or () if path.name.startswith("librdkafka")]
    if not found:
        raise RuntimeError("confluent-kafka brings no librdkafka here: install its wheel")
    library = ctypes.CDLL(str(found[0]))
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    for name, result, arguments in (
        ("conf_new", pointer, []),
        ("conf_set", number, [pointer, text, text, text, ctypes.c_size_t]),
        ("new", pointer, [number, pointer, text, ctypes.c_size_t]),
        ("destroy", None, [pointer]),
        ("err2str", text, [number]),
        ("mock_cluster_new", pointer, [pointer, number]),
        ("mock_cluster_destroy", None, [pointer]),
        ("mock_cluster_bootstraps", text, [pointer]),
        ("mock_topic_create", number, [pointer, text, number, number]),
        ("mock_topic_set_error", None, [pointer, text, number]),
        ("mock_partition_set_leader", number, [pointer, text, ctypes.c_int32, ctypes.c_int32]),
        ("mock_broker_set_rtt", number, [pointer, ctypes.c_int32, number]),
        ("mock_push_request_errors_array", None, [pointer, ctypes.c_int16, ctypes.c_size_t, ctypes.POINTER(number)]),
    ):
        function = getattr(library, f"rd_kafka_{name}")
        function.restype = result
        function.argtypes = arguments
    return library


class MockCluster(KafkaTopics, Peer):
    """A cluster that does as it is told.

    Its protocol versions are those of old brokers, and it does not tell a client that asks: clients must pass
    ``client_settings``. Broker ids start at 1. It forgets everything when closed.

    Attributes:
        brokers: How many there are.
    """

    def __init__(self, brokers: int = 3) -> None:
        self.brokers = brokers
        self.client_settings = {"api_version": (2, 3)}
        self._library = _librdkafka()
        self._client: int | None = None
        self._cluster: int | None = None

    @property
    def bootstrap(self) -> str:
        addresses: bytes = self._library.rd_kafka_mock_cluster_bootstraps(self._cluster)
        return addresses.decode()

    def create_topic(self, name: str, partitions: int = 1, replication: int = 1) -> None:
        self._check(self._library.rd_kafka_mock_topic_create(self._cluster, name.encode(), partitions, replication))

    def delete_topic(self, name: str) -> None:
        raise NotImplementedError("the mock cluster deletes no topics: use topic_error")

    def set_rtt(self, broker: int, milliseconds: int) -> None:
        """Let every answer of a broker come so much later."""
        self._check(self._library.rd_kafka_mock_broker_set_rtt(self._cluster, broker, milliseconds))

    def set_leader(self, topic: str, partition: int, broker: int) -> None:
        self._check(self._library.rd_kafka_mock_partition_set_leader(self._cluster, topic.encode(), partition, broker))

    def push_errors(self, api_key: int, *codes: int) -> None:
        """Answer the next requests of a kind with these error codes, one each (0 lets one through)."""
        array = (ctypes.c_int * len(codes))(*codes)
        self._library.rd_kafka_mock_push_request_errors_array(self._cluster, api_key, len(codes), array)

    def topic_error(self, topic: str, code: int) -> None:
        """Answer questions about a topic with an error code; 0 ends it."""
        self._library.rd_kafka_mock_topic_set_error(self._cluster, topic.encode(), code)

    def start(self) -> None:
        message = ctypes.create_string_buffer(512)
        conf = self._library.rd_kafka_conf_new()
        # Only errors: it warns that the client which carries the cluster is itself connected to none.
        self._library.rd_kafka_conf_set(conf, b"log_level", b"3", message, len(message))
        self._client = self._library.rd_kafka_new(_PRODUCER, conf, message, len(message))
        if not self._client:
            raise RuntimeError(f"librdkafka: {message.value.decode()}")
        self._cluster = self._library.rd_kafka_mock_cluster_new(self._client, self.brokers)
        if not self._cluster:
            raise RuntimeError("librdkafka made no mock cluster")

    def close(self) -> None:
        if self._cluster:
            self._library.rd_kafka_mock_cluster_destroy(self._cluster)
        if self._client:
            self._library.rd_kafka_destroy(self._client)
        self._cluster = self._client = None

    def _check(self, code: int) -> None:
        if code:
            raise ValueError(f"librdkafka: {self._library.rd_kafka_err2str(code).decode()}")
