"""Synapse from PyPI: each version in its own virtual environment."""

import asyncio
import base64
import functools
import importlib.util
import json
import logging
import re
import secrets
import shutil
import sqlite3
import sys
import venv
from asyncio import to_thread
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from trafficlight.cache import CacheFolder
from trafficlight.clients.admin import REGISTRATION_SECRET
from trafficlight.config import SYNAPSE_VERSION
from trafficlight.errors import DeployError
from trafficlight.homeservers.certificates import Certificates
from trafficlight.homeservers.recipes.recipe import Command, Installation, Place
from trafficlight.processes import Progress, no_network, run_tool

_FORK_SERVER = Path(__file__).parent.parent / "local" / "synapse_fork_server.py"
_TEMPLATE = "homeserver.db"
_OLD = "1.150"  # older releases fail with current prometheus clients
_PINS_FOR_OLD = ("prometheus_client==0.22.1",)


class SynapseRecipe:
    """Installs, configures and starts Synapse.

    :param cache: the folder for virtual environments.
    :param progress: called with a line for every slow step.
    :param stable: the version that ``stable`` stands for.
    """

    name = "synapse"

    def __init__(self, cache: CacheFolder, progress: Progress, stable: str = SYNAPSE_VERSION) -> None:
        self.cache = cache
        self.progress = progress
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
            also = _PINS_FOR_OLD if version_key(version) < version_key(_OLD) else ()
            await self._environments.create(folder, version, also)
            await self._prepare_database(folder, version)

        folder = await self.cache.ensure(self._environments.name(version), build, works)
        fork_server = (str(interpreter(folder)), "-I", str(_FORK_SERVER))
        return Installation(version, folder, f"Synapse {version}", fork_server)

    def configure(self, installation: Installation, place: Place) -> Command:
        """Write the configuration, a signing key and the migrated database."""
        write_configuration(place, self.settings_of(installation.version))
        shutil.copyfile(installation.folder / _TEMPLATE, place.directory / "homeserver.db")
        return self.command(installation, place)

    def command(
        self, installation: Installation, place: Place, module: str = "synapse.app.homeserver", *more: Path
    ) -> Command:
        """Return the command of one process.

        :param more: configuration files after that of the homeserver.
        """
        files = (place.directory / "homeserver.yaml", *more)
        args = [word for file in files for word in ("-c", str(file))]
        python = str(interpreter(installation.folder))
        argv = (python, "-I", "-m", module, *args)
        settings = functools.partial(self.settings_of, installation.version)
        return Command(argv, argv[3:], config=files[0], settings=settings)

    def settings_of(self, version: str) -> frozenset[str]:
        """Return what may be the name of a setting. Blocks."""
        return settings_of(self.cache.path(self.name_of(version)))

    def name_of(self, version: str, package: str = "matrix-synapse") -> str:
        """Return the name of a version's environment in the cache."""
        return self._environments.name(version).replace("matrix-synapse", package, 1)

    async def _prepare_database(self, folder: Path, version: str) -> None:
        """Migrate an empty database, which depends on the version only."""
        self.progress(f"matrix-synapse {version}: preparing its database")
        sample = folder / "preparing"
        await asyncio.to_thread(write_sample, sample)
        await migrate(interpreter(folder), sample, version)
        await asyncio.to_thread(_compact, sample / "homeserver.db")
        await asyncio.to_thread((sample / "homeserver.db").rename, folder / _TEMPLATE)
        await asyncio.to_thread(shutil.rmtree, sample)


async def migrate(python: Path, sample: Path, version: str) -> None:
    """Create the tables in the database that a configuration names.

    :param sample: the folder of the configuration.
    :raises DeployError: Synapse fails to.
    """
    script = "synapse._scripts.update_synapse_database"
    config = str(sample / "homeserver.yaml")
    await run_tool(
        f"preparing the database of Synapse {version}",
        [str(python), "-I", "-m", script, "--database-config", config, "--run-background-updates"],
    )


def write_sample(folder: Path, more: Mapping[str, Any] = {}) -> None:
    """Write the configuration of a homeserver that is never started. Blocks.

    :param more: what it has instead of the usual settings.
    """
    folder.mkdir()
    certificates = Certificates.create(folder)
    files = certificates.authority, certificates.certificate, certificates.private_key
    write_configuration(Place(folder, folder / "log", 1, 2, *files), more=more)


@functools.lru_cache
def settings_of(environment: Path) -> frozenset[str]:
    """Return what may be the name of a setting: every word that Synapse's configuration quotes. Blocks."""
    found: set[str] = set()
    for file in environment.glob("venv/lib/python*/site-packages/synapse/config/*.py"):
        for path in re.findall(r"""["']([\w.]+)["']""", file.read_text(encoding="utf-8")):
            found.update(path.split("."))
    return frozenset(found)


