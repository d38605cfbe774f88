"""YAML files that people write for us, read with an answer to what is wrong with them."""

from pathlib import Path
from typing import Any

import yaml

from trafficlight.errors import ConfigError


def read_yaml(path: Path) -> Any:
    """Return what a YAML file holds.

    :raises ConfigError: it cannot be read, or is not YAML.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", source=str(path)) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"is not YAML: {' '.join(str(error).split())}", source=str(path)) from error


def texts(value: object, *, key: str, source: Path) -> list[str]:
    """Return a list of texts that may have been written as one text, or left empty.

    :raises ConfigError: it is something else.
    """
    stated = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(stated, list) or not all(isinstance(one, str) and one for one in stated):
        raise ConfigError("is to be a list of texts", key=key, source=str(source))
    return stated
