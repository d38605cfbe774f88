"""How an engine's API goes wrong."""

import aiohttp

__all__ = ["engine_errors", "problem"]


def engine_errors() -> tuple[type[Exception], ...]:
    """Return what a call of an engine's API raises when it is refused, cut off, or not answered in time."""
    from aiodocker.exceptions import DockerError  # its library is an extra

    return (DockerError, aiohttp.ClientError, OSError)


def problem(error: BaseException) -> str:
    """Return what went wrong, never empty."""
    return str(getattr(error, "message", "")) or str(error) or type(error).__name__
