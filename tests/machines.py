"""Machines of their own as far as the network goes: network namespaces, each with an SSH server."""

import ipaddress
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from tests.sshd import Sshd

_PROGRAMS = {"ip": "iproute2", "nsenter": "util-linux", "iptables": "iptables"}


@dataclass(frozen=True, slots=True)
class Machine:
    """A network namespace on the same network as this machine.

    :ivar lab: the address of this machine on that network.
    """

    sshd: Sshd
    namespace: str
    address: str
    lab: str

    def run(self, *command: str) -> str:
        """Run a command in it and return its output."""
        return _run("nsenter", f"--net=/run/netns/{self.namespace}", *command)


@pytest.fixture
def machines(start_sshd: Callable[..., Sshd]) -> Iterator[list[Machine]]:
    """Two machines, which a switch connects with each other and with this one."""
    if os.geteuid() != 0:
        pytest.skip("only root can make network namespaces")
    path = os.environ["PATH"] + ":/usr/sbin"
    if missing := [package for name, package in _PROGRAMS.items() if shutil.which(name, path=path) is None]:
        pytest.skip(f"programs are missing: apt-get install {' '.join(missing)}")
    number = os.getpid() % 8192
    network = ipaddress.ip_network(f"10.214.{number // 32}.{number % 32 * 8}/29")
    lab, *addresses = map(str, network.hosts())
    name = f"tl{number}"
    with ExitStack() as stack:
        for namespace in (switch := f"{name}-0", *(inside := (f"{name}-1", f"{name}-2"))):
            try:
                _run("ip", "netns", "add", namespace)
            except subprocess.CalledProcessError as error:
                pytest.skip(f"no network namespace can be made here: {error.stderr.strip()}")
            stack.callback(_run, "ip", "netns", "delete", namespace)
            _run("ip", "-netns", namespace, "link", "set", "lo", "up")
        _run("ip", "-netns", switch, "link", "add", "bridge", "type", "bridge")
        _run("ip", "-netns", switch, "link", "set", "bridge", "up")
        _plug(["ip"], name, lab, switch)
        stack.callback(_run, "ip", "link", "delete", name)
        made = []
        for namespace, address in zip(inside, addresses, strict=False):
            _plug(["ip", "-netns", namespace], "eth0", address, switch)
            made.append(Machine(start_sshd(address, namespace), namespace, address, lab))
        yield made


def _plug(ip: list[str], device: str, address: str, switch: str) -> None:
    """Connect a machine to the switch."""
    port = f"port{address.rpartition('.')[2]}"
    _run(*ip, "link", "add", device, "type", "veth", "peer", "name", port, "netns", switch)
    _run("ip", "-netns", switch, "link", "set", port, "master", "bridge", "up")
    _run(*ip, "address", "add", f"{address}/29", "dev", device)
    _run(*ip, "link", "set", device, "up")


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
