"""Decorators for the parameters, the time limit and the nodes of a test.

They stack as in ducktape: each `@parametrize` adds one set of values, each `@matrix` a product of them,
`@defaults` fills missing values, and `@ignore` skips sets, with a reason.
"""

import inspect
import itertools
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

__all__ = [
    "NodeRequest",
    "ParameterSet",
    "cluster",
    "defaults",
    "ignore",
    "matrix",
    "parameter_sets",
    "parametrize",
    "time_limit",
]

F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C", bound=Callable[..., Any] | type)

_MARKS = "__trafficlight_parameters__"
_TIMEOUT = "__trafficlight_timeout__"
_CLUSTER = "__trafficlight_cluster__"


@dataclass(frozen=True, slots=True)
class ParameterSet:
    """The values of one run.

    :param values: by parameter name.
    :param ignored: the reason not to run it; None if it runs.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    ignored: str | None = None


class AnyNode(Protocol):
    """A node, as far as a request is concerned."""

    @property
    def labels(self) -> Collection[str]:
        """What its cluster says about it."""
        ...

    @property
    def os(self) -> str:
        """Its operating system."""
        ...


@dataclass(frozen=True, slots=True)
class NodeRequest:
    """The nodes that a test needs.

    :param num_nodes: how many.
    :param labels: labels that each of them has.
    :param os: their operating system.
    """

    num_nodes: int
    labels: tuple[str, ...] = ()
    os: str = "linux"

    def fits(self, node: AnyNode) -> bool:
        """Return whether a node is of the kind that is asked for."""
        return node.os == self.os and set(self.labels) <= set(node.labels)

    def __str__(self) -> str:
        return f"{self.num_nodes} {self.kind}"

    @property
    def kind(self) -> str:
        """What kind of nodes, as messages name it."""
        system = "" if self.os == "linux" else f"{self.os} "
        labels = f" with label {' and '.join(self.labels)}" if self.labels else ""
        return f"{system}{'node' if self.num_nodes == 1 else 'nodes'}{labels}"


@dataclass(frozen=True, slots=True)
class _Cluster:
    num_nodes: int | Callable[..., int]
    labels: tuple[str, ...]
    os: str


@dataclass(frozen=True, slots=True)
class _Values:
    sets: tuple[dict[str, Any], ...]
    single: bool = False


@dataclass(frozen=True, slots=True)
class _Defaults:
    values: dict[str, tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class _Ignore:
    values: dict[str, Any]
    reason: str


_Mark = _Values | _Defaults | _Ignore


def parametrize(**values: Any) -> Callable[[F], F]:
    """Add a case with these values."""
    if not values:
        raise TypeError("@parametrize takes the values to run with: @parametrize(size=10)")
    return _marking("parametrize", _Values((values,), single=True))


def matrix(**values: Iterable[Any]) -> Callable[[F], F]:
    """Run the test with every combination of these values, one list for each parameter."""
    lists = {name: _listed("matrix", name, given) for name, given in values.items()}
    if not lists:
        raise TypeError("@matrix takes a list of values for each parameter: @matrix(size=[10, 100])")
    return _marking("matrix", _Values(tuple(_product(lists))))


def defaults(**values: Iterable[Any]) -> Callable[[F], F]:
    """Fill parameters that the other decorators do not set, with every combination of these values."""
    lists = {name: _listed("defaults", name, given) for name, given in values.items()}
    if not lists:
        raise TypeError("@defaults takes a list of values for each parameter: @defaults(size=[10])")
    return _marking("defaults", _Defaults(lists))


def ignore(*target: Any, **values: Any) -> Any:
    """Skip a test: its cases are listed as skipped.

    `@ignore` takes out everything below it, `@ignore(size=10)` the sets that have all of these values,
    `@ignore(server=Dendrite)` the cases with this type in this role; both can be combined, and a list stands
    for any of its types. A text before them says why: ``@ignore("needs a camera", video=True)``. It may stand
    above a class, too.
    """
    if len(target) == 1 and callable(target[0]) and not values:
        return _add(target[0], _Ignore({}, "ignored"))
    if len(target) > 1 or (target and not isinstance(target[0], str)):
        raise TypeError("@ignore takes a reason and parameter values: @ignore('why', size=10)")
    why = target[0] if target else f"ignored for {_shown(values)}" if values else "ignored"
    return _marking("ignore", _Ignore(values, why))


def time_limit(seconds: float) -> Callable[[F], F]:
    """Limit the time of a test, in place of its class's `timeout` and of `CASE_DEADLINE`.

    :param seconds: for `setup()` and the test together.
    """
    if not is_seconds(seconds):
        raise TypeError(f"@time_limit takes a number of seconds, not {seconds!r}: @time_limit(30)")

    def mark_function(function: F) -> F:
        if isinstance(function, type):
            name = function.__name__
            raise TypeError(f"@time_limit goes above a method; write timeout = {seconds} in {name}")
        setattr(function, _TIMEOUT, seconds)
        return function

    return mark_function


def is_seconds(value: object) -> bool:
    """Return whether a value is a time limit."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def cluster(
    num_nodes: int | Callable[..., int], *, labels: str | Iterable[str] = (), os: str = "linux"
) -> Callable[[C], C]:
    """Ask for nodes of the cluster, for the services of a test, or of all tests of a class.

    :param num_nodes: how many; 0 takes back what stands above the class. Or a function that returns that, and
        takes parameters of the test by their names: ``num_nodes=lambda brokers: brokers + 1``.
    :param labels: labels that each of them must have.
    :param os: their operating system.
    """
    wanted = (labels,) if isinstance(labels, str) else tuple(sorted(labels))
    if not callable(num_nodes) and not _is_number_of_nodes(num_nodes):
        raise TypeError(f"@cluster takes a number of nodes, not {num_nodes!r}: @cluster(num_nodes=3)")

    def mark(target: C) -> C:
        setattr(target, _CLUSTER, _Cluster(num_nodes, wanted, os))
        return target

    return mark


