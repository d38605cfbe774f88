"""The actions that the built-in suites ask of a Matrix client, read from the source of their tests."""

import ast
import importlib
import inspect
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import trafficlight.tests
from trafficlight import MatrixClient, Test
from trafficlight.clients import Client
from trafficlight.clients.action import actions_of
from trafficlight.suites.discovery import classes_in, methods_of

_SUITES = ("chat", "messages", "verification", "backup", "crypto", "network")
_BY_METHOD = {action.method.__name__: name for name, action in actions_of(MatrixClient).items()}
# What the host of a driver does.
_ON_PROCESS = {*actions_of(Client), "reload"}


def needed_actions() -> str:
    """Return a table of the suites, with what all of their tests need, and what some do."""
    lines = ["| suite | all tests | some tests, too |", "| --- | --- | --- |"]
    for suite in _SUITES:
        needed = list(_needed_by(suite))
        everywhere, anywhere = set.intersection(*needed), set.union(*needed)
        lines.append(f"| `{suite}` | {_shown(everywhere)} | {_shown(anywhere - everywhere)} |")
    return "\n".join(lines)


def _shown(actions: set[str]) -> str:
    return ", ".join(f"`{name}`" for name in actions_of(MatrixClient) if name in actions - _ON_PROCESS)


def _needed_by(suite: str) -> Iterator[set[str]]:
    """Yield the actions of each test of a suite."""
    for path in sorted((Path(trafficlight.tests.__path__[0]) / suite).glob("*_test.py")):
        name = f"trafficlight.tests.{suite}.{path.stem}"
        for test in classes_in(importlib.import_module(name), name).values():
            for method in methods_of(test):
                yield actions_in(test, method)


def actions_in(test: type[Test], method: str) -> set[str]:
    """Return the actions that a test asks of its clients, itself and by what it calls."""
    found: set[str] = set()
    todo: list[Callable[..., Any]] = [getattr(test, name) for name in ("setup", method, "teardown")]
    for function in todo:  # it grows
        node = ast.parse(textwrap.dedent(inspect.getsource(function)))
        clients = {
            one.arg
            for one in ast.walk(node)
            if isinstance(one, ast.arg) and ast.unparse(one.annotation or one) == "MatrixClient"
        }
        if function.__qualname__.startswith(f"{MatrixClient.__name__}."):
            clients.add("self")
        for loop in (one for one in ast.walk(node) if isinstance(one, ast.For)):
            if isinstance(loop.iter, ast.Tuple | ast.Name) and clients & _names(loop.iter):
                clients |= _names(loop.target)
        for call in (one.func for one in ast.walk(node) if isinstance(one, ast.Call)):
            called = None
            if isinstance(call, ast.Attribute) and isinstance(call.value, ast.Name):
                if call.value.id not in clients:
                    called = getattr(test, call.attr, None) if call.value.id == "self" else None
                elif call.attr in _BY_METHOD or call.attr in _BY_METHOD.values():
                    found.add(_BY_METHOD.get(call.attr, call.attr))
                else:
                    called = getattr(MatrixClient, call.attr, None)
            elif isinstance(call, ast.Name):
                called = function.__globals__.get(call.id)
            if inspect.isfunction(called) and called.__module__.startswith("trafficlight."):
                todo += [called] if called not in todo else []
    return found


def _names(node: ast.AST) -> set[str]:
    return {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}


if __name__ == "__main__":
    print(needed_actions())
