"""The load test that ships looks at the answers to what it needs itself."""

from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock

import pytest
from nio import JoinError, RoomCreateError, RoomCreateResponse

from trafficlight.tests.load.load_test import ChatUnderLoad


@pytest.mark.parametrize(
    ("created", "problem"),
    [
        (RoomCreateError("no rooms here"), "@one:x created no room: .*no rooms here"),
        (RoomCreateResponse("!room:x"), "@two:x did not join: .*not invited"),
    ],
)
async def test_what_the_homeserver_refuses_fails_the_test(created: Any, problem: str) -> None:
    join = AsyncMock(return_value=JoinError("not invited"))
    users = [
        SimpleNamespace(user_id=f"@{name}:x", room_create=AsyncMock(return_value=created), join=join)
        for name in ("one", "two")
    ]
    server: Any = SimpleNamespace(nio_client=AsyncMock(side_effect=users))
    client: Any = AsyncMock()
    with pytest.raises(AssertionError, match=problem):
        await ChatUnderLoad().run(client, client, server, nodes=2, rate=1, seconds=1)
