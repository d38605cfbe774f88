"""TLS to Docker engines: with which certificates, and what is wrong when it does not come about."""

import os
import ssl
from pathlib import Path

import aiohttp
from yarl import URL

from trafficlight.config import DockerHost
from trafficlight.errors import DeployError
from trafficlight.homeservers.docker.errors import problem

_FILES = "ca.pem, cert.pem and key.pem"


def certificate_folder(host: DockerHost) -> Path | None:
    """Return the folder with the certificates for an engine; None where it is spoken to without TLS.

    As the docker command does it: ``tcp://`` uses TLS with ``DOCKER_TLS_VERIFY``, and the certificates are in
    ``DOCKER_CERT_PATH``. An engine with certificates of its own always uses TLS, ``http://`` never does.
    """
    if (scheme := URL(host.url).scheme) not in ("tcp", "https"):
        return None
    if host.certificates is not None:
        return host.certificates
    if scheme == "https" or os.environ.get("DOCKER_TLS_VERIFY", "") not in ("", "0"):
        return Path(os.environ.get("DOCKER_CERT_PATH") or Path.home() / ".docker")
    return None


def tls_context(folder: Path) -> ssl.SSLContext:
    """Return what an engine is spoken to with. Blocks shortly.

    :raises DeployError: a certificate is missing or wrong.
    """
    try:
        context = ssl.create_default_context(cafile=folder / "ca.pem")
        context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    except OSError as error:
        raise DeployError(f"TLS to a Docker engine needs {_FILES} in {folder}: {error}") from error
    return context


def explained(error: BaseException, folder: Path | None) -> str:
    """Return what keeps an engine from answering, with what to do about it where TLS is the matter.

    :param folder: the folder with the certificates; None where there is no TLS.
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
        return "it wants TLS: name its certificates, or set DOCKER_TLS_VERIFY and DOCKER_CERT_PATH"
    if found is None or folder is None:
        return reason
    if "alert" in str(found).lower():
        return f"it does not accept our certificate, see cert.pem in {folder}: {found}"
    return f"TLS does not come about with {_FILES} in {folder}: {found}"
