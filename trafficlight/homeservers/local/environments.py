"""Virtual environments for homeservers from PyPI: one per version, with its own dependencies."""

import importlib.util
import logging
import re
import sys
import venv
from asyncio import to_thread
from collections.abc import Sequence
from pathlib import Path

from trafficlight.errors import DeployError
from trafficlight.homeservers.local.cache import CacheFolder
from trafficlight.processes import Progress, no_network, run_tool

logger = logging.getLogger(__name__)

_REPORT_EVERY = 20
# pip has tried three times; it would go on for up to a minute.
_SEVERAL_RETRIES = re.compile(r"Retry\(total=[0-2],")
_PIP_QUIET = ("--disable-pip-version-check", "--no-input")


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
        pip = [str(interpreter(folder)), "-m", "pip", "install", *_PIP_QUIET, *requirements]
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
                [python, "-m", "pip", "index", "versions", "--pre", *_PIP_QUIET, self._package],
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
