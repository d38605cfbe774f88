"""What a test method is to receive for its client roles."""

import inspect
import typing
from collections.abc import Callable
from typing import Any

from trafficlight.client_types import client_class
from trafficlight.clients import Client
from trafficlight.suites.model import Case
from trafficlight.test import Test


def client_classes(cls: type[Test], case: Case) -> dict[str, type[Client]]:
    """Return the class of the client in every client role of a case.

    The client type decides; one that says nothing of it, as in older files, takes the annotation.
    """
    annotations = _annotations(getattr(cls, case.method))
    return {role: client_class(kind, annotations.get(role)) for role, kind in case.clients.items()}


def _annotations(method: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(method)
    except Exception:
        # Names that are there for type checkers only; what needs no evaluation is known all the same.
        return dict(inspect.get_annotations(inspect.unwrap(method)))
