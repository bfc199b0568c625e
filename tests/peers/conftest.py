"""The peers' own tests use the peers' fixtures."""

from tests.peers.fixtures import bucket as bucket
from tests.peers.fixtures import certificates as certificates
from tests.peers.fixtures import gcs_bucket as gcs_bucket
from tests.peers.fixtures import gcs_server as gcs_server
from tests.peers.fixtures import kafka_broker as kafka_broker
from tests.peers.fixtures import leaky_kafka_client as leaky_kafka_client
from tests.peers.fixtures import mock_cluster as mock_cluster
from tests.peers.fixtures import moto_bucket as moto_bucket
from tests.peers.fixtures import moto_server as moto_server
from tests.peers.fixtures import own_kafka_broker as own_kafka_broker
from tests.peers.fixtures import own_pubsub_emulator as own_pubsub_emulator
from tests.peers.fixtures import pubsub_emulator as pubsub_emulator
from tests.peers.fixtures import pubsub_server as pubsub_server
from tests.peers.fixtures import s3_bucket as s3_bucket
from tests.peers.fixtures import s3_server as s3_server
from tests.peers.fixtures import seaweed as seaweed
from tests.peers.fixtures import topic as topic
from tests.peers.fixtures import trainer_api as trainer_api
