"""A TLS client that trusts the authority accepts the certificate, and no other client does."""

import contextlib
import ssl
from pathlib import Path

import pytest

from trafficlight.homeservers.certificates import Certificates


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_verifies_against_the_authority(tmp_path: Path, host: str) -> None:
    files = Certificates.create(tmp_path)
    assert _greeting(files, ssl.create_default_context(cafile=files.authority), host) == b"hello"


def test_is_rejected_by_a_client_that_does_not_trust_the_authority(tmp_path: Path) -> None:
    mine, other = tmp_path / "mine", tmp_path / "other"
    mine.mkdir()
    other.mkdir()
    stranger = ssl.create_default_context(cafile=Certificates.create(other).authority)
    with pytest.raises(ssl.SSLCertVerificationError):
        _greeting(Certificates.create(mine), stranger, "localhost")


def test_the_private_key_is_private(tmp_path: Path) -> None:
    files = Certificates.create(tmp_path)
    assert files.private_key.stat().st_mode & 0o077 == 0


def _greeting(files: Certificates, trust: ssl.SSLContext, host: str) -> bytes:
    """Connect a client and a server in memory, and return what the server sends."""
    identity = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    identity.load_cert_chain(files.certificate, files.private_key)
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trust.wrap_bio(down, up, server_hostname=host)
    server = identity.wrap_bio(up, down, server_side=True)
    waiting = {client, server}
    while waiting:
        for side in tuple(waiting):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
                waiting.discard(side)
    server.write(b"hello")
    return client.read()
