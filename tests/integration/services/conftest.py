"""Nodes: folders of this machine, and accounts behind a real sshd on loopback."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.sshd import Sshd, start_sshd
from trafficlight.services.account import Account
from trafficlight.services.connections import NodeAddress, connect
from trafficlight.services.node import Guard, case_folder

__all__ = ["start_sshd"]

# Of this process: tests that run beside it end everything that has their own.
MARK = f"{os.getpid():016x}"


@pytest.fixture(params=["local", "ssh"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> NodeAddress:
    """A node of each kind; its folder is the test's."""
    folder = tmp_path / "node"
    folder.mkdir()
    if request.param == "local":
        return NodeAddress(name="n1", folder=str(folder))
    sshd: Sshd = request.getfixturevalue("start_sshd")()
    return sshd.node("n1", str(folder)).node()


@pytest.fixture
async def account(address: NodeAddress) -> AsyncIterator[Account]:
    """An account on a node of each kind."""
    opened = Account(address, case_folder(address, MARK), MARK)
    yield opened
    async with asyncio.timeout(30):
        await opened.close()


async def clean(address: NodeAddress, mark: str = MARK, logs: Path | None = None) -> str:
    """Do what is done at the end of a case."""
    connection = connect(address)
    try:
        return await Guard(address, mark, connection).end(logs)
    finally:
        await connection.close()
