"""Dendrite, compiled once per version from its Go module: one process, SQLite."""

import base64
import functools
import json
import re
import secrets
import shutil
from pathlib import Path
from typing import Any

from trafficlight.cache import CacheFolder
from trafficlight.clients.admin import REGISTRATION_SECRET
from trafficlight.config import DENDRITE_MODULE, DENDRITE_VERSION
from trafficlight.errors import DeployError
from trafficlight.homeservers.recipes.recipe import Command, Installation, Place
from trafficlight.processes import Progress, child_environment, no_network, run_tool

_COMPILERS = ("gcc", "clang", "cc")
_MOVED = (0, 14)  # releases from here on are published from another module, under another licence
_SUCCESSOR = "github.com/element-hq/dendrite"
_COMPONENTS = ("federation_api", "key_server", "media_api", "mscs", "relay_api", "room_server", "sync_api")


class DendriteRecipe:
    """Builds, configures and starts Dendrite.

    :param cache: the folder for builds.
    :param progress: called with a line for every slow step.
    :param stable: the version that ``stable`` and ``latest`` stand for.
    :param module: the Go module to build.
    """

    name = "dendrite"

    def __init__(
        self,
        cache: CacheFolder,
        progress: Progress,
        stable: str = DENDRITE_VERSION,
        module: str = DENDRITE_MODULE,
    ) -> None:
        self._cache = cache
        self._progress = progress
        self._stable = stable
        self._module = module

    def unsupported(self, version: str) -> str | None:
        """Return what is missing to build a version; None if it is built already or can be built."""
        exact = self._stable if version in ("stable", "latest") else version
        if self._module == DENDRITE_MODULE and _release(exact) >= _MOVED:
            return (
                f"Dendrite {exact} is not a release of {DENDRITE_MODULE}: "
                f"set DENDRITE_MODULE to {_SUCCESSOR} to build it"
            )
        if self._cache.path(self._build_name(exact)).is_dir():
            return None
        if shutil.which("go") is None:
            return f"Dendrite {exact} is built with Go, which is not on the PATH (https://go.dev/dl)"
        if not any(shutil.which(compiler) for compiler in _COMPILERS):
            return f"Dendrite {exact} needs a C compiler, none of {', '.join(_COMPILERS)} is on the PATH"
        return None

    async def resolve(self, version: str) -> str:
        """Return the exact version; ``latest`` is the stable one."""
        return self._stable if version in ("stable", "latest") else version

    async def install(self, version: str) -> Installation:
        """Build a version, unless it is built already."""
        title = f"Dendrite {version}"

        async def build(folder: Path) -> None:
            self._progress(f"{title}: building with Go (first use; one or two minutes)")
            environment = child_environment({"CGO_ENABLED": "1"}, proxies=True)
            download = ["go", "mod", "download", "-json", f"{self._module}@v{version}"]
            try:
                lines = await run_tool(f"downloading {title}", download, environment=environment)
            except DeployError as error:
                if cause := no_network(error.log):
                    raise self._cache.missing(title, cause) from error
                raise
            source = _json_of(lines).get("Dir")
            if not source:
                raise DeployError(
                    f"downloading {title}: go reports no source directory", log="\n".join(lines)
                )
            await run_tool(
                f"building {title}",
                ["go", "build", "-trimpath", "-o", str(folder / "dendrite"), "./cmd/dendrite"],
                environment=environment,
                directory=Path(source),
                on_line=self._report,
            )
            self._progress(f"{title}: built")

        return Installation(version, await self._cache.ensure(self._build_name(version), build), title)

    def configure(self, installation: Installation, place: Place) -> Command:
        """Write the configuration and a signing key."""
        folder = place.directory
        known = settings_of(installation.folder / "dendrite") if place.config else frozenset()
        identity = secrets.token_hex(3)
        key = base64.b64encode(secrets.token_bytes(32)).decode()
        (folder / "signing.pem").write_text(
            f"-----BEGIN MATRIX PRIVATE KEY-----\nKey-ID: ed25519:{identity}\n\n{key}\n"
            "-----END MATRIX PRIVATE KEY-----\n"
        )
        config = place.configured(dendrite_config(place), known)
        (folder / "dendrite.yaml").write_text(json.dumps(config))  # JSON is YAML
        argv = (
            str(installation.folder / "dendrite"),
            f"-config={folder / 'dendrite.yaml'}",
            f"-http-bind-address=127.0.0.1:{place.client_port}",
            f"-https-bind-address=127.0.0.1:{place.federation_port}",
            f"-tls-cert={place.certificate}",
            f"-tls-key={place.private_key}",
            "-really-enable-open-registration",
        )
        environment = {"SSL_CERT_FILE": str(place.authority)}
        settings = functools.partial(settings_of, installation.folder / "dendrite")
        return Command(argv, environment=environment, config=folder / "dendrite.yaml", settings=settings)

    def _build_name(self, version: str) -> str:
        """Return the name of a build in the cache; builds of another module have names of their own."""
        if self._module == DENDRITE_MODULE:
            return f"dendrite/{version}"
        return f"dendrite/{self._module.removeprefix('github.com/').replace('/', '-')}-{version}"

    def _report(self, line: str) -> None:
        if line.startswith("go: downloading"):
            self._progress(f"Dendrite: {line.removeprefix('go: ')}")


@functools.lru_cache
def settings_of(program: Path) -> frozenset[str]:
    """Return the names of all settings: they are in the program as the tags of its structures. Blocks."""
    tags = re.findall(rb'yaml:"(\w+)', program.read_bytes())
    return frozenset(tag.decode() for tag in tags)


def dendrite_config(place: Place) -> dict[str, Any]:
    """Return ``dendrite.yaml``. Ports, certificate and open registration are flags of the command."""
    folder = place.directory
    config: dict[str, Any] = {
        "version": 2,
        "global": {
            "server_name": place.server_name,
            "private_key": str(folder / "signing.pem"),
            "jetstream": {"storage_path": str(folder / "jetstream"), "topic_prefix": "Dendrite"},
            "presence": {"enable_inbound": False, "enable_outbound": False},
            "report_stats": {"enabled": False},
            "trusted_third_party_id_servers": [],
        },
        "client_api": {
            "registration_disabled": False,
            "registration_shared_secret": REGISTRATION_SECRET,
            "rate_limiting": {"enabled": False},
        },
        "federation_api": {
            "key_perspectives": [],
            "deny_networks": [],
            "allow_networks": ["0.0.0.0/0", "::/0"],
        },
        "media_api": {"base_path": str(folder / "media")},
        "sync_api": {"search": {"enabled": False, "index_path": str(folder / "search")}},
        "user_api": {
            "account_database": {"connection_string": f"file:{folder}/user_api.db"},
            "bcrypt_cost": 4,
        },
        "logging": [{"type": "std", "level": "info"}],
    }
    for component in _COMPONENTS:
        database = {"connection_string": f"file:{folder}/{component}.db"}
        config.setdefault(component, {})["database"] = database
    return config


def _release(version: str) -> tuple[int, ...]:
    """Return the major and minor number of a version."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


def _json_of(lines: list[str]) -> dict[str, str]:
    """Return the JSON object among other lines of output."""
    text = "\n".join(lines)
    try:
        return dict(json.loads(text[text.index("{") : text.rindex("}") + 1]))
    except ValueError:
        return {}
