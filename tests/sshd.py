"""Real SSH servers on loopback, as nodes of a cluster."""

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from trafficlight.services.clusters import ListedNode


class Sshd:
    """An SSH server of the test's own.

    :param environment: variables of all commands that it runs.
    :param address: where it listens.
    :param namespace: the network namespace that it runs in; empty for this one.
    """

    def __init__(
        self,
        folder: Path,
        environment: Mapping[str, str] = MappingProxyType({}),
        *,
        address: str = "127.0.0.1",
        namespace: str = "",
    ) -> None:
        self._folder, self._address = folder, address
        self._inside = ["nsenter", f"--net=/run/netns/{namespace}"] if namespace else []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        for name in ("host_key", "user_key"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
            subprocess.run(command, check=True)
        shutil.copy(folder / "user_key.pub", folder / "authorized_keys")
        host_key = (folder / "host_key.pub").read_text()
        (folder / "known_hosts").write_text(f"[{address}]:{self.port} {host_key}")
        settings = {
            "Port": self.port,
            "ListenAddress": address,
            "HostKey": folder / "host_key",
            "AuthorizedKeysFile": folder / "authorized_keys",
            "PidFile": "none",
            "StrictModes": "no",
            "UsePAM": "no",
            "PermitRootLogin": "prohibit-password",
            "MaxStartups": 200,
            "PerSourceMaxStartups": "none",
            "Subsystem": "sftp internal-sftp",
            # Otherwise bash reads the user's .bashrc for each command, which may take a second.
            "SetEnv": " ".join(f"{name}={value}" for name, value in {"SHLVL": "2", **environment}.items()),
        }
        lines = (f"{name} {value}\n" for name, value in settings.items())
        (folder / "config").write_text("".join(lines))
        self.start()

    def start(self) -> None:
        """Start it, and wait until it listens."""
        sshd = shutil.which("sshd", path=os.environ["PATH"] + ":/usr/sbin")
        assert sshd is not None
        with (self._folder / "log").open("ab") as log:
            command = [*self._inside, sshd, "-D", "-e", "-f", str(self._folder / "config")]
            self._process = subprocess.Popen(command, stderr=log, start_new_session=True)
        while self._process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex((self._address, self.port)) == 0:
                    return
        raise RuntimeError((self._folder / "log").read_text())

    def kill(self) -> None:
        """Kill it, with the processes of its connections. Idempotent."""
        # It waits for its children: none must be left to this process.
        while self._process.poll() is None and (children := self.connections()):
            for pid in children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait()

    def connections(self) -> list[int]:
        """Return the processes of its connections, innermost first."""
        return self._children(self._process.pid)

    def _children(self, pid: int) -> list[int]:
        try:
            found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        except OSError:
            return []
        servers = []
        for child in map(int, found):
            with contextlib.suppress(OSError):
                if "sshd" in Path(f"/proc/{child}/comm").read_text():  # not the commands in it
                    servers += [*self._children(child), child]
        return servers

    def node(self, name: str = "", folder: str = "/tmp", **changes: object) -> ListedNode:
        """Return it as an entry of a list of nodes."""
        content = {
            "host": self._address,
            "name": name or f"ssh-{self.port}",
            "port": self.port,
            "user": getpass.getuser(),
            "key": self._folder / "user_key",
            "known_hosts": self._folder / "known_hosts",
            "folder": folder,
            **changes,
        }
        return ListedNode.model_validate(content)


@contextlib.contextmanager
def running_sshd(folders: pytest.TempPathFactory) -> Iterator[Callable[..., Sshd]]:
    """Start SSH servers, which end with the block; skip where there is no sshd."""
    if shutil.which("sshd", path=os.environ["PATH"] + ":/usr/sbin") is None:
        pytest.skip("there is no sshd: apt-get install openssh-server")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    started: list[Sshd] = []

    def start(address: str = "127.0.0.1", namespace: str = "") -> Sshd:
        started.append(Sshd(folders.mktemp("sshd"), address=address, namespace=namespace))
        return started[-1]

    try:
        yield start
    finally:
        for one in started:
            one.kill()


@pytest.fixture
def start_sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Sshd]]:
    """Start SSH servers; they end with the test."""
    with running_sshd(tmp_path_factory) as start:
        yield start
