"""The recipe in the how-to deploys a homeserver."""

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import aiohttp
import pytest

from trafficlight.homeservers.local.provider import LocalProvider
from trafficlight.homeservers.provider import ServerRequest
from trafficlight.server_types import HomeServerSpec

_HOW_TO = Path(__file__).parents[3] / "docs" / "how-to" / "new-homeserver.md"

# The smallest program that satisfies the recipe.
_HEARTH = f"""#!{sys.executable}
import http.server, json, socket, sys
if sys.argv[1] == "--version":
    sys.exit(print("hearth 2.1"))
config = json.load(open(sys.argv[2]))
federation = socket.create_server(("127.0.0.1", int(config["federation"].split(":")[1])))

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({{"versions": ["v1.1"], "name": config["name"]}}).encode())

http.server.ThreadingHTTPServer(("127.0.0.1", int(config["client"].split(":")[1])), Handler).serve_forever()
"""


def _recipe() -> Any:
    """Return the recipe from the how-to's first block of Python."""
    blocks = re.findall(r"```python\n(.*?)```", _HOW_TO.read_text(), re.DOTALL)
    assert len(blocks[0].splitlines()) < 60
    module = ModuleType("hearth")
    exec(compile(blocks[0], str(_HOW_TO), "exec"), module.__dict__)
    return module.HearthRecipe()


def test_without_the_program_it_is_unsupported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "Hearth is not on the PATH" in _recipe().unsupported("stable")


async def test_it_deploys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "hearth").write_text(_HEARTH)
    (programs / "hearth").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    provider = LocalProvider(recipes=[_recipe()], data_folder=tmp_path)
    request = ServerRequest(
        "server", HomeServerSpec("Hearth", "hearth", "stable", ""), tmp_path / "server.log"
    )
    try:
        async with provider.deploy("how-to", [request]) as [server], aiohttp.ClientSession() as session:
            assert server.version == "Hearth 2.1"
            async with session.get(f"{server.cs_api}/_matrix/client/versions") as answer:
                assert (await answer.json(content_type=None))["name"] == server.server_name
    finally:
        await provider.close()
    assert "GET /_matrix/client/versions" in request.log.read_text()
