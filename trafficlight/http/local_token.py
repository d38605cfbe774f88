"""The token of a coordinator that has no `PEOPLE_TOKEN`: random, in a file that only its user can read.

Without it, every user of the machine could run code as the coordinator's user. The coordinator locks the
file: the token of one that has exited is not sent to the program that listens on its port now.
"""

import fcntl
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import platformdirs

from trafficlight.errors import ConfigError

# The addresses that a coordinator may listen on to be the one at a loopback address.
_ADDRESSES = {"127.0.0.1": ("127.0.0.1", "0.0.0.0"), "::1": ("::1", "::")}  # noqa: S104 - nothing listens
_LENGTH = 32


@dataclass(frozen=True, slots=True)
class LocalToken:
    """The token and its file.

    :ivar lock: the file descriptor that holds the lock of the file; None if it could not be written.
    """

    value: str
    path: Path
    lock: int | None = None


def create_token(address: str, port: int, *, required: bool = True) -> LocalToken:
    """Write a new token for the coordinator that listens on an address, until :func:`remove_token`.

    :param required: whether the file is; without it, the token stays unknown.
    :raises ConfigError: the file is required and cannot be written.
    """
    path = _path(address, port)
    token, temporary = secrets.token_urlsafe(_LENGTH), path.with_name(f".{secrets.token_hex(8)}")
    lock: int | None = None
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(lock, token.encode())
        os.replace(temporary, path)
    except OSError as error:
        if lock is not None:
            os.close(lock)
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if not required:
            return LocalToken(token, path)
        message = f"cannot write the token for changes over HTTP: {error}: set PEOPLE_TOKEN or XDG_STATE_HOME"
        raise ConfigError(message) from error
    return LocalToken(token, path, lock)


def remove_token(token: LocalToken) -> None:
    """Delete the token's file, unless another coordinator has replaced it."""
    if token.lock is None:
        return
    with suppress(OSError):
        if os.path.samestat(os.fstat(token.lock), token.path.stat()):
            token.path.unlink()
    os.close(token.lock)


def find_token(url: str) -> tuple[str, str] | None:
    """Return the token of a running coordinator of this account on this machine, and the URL to send it to.

    The URL has the address that the coordinator listens on: another program may listen on the other one that
    `localhost` stands for.
    """
    parts = urlsplit(url)
    if parts.scheme != "http":
        return None
    for address in _ADDRESSES if parts.hostname == "localhost" else (parts.hostname or "",):
        for listening in _ADDRESSES.get(address, ()):
            if (token := _read(_path(listening, parts.port or 80))) is not None:
                shown = f"[{address}]" if ":" in address else address
                return token, parts._replace(netloc=f"{shown}:{parts.port or 80}").geturl()
    return None


def _path(address: str, port: int) -> Path:
    return platformdirs.user_state_path("trafficlight") / "tokens" / f"{address}-{port}"


def _read(path: Path) -> str | None:
    """Return the token in a file; None if there is none, its coordinator has exited, or others can use it."""
    try:
        with path.open() as file:
            status, token = os.fstat(file.fileno()), file.read()
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                private = status.st_uid == os.geteuid() and not status.st_mode & 0o077
                return token if private and len(token) >= _LENGTH else None
    except (OSError, ValueError):
        pass
    return None
