"""What a client asked Synapse without the network proxy, by its log."""

from pathlib import Path

from trafficlight.network.bypass import requests_past
from trafficlight.network.rules import SOURCE

_LINE = (
    "2026-11-29 19:10:54,011 INFO synapse.access.http.18209 - POST-2 - {source} - 18209 - {{{user}}}"
    " Processed request: 0.195sec/0.000sec ru=(0.005sec, 0.001sec) db=(0.101sec/0.028sec/14) 48B 200"
    ' "{request} HTTP/1.1" "{agent}" [0 dbevts]\n'
)


def test_only_the_users_own_client_counts(tmp_path: Path) -> None:
    log = tmp_path / "homeserver.log"
    through, past = SOURCE, "127.0.0.1"
    alice, bob = "@alice:localhost:1", "@bob:localhost:1"
    rows = [
        (past, "None", "POST /register", "aiohttp"),
        (past, alice, "GET /sync?since=s1", "aiohttp"),
        (through, alice, "GET /sync?since=s2", "aiohttp"),
        (past, alice, "POST /keys/upload", "aiohttp"),
        (past, alice, "GET /whoami", "curl"),
        (past, bob, "GET /sync", "aiohttp"),
    ]
    lines = [
        _LINE.format(source=source, user=user, request=request, agent=agent)
        for source, user, request, agent in rows
    ]
    log.write_text("".join(["2026-11-29 INFO - main - None - Processed request: nothing\n", *lines]))

    assert requests_past(log, {alice}) == {alice: ["GET /sync", "POST /keys/upload"]}
    assert requests_past(log, {bob}) == {}, "nothing of bob came through the proxy"
