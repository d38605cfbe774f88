"""Requests that bypassed the network proxy, by the log of a Synapse.

A process of every case imports this, so it must not import the recipe, whose libraries take 0.3 s.
"""

import re
from collections.abc import Container
from pathlib import Path

from trafficlight.network.rules import SOURCE

_ACCESS = re.compile(
    r" - (?P<source>\S+) - \d+ - \{(?P<user>@[^}|]+)[^}]*\} Processed request: "
    r'.*? "(?P<request>[A-Z]+ \S+) HTTP/1\.\d" "(?P<agent>.*)" \['
)


def requests_past(log: Path, users: Container[str], start: int = 0) -> dict[str, list[str]]:
    """Return what users asked past the proxy, with a client that the homeserver knows through it. Blocks.

    :param log: the homeserver's log; one that is not of Synapse has nothing.
    :param start: the byte at which the search begins.
    :return: methods and paths, by user.
    :raises OSError: it cannot be read.
    """
    through: set[tuple[str, str]] = set()
    past: list[tuple[str, str, str]] = []
    with log.open(encoding="utf-8", errors="replace") as lines:
        lines.seek(start)
        for line in lines:
            if " Processed request: " not in line or (found := _ACCESS.search(line)) is None:
                continue
            user, agent = found["user"], found["agent"]
            if found["source"] == SOURCE:
                through.add((user, agent))
            elif user in users:
                past.append((user, agent, found["request"].partition("?")[0]))
    requests: dict[str, list[str]] = {}
    for user, agent, request in past:
        if (user, agent) in through:
            requests.setdefault(user, []).append(request)
    return requests
