"""Ports are free, distinct, and held."""

import socket
import sys

import pytest

from trafficlight.errors import DeployError
from trafficlight.homeservers.local.ports import PortPicker


def _free_range(count: int) -> PortPicker:
    """Return a picker with a range outside the default one."""
    return PortPicker(17000, 17000 + count)


def test_allocates_no_port_twice() -> None:
    picker = PortPicker()
    ports = [picker.pick() for _ in range(50)]
    assert len(set(ports)) == 50
    for port in ports:
        picker.release(port)


def test_skips_a_port_that_is_in_use() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        picker = PortPicker(taken, taken + 1)
        with pytest.raises(DeployError, match=f"no free port on 127.0.0.1 between {taken} and {taken}"):
            picker.pick()


def test_a_released_port_comes_back() -> None:
    picker = _free_range(1)
    port = picker.pick()
    with pytest.raises(DeployError):
        picker.pick()
    picker.release(port)
    assert picker.pick() == port
    picker.release(port)


@pytest.mark.skipif(sys.platform != "linux", reason="ports can only be held on Linux")
def test_two_labs_never_get_the_same_port_and_a_server_can_listen_on_a_held_one() -> None:
    mine, theirs = _free_range(2), _free_range(2)
    first, second = mine.pick(), theirs.pick()
    assert first != second
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", first))
        server.listen()
        with socket.create_connection(("127.0.0.1", first), timeout=5):
            pass
    mine.release(first)
    theirs.release(second)


def test_releasing_what_was_never_picked_does_nothing() -> None:
    PortPicker().release(1)
