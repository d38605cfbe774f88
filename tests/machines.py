"""Machines of their own as far as the network goes: network namespaces, each with an SSH server."""

import ipaddress
import itertools
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

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
    # Both kinds are needed: `ip netns` mounts what it makes.
    allowed = subprocess.run(
        ["unshare", "--net", "--mount", "true"], capture_output=True, text=True, check=False
    )
    if allowed.returncode != 0:
        pytest.skip(f"this machine allows no network namespaces: {allowed.stderr.strip()}")
    numbers = (number % 8192 for number in itertools.count(os.getpid()))
    # Those of tests that were killed may be there yet.
    number = next(one for one in numbers if not Path(f"/run/netns/tl{one}-0").exists())
    network = ipaddress.ip_network(f"10.214.{number // 32}.{number % 32 * 8}/29")
    lab, *addresses = map(str, network.hosts())
    name = f"tl{number}"
    with ExitStack() as stack:
        for namespace in (switch := f"{name}-0", *(inside := (f"{name}-1", f"{name}-2"))):
            _run("ip", "netns", "add", namespace)
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
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}: {done.stderr.strip()}")
    return done.stdout
