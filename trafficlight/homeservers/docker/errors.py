"""How an engine's API goes wrong."""

import aiohttp

from trafficlight.errors import DeployError


class EngineSilentError(DeployError):
    """An engine did not answer in time: another one may."""


def engine_errors() -> tuple[type[Exception], ...]:
    """Return what a call of an engine's API raises when it is refused, cut off, or not answered in time."""
    from aiodocker.exceptions import DockerError  # its library is an extra

    return (DockerError, aiohttp.ClientError, OSError)


def problem(error: BaseException) -> str:
    """Return what went wrong, never empty."""
    if isinstance(error, TimeoutError) and not str(error):
        return "no answer in time"
    return str(getattr(error, "message", "")) or str(error) or type(error).__name__
