"""Dendrite, built once per version from its Go module."""

import base64
import json
import secrets
import shutil
from pathlib import Path

from trafficlight.errors import DeployError
from trafficlight.homeservers.local.cache import CacheFolder
from trafficlight.homeservers.recipes.dendrite_config import dendrite_config
from trafficlight.homeservers.recipes.recipe import Command, Installation, Place
from trafficlight.homeservers.tools import Progress, child_environment, run_tool

DENDRITE_STABLE = "0.15.2"

_COMPILERS = ("gcc", "clang", "cc")


class DendriteRecipe:
    """Builds, configures and starts Dendrite: one process, SQLite.

    It cannot be started ahead: it never reopens its log.

    :param cache: where builds are kept.
    :param progress: gets a line for every slow step.
    :param stable: the version that ``stable`` stands for.
    """

    name = "dendrite"
    follows_log = False

    def __init__(self, cache: CacheFolder, progress: Progress, stable: str = DENDRITE_STABLE) -> None:
        self._cache = cache
        self._progress = progress
        self._stable = stable

    def unsupported(self, version: str) -> str | None:
        """Return what is missing to build it, unless that was done before."""
        exact = self._stable if version in ("stable", "latest") else version
        if self._cache.path(f"dendrite/{exact}").is_dir():
            return None
        if shutil.which("go") is None:
            return f"Dendrite {exact} is built with Go, which is not on the PATH (https://go.dev/dl)"
        if not any(shutil.which(compiler) for compiler in _COMPILERS):
            return f"Dendrite {exact} needs a C compiler, none of {', '.join(_COMPILERS)} is on the PATH"
        return None

    async def resolve(self, version: str) -> str:
        """Return the exact version; ``latest`` is the stable one, for its main branch has no releases."""
        return self._stable if version in ("stable", "latest") else version

    async def install(self, version: str) -> Installation:
        """Build it, unless that was done before."""
        title = f"Dendrite {version}"

        async def build(folder: Path) -> None:
            self._progress(f"{title}: building with Go (first use; one or two minutes)")
            environment = child_environment({"CGO_ENABLED": "1"}, proxies=True)
            module = f"{_module(version)}@v{version}"
            lines = await run_tool(
                f"downloading {title}", ["go", "mod", "download", "-json", module], environment=environment
            )
            source = _json_of(lines).get("Dir")
            if not source:
                raise DeployError(f"downloading {title}: Go does not say where it is", log="\n".join(lines))
            command = ["go", "build", "-trimpath", "-o", str(folder / "dendrite"), "./cmd/dendrite"]
            await run_tool(
                f"building {title}",
                command,
                environment=environment,
                directory=Path(source),
                on_line=self._tell,
            )
            self._progress(f"{title}: built")

        return Installation(version, await self._cache.ensure(f"dendrite/{version}", build), title)

    def configure(self, installation: Installation, place: Place) -> Command:
        """Write its configuration and a signing key."""
        folder = place.directory
        identity = secrets.token_hex(3)
        key = base64.b64encode(secrets.token_bytes(32)).decode()
        (folder / "signing.pem").write_text(
            f"-----BEGIN MATRIX PRIVATE KEY-----\nKey-ID: ed25519:{identity}\n\n{key}\n"
            "-----END MATRIX PRIVATE KEY-----\n"
        )
        (folder / "dendrite.yaml").write_text(json.dumps(dendrite_config(place)))  # JSON is YAML
        argv = (
            str(installation.folder / "dendrite"),
            f"-config={folder / 'dendrite.yaml'}",
            f"-http-bind-address=127.0.0.1:{place.client_port}",
            f"-https-bind-address=127.0.0.1:{place.federation_port}",
            f"-tls-cert={place.certificate}",
            f"-tls-key={place.private_key}",
            "-really-enable-open-registration",
        )
        return Command(argv, environment={"SSL_CERT_FILE": str(place.authority)})

    def _tell(self, line: str) -> None:
        if line.startswith("go: downloading"):
            self._progress(f"Dendrite: {line.removeprefix('go: ')}")


def _module(version: str) -> str:
    """Return its module: it moved with 0.14."""
    major, minor = (int(part) for part in version.split(".")[:2])
    return f"github.com/{'element-hq' if (major, minor) >= (0, 14) else 'matrix-org'}/dendrite"


def _json_of(lines: list[str]) -> dict[str, str]:
    """Return the JSON object that stands between other messages."""
    text = "\n".join(lines)
    try:
        return dict(json.loads(text[text.index("{") : text.rindex("}") + 1]))
    except ValueError:
        return {}
