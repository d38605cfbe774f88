"""What travels to an adapter is JSON, and nothing that only looks like it."""

import json
from collections.abc import Mapping
from typing import Any

from trafficlight.protocol import JsonObject


def plain(action: str, data: Mapping[str, Any]) -> JsonObject:
    """Return an action's data as JSON holds them.

    :raises TypeError: JSON cannot hold them; says which of them.
    """
    try:
        found: JsonObject = json.loads(json.dumps(data, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        culprits = ", ".join(f"{name}={value!r}" for name, value in data.items() if not _fits(value))
        raise TypeError(f"{action}: cannot be sent as JSON: {culprits or error}") from None
    return found


def _fits(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True
