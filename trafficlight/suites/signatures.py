"""Checks that a test method can be called with its roles and parameters."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from trafficlight.errors import TestFileError
from trafficlight.parameters import ParameterSet, is_seconds, parameter_names, parameter_sets, single_sets
from trafficlight.suites.discovery import methods_of
from trafficlight.suites.rendering import render_value
from trafficlight.suites.roles import Roles, did_you_mean, is_of
from trafficlight.suites.source import SourceLines
from trafficlight.test import Test

# What a test may replace; the other members of Test are final.
_OPEN = {"clients", "servers", "interchangeable", "timeout", "setup", "teardown"}
_OPEN |= {"breaks_federation", "isolated", "_client_under_test", "_server_under_test", "_network_proxy"}
_FINAL = {name for name in vars(Test) if not name.startswith("__")} - _OPEN


class Signature:
    """The keyword arguments of a method.

    :param method: the function in the class.
    """

    def __init__(self, method: Callable[..., Any]) -> None:
        parameters = list(inspect.signature(method).parameters.values())[1:]
        named = [one for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
        self.takes_all = any(one.kind is one.VAR_KEYWORD for one in parameters)
        self.names = {one.name for one in named}
        self.required = [one.name for one in named if one.default is one.empty]
        self.unnamed = [one.name for one in parameters if one.kind is one.POSITIONAL_ONLY]

    def takes(self, name: str) -> bool:
        """Return whether it takes an argument of this name."""
        return self.takes_all or name in self.names


def read_parameters(
    cls: type[Test], method: str, roles: Roles, overrides: Mapping[str, Any], where: tuple[Path, int | None]
) -> tuple[list[ParameterSet], list[TestFileError]]:
    """Return the parameter sets of a test, with some values overridden.

    :param overrides: values in place of the test's own.
    """
    try:
        sets = parameter_sets(getattr(cls, method), cls, roles.names)
    except ValueError as error:
        return [], [TestFileError(*where, str(error), "correct the values, or remove the @ignore")]
    if not overrides:
        return sets, []
    merged: list[ParameterSet] = []
    for one in sets:
        values = {**one.values, **overrides}
        if not any(known.values == values for known in merged):
            merged.append(ParameterSet(values, one.ignored))
    return merged, []


def check_method(
    cls: type[Test], method: str, roles: Roles, sets: Iterable[ParameterSet], source: SourceLines, line: int
) -> list[TestFileError]:
    """Return what is wrong with the arguments of a test method."""
    function = getattr(cls, method)
    if not _is_async(function):
        return [TestFileError(source.path, line, f"{method}() is not async", f"write `async def {method}`")]
    signature = Signature(function)
    names = roles.names
    filled = {name for one in sets for name in one.values}
    wrong: list[TestFileError] = [
        TestFileError(source.path, line, f"{method}() takes {name!r} by position only", "remove the /")
        for name in signature.unnamed
    ]
    for name in sorted(filled):
        if name in names:
            problem, hint = (
                f"{name!r} is both a role and a parameter of {method}()",
                "rename one of them",
            )
            wrong.append(TestFileError(source.path, line, problem, hint))
        elif not name.isidentifier():
            wrong.append(
                TestFileError(source.path, line, f"a parameter cannot be named {name!r}", "use a Python name")
            )
        elif not signature.takes(name):
            hint = did_you_mean(name, signature.names - set(names)) or f"add it to {method}()"
            problem = f"{method}() does not take the parameter {name!r}"
            wrong.append(TestFileError(source.path, line, problem, hint))
    for name in signature.required:
        if name not in names and not all(name in one.values for one in sets):
            unused = [role for role in names if not signature.takes(role)]
            hint = did_you_mean(name, unused) or f"add a role, a default value, or @parametrize({name}=...)"
            wrong.append(TestFileError(source.path, line, f"nothing fills {name!r} of {method}()", hint))
    return wrong


def check_members(cls: type[Test], source: SourceLines) -> list[TestFileError]:
    """Return which members of Test a class hides, and whether its time limit is wrong."""
    wrong = []
    for owner in cls.__mro__[: cls.__mro__.index(Test)]:
        for name in _FINAL.intersection(vars(owner)):
            line = source.attribute_line(owner.__name__, name) or source.method_line(owner.__name__, name)
            problem = f"{name!r} hides a member of Test"
            hint = "for a time limit write `timeout`" if name == "deadline" else "rename it"
            wrong.append(TestFileError(source.path, line or source.class_line(cls.__name__), problem, hint))
    if cls.timeout is not None and not is_seconds(cls.timeout):
        line = source.attribute_line(cls.__name__, "timeout") or source.class_line(cls.__name__)
        wrong.append(TestFileError(source.path, line, "timeout is not a number of seconds", "timeout = 30"))
    return wrong


def check_ignores(
    ignores: Iterable[tuple[Mapping[str, Any], str]], roles: Roles, source: SourceLines, line: int
) -> list[TestFileError]:
    """Return which types that an @ignore names do not fill their role."""
    wrong = []
    for stated, _ in ignores:
        for name in stated.keys() & roles.names.keys():
            role = roles.names[name]
            types = role.types
            if not role.open and not any(is_of(kind, stated[name]) for kind in types):
                problem = f"@ignore names a type that does not fill the role {name!r}"
                hint = f"there are {', '.join(kind.name() for kind in types)}"
                wrong.append(TestFileError(source.path, line, problem, hint))
    return wrong


def check_hooks(
    cls: type[Test], method: str, roles: Roles, sets: Iterable[ParameterSet], source: SourceLines
) -> list[TestFileError]:
    """Return what is wrong with `setup` and `teardown`."""
    wrong = []
    for hook in ("setup", "teardown"):
        function = getattr(cls, hook)
        if function is getattr(Test, hook):
            continue
        line = source.method_line(cls.__name__, hook) or source.class_line(cls.__name__)
        if not _is_async(function):
            wrong.append(
                TestFileError(source.path, line, f"{hook}() is not async", f"write `async def {hook}`")
            )
            continue
        for name in Signature(function).required:
            if name not in roles.names and not all(name in one.values for one in sets):
                problem = f"nothing fills {name!r} of {hook}(), which runs around {method}()"
                hint = did_you_mean(name, roles.names) or "it may ask for roles and parameters of the test"
                wrong.append(TestFileError(source.path, line, problem, hint))
    return wrong


def parameters_of(cls: type[Test]) -> set[str]:
    """Return the names of the parameters of a test's methods: arguments with values of their own."""
    names: set[str] = set()
    for method in methods_of(cls):
        function = getattr(cls, method)
        signature = Signature(function)
        names |= parameter_names(function) | signature.names.difference(signature.required)
    return names


