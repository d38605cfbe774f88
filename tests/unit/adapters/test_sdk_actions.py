"""Declared actions: what the wire carries becomes arguments, what a method returns becomes the response."""

from itertools import islice
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from trafficlight.adapters.sdk import Adapter, JsonObject, UnsupportedActionError, action
from trafficlight.adapters.sdk.coordinator import Backoff
from trafficlight.errors import AdapterError


class Answer(BaseModel):
    page_url: str = Field(serialization_alias="pageUrl")


class Sample(Adapter):
    type = "sample"
    labels = ("fast",)

    @action()
    async def nothing(self) -> None:
        pass

    @action("join_room")
    async def join(self, user_id: Annotated[str, Field(alias="userId")], times: int = 1) -> JsonObject:
        return {"joined": user_id, "times": times}

    @action()
    async def look(self) -> Answer:
        return Answer(page_url="http://x")

    @action()
    async def get_timeline(self) -> JsonObject:
        return {"response": "got_timeline", "timeline": []}


class Heir(Sample):
    @action()
    async def nothing(self) -> None:
        raise NotImplementedError

    @action()
    async def more(self) -> None:
        pass


def test_registration_says_what_it_is_and_can() -> None:
    said = Sample().registration()
    assert said.type == "sample"
    assert said.labels == ["fast"]
    assert said.actions == ["nothing", "join_room", "look", "get_timeline"]


def test_subclass_adds_and_replaces_actions() -> None:
    assert list(Heir.actions) == ["nothing", "join_room", "look", "get_timeline", "more"]
    assert Heir.actions["nothing"].method is Heir.nothing
    assert list(Sample.actions) == ["nothing", "join_room", "look", "get_timeline"]


@pytest.mark.parametrize(
    ("name", "data", "response"),
    [
        ("nothing", {}, {"response": "nothing"}),
        ("nothing", {"invented": "later"}, {"response": "nothing"}),
        ("join_room", {"userId": "a:b"}, {"response": "join_room", "joined": "a:b", "times": 1}),
        ("join_room", {"userId": "a:b", "times": 2}, {"response": "join_room", "joined": "a:b", "times": 2}),
        ("look", {}, {"response": "look", "pageUrl": "http://x"}),
        ("get_timeline", {}, {"response": "got_timeline", "timeline": []}),
    ],
)
async def test_perform(name: str, data: JsonObject, response: JsonObject) -> None:
    assert await Sample().perform(name, data) == response


async def test_data_that_do_not_fit_are_named_without_their_values() -> None:
    with pytest.raises(AdapterError, match="userId: is missing; times: must be a whole number") as caught:
        await Sample().perform("join_room", {"user": "secret", "times": "secret"})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(("name", "hint"), [("fly", ""), ("joinroom", r"; did you mean join_room\?")])
async def test_unknown_action(name: str, hint: str) -> None:
    with pytest.raises(UnsupportedActionError, match=f"^sample does not support this action{hint}$"):
        await Sample().perform(name, {})


@given(first=st.floats(0.001, 10), longest=st.floats(0.001, 100))
def test_backoff_grows_with_jitter_up_to_its_limit(first: float, longest: float) -> None:
    delays = list(islice(Backoff(first, longest).delays(), 40))
    assert first / 2 <= delays[0] <= first
    assert all(0 < delay <= max(first, longest) for delay in delays)
    assert delays[-1] >= min(first, longest) / 2
