from __future__ import annotations

from tests.peers.fixtures import certificates as certificates
from tests.peers.fixtures import trainer_api as trainer_api
