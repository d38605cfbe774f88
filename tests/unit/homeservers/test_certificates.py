"""The certificate is one that a TLS client which trusts the authority accepts, and no other client does."""

import asyncio
import ssl
from pathlib import Path

import pytest

from trafficlight.homeservers.certificates import Certificates


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_verifies_against_the_authority(tmp_path: Path, host: str) -> None:
    files = Certificates.create(tmp_path)
    assert await _greeting(files, ssl.create_default_context(cafile=files.authority), host) == b"hello"


async def test_is_refused_by_who_does_not_know_the_authority(tmp_path: Path) -> None:
    mine, other = tmp_path / "mine", tmp_path / "other"
    mine.mkdir()
    other.mkdir()
    stranger = ssl.create_default_context(cafile=Certificates.create(other).authority)
    with pytest.raises(ssl.SSLCertVerificationError):
        await _greeting(Certificates.create(mine), stranger, "localhost")


def test_the_private_key_is_nobody_elses(tmp_path: Path) -> None:
    files = Certificates.create(tmp_path)
    assert files.private_key.stat().st_mode & 0o077 == 0


async def _greeting(files: Certificates, trust: ssl.SSLContext, host: str) -> bytes:
    identity = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    identity.load_cert_chain(files.certificate, files.private_key)

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", ssl=identity) as server:
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trust, server_hostname=host)
        try:
            return await reader.read()
        finally:
            writer.close()
