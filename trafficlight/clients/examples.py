"""What the examples in the action catalogue say."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

_URL = "http://localhost:8008"
DATA: Mapping[str, Any] = MappingProxyType(
    {
        "username": "alice",
        "localpart": "alice",
        "password": "correct horse battery staple",
        "key_backup_passphrase": "seven small boats",
        "homeserver_url": {"local": _URL, "local_docker": "http://10.0.2.2:8008"},
        "userId": "@bob:hs1",
        "message": "hello",
        "name": "kitchen",
        "topic": "dinner",
        "display_name": "Alice",
        "call_name": "standup",
        "call_url": "https://call.example/standup",
        "url": _URL,
        "endpoint": "/sendToDevice",
        "delay": 2000,
        "timeout": 5000,
        "milliseconds": 60000,
    }
)
"""For the parameters of actions, by their name on the wire; others get something of their type."""

ANSWERS: Mapping[str, Any] = MappingProxyType(
    {
        "get_timeline": [{"user": "@alice:hs1", "message": "hello"}],
        "create_or_join": {"existing": "false"},
        "get_lobby_data": {"snapshot": "lobby.png", "call_name": "standup"},
        "get_call_data": {"videos": [{"caption": "Alice", "snapshot": "tile-1.png"}], "call_name": "standup"},
    }
)
"""For the answers of actions, by the action's name."""
