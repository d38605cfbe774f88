"""A second Docker engine: on a machine of its own as far as the network goes, and spoken to over TLS.

Its daemon runs in a network namespace, which one cable connects with us. So its bridges and rules get into
nobody's way, and its homeservers are at another address than ours.
"""

import asyncio
import datetime
import ipaddress
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.integration.homeservers.engine import engine_url
from trafficlight.config import DockerHost
from trafficlight.homeservers.certificates import create_rsa_authority
from trafficlight.server_types import SynapseStable

__all__ = ["FarEngine", "far_engine"]

_UP_SECONDS = 30
_END_SECONDS = 30
_PORT = 2376
_NEEDED = ("dockerd", "docker", "ip", "nsenter")


class _NoNames(asyncio.DatagramProtocol):
    """A name server that knows no name: without any, those that look for SRV records do not federate."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what answers go through."""
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, query: bytes, sender: tuple[str, int]) -> None:
        """Answer that the name does not exist, with the same question."""
        end = 12
        while query[end]:  # over the labels, to the type and class
            end += query[end] + 1
        question = query[12 : end + 5]
        self._transport.sendto(query[:2] + b"\x81\x83\0\1\0\0\0\0\0\0" + question, sender)


class FarEngine:
    """The engine.

    :param folder: for its data and certificates; its path must be short, sockets lie in it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        number = os.getpid() % 16384
        network = ipaddress.ip_network(f"10.213.{number // 64}.{number % 64 * 4}/30")
        self._near, self.address = (str(address) for address in network.hosts())
        self._name = f"far{number}"
        self._daemon: asyncio.subprocess.Process | None = None
        self._names: asyncio.DatagramTransport | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"tcp://{self.address}:{_PORT}"

    def host(self, *, certificates: str = "client", capacity: int | None = None) -> DockerHost:
        """Return how to get at it.

        :param certificates: ``client``; ``stranger``, not trusted by it; ``other``, which does not trust it.
        """
        return DockerHost(url=self.url, certificates=self._folder / certificates, capacity=capacity)

    async def plug_in(self) -> None:
        """Lay the cable and make the certificates."""
        await asyncio.to_thread(_make_certificates, self._folder, self.address)
        inside = ("ip", "-netns", self._name)
        await _run("ip", "netns", "add", self._name)
        await _run(
            "ip", "link", "add", self._name, "type", "veth", "peer", "name", "eth0", "netns", self._name
        )
        await _run("ip", "address", "add", f"{self._near}/30", "dev", self._name)
        await _run("ip", "link", "set", self._name, "up")
        await _run(*inside, "address", "add", f"{self.address}/30", "dev", "eth0")
        await _run(*inside, "link", "set", "eth0", "up")
        await _run(*inside, "link", "set", "lo", "up")
        loop = asyncio.get_running_loop()
        self._names, _ = await loop.create_datagram_endpoint(_NoNames, local_addr=(self._near, 53))

    async def start(self) -> None:
        """Start its daemon and return when it answers."""
        folder, server = self._folder, self._folder / "server"
        with (folder / "dockerd.log").open("ab") as log:
            self._daemon = await asyncio.create_subprocess_exec(
                *("nsenter", f"--net=/run/netns/{self._name}", "dockerd"),
                *("--data-root", folder / "data", "--exec-root", folder / "exec"),
                *("--dns", self._near),
                *("--pidfile", folder / "pid", "--host", self.url),
                *("--tlsverify", "--tlscacert", server / "ca.pem"),
                *("--tlscert", server / "cert.pem", "--tlskey", server / "key.pem"),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        async with asyncio.timeout(_UP_SECONDS):
            while await self._client("version") != 0:
                assert self._daemon.returncode is None, (folder / "dockerd.log").read_text()[-4000:]
                await asyncio.sleep(0.1)

    async def load(self, image: str) -> None:
        """Get an image over from the engine that other tests use."""
        reading, writing = os.pipe()
        try:
            saving = await asyncio.create_subprocess_exec(
                "docker", "-H", engine_url(), "save", image, stdout=writing
            )
            os.close(writing)
            writing = -1
            assert await self._client("load", "--quiet", stdin=reading) == 0
            assert await saving.wait() == 0
        finally:
            os.close(reading)
            if writing >= 0:
                os.close(writing)

    async def kill(self) -> None:
        """Kill its daemon; its containers continue without one."""
        assert self._daemon is not None
        self._daemon.kill()
        await self._daemon.wait()
        self._daemon = None

    async def unplug(self) -> None:
        """Cut the cable: nothing comes any more, no refusal either."""
        await _run("ip", "link", "set", self._name, "down")

    async def plug_in_again(self) -> None:
        """Mend the cable."""
        await _run("ip", "link", "set", self._name, "up")

    async def close(self) -> None:
        """Stop it with all of its containers, and remove its network."""
        if self._daemon is None and (self._folder / "exec").exists():
            await self.start()  # only a daemon can stop what a killed one left running
        if self._daemon is not None:
            self._daemon.terminate()
            async with asyncio.timeout(_END_SECONDS):
                await self._daemon.wait()
        if self._names is not None:
            self._names.close()
        await _run("ip", "link", "delete", self._name)
        await _run("ip", "netns", "delete", self._name)

    async def _client(self, *command: str, stdin: int = asyncio.subprocess.DEVNULL) -> int:
        """Run the docker command and return its exit code."""
        environment = os.environ | {
            "DOCKER_HOST": self.url,
            "DOCKER_TLS_VERIFY": "1",
            "DOCKER_CERT_PATH": str(self._folder / "client"),
        }
        process = await asyncio.create_subprocess_exec(
            "docker",
            *command,
            env=environment,
            stdin=stdin,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        return await process.wait()


@asynccontextmanager
async def far_engine() -> AsyncIterator[FarEngine]:
    """Run the engine, with the image that tests use; skips where that cannot be."""
    if os.geteuid() != 0:
        pytest.skip("only root can start a second Docker engine")
    if missing := [program for program in _NEEDED if shutil.which(program) is None]:
        pytest.skip(f"not on the PATH: {', '.join(missing)}")
    folder = Path(tempfile.mkdtemp(prefix="far-"))
    engine = FarEngine(folder)
    try:
        await engine.plug_in()
        try:
            await engine.start()
            await engine.load(SynapseStable.image)
            yield engine
        finally:
            await engine.close()
    finally:
        await asyncio.to_thread(_remove, folder)


async def _run(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    _, errors = await process.communicate()
    assert process.returncode == 0, f"{' '.join(command)}: {errors.decode()}"


def _remove(folder: Path) -> None:
    """Remove a daemon's folder; one that was killed has left mounts in it."""
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in reversed(mounts):
        if mount.startswith(f"{folder}/"):
            subprocess.run(["umount", mount], check=True)
    shutil.rmtree(folder)


def _make_certificates(folder: Path, address: str) -> None:
    """Make a folder for the server, and one for each kind of client."""
    authority, foreign = create_rsa_authority(), create_rsa_authority()
    for name, trusted, signed in (
        ("server", authority, authority),
        ("client", authority, authority),
        ("stranger", authority, foreign),
        ("other", foreign, authority),
    ):
        certificate, key = _signed(*signed, name, address)
        (folder / name).mkdir()
        for file, content in (("ca.pem", trusted[0]), ("cert.pem", certificate), ("key.pem", key)):
            (folder / name / file).write_bytes(content)


def _signed(authority: bytes, authority_key: bytes, name: str, address: str) -> tuple[bytes, bytes]:
    issuer = x509.load_pem_x509_certificate(authority)
    signing = serialization.load_pem_private_key(authority_key, None)
    assert isinstance(signing, rsa.RSAPrivateKey)
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False
        )
        .sign(signing, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM), key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
