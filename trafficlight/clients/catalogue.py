"""The action catalogue, generated from the declarations of the actions.

Its formats are Markdown (``docs/reference/actions.md``), JSON, and JSON Schema 2020-12.
"""

import inspect
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from pydantic import TypeAdapter

from trafficlight.clients.action import Action, Parameter, actions_of
from trafficlight.clients.element_call import ElementCallClient
from trafficlight.clients.matrix import MatrixClient
from trafficlight.clients.network_proxy import NetworkProxyClient
from trafficlight.protocol import JsonObject

CLIENTS: Mapping[str, type] = MappingProxyType(
    {"matrix": MatrixClient, "element-call": ElementCallClient, "network-proxy": NetworkProxyClient}
)
"""The kinds of clients, and the class that `run()` receives for each."""

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_REFERENCE = "#/$defs/{model}"
_ID = "5f0c7d1e9a2b4c68"
# Examples of parameters by their name on the wire; others get a value of their type.
_DATA: Mapping[str, Any] = MappingProxyType(
    {
        "username": "alice",
        "localpart": "alice",
        "password": "correct horse battery staple",
        "key_backup_passphrase": "seven small boats",
        "homeserver_url": {"local": "http://localhost:8008", "local_docker": "http://10.0.2.2:8008"},
        "userId": "@bob:hs1",
        "message": "hello",
        "name": "kitchen",
        "topic": "dinner",
        "display_name": "Alice",
        "call_name": "standup",
        "call_url": "https://call.example/standup",
        "url": "http://localhost:8008",
        "endpoint": "/sendToDevice",
        "delay": 2000,
        "timeout": 5000,
        "event_id": "$3kZ7qJmW",
        "room_id": "!kitchen:hs1",
        "key": "👍",
        "content": "aGVsbG8=",
        "content_type": "text/plain",
        "version": "11",
        "room_version": "11",
        "device_id": "GHTYAJCE",
        "recovery_key": "EsTv NnuZ T9ev",
        "qr_code": "TUFUUklYAgAABw",
        "milliseconds": 60000,
    }
)
# Examples of responses by action.
_ANSWERS: Mapping[str, Any] = MappingProxyType(
    {
        "get_timeline": [{"user": "@alice:hs1", "message": "hello"}],
        "get_room": {"room_id": "!kitchen:hs1", "encrypted": True, "members": {}},
        "get_invites": [{"room_id": "!kitchen:hs1", "inviter": "@bob:hs1"}],
        "get_typing": ["@bob:hs1"],
        "get_file": {"name": "notes.txt", "content_type": "text/plain", "content": "aGVsbG8="},
        "load_earlier": False,
        "get_emoji": ["🐶", "🐱", "🦁", "🐎", "🦄", "🐷", "🐘"],
        "show_qr_code": "TUFUUklYAgAABw",
        "get_verification": {"phase": "ready"},
        "get_trust": "verified",
        "get_devices": [{"device_id": "GHTYAJCE"}],
        "create_key_backup": "EsTv NnuZ T9ev",
        "create_or_join": {"existing": "false"},
        "get_lobby_data": {"snapshot": "lobby.png", "call_name": "standup"},
        "get_call_data": {"videos": [{"caption": "Alice", "snapshot": "tile-1.png"}], "call_name": "standup"},
    }
)


