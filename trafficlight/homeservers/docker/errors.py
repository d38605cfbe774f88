"""Errors of the Docker engine's API, and the TLS connection to it."""

import os
import ssl
from pathlib import Path

import aiohttp
from yarl import URL

from trafficlight.config import DockerHost
from trafficlight.errors import DeployError

_FILES = "ca.pem, cert.pem and key.pem"


def engine_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions of calls that an engine rejects, interrupts or does not answer in time."""
    from aiodocker.exceptions import DockerError  # an extra

    return (DockerError, aiohttp.ClientError, OSError)


def problem(error: BaseException) -> str:
    """Return what went wrong, never empty."""
    if isinstance(error, TimeoutError) and not str(error):
        return "no answer in time"
    return str(getattr(error, "message", "")) or str(error) or type(error).__name__


def certificate_folder(host: DockerHost) -> Path | None:
    """Return the folder with the certificates for an engine; None if the connection is without TLS.

    As in the docker command, ``tcp://`` uses TLS with ``DOCKER_TLS_VERIFY``, with certificates from
    ``DOCKER_CERT_PATH``. With certificates of its own it always uses TLS; ``http://`` never does.
    """
    if (scheme := URL(host.url).scheme) not in ("tcp", "https"):
        return None
    if host.certificates is not None:
        return host.certificates
    if scheme == "https" or os.environ.get("DOCKER_TLS_VERIFY", "") not in ("", "0"):
        return Path(os.environ.get("DOCKER_CERT_PATH") or Path.home() / ".docker")
    return None


def tls_context(folder: Path) -> ssl.SSLContext:
    """Return the TLS context for an engine. Blocks shortly.

    :raises DeployError: a certificate is missing or invalid.
    """
    try:
        context = ssl.create_default_context(cafile=folder / "ca.pem")
        context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    except OSError as error:
        raise DeployError(f"TLS to a Docker engine needs {_FILES} in {folder}: {error}") from error
    return context


def connection_problem(error: BaseException, folder: Path | None) -> str:
    """Return why an engine does not answer, with advice if the reason is TLS.

    :param folder: the folder with the certificates; None without TLS.
    """
    found: BaseException | None = error
    reason = problem(error)
    while found is not None:
        if isinstance(found, aiohttp.ClientConnectorCertificateError):
            return f"its certificate is not trusted, see ca.pem in {folder}: {found.certificate_error}"
        if isinstance(found, ssl.SSLError | aiohttp.ClientSSLError):
            break
        found = found.__cause__ or found.__context__
    if folder is None and "HTTP request to an HTTPS server" in reason:
        return "it requires TLS: name its certificates, or set DOCKER_TLS_VERIFY and DOCKER_CERT_PATH"
    if found is None or folder is None:
        return reason
    if "alert" in str(found).lower():
        return f"it does not accept our certificate, see cert.pem in {folder}: {found}"
    return f"the TLS connection with {_FILES} in {folder} failed: {found}"