def nodes_of(
    function: Callable[..., Any], owner: type, values: Mapping[str, Any] = MappingProxyType({})
) -> NodeRequest | None:
    """Return the nodes that a test method asks for, or else its class; None for none.

    :param values: the parameters of the case.
    :raises ValueError: their number cannot be computed from these.
    """
    stated: _Cluster | None = getattr(function, _CLUSTER, getattr(owner, _CLUSTER, None))
    if stated is None:
        return None
    number = stated.num_nodes
    if callable(number):
        try:
            names = list(inspect.signature(number).parameters)
            missing = [name for name in names if name not in values]
            if missing:
                known = ", ".join(values) or "none"
                raise ValueError(f"there is no parameter {missing[0]!r} (parameters: {known})")
            number = number(**{name: values[name] for name in names})
        except Exception as error:  # code of a test file
            kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
            raise ValueError(f"num_nodes of @cluster: {kind}{error}") from error
        if not _is_number_of_nodes(number):
            raise ValueError(f"num_nodes of @cluster returned {number!r}, which is no number of nodes")
    return NodeRequest(number, stated.labels, stated.os) if number else None


def _is_number_of_nodes(value: object) -> bool:
    return type(value) is int and value >= 0


def time_limit_of(function: Callable[..., Any]) -> float | None:
    """Return the seconds of the `@time_limit` above a test method; None without one."""
    return getattr(function, _TIMEOUT, None)


def parameter_sets(
    function: Callable[..., Any], owner: type | None = None, roles: Collection[str] = ()
) -> list[ParameterSet]:
    """Return the sets of values that a test runs with, in the order of the source; without any, an empty one.

    :param function: the test method.
    :param owner: its class, whose own `@ignore` counts as well.
    :param roles: the roles of the test; an `@ignore` of one of them is left out.
    :raises ValueError: an `@ignore` names values that no set has.
    """
    marks: tuple[_Mark, ...] = getattr(function, _MARKS, ())
    above: tuple[_Mark, ...] = vars(owner).get(_MARKS, ()) if owner is not None else ()
    sets = _filled(_collected(marks), [mark for mark in marks if isinstance(mark, _Defaults)])
    for mark in (*marks, *above):
        if isinstance(mark, _Ignore) and (mark.values or mark in above) and not _of_roles(mark, roles):
            sets = _ignoring(sets, mark)
    return sets


