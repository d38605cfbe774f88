"""Which tests need homeservers of their own: what their code uses of them."""

import inspect
from collections.abc import Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

from trafficlight.test import Test

# Attributes of homeservers, clients and proxies whose use other cases on the same homeserver would notice.
_NOTICED = frozenset(
    ("admin", "federation", "kill", "network", "pause", "read_log", "restart", "start", "stop", "unpause")
)
_OURS, _SUITES = "trafficlight.", "trafficlight.tests."
_LIBRARIES = "-packages/"  # site-packages, dist-packages


def changes_servers(cls: type[Test]) -> bool:
    """Return whether the code of a test class operates or administrates homeservers, or disturbs the network.

    It is read, not run: by the names of attributes in the class, its bases, and in the functions and classes
    of test files that they name. It may be wrong, for instance about a service that
    is stopped: the case is isolated then, and only slower.
    """
    waiting, seen = list[Any]([cls]), set[int]()
    while waiting:
        one = _plain(waiting.pop())
        if id(one) in seen or not _is_of_tests(one):
            continue
        seen.add(id(one))
        if isinstance(one, type):
            waiting += [*one.__bases__, *vars(one).values()]
            continue
        for code in _codes(one.__code__):
            if not _NOTICED.isdisjoint(code.co_names):
                return True
            named = [one.__globals__.get(name) for name in code.co_names]
            waiting += named
            for module in named:
                if isinstance(module, ModuleType):
                    waiting += [vars(module).get(name) for name in code.co_names]
    return False


def _plain(one: Any) -> Any:
    """Return the function below its decorators."""
    if isinstance(one, staticmethod | classmethod):
        one = one.__func__
    if isinstance(one, property):
        one = one.fget
    return inspect.unwrap(one) if callable(one) else one


def _is_of_tests(one: Any) -> bool:
    if not isinstance(one, type | FunctionType):
        return False
    module = str(one.__module__)
    if f"{module}.".startswith(_SUITES):
        return True
    if f"{module}.".startswith(_OURS):
        return False
    if isinstance(one, FunctionType):
        return _LIBRARIES not in one.__code__.co_filename
    return module not in ("builtins", "typing", "abc")


def _codes(code: CodeType) -> Iterator[CodeType]:
    """Yield the code of a function and of the functions in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)
