"""The catalogue tells what the client classes declare, in every format, and its page is up to date."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from trafficlight.cli.actions import command
from trafficlight.clients.action import actions_of
from trafficlight.clients.catalogue import CLIENTS, Entry, as_json, as_markdown, as_schema, catalogue
from trafficlight.clients.matrix_answers import TimelineEvent
from trafficlight.errors import UsageError

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "actions.md"
ENTRIES = catalogue()


def run(*arguments: str) -> str:
    result = CliRunner().invoke(command, arguments, standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return result.output


def test_the_page_is_up_to_date() -> None:
    regenerate = "run: trafficlight actions --format md > docs/reference/actions.md"
    assert PAGE.read_text() == as_markdown(ENTRIES), regenerate


def test_every_declared_action_is_there() -> None:
    for kind, client in CLIENTS.items():
        assert [entry.name for entry in catalogue(kind)] == list(actions_of(client))


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: f"{entry.client}-{entry.name}")
def test_every_action_says_what_it_does(entry: Entry) -> None:
    assert entry.documentation.endswith((".", '."')), "a sentence"
    assert set(entry.message["data"]) == {one.name for one in entry.data}
    assert None not in entry.message["data"].values(), "an example for every parameter"


def test_the_schema_accepts_every_example_and_refuses_others() -> None:
    schema: dict[str, Any] = json.loads(as_schema(ENTRIES))
    Draft202012Validator.check_schema(schema)
    messages = Draft202012Validator(schema)
    for entry in ENTRIES:
        messages.validate(entry.message)
    assert not messages.is_valid({"action": "dance", "data": {}})
    assert not messages.is_valid({"action": "send_message", "data": {}})
    assert not messages.is_valid({"action": "set_video_image", "data": {"image": "mauve"}})


def test_the_examples_of_answers_are_what_the_lab_takes() -> None:
    for entry in ENTRIES:
        action = actions_of(CLIENTS[entry.client])[entry.name]
        answer = action.read({key: value for key, value in entry.response.items() if key != "id"})
        assert (answer is None) == (entry.answer is None)


def test_wire_names_and_defaults() -> None:
    found = {(entry.client, entry.name): entry for entry in ENTRIES}
    assert [one.name for one in found["matrix", "invite_user"].data] == ["userId"]
    topic = found["matrix", "create_room"].data[1]
    assert (topic.name, topic.required, topic.schema) == ("topic", False, {"type": "string"})
    hooks = found["element-call", "recreate"].data[0]
    assert (hooks.required, hooks.default) == (False, False)
    answer = found["matrix", "get_timeline"].answer
    assert answer is not None
    assert answer["required"] == ["timeline"]


def test_json_holds_everything() -> None:
    read = json.loads(as_json(ENTRIES))
    assert len(read) == len(ENTRIES)
    assert {"client", "class", "action", "documentation", "data", "answer", "definitions", "example"} == set(
        read[0]
    )


def test_the_page_describes_what_answers_contain() -> None:
    page = as_markdown(ENTRIES)
    assert "Answer: `timeline`, list of [TimelineEvent](#timelineevent).\n" in page
    section = page.split("### TimelineEvent\n")[1].split("\n### ")[0]
    fields = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| `")]
    assert [name.strip("`") for name, *_ in fields] == [*TimelineEvent.__annotations__]
    assert all(words.removeprefix("optional") for *_, words in fields), "each says what it contains"
    assert "state events" in section.lower()
    assert "| `members` | object of [Member](#member) |" in page
    assert "What answers contain" not in as_markdown([one for one in ENTRIES if one.answer is None])


def test_the_command_lists_and_tells() -> None:
    listed = run()
    assert "create_room(name, topic?, encrypted?, room_version?)" in listed
    assert "proxyTo(url)" in listed
    assert "proxyTo" not in run("--client", "matrix")
    told = run("send_message")
    assert told.startswith("## matrix")
    assert '"action": "send_message"' in told
    assert json.loads(run("--format", "json", "logout"))[0]["action"] == "logout"
    assert run("--format", "md") == as_markdown(ENTRIES)
    assert run("--format", "schema") == as_schema(ENTRIES)


def test_a_typo_is_told() -> None:
    with pytest.raises(UsageError, match="did you mean send_message"):
        run("send_mesage")