def lone_lists(cls: type[Test]) -> Iterator[str]:
    """Yield a warning for every @parametrize with nothing but lists, which pytest users take for @matrix."""
    for method in methods_of(cls):
        for values in single_sets(getattr(cls, method)):
            if all(isinstance(value, list) and len(value) > 1 for value in values.values()):
                shown = ", ".join(f"{name}={render_value(value)}" for name, value in values.items())
                yield (
                    f"{method}: @parametrize({shown}) is one case with the whole list;"
                    f" for a case per value write @matrix, for one case a tuple"
                )


def _is_async(function: Callable[..., Any]) -> bool:
    # A decorator may hide the coroutine function.
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(inspect.unwrap(function))


def taken_roles(cls: type[Test], methods: Iterable[str], roles: Roles) -> Roles:
    """Return the roles that test methods of a class, its `setup` or its `teardown` take."""
    hooks = [hook for hook in ("setup", "teardown") if getattr(cls, hook) is not getattr(Test, hook)]
    signatures = [Signature(getattr(cls, name)) for name in (*methods, *hooks)]
    return roles.taken_by(lambda name: any(one.takes(name) for one in signatures))


def check_roles(cls: type[Test], methods: Iterable[str], roles: Roles) -> list[TestFileError]:
    """Return which of the roles that a class itself declares nothing takes."""
    taken = taken_roles(cls, methods, roles).roles
    return [
        TestFileError(
            *role.where,
            f"no test of {cls.__name__} takes the role {role.names[0]!r}",
            f"add {role.names[0]!r} to a test or to setup(), or remove the role",
        )
        for role in roles.roles
        if role not in taken and not role.inherited
    ]
