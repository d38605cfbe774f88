"""When faults begin, are healed, and are said to."""

import subprocess
from pathlib import Path

import pytest

from trafficlight.errors import LabError, UnsupportedError
from trafficlight.services.account import Account
from trafficlight.services.connections import NodeAddress
from trafficlight.services.faults import Faults, _note, degrade
from trafficlight.services.node import Node


class Book:
    """What happened, in its order.

    :param failing: the node where a fault cannot be healed.
    """

    def __init__(self, failing: str = "") -> None:
        self.lines: list[str] = []
        self.faults = Faults(lambda what, active: self.lines.append(f"{what}: {active}"))
        self.nodes = [self._node(name) for name in ("n1", "n2")]
        self._failing = failing

    def _node(self, name: str) -> Node:
        address = NodeAddress(name=name)
        return Node(address, Account(address, "/tmp/none", ""), self.faults)

    async def begin(self, node: Node) -> None:
        """Break a node."""
        self.lines.append(f"begin {node.name}")

    async def lack(self, node: Node) -> None:
        """Break the first node only."""
        await self.begin(node)
        if node.name == "n2":
            raise UnsupportedError("it has no hammer")

    async def heal(self, node: Node) -> None:
        """Mend a node."""
        self.lines.append(f"heal {node.name}")
        if node.name == self._failing:
            raise LabError("no")


async def test_a_fault_is_healed_where_it_began_and_where_it_did_not() -> None:
    book = Book()
    with pytest.raises(UnsupportedError, match="it has no hammer"):
        async with book.faults.cause("hit", "", book.nodes, book.lack, book.heal):
            pytest.fail("it has not begun")
    assert book.lines == ["begin n1", "begin n2", "heal n1", "heal n2"]


async def test_what_the_test_found_counts_before_what_cannot_be_healed() -> None:
    book = Book(failing="n1")
    with pytest.raises(AssertionError, match="wrong") as caught:
        async with book.faults.cause("hit", "", book.nodes, book.begin, book.heal):
            raise AssertionError("wrong")
    assert caught.value.__notes__ == ["then hit could not be healed: no"]
    assert book.lines == ["begin n1", "begin n2", "hit: True", "heal n1", "heal n2", "hit: False"]


async def test_what_is_left_is_healed_once_and_the_last_first() -> None:
    book = Book(failing="n2")
    first = book.faults.cause("first", "hit", book.nodes[:1], book.begin, book.heal)
    second = book.faults.cause("second", "hit", book.nodes[1:], book.begin, book.heal)
    await first.__aenter__()
    await second.__aenter__()
    assert [str(error) for error in await book.faults.close()] == ["no"]
    assert book.lines[-4:] == ["heal n2", "second: False", "heal n1", "first: False"]
    await second.__aexit__(None, None, None)
    await first.__aexit__(None, None, None)
    assert book.lines[-1] == "first: False"


async def test_a_node_has_one_fault_of_a_kind() -> None:
    book = Book()
    async with book.faults.cause("hit", "hit", book.nodes[:1], book.begin, book.heal):
        with pytest.raises(LabError, match="harder: n1 has such a fault already: hit"):
            async with book.faults.cause("harder", "hit", book.nodes, book.begin, book.heal):
                pytest.fail("it is hit already")
    async with book.faults.cause("harder", "hit", book.nodes, book.begin, book.heal):
        pass


@pytest.mark.parametrize(
    "wrong", [{}, {"delay": -1.0}, {"loss": 1.1}, {"delay": 0.1, "jitter": 0.2}, {"loss": 0.1, "jitter": 0.1}]
)
def test_what_degrades_nothing_or_cannot_be_is_an_error(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="degrade needs"):
        degrade(Book().nodes, **wrong)


def test_a_fault_needs_a_node() -> None:
    with pytest.raises(LabError, match="a fault needs a node: an empty list has none"):
        degrade([], delay=1)


def test_faults_that_begin_at_the_same_time_keep_their_own_healing(tmp_path: Path) -> None:
    written, moved = _note("one", "echo 1").rsplit(" && ", 1)
    for script in (written, _note("two", "echo 2"), moved):
        subprocess.run(["/bin/sh", "-c", script], cwd=tmp_path, check=True)
    assert {one.name: one.read_text() for one in (tmp_path / ".heal").iterdir()} == {
        "one": "echo 1",
        "two": "echo 2",
    }