def write_configuration(
    place: Place, known: frozenset[str] = frozenset(), more: Mapping[str, Any] = {}
) -> None:
    """Write the configuration of a homeserver, with a signing key. Blocks.

    :param known: the names of all settings.
    :param more: what the recipe has instead of the usual settings.
    :raises DeployError: its server type has a setting that is not known.
    """
    config = place.configured({**synapse_config(place), **more}, known)
    key = base64.b64encode(secrets.token_bytes(32)).decode().rstrip("=")
    (place.directory / "signing.key").write_text(f"ed25519 a_{secrets.token_hex(2)} {key}\n")
    (place.directory / "log.json").write_text(json.dumps(log_config(place)))
    (place.directory / "homeserver.yaml").write_text(json.dumps(config))  # JSON is YAML


def _compact(database: Path) -> None:
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("VACUUM")


_UNLIMITED = {"per_second": 100_000, "burst_count": 100_000}
_PLAIN_LIMITS = (
    "rc_message", "rc_registration", "rc_joins_per_room", "rc_room_creation", "rc_admin_redaction",
    "rc_3pid_validation", "rc_third_party_invite", "rc_media_create", "rc_delayed_event_mgmt", "rc_reports",
    "rc_user_directory", "rc_profile", "rc_key_requests", "rc_registration_token_validity",
)  # fmt: skip
_NESTED_LIMITS = {
    "rc_login": ("address", "account", "failed_attempts"),
    "rc_joins": ("local", "remote"),
    "rc_invites": ("per_room", "per_user", "per_issuer"),
    "rc_presence": ("per_user",),
}


def synapse_config(place: Place) -> dict[str, Any]:
    """Return ``homeserver.yaml``, without ``public_baseurl``: it would make clients bypass a test's proxy."""
    folder = place.directory
    return {
        "server_name": place.server_name,
        "pid_file": str(folder / "homeserver.pid"),
        "signing_key_path": str(folder / "signing.key"),
        "log_config": str(folder / "log.json"),
        "media_store_path": str(folder / "media"),
        "report_stats": False,
        "macaroon_secret_key": secrets.token_hex(16),
        "form_secret": secrets.token_hex(16),
        "registration_shared_secret": REGISTRATION_SECRET,
        "database": {"name": "sqlite3", "args": {"database": str(folder / "homeserver.db")}},
        "listeners": [
            _listener(place.client_port, "client", tls=False),
            _listener(place.federation_port, "federation", tls=True),
        ],
        "tls_certificate_path": str(place.certificate),
        "tls_private_key_path": str(place.private_key),
        "federation_custom_ca_list": [str(place.authority)],
        "enable_registration": True,
        "enable_registration_without_verification": True,
        "bcrypt_rounds": 4,
        "trusted_key_servers": [],
        "suppress_key_server_warning": True,
        "ip_range_blacklist": [],
        "url_preview_enabled": False,
        "presence": {"enabled": False},
        # A client that starts again must not get the first sync of its previous life.
        "caches": {"sync_response_cache_duration": 0},
        # Both are dehydrated devices, and Synapse refuses to start with both enabled.
        "experimental_features": {"msc3814_enabled": True, "msc2697_enabled": False},
        "federation": {
            "client_timeout": "10s",
            "max_short_retry_delay": 200,
            "max_long_retry_delay": "2s",
            "max_short_retries": 5,
            "max_long_retries": 5,
            "destination_min_retry_interval": 100,
            "destination_max_retry_interval": "1s",
        },
        "federation_rr_transactions_per_room_per_second": 100_000,
        "rc_federation": {
            "window_size": 1000,
            "sleep_limit": 100_000,
            "sleep_delay": 1,
            "reject_limit": 100_000,
            "concurrent": 100,
        },
        **dict.fromkeys(_PLAIN_LIMITS, _UNLIMITED),
        **{limit: dict.fromkeys(parts, _UNLIMITED) for limit, parts in _NESTED_LIMITS.items()},
    }


def log_config(place: Place, name: str = "") -> dict[str, Any]:
    """Return the logging configuration: INFO and above, to the file of the place.

    :param name: the name of a worker, for its lines.
    """
    who = f"{name} " if name else ""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "line": {"format": f"%(asctime)s {who}%(levelname)s %(name)s - %(request)s - %(message)s"},
        },
        "filters": {"context": {"()": "synapse.logging.context.LoggingContextFilter", "request": ""}},
        "handlers": {
            "file": {
                "class": "logging.FileHandler",
                "filename": str(place.log),
                "encoding": "utf-8",
                "formatter": "line",
                "filters": ["context"],
            },
        },
        "root": {"level": "INFO", "handlers": ["file"]},
    }


