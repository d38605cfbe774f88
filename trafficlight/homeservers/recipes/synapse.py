"""Synapse from PyPI: each version in its own virtual environment."""

import asyncio
import base64
import json
import secrets
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from trafficlight.config import SYNAPSE_VERSION
from trafficlight.homeservers.certificates import Certificates
from trafficlight.homeservers.local.cache import CacheFolder
from trafficlight.homeservers.local.environments import Environments, interpreter, version_key, works
from trafficlight.homeservers.recipes.recipe import Command, Installation, Place
from trafficlight.homeservers.recipes.synapse_config import log_config, synapse_config
from trafficlight.processes import Progress, run_tool

_FORK_SERVER = Path(__file__).parent.parent / "local" / "synapse_fork_server.py"
_TEMPLATE = "homeserver.db"
_OLD = version_key("1.150")  # older releases fail with current prometheus clients
_PINS_FOR_OLD = ("prometheus_client==0.22.1",)


class SynapseRecipe:
    """Installs, configures and starts Synapse.

    :param cache: the folder for virtual environments.
    :param progress: called with a line for every slow step.
    :param stable: the version that ``stable`` stands for.
    """

    name = "synapse"

    def __init__(self, cache: CacheFolder, progress: Progress, stable: str = SYNAPSE_VERSION) -> None:
        self._cache = cache
        self._progress = progress
        self._stable = stable
        self._newest: str | None = None
        self._environments = Environments(cache, "matrix-synapse", progress)

    def unsupported(self, version: str) -> str | None:
        """Return None: only pip knows which versions it can install."""
        return None

    async def resolve(self, version: str) -> str:
        """Return the exact version; queries the package index for the newest one once."""
        if version == "latest":
            if self._newest is None:
                self._newest = await self._environments.newest(fallback=self._stable)
            return self._newest
        return self._stable if version == "stable" else version

    async def install(self, version: str) -> Installation:
        """Install a version with an empty, migrated database, unless it is installed already."""

        async def build(folder: Path) -> None:
            also = _PINS_FOR_OLD if version_key(version) < _OLD else ()
            await self._environments.create(folder, version, also)
            await self._prepare_database(folder, version)

        folder = await self._cache.ensure(self._environments.name(version), build, works)
        fork_server = (str(interpreter(folder)), "-I", str(_FORK_SERVER))
        return Installation(version, folder, f"Synapse {version}", fork_server)

    def configure(self, installation: Installation, place: Place) -> Command:
        """Write the configuration, a signing key and the migrated database."""
        folder = place.directory
        _write_configuration(place)
        shutil.copyfile(installation.folder / _TEMPLATE, folder / "homeserver.db")
        args = ("-c", str(folder / "homeserver.yaml"))
        python = str(interpreter(installation.folder))
        return Command((python, "-I", "-m", "synapse.app.homeserver", *args), args)

    async def _prepare_database(self, folder: Path, version: str) -> None:
        """Migrate an empty database, which depends on the version only."""
        self._progress(f"matrix-synapse {version}: preparing its database")
        sample = folder / "preparing"
        await asyncio.to_thread(_write_sample, sample)
        script = "synapse._scripts.update_synapse_database"
        config = str(sample / "homeserver.yaml")
        await run_tool(
            f"preparing the database of Synapse {version}",
            [
                str(interpreter(folder)),
                "-I",
                "-m",
                script,
                "--database-config",
                config,
                "--run-background-updates",
            ],
        )
        await asyncio.to_thread(_compact, sample / "homeserver.db")
        await asyncio.to_thread((sample / "homeserver.db").rename, folder / _TEMPLATE)
        await asyncio.to_thread(shutil.rmtree, sample)


def _write_sample(folder: Path) -> None:
    """Write the configuration of a homeserver that is never started."""
    folder.mkdir()
    certificates = Certificates.create(folder)
    files = certificates.authority, certificates.certificate, certificates.private_key
    _write_configuration(Place(folder, folder / "log", 1, 2, *files))


def _write_configuration(place: Place) -> None:
    key = base64.b64encode(secrets.token_bytes(32)).decode().rstrip("=")
    (place.directory / "signing.key").write_text(f"ed25519 a_{secrets.token_hex(2)} {key}\n")
    (place.directory / "log.json").write_text(json.dumps(log_config(place)))
    (place.directory / "homeserver.yaml").write_text(json.dumps(synapse_config(place)))  # JSON is YAML


def _compact(database: Path) -> None:
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("VACUUM")
