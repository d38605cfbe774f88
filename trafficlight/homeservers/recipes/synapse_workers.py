"""Synapse on PostgreSQL, in one process or with workers."""

import asyncio
import json
import os
import shutil
import sys
import venv
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from trafficlight.homeservers.probe import wait_for_socket
from trafficlight.homeservers.recipes import postgres
from trafficlight.homeservers.recipes.recipe import Command, Installation, Place
from trafficlight.homeservers.recipes.synapse import (
    PIP_QUIET,
    SynapseRecipe,
    interpreter,
    log_config,
    migrate,
    works,
    write_configuration,
    write_sample,
)
from trafficlight.processes import run_tool

_ROUTER = Path(__file__).parent.parent / "local" / "synapse_router.py"
_READER, _SENDER, _WRITER = "reader", "sender", "writer"


class PostgresSynapseRecipe(SynapseRecipe):
    """Synapse in one process, on a PostgreSQL cluster of its own."""

    name = "synapse-postgres"

    def unsupported(self, version: str) -> str | None:
        """Return what is missing: PostgreSQL is not installed by the lab."""
        reason = postgres.missing()
        return None if reason is None else f"Synapse on PostgreSQL {reason}"

    async def install(self, version: str) -> Installation:
        """Install a version, its drivers for PostgreSQL and Redis beside it, and a migrated cluster."""
        base = await super().install(version)

        async def build(folder: Path) -> None:
            what = f"matrix-synapse {version}"
            self.progress(f"{what}: preparing a PostgreSQL cluster")
            await asyncio.to_thread(_extend, base.folder, folder)
            pip = [str(interpreter(base.folder)), "-m", "pip", "--python", str(interpreter(folder))]
            wanted = [f"matrix-synapse[redis]=={version}", "psycopg2-binary"]
            await run_tool(f"installing drivers for {what}", [*pip, "install", *PIP_QUIET, *wanted])
            sample = folder / "preparing"

            async def fill(cluster: Path) -> None:
                await asyncio.to_thread(write_sample, sample, {"database": _database(cluster)})
                await migrate(interpreter(folder), sample, version)

            await postgres.create(folder / "cluster", fill)
            await asyncio.to_thread(shutil.rmtree, sample)

        name = f"{self.name_of(version, 'synapse-postgres')}-pg{await asyncio.to_thread(postgres.major)}"
        folder = await self.cache.ensure(name, build, works)
        fork_server = (str(interpreter(folder)), *base.fork_server[1:])
        return replace(base, folder=folder, fork_server=fork_server)

    def configure(self, installation: Installation, place: Place) -> Command:
        """Write the configuration, a signing key and the cluster."""
        cluster = place.directory / "postgres"
        known = self.settings_of(installation.version)
        write_configuration(place, known, {"database": _database(cluster), **self._more(place)})
        postgres.copy(installation.folder / "cluster", cluster)
        return replace(self.command(installation, place), services=(postgres.service(cluster),))

    def _more(self, place: Place) -> dict[str, Any]:
        """Return the configuration besides the database."""
        return {}


class WorkersSynapseRecipe(PostgresSynapseRecipe):
    """Synapse with workers, Redis, and a router where a reverse proxy would be."""

    name = "synapse-workers"

    def unsupported(self, version: str) -> str | None:
        """Return what is missing: neither PostgreSQL nor Redis are installed by the lab."""
        reason = postgres.missing()
        if reason is None and _redis() is None:
            reason = "needs Redis, which is not on the PATH: apt-get install redis-server, or valkey-server"
        return None if reason is None else f"Synapse with workers {reason}"

    def configure(self, installation: Installation, place: Place) -> Command:
        """Write the configuration of every process."""
        main = super().configure(installation, place)
        folder = place.directory
        workers = []
        for name in (_READER, _SENDER, _WRITER):
            (folder / f"{name}.log.json").write_text(json.dumps(log_config(place, name)))
            config = {
                "worker_app": "synapse.app.generic_worker",
                "worker_name": name,
                "worker_log_config": str(folder / f"{name}.log.json"),
                "worker_listeners": [_listener(folder, name)],
            }
            (folder / f"{name}.yaml").write_text(json.dumps(config))
            worker = self.command(installation, place, "synapse.app.generic_worker", folder / f"{name}.yaml")
            workers.append(replace(worker, name=name, ready=partial(wait_for_socket, _socket(folder, name))))
        where = ("--port", "0", "--unixsocket", str(_socket(folder, "redis")))
        redis = (_redis() or "redis-server", *where, "--save", "", "--appendonly", "no")
        router = {
            "ports": [place.client_port, place.federation_port],
            "certificate": [str(place.certificate), str(place.private_key)],
            "main": str(_socket(folder, "main")),
            "reader": str(_socket(folder, _READER)),
        }
        route = Command((sys.executable, "-P", str(_ROUTER), json.dumps(router)), name="router")
        accepts = partial(wait_for_socket, _socket(folder, "redis"))
        services = (*main.services, Command(redis, name="redis", ready=accepts))
        return replace(
            main,
            ready=partial(wait_for_socket, _socket(folder, "main")),
            services=services,
            workers=(*workers, route),
        )

    def _more(self, place: Place) -> dict[str, Any]:
        folder = place.directory
        return {
            "listeners": [_listener(folder, "main")],
            "redis": {"enabled": True, "path": str(_socket(folder, "redis"))},
            "instance_map": {
                name: {"path": str(_socket(folder, name))} for name in ("main", _READER, _SENDER, _WRITER)
            },
            "stream_writers": {"events": [_WRITER]},
            "federation_sender_instances": [_SENDER],
        }


def _redis() -> str | None:
    return shutil.which("redis-server") or shutil.which("valkey-server")


def _socket(folder: Path, name: str) -> Path:
    return folder / f"{name}.sock"


def _listener(folder: Path, name: str) -> dict[str, Any]:
    resources = [{"names": [one], "compress": False} for one in ("client", "federation", "replication")]
    return {"type": "http", "path": str(_socket(folder, name)), "resources": resources}


def _database(cluster: Path) -> dict[str, Any]:
    args = {"user": "synapse", "dbname": "postgres", "host": str(cluster), "cp_min": 1, "cp_max": 5}
    return {"name": "psycopg2", "args": args}


def _extend(base: Path, folder: Path) -> None:
    """Create an environment that has all packages of another one, too."""
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    (theirs,), (ours,) = ((one / "venv" / "lib").glob("python*/site-packages") for one in (base, folder))
    (ours / "base.pth").write_text(f"{theirs}{os.linesep}")