def _listener(port: int, resource: str, *, tls: bool) -> dict[str, Any]:
    return {
        "port": port,
        "type": "http",
        "tls": tls,
        "bind_addresses": ["127.0.0.1"],
        "resources": [{"names": [resource], "compress": False}],
    }


logger = logging.getLogger(__name__)

_REPORT_EVERY = 20
# pip has tried three times; it would go on for up to a minute.
_SEVERAL_RETRIES = re.compile(r"Retry\(total=[0-2],")
PIP_QUIET = ("--disable-pip-version-check", "--no-input")


def interpreter(environment: Path) -> Path:
    """Return an environment's Python. Its scripts do not work: they name the folder that it was built in."""
    return environment / "venv" / "bin" / "python"


def works(environment: Path) -> bool:
    """Return whether an environment's Python exists, which an upgrade may have removed. Blocks."""
    return interpreter(environment).exists()


def version_key(version: str) -> tuple[tuple[int, ...], bool, int]:
    """Return a sort key for versions: pre-releases come before their release."""
    matched = re.match(r"(\d+(?:\.\d+)*)(?:(?:a|b|rc)(\d+))?", version)
    if matched is None:
        return (), False, 0
    release, candidate = matched.groups()
    return tuple(int(part) for part in release.split(".")), candidate is None, int(candidate or 0)


class Environments:
    """The virtual environments of one package.

    :param cache: the folder for them.
    :param progress: called with a line for every slow step.
    """

    def __init__(self, cache: CacheFolder, package: str, progress: Progress) -> None:
        self._cache = cache
        self._package = package
        self._progress = progress

    def name(self, version: str) -> str:
        """Return an environment's name in the cache, which includes the version of Python."""
        python = f"{sys.implementation.name}{sys.version_info.major}{sys.version_info.minor}"
        return f"{self._package}/{version}-{python}"

    def installed(self) -> list[str]:
        """Return the versions installed for this Python, newest last. Blocks shortly."""
        suffix = self.name("").rsplit("/", 1)[1]
        folder = self._cache.path(self._package)
        found = (
            [path.name.removesuffix(suffix) for path in folder.glob(f"[!.]*{suffix}")]
            if folder.is_dir()
            else []
        )
        return sorted(found, key=version_key)

    async def create(self, folder: Path, version: str, also: Sequence[str] = ()) -> None:
        """Create an environment in a folder and install the package into it.

        :param also: further requirements.
        :raises DeployError: pip failed; carries its last lines.
        :raises ConfigError: there is no network.
        """
        what = f"{self._package} {version}"
        self._progress(f"{what}: installing into its own environment (first use; about half a minute)")
        try:
            await to_thread(venv.create, folder / "venv", with_pip=True, symlinks=True)
        except Exception as error:  # venv raises whatever ensurepip raises
            raise DeployError(f"{what}: cannot create a virtual environment: {error}") from error

        collected = 0

        def report(line: str) -> None:
            nonlocal collected
            if not collected and _SEVERAL_RETRIES.search(line) and (cause := no_network(line)):
                raise self._cache.missing(what, cause)
            if line.startswith("Collecting "):
                collected += 1
                if collected % _REPORT_EVERY == 0:
                    self._progress(f"{what}: {collected} packages collected")
            elif line.startswith("Installing collected packages"):
                self._progress(f"{what}: unpacking {collected} packages")

        requirements = [f"{self._package}=={version}", *also]
        pip = [str(interpreter(folder)), "-m", "pip", "install", *PIP_QUIET, *requirements]
        await run_tool(f"installing {what}", pip, on_line=report)
        self._progress(f"{what}: installed")

    async def newest(self, *, fallback: str) -> str:
        """Return the newest version on the index, pre-releases included.

        :param fallback: returned if the index cannot be reached and nothing is installed.
        """
        try:
            python = await self._python_with_pip()
            lines = await run_tool(
                f"querying the newest {self._package}",
                [python, "-m", "pip", "index", "versions", "--pre", *PIP_QUIET, self._package],
            )
            for line in lines:
                if matched := re.match(rf"{re.escape(self._package)} \((\S+)\)", line):
                    return matched.group(1)
            raise DeployError(f"pip lists no version of {self._package}", log="\n".join(lines))
        except DeployError as error:
            installed = await to_thread(self.installed)
            version = installed[-1] if installed else fallback
            logger.warning("cannot query the newest %s, using %s: %s", self._package, version, error)
            self._progress(f"{self._package}: cannot query the newest version, using {version}")
            return version

    async def _python_with_pip(self) -> str:
        if importlib.util.find_spec("pip") is not None:
            return sys.executable

        async def build(folder: Path) -> None:
            await to_thread(venv.create, folder / "venv", with_pip=True, symlinks=True)

        name = self.name("tools").replace(self._package, "pip", 1)
        return str(interpreter(await self._cache.ensure(name, build, works)))
