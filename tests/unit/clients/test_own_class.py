"""A client class as the manual shows it, and the reference of all that test files use."""

import re
from pathlib import Path
from typing import Any

import pytest

import trafficlight
from tests.unit.clients.conftest import Operations
from trafficlight import clients
from trafficlight.clients.action import actions_of
from trafficlight.errors import ActionError, AdapterError
from trafficlight.protocol import JsonObject

_DOCS = Path(__file__).parents[3] / "docs"
# Other parts of the lab use them, and the pages about deployment.
_NOT_FOR_TESTS = {"CaseBackend", "__version__", "create_app"}


class Display(Operations):
    """The thermometer of the SDK's page."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, str, JsonObject]] = []
        self.degrees: object = 20.0

    async def perform(self, role: str, action: str, data: JsonObject, where: str = "") -> JsonObject:
        self.asked.append((role, action, data))
        if action == "heat":
            self.degrees = 22.0
        return {"response": action, "degrees": self.degrees}


@pytest.fixture
def example() -> dict[str, Any]:
    page = (_DOCS / "how-to" / "write-a-test.md").read_text(encoding="utf-8")
    (code,) = [one for one in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "@action" in one]
    names: dict[str, Any] = {"__name__": "example"}
    exec(code, names)
    return names


async def test_the_manual_shows_how_to_write_one(example: dict[str, Any]) -> None:
    link = Display()
    kitchen = example["ThermometerClient"]("kitchen", {"type": "thermometer"}, link)
    await example["GetsWarmer"]().run(kitchen)
    assert link.asked == [
        ("kitchen", "read_display", {"inUnit": "C"}),
        ("kitchen", "heat", {"by": 2.0}),
        ("kitchen", "read_display", {"inUnit": "C"}),
    ]
    link.degrees = "warm"
    with pytest.raises(AdapterError, match="the response does not fit"):
        await kitchen.read()


class Room(Operations):
    """An open room, into which `ping` comes once more with each look."""

    def __init__(self) -> None:
        super().__init__()
        self.looks = 0

    async def perform(self, role: str, action: str, data: JsonObject, where: str = "") -> JsonObject:
        self.looks += 1
        shown = [{"user": "@a:b", "message": "ping", "event_id": f"${n}"} for n in range(self.looks)]
        return {"response": action, "timeline": [*shown, {"user": "@a:b", "message": "pong"}]}


async def test_how_often_a_message_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test could not tell a second `ping` from the first."""
    monkeypatch.setattr("trafficlight.clients.matrix._BETWEEN_LOOKS", 0)
    bob = clients.MatrixClient("bob", {"type": "nio"}, Room())
    assert [entry["event_id"] for entry in await bob.find_messages("ping", 3)] == ["$0", "$1", "$2"]
    with pytest.raises(ActionError, match="bob: get_timeline: the timeline shows 'ping' 4 times, not 0"):
        await bob.find_messages("ping", 0, timeout=60)
    with pytest.raises(ActionError, match="shows 'pong' 1 time, not 2"):
        await bob.find_messages("pong", 2, timeout=0)
    assert await bob.find_messages("pang", 0) == []


def test_action_is_where_one_looks_for_it() -> None:
    class Mine(clients.MatrixClient):
        @clients.action()
        async def dance(self) -> None:
            """Dance."""

    assert "dance" in actions_of(Mine)


def test_the_reference_has_every_public_name() -> None:
    page = (_DOCS / "reference" / "python.md").read_text(encoding="utf-8")
    names = {*trafficlight.__all__, *clients.__all__} - _NOT_FOR_TESTS
    assert [name for name in sorted(names) if f"### {name}\n" not in page] == []
    for cls in (trafficlight.Test, clients.MatrixClient, clients.HomeServer, clients.ElementCallClient):
        public = {name for name in dir(cls) if not name.startswith("_") and callable(getattr(cls, name))}
        documented = {name for name in public if re.search(rf"^#### \w+\.{name}$", page, re.MULTILINE)}
        assert public - documented <= {"bind", "declarations", "close"}, cls


def test_everything_in_the_reference_is_described() -> None:
    page = (_DOCS / "reference" / "python.md").read_text(encoding="utf-8")
    prose = re.sub(r"```.*?```", "", page, flags=re.DOTALL)
    blocks = [block.partition("\n") for block in re.split(r"^#{3,4} ", prose, flags=re.MULTILINE)[1:]]
    assert len(blocks) > 100
    assert [name for name, _, text in blocks if not text.strip()] == []