def ignored_types(
    function: Callable[..., Any], owner: type, roles: Collection[str]
) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Yield what every `@ignore` of roles names, roles and parameters, and the reason.

    :param function: the test method.
    :param owner: its class, whose own `@ignore` counts as well.
    :param roles: the roles of the test.
    """
    for mark in (*getattr(function, _MARKS, ()), *vars(owner).get(_MARKS, ())):
        if isinstance(mark, _Ignore) and _of_roles(mark, roles):
            yield mark.values, mark.reason


def _of_roles(mark: _Ignore, roles: Collection[str]) -> bool:
    return not mark.values.keys().isdisjoint(roles)


def _shown(values: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name}={value.__name__ if isinstance(value, type) else repr(value)}"
        for name, value in values.items()
    )


def parameter_names(function: Callable[..., Any]) -> set[str]:
    """Return the names that the decorators of a test method give values."""
    names: set[str] = set()
    for mark in getattr(function, _MARKS, ()):
        if isinstance(mark, _Values):
            names.update(*mark.sets)
        elif isinstance(mark, _Defaults):
            names.update(mark.values)
    return names


def single_sets(function: Callable[..., Any]) -> list[dict[str, Any]]:
    """Return the values of every `@parametrize` of a test method."""
    marks: tuple[_Mark, ...] = getattr(function, _MARKS, ())
    return [mark.sets[0] for mark in marks if isinstance(mark, _Values) and mark.single]


def _collected(marks: Iterable[_Mark]) -> list[ParameterSet]:
    """Read the decorators from the bottom up, as Python applies them."""
    sets: list[ParameterSet] = []
    everything: str | None = None
    for mark in marks:
        if isinstance(mark, _Values):
            sets = [ParameterSet(values) for values in mark.sets] + sets
        elif isinstance(mark, _Ignore) and not mark.values:
            sets = [ParameterSet(one.values, one.ignored or mark.reason) for one in sets]
            # With nothing below it, it applies to everything.
            everything = everything if sets else mark.reason
    return [ParameterSet(one.values, one.ignored or everything) for one in sets or [ParameterSet()]]


def _filled(sets: list[ParameterSet], marks: list[_Defaults]) -> list[ParameterSet]:
    merged = {name: values for mark in marks for name, values in mark.values.items()}
    return [
        ParameterSet({**one.values, **filling}, one.ignored)
        for one in sets
        for filling in _product({name: values for name, values in merged.items() if name not in one.values})
    ]


def _ignoring(sets: list[ParameterSet], mark: _Ignore) -> list[ParameterSet]:
    def meant(one: ParameterSet) -> bool:
        return all(name in one.values and one.values[name] == value for name, value in mark.values.items())

    if not any(meant(one) for one in sets):
        raise ValueError(f"@ignore({_shown(mark.values)}) matches none of the values of the test")
    return [ParameterSet(one.values, one.ignored or mark.reason) if meant(one) else one for one in sets]


def _product(lists: Mapping[str, tuple[Any, ...]]) -> Iterable[dict[str, Any]]:
    return (dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values()))


def _listed(decorator: str, name: str, given: object) -> tuple[Any, ...]:
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        raise TypeError(f"@{decorator}({name}=...) takes a list of values, not {given!r}: {name}=[{given!r}]")
    # The order of a set differs from process to process.
    values = tuple(sorted(given, key=repr) if isinstance(given, Set) else given)
    if not values:
        raise TypeError(f"@{decorator}({name}=[]) has no value to run with")
    return values


def _marking(decorator: str, mark: _Mark) -> Callable[[F], F]:
    def mark_function(function: F) -> F:
        if isinstance(function, type) and not isinstance(mark, _Ignore):
            raise TypeError(f"@{decorator} goes above a method, not above class {function.__name__}")
        return _add(function, mark)

    return mark_function


def _add(function: F, mark: _Mark) -> F:
    setattr(function, _MARKS, (*vars(function).get(_MARKS, ()), mark))
    return function