@dataclass(frozen=True, slots=True)
class DataEntry:
    """A parameter of an action.

    :ivar schema: its JSON Schema; references are to the definitions of the entry.
    """

    name: str
    schema: JsonObject
    required: bool
    default: Any = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One action of one kind of client.

    :ivar client: the kind of client.
    :ivar documentation: what it does, and what holds when the response is sent.
    :ivar answer: the JSON Schema of the response; None if any response is accepted.
    :ivar definitions: the definitions that the schemas refer to.
    :ivar message: an example of the message.
    :ivar response: an example of the response.
    """

    client: str
    client_class: str
    name: str
    documentation: str
    data: tuple[DataEntry, ...]
    answer: JsonObject | None
    definitions: JsonObject
    message: JsonObject
    response: JsonObject


def catalogue(client: str | None = None) -> list[Entry]:
    """Return every action, in the order of its declaration.

    :param client: a kind of client; None for all.
    """
    return [
        _entry(kind, CLIENTS[kind], action)
        for kind in ([client] if client is not None else CLIENTS)
        for action in actions_of(CLIENTS[kind]).values()
    ]


def as_json(entries: Iterable[Entry]) -> str:
    """Return the catalogue as a JSON list."""
    return _dump([_as_object(entry) for entry in entries])


def as_schema(entries: Iterable[Entry]) -> str:
    """Return a JSON Schema that accepts every action's message; the responses' schemas are definitions."""
    definitions: JsonObject = {}
    messages = []
    for entry in entries:
        name = f"{entry.client}.{entry.name}"
        definitions |= entry.definitions
        definitions[name] = _message_schema(entry)
        if entry.answer is not None:
            definitions[f"{name}.response"] = entry.answer
        messages.append({"$ref": f"#/$defs/{name}"})
    schema = {"$schema": _DIALECT, "title": "Actions", "anyOf": messages, "$defs": definitions}
    return _dump(schema)


def as_markdown(entries: Iterable[Entry]) -> str:
    """Return the reference page."""
    entries = tuple(entries)
    lines = [
        "# Actions",
        "",
        "The actions of each kind of client. A poll returns the message; the adapter performs the action and",
        "responds once what its description says holds. If no answer is listed, any JSON object is accepted.",
        "[A driver](../how-to/write-a-driver.md) writes the fields of the answer into its `response`: for",
        '`{"id": "5f0c", "more": false}` it prints `{"id": 1, "response": {"more": false}}`.',
        "",
        "Generated by `trafficlight actions --format md`.",
    ]
    client = None
    for entry in entries:
        if entry.client != client:
            client = entry.client
            lines += ["", f"## {client} (`{entry.client_class}`)"]
        lines += ["", *_markdown_of(entry)]
    answered: JsonObject = {}
    for entry in entries:
        answered |= entry.definitions if entry.answer is not None else {}
    lines += ["", "## What answers contain"] if answered else []
    for name, schema in answered.items():
        lines += ["", *_markdown_of_object(name, schema)]
    return "\n".join(lines) + "\n"


def brief(schema: Mapping[str, Any], named: Callable[[str], str] = str) -> str:
    """Return a phrase for the values that a JSON Schema accepts.

    :param named: returns how the name of an object is shown.
    """
    if "$ref" in schema:
        return named(str(schema["$ref"]).rpartition("/")[2])
    if "enum" in schema or "const" in schema:
        return " or ".join(f"`{json.dumps(value)}`" for value in schema.get("enum", [schema.get("const")]))
    if "anyOf" in schema:
        return " or ".join(brief(one, named) for one in schema["anyOf"])
    if schema.get("type") == "array":
        return f"list of {brief(schema.get('items', {}), named)}"
    if isinstance(values := schema.get("additionalProperties"), dict):
        return f"object of {brief(values, named)}"
    return str(schema.get("type", "anything"))


def _entry(kind: str, client: type, action: Action) -> Entry:
    definitions: JsonObject = {}
    data = tuple(_data(parameter, definitions) for parameter in action.parameters)
    answer = _answer(action, definitions)
    sent = {one.name: _example(one.name, one.schema, definitions) for one in data}
    response: JsonObject = {"response": "done"}
    if action.answer is not None:
        given = _ANSWERS.get(action.name, {})
        response = given if action.answer_in is None else {action.answer_in: given}
    return Entry(
        client=kind,
        client_class=client.__name__,
        name=action.name,
        documentation=action.documentation,
        data=data,
        answer=answer,
        definitions=definitions,
        message={"action": action.name, "id": _ID, "data": sent},
        response={"id": _ID, **response},
    )


def _data(parameter: Parameter, definitions: JsonObject) -> DataEntry:
    schema = _schema(parameter.adapter, definitions)
    if parameter.required:
        return DataEntry(parameter.wire, schema, required=True)
    # Optional parameters that are None are omitted, so the wire never carries null.
    kinds = [one for one in schema.get("anyOf", ()) if one.get("type") != "null"]
    if kinds and parameter.default is None:
        rest = {key: value for key, value in schema.items() if key != "anyOf"}
        schema = {**rest, **(kinds[0] if len(kinds) == 1 else {"anyOf": kinds})}
    default = None if parameter.default is inspect.Parameter.empty else parameter.default
    return DataEntry(parameter.wire, schema, required=False, default=default)


def _answer(action: Action, definitions: JsonObject) -> JsonObject | None:
    if action.answer is None:
        return None
    schema = _schema(TypeAdapter(action.answer), definitions)
    if action.answer_in is None:
        return schema
    return {"type": "object", "properties": {action.answer_in: schema}, "required": [action.answer_in]}


def _schema(adapter: TypeAdapter[Any], definitions: JsonObject) -> JsonObject:
    schema = adapter.json_schema(ref_template=_REFERENCE)
    definitions |= schema.pop("$defs", {})
    if "properties" in schema and "title" in schema:
        # One definition, whichever action uses it.
        name = schema["title"]
        definitions[name] = schema
        return {"$ref": _REFERENCE.format(model=name)}
    schema.pop("title", None)
    return schema


def _message_schema(entry: Entry) -> JsonObject:
    return {
        "description": entry.documentation,
        "type": "object",
        "properties": {
            "action": {"const": entry.name},
            "id": {"type": "string"},
            "data": {
                "type": "object",
                "properties": {one.name: one.schema for one in entry.data},
                "required": [one.name for one in entry.data if one.required],
            },
        },
        "required": ["action", "data"],
    }


def _example(name: str, schema: JsonObject, definitions: JsonObject) -> Any:
    if name in _DATA:
        return _DATA[name]
    if "$ref" in schema:
        return _example(name, definitions[brief(schema)], definitions)
    if "enum" in schema:
        return schema["enum"][0]
    samples = {"string": name, "integer": 1, "number": 1.5, "boolean": True, "array": [], "object": {}}
    return samples.get(str(schema.get("type")))


def _as_object(entry: Entry) -> JsonObject:
    return {
        "client": entry.client,
        "class": entry.client_class,
        "action": entry.name,
        "documentation": entry.documentation,
        "data": [
            {"name": one.name, "schema": one.schema, "required": one.required}
            | ({} if one.required else {"default": one.default})
            for one in entry.data
        ],
        "answer": entry.answer,
        "definitions": entry.definitions,
        "example": {"message": entry.message, "response": entry.response},
    }


def _markdown_of(entry: Entry) -> list[str]:
    lines = [f"### {entry.name}", "", _unwrapped(entry.documentation)]
    if entry.data:
        lines += ["", "| data | type | |", "| --- | --- | --- |"]
        for one in entry.data:
            note = "required" if one.required else "optional"
            if not one.required and one.default is not None:
                note += f", default `{json.dumps(one.default)}`"
            lines.append(f"| `{one.name}` | {_type_of(one.schema, entry.definitions)} | {note} |")
    if entry.answer is not None:
        lines += ["", f"Answer: {_answer_in_words(entry)}"]
    example = json.dumps(entry.message, ensure_ascii=False)
    answer = json.dumps(entry.response, ensure_ascii=False)
    return [*lines, "", "```json", example, answer, "```"]


def _markdown_of_object(name: str, schema: JsonObject) -> list[str]:
    text, *fields = re.split(r"^:ivar ", schema.get("description", ""), flags=re.MULTILINE)
    described = {field: words for field, _, words in (one.partition(": ") for one in fields)}
    lines = [f"### {name}", "", _unwrapped(text.strip()), "", "| field | type | |", "| --- | --- | --- |"]
    for field, one in schema["properties"].items():
        notes = [] if field in schema.get("required", ()) else ["optional"]
        if field in described:
            notes.append(_unwrapped(described[field]).strip().removesuffix("."))
        lines.append(f"| `{field}` | {brief(one, _linked)} | {': '.join(notes)} |")
    return lines


def _unwrapped(text: str) -> str:
    """Return a text with one line for each paragraph, so that the page does not change with the source's."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def _type_of(schema: JsonObject, definitions: JsonObject) -> str:
    if "$ref" not in schema:
        return brief(schema)
    fields = definitions[brief(schema)]["properties"]
    return "object with " + ", ".join(f"`{name}`" for name in fields)


def _answer_in_words(entry: Entry) -> str:
    answer = entry.answer or {}
    if "$ref" in answer:
        fields = entry.definitions[brief(answer)]["properties"]
        return ", ".join(f"`{name}` ({brief(one)})" for name, one in fields.items())
    return "; ".join(f"`{name}`, {brief(one, _linked)}" for name, one in answer["properties"].items()) + "."


def _linked(name: str) -> str:
    return f"[{name}](#{name.lower()})"


def _dump(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
