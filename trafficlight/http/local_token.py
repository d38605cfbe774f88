"""The token of a coordinator that has no `PEOPLE_TOKEN`: random, in a file that only its user can read.

Without it, every user of the machine could run code as the coordinator's user.
"""

import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import platformdirs

from trafficlight.errors import ConfigError

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_LENGTH = 32


@dataclass(frozen=True, slots=True)
class LocalToken:
    """The token and its file."""

    value: str
    path: Path


def create_token(port: int, *, required: bool = True) -> LocalToken:
    """Return the token of the coordinator that listens on a port; the first call creates it.

    :param required: whether the file is; without it, the token stays unknown.
    :raises ConfigError: the file is required and cannot be written.
    """
    path = _path(port)
    if (known := _read(path)) is not None:
        return LocalToken(known, path)
    token, temporary = secrets.token_urlsafe(_LENGTH), path.with_name(f".{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(token)
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if not required:
            return LocalToken(token, path)
        message = f"cannot write the token for changes over HTTP: {error}: set PEOPLE_TOKEN or XDG_STATE_HOME"
        raise ConfigError(message) from error
    return LocalToken(token, path)


def remove_token(token: LocalToken) -> None:
    """Delete the token's file."""
    with suppress(OSError):
        token.path.unlink()


def find_token(url: str) -> str | None:
    """Return the token of a coordinator of the same account on this machine, or None."""
    parts = urlsplit(url)
    if parts.hostname not in _LOOPBACK:
        return None
    return _read(_path(parts.port or (443 if parts.scheme == "https" else 80)))


def _path(port: int) -> Path:
    return platformdirs.user_state_path("trafficlight") / "tokens" / str(port)


def _read(path: Path) -> str | None:
    """Return the token in a file; None if there is none, or if others could have written or read it."""
    try:
        status = path.stat()
        token = path.read_text()
    except (OSError, ValueError):
        return None
    private = status.st_uid == os.geteuid() and not status.st_mode & 0o077
    return token if private and len(token) >= _LENGTH else None
