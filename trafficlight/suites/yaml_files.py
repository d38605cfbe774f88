"""Reading YAML files of users, with precise errors."""

from pathlib import Path
from typing import Any

import yaml

from trafficlight.errors import ConfigError

FAILED_CASES = "rerun-failed.yml"
"""The suite file with the failed cases of a session; it may be empty."""


def read_yaml(path: Path) -> Any:
    """Return the content of a YAML file.

    :raises ConfigError: it cannot be read, or is not YAML.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", source=str(path)) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"is not YAML: {' '.join(str(error).split())}", source=str(path)) from error


def texts(value: object, *, key: str, source: Path) -> list[str]:
    """Return a list of strings that may be written as one string, or left empty.

    :raises ConfigError: it is something else.
    """
    stated = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(stated, list) or not all(isinstance(one, str) and one for one in stated):
        raise ConfigError("must be a list of strings", key=key, source=str(source))
    return stated
