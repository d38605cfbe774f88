"""Configurations carry what a test lab needs."""

import base64
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trafficlight.cache import CacheFolder
from trafficlight.config import DENDRITE_MODULE, DENDRITE_VERSION, SYNAPSE_VERSION
from trafficlight.homeservers.recipes import default_recipes
from trafficlight.homeservers.recipes.dendrite import DendriteRecipe
from trafficlight.homeservers.recipes.recipe import Installation, Place
from trafficlight.homeservers.recipes.synapse import SynapseRecipe


def _drop(_: str) -> None:
    """Drop the progress."""


@pytest.fixture
def place(tmp_path: Path) -> Place:
    folder = tmp_path / "0001-server"
    folder.mkdir()
    files = tmp_path / "authority.crt", tmp_path / "server.crt", tmp_path / "server.key"
    return Place(folder, folder / "homeserver.log", 18000, 18001, *files)


@pytest.fixture
def synapse(tmp_path: Path) -> tuple[SynapseRecipe, Installation]:
    (tmp_path / "homeserver.db").write_bytes(b"prepared")
    recipe = SynapseRecipe(CacheFolder(tmp_path), _drop)
    return recipe, Installation("1.98.0", tmp_path, "Synapse 1.98.0")


def _config(place: Place) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((place.directory / "homeserver.yaml").read_text())
    return config


def test_a_place_names_its_server_after_its_federation_port(place: Place) -> None:
    assert place.server_name == "localhost:18001"
    assert place.cs_api == "http://127.0.0.1:18000"


def test_synapse_listens_on_loopback_only(place: Place, synapse: tuple[SynapseRecipe, Installation]) -> None:
    recipe, installation = synapse
    recipe.configure(installation, place)
    config = _config(place)
    assert config["server_name"] == "localhost:18001"
    assert [(listener["port"], listener["tls"]) for listener in config["listeners"]] == [
        (18000, False),
        (18001, True),
    ]
    assert all(listener["bind_addresses"] == ["127.0.0.1"] for listener in config["listeners"])


def test_synapse_serves_no_well_known_that_leads_around_a_proxy(
    place: Place, synapse: tuple[SynapseRecipe, Installation]
) -> None:
    recipe, installation = synapse
    recipe.configure(installation, place)
    assert "public_baseurl" not in _config(place)


def test_synapse_has_no_limits_that_a_test_could_meet(
    place: Place, synapse: tuple[SynapseRecipe, Installation]
) -> None:
    recipe, installation = synapse
    recipe.configure(installation, place)

    def buckets(limit: dict[str, Any]) -> list[dict[str, Any]]:
        return (
            [limit]
            if "per_second" in limit
            else [part for inner in limit.values() for part in buckets(inner)]
        )

    limits = {
        name: value
        for name, value in _config(place).items()
        if name.startswith("rc_") and name != "rc_federation"
    }
    assert len(limits) == 18
    for name, limit in limits.items():
        assert all(bucket["per_second"] >= 100_000 for bucket in buckets(limit)), name


def test_synapse_keeps_all_it_writes_in_its_place(
    place: Place, synapse: tuple[SynapseRecipe, Installation]
) -> None:
    recipe, installation = synapse
    recipe.configure(installation, place)
    config = _config(place)
    paths = ("pid_file", "signing_key_path", "log_config", "media_store_path")
    assert all(Path(config[path]).parent == place.directory for path in paths)
    assert config["database"]["args"]["database"] == str(place.directory / "homeserver.db")
    assert (place.directory / "homeserver.db").read_bytes() == b"prepared"


def test_every_synapse_has_an_identity_of_its_own(
    place: Place, synapse: tuple[SynapseRecipe, Installation]
) -> None:
    recipe, installation = synapse
    identities = set()
    for _ in range(2):
        recipe.configure(installation, place)
        algorithm, version, key = (place.directory / "signing.key").read_text().split()
        assert (algorithm, version[:2]) == ("ed25519", "a_")
        assert len(base64.b64decode(key + "=")) == 32
        identities.add((key, _config(place)["macaroon_secret_key"]))
    assert len(identities) == 2


async def test_synapse_resolves_stable_as_configured(tmp_path: Path) -> None:
    assert await SynapseRecipe(CacheFolder(tmp_path), _drop).resolve("stable") == SYNAPSE_VERSION
    assert await SynapseRecipe(CacheFolder(tmp_path), _drop, "1.140.0").resolve("stable") == "1.140.0"
    assert await SynapseRecipe(CacheFolder(tmp_path), _drop).resolve("1.98.0") == "1.98.0"


