"""Certificates of a throw-away authority, and TLS before a plain port."""

from __future__ import annotations

import ssl
from pathlib import Path

import trustme
from cryptography.hazmat.primitives import serialization

from tests.peers.kafka_relay import KafkaRelay
from tests.peers.ports import HOST
from tests.peers.tcp import Relay


class Certificates:
    """One authority with a server certificate for this machine and a client certificate, as PEM files.

    Attributes:
        ca_file: The authority, for clients to trust.
        client_cert_file: A client's certificate.
        client_key_file: Its key.
        folder: Where the files are.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._authority = trustme.CA()
        self.ca_file = folder / "ca.pem"
        self.client_cert_file = folder / "client.pem"
        self.client_key_file = folder / "client.key"
        client = self._authority.issue_cert("client@example.com")
        self._authority.cert_pem.write_to_path(str(self.ca_file))
        client.cert_chain_pems[0].write_to_path(str(self.client_cert_file))
        client.private_key_pem.write_to_path(str(self.client_key_file))

    def locked_client_key(self, password: str) -> bytes:
        """The client's key (PEM), under a password."""
        key = serialization.load_pem_private_key(self.client_key_file.read_bytes(), None)
        how = serialization.BestAvailableEncryption(password.encode())
        return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how)

    def server_context(
        self, *names: str, require_client: bool = False, protocols: tuple[str, ...] = ()
    ) -> ssl.SSLContext:
        """What a server offers: a certificate for these names (this machine's own, if none is given).

        Clients must show one of this authority if they are required to; `protocols` are for those that ask, as gRPC.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._authority.issue_cert(*(names or (HOST, "localhost"))).configure_cert(context)
        if require_client:
            self._authority.configure_trust(context)
            context.verify_mode = ssl.CERT_REQUIRED
        if protocols:
            context.set_alpn_protocols(list(protocols))
        return context


def tls_relay(target: int, certificates: Certificates, *, kafka: bool = True, require_client: bool = False) -> Relay:
    """A relay to a plain port whose clients must speak TLS: of Kafka, or of gRPC."""
    if kafka:
        return KafkaRelay(target, tls=certificates.server_context(require_client=require_client))
    return Relay(target, tls=certificates.server_context(require_client=require_client, protocols=("h2",)))
