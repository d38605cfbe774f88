"""Homeservers that run anyway: what the settings say of them, and who has them now."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, TypeAlias

from pydantic import ValidationError
from yarl import URL

from trafficlight.config import StaticServer
from trafficlight.errors import ConfigError, UnsupportedError

KEY = "SERVER_OVERRIDES"
StaticServerPool: TypeAlias = tuple[StaticServer, ...]

_FORMS = "an object with server_name and cs_api, a list of them, or a list of such lists"


def parse_overrides(overrides: Mapping[str, Any]) -> dict[str, tuple[StaticServerPool, ...]]:
    """Return the sets of homeservers for every server type.

    One object or URL is one set of one homeserver; a list of them is one set; a list of lists is several.

    :raises ConfigError: an entry is none of these; names its key.
    """
    return {type_name: _sets(value, f"{KEY}.{type_name}") for type_name, value in overrides.items()}


def _sets(value: Any, key: str) -> tuple[StaticServerPool, ...]:
    if not isinstance(value, list):
        return ((_server(value, key),),)
    if not value:
        raise ConfigError(f"is empty; write {_FORMS}", key=key)
    if not any(isinstance(item, list) for item in value):
        return (_set(value, key),)
    if not all(isinstance(item, list) and item for item in value):
        raise ConfigError(f"mixes lists with something else; write {_FORMS}", key=key)
    sets = tuple(_set(item, f"{key}[{index}]") for index, item in enumerate(value))
    if len({len(found) for found in sets}) > 1:
        raise ConfigError("its sets are of different sizes; each must fill the same roles", key=key)
    return sets


def _set(items: Sequence[Any], key: str) -> StaticServerPool:
    return tuple(_server(item, f"{key}[{index}]") for index, item in enumerate(items))


def _server(value: Any, key: str) -> StaticServer:
    if isinstance(value, str):
        value = {"cs_api": value}
    if not isinstance(value, dict):
        raise ConfigError(f"is {value!r}; write {_FORMS}", key=key)
    cs_api = value.get("cs_api")
    if isinstance(cs_api, str):
        value = value | {"cs_api": cs_api.rstrip("/")}
        if "server_name" not in value:
            value |= {"server_name": _name_in(cs_api)}
    try:
        return StaticServer.model_validate(value)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        # A name that is missing often follows from a URL that is none.
        first = next((problem for problem in problems if problem["loc"] == ("cs_api",)), problems[0])
        part = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{first['msg']}; write {_FORMS}", key=f"{key}.{part}") from None


def _name_in(url: str) -> str:
    """Return the host of a URL, with its port where one is written."""
    try:
        found = URL(url)
        return f"{found.host}:{found.explicit_port}" if found.explicit_port else found.host or ""
    except ValueError:
        return ""


class SetPool:
    """The sets of one server type, each with one case at a time. Who waits longest is served first.

    :param type_name: the server type.
    :param sets: its sets, all of the same size.
    """

    def __init__(self, type_name: str, sets: Sequence[StaticServerPool]) -> None:
        self._type_name = type_name
        self._sets = tuple(sets)
        self._free = list(reversed(sets))
        self._turn = asyncio.Lock()
        self._released = asyncio.Event()

    @property
    def servers(self) -> tuple[StaticServer, ...]:
        """Every homeserver, each once."""
        return tuple({server.cs_api: server for found in self._sets for server in found}.values())

    @property
    def capacity(self) -> int:
        """How many homeservers there are for cases at once."""
        return sum(len(found) for found in self._sets)

    @property
    def free(self) -> int:
        """How many sets nobody has."""
        return len(self._free)

    @contextlib.asynccontextmanager
    async def lease(self, count: int) -> AsyncIterator[list[StaticServer]]:
        """Have homeservers alone until this is left; waits while others have them.

        :raises UnsupportedError: there are not that many.
        """
        needed = -(-count // len(self._sets[0]))
        if needed > len(self._sets):
            raise UnsupportedError(
                f"{KEY}.{self._type_name} names {self.capacity} homeservers, the case needs {count}"
            )
        async with self._turn:
            while len(self._free) < needed:
                self._released.clear()
                await self._released.wait()
            taken = [self._free.pop() for _ in range(needed)]
        try:
            yield [server for found in taken for server in found][:count]
        finally:
            self._free.extend(taken)
            self._released.set()