def test_dendrite_is_configured_in_its_place(place: Place, tmp_path: Path) -> None:
    recipe = DendriteRecipe(CacheFolder(tmp_path), _drop)
    command = recipe.configure(Installation(DENDRITE_VERSION, tmp_path, "Dendrite"), place)
    config = json.loads((place.directory / "dendrite.yaml").read_text())
    assert config["global"]["server_name"] == "localhost:18001"
    assert config["client_api"]["rate_limiting"] == {"enabled": False}
    assert config["federation_api"]["deny_networks"] == []
    databases = [
        part["database"] for part in config.values() if isinstance(part, dict) and "database" in part
    ]
    assert len(databases) == 7
    assert all(str(place.directory) in database["connection_string"] for database in databases)
    assert "-http-bind-address=127.0.0.1:18000" in command.argv
    assert "-https-bind-address=127.0.0.1:18001" in command.argv
    assert command.environment == {"SSL_CERT_FILE": str(place.authority)}
    assert "Key-ID: ed25519:" in (place.directory / "signing.pem").read_text()


def test_dendrite_without_go_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = DendriteRecipe(CacheFolder(tmp_path), _drop)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "built with Go, which is not on the PATH" in (recipe.unsupported("stable") or "")
    _program(tmp_path / "go")
    assert "needs a C compiler" in (recipe.unsupported("stable") or "")
    _program(tmp_path / "gcc")
    assert recipe.unsupported("stable") is None


def test_dendrite_that_was_built_needs_no_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    (tmp_path / "dendrite" / DENDRITE_VERSION).mkdir(parents=True)
    assert DendriteRecipe(CacheFolder(tmp_path), _drop).unsupported("stable") is None


@pytest.mark.parametrize("version", ["0.14.0", "0.15.2", "1.0.0-rc1"])
def test_dendrite_of_the_successor_module_needs_that_module_in_the_configuration(
    version: str, tmp_path: Path
) -> None:
    (tmp_path / "dendrite" / version).mkdir(parents=True)  # a build of an earlier trafficlight
    reason = DendriteRecipe(CacheFolder(tmp_path), _drop).unsupported(version)
    assert reason is not None
    assert "set DENDRITE_MODULE to github.com/element-hq/dendrite" in reason


@pytest.mark.parametrize(
    ("module", "built"),
    [
        (DENDRITE_MODULE, "dendrite/0.13.8"),
        ("github.com/element-hq/dendrite", "dendrite/element-hq-dendrite-0.13.8"),
    ],
)
def test_dendrite_of_each_module_has_builds_of_its_own(
    module: str, built: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    recipe = DendriteRecipe(CacheFolder(tmp_path), _drop, "0.13.8", module)
    assert "built with Go" in (recipe.unsupported("stable") or "")
    (tmp_path / built).mkdir(parents=True)
    assert recipe.unsupported("stable") is None


async def test_dendrite_is_built_from_its_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for Go reports the source directory and writes the binary."""
    programs, source = tmp_path / "bin", tmp_path / "source"
    programs.mkdir()
    source.mkdir()
    go = programs / "go"
    go.write_text(
        "#!/bin/sh\n"
        f'if [ "$1" = mod ]; then echo "$4" > {tmp_path}/module; echo \'{{"Dir": "{source}"}}\'; exit; fi\n'
        'echo binary > "$4"\n'
    )
    go.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    installed = await DendriteRecipe(CacheFolder(tmp_path / "cache"), _drop).install("0.13.8")
    assert (tmp_path / "module").read_text() == "github.com/matrix-org/dendrite@v0.13.8\n"
    assert (installed.folder / "dendrite").read_text() == "binary\n"


def _program(path: Path) -> None:
    path.touch(mode=0o755)


@pytest.mark.parametrize("make", [SynapseRecipe, DendriteRecipe], ids=["synapse", "dendrite"])
def test_shipped_recipes_are_among_the_defaults(
    make: Callable[..., SynapseRecipe | DendriteRecipe], tmp_path: Path
) -> None:
    cache = CacheFolder(tmp_path)
    assert make(cache, _drop).name in {recipe.name for recipe in default_recipes(cache, _drop)}
