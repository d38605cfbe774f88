"""From a test's declarations to the roles of its matrix, with all problems in them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from trafficlight.client_types import AnyMatrixClient, ClientType, Nio, as_client_type
from trafficlight.errors import TestFileError
from trafficlight.server_types import AnyHomeServer, ServerType, SynapseStable
from trafficlight.suites.source import SourceLines
from trafficlight.test import Declaration, Test
from trafficlight.text import nearest


@dataclass(frozen=True, slots=True)
class Role:
    """One dimension of the matrix.

    :param names: the role; several if one server type fills several.
    :param types: the types that may fill it.
    :param where: file and line of its declaration.
    :param inherited: whether a base class declares it.
    :param open: whether the session names types for it.
    """

    names: tuple[str, ...]
    types: tuple[ClientType | ServerType, ...]
    where: tuple[Path, int | None]
    inherited: bool = False
    open: bool = False

    @property
    def key(self) -> str:
        """Its key in case ids."""
        return "+".join(self.names)


@dataclass(slots=True)
class Roles:
    """The roles of one test.

    :param groups: interchangeable roles, by their index in `roles`.
    :param problems: what is wrong; a test with any cannot run.
    :param older: whether some were declared in the older form, in `__init__`.
    """

    roles: list[Role] = field(default_factory=list)
    groups: list[tuple[int, ...]] = field(default_factory=list)
    problems: list[TestFileError] = field(default_factory=list)
    older: bool = False

    @property
    def names(self) -> dict[str, Role]:
        """Every role by its name."""
        return {name: role for role in self.roles for name in role.names}

    def taken_by(self, takes: Callable[[str], bool]) -> "Roles":
        """Return the roles of which a name is taken."""
        places = [place for place, role in enumerate(self.roles) if any(map(takes, role.names))]
        groups = [tuple(places.index(one) for one in group if one in places) for group in self.groups]
        roles = [self.roles[place] for place in places]
        return replace(self, roles=roles, groups=[group for group in groups if len(group) > 1])


def read_roles(
    cls: type[Test], source: SourceLines, chosen: Sequence[ClientType | ServerType] = (Nio(), SynapseStable())
) -> Roles:
    """Read the roles of a test, clients first, in the order of declaration.

    :param chosen: the types that fill roles for any Matrix client or any homeserver.
    """
    line = source.class_line(cls.__name__)
    for attribute in ("clients", "servers"):
        if not isinstance(getattr(cls, attribute), Mapping):
            problem, hint = (
                f"{attribute} is not a mapping from roles to types",
                f'{attribute} = {{"role": [Type]}}',
            )
            line = source.attribute_line(cls.__name__, attribute) or line
            return Roles(problems=[TestFileError(source.path, line, problem, hint)])
    for attribute in ("client", "server"):
        if isinstance(getattr(cls, attribute, None), Mapping):
            line = source.attribute_line(cls.__name__, attribute) or line
            problem, hint = f"{attribute!r} is no attribute of a test", f"write {attribute}s = {{...}}"
            return Roles(problems=[TestFileError(source.path, line, problem, hint)])
    try:
        test = cls()
        declarations = test.declarations()
    except Exception as error:  # noqa: BLE001 - code of a test file
        line = _line_of(error, source.path) or source.method_line(cls.__name__, "__init__") or line
        problem = f"{cls.__name__} cannot be created: {type(error).__name__}: {error}"
        return Roles(problems=[TestFileError(source.path, line, problem, "it is created without arguments")])
    found = Roles(older=any(declaration.where for declaration in declarations))
    for declaration in declarations:
        where = _where(declaration, cls, source)
        try:
            inherited = declaration.where is None and f"{declaration.kind}s" not in vars(cls)
            types = tuple(_types(declaration, chosen))
            role = Role(declaration.names, types, where, inherited, _is_open(declaration))
            _check_names(role, found)
            found.roles.append(role)
        except _WrongError as wrong:
            found.problems.append(TestFileError(*where, wrong.problem, wrong.hint))
    if not found.problems:
        _read_groups(test, cls, source, found)
    return found


def _is_open(declaration: Declaration) -> bool:
    stated = declaration.types if isinstance(declaration.types, Iterable) else [declaration.types]
    anything = (AnyMatrixClient, AnyHomeServer)
    return any(issubclass(one if isinstance(one, type) else type(one), anything) for one in stated)


class _WrongError(Exception):
    def __init__(self, problem: str, hint: str) -> None:
        self.problem, self.hint = problem, hint
        super().__init__(problem)


def is_of(kind: ClientType | ServerType, stated: object) -> bool:
    """Return whether a type is the one that was stated: a class, an instance, a name, or any of several."""
    if isinstance(stated, list | tuple | set | frozenset):
        return any(is_of(kind, one) for one in stated)
    if isinstance(stated, type):
        return isinstance(kind, stated) or is_of(kind, stated())
    name = getattr(stated, "name", None)
    return kind.name() == (name() if callable(name) else stated)


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return a hint with the most similar name; empty if none is similar."""
    near = nearest(name, names)
    return f"did you mean {near!r}?" if near else ""


def _types(
    declaration: Declaration, chosen: Sequence[ClientType | ServerType]
) -> Iterator[ClientType | ServerType]:
    shown = " + ".join(map(repr, declaration.names))
    given = declaration.types
    stated = list(given) if isinstance(given, Iterable) and not isinstance(given, str | type) else [given]
    if not stated:
        example = "Nio" if declaration.kind == "client" else "SynapseStable"
        raise _WrongError(
            f"there are no types for the role {shown}", f"name at least one, for instance [{example}]"
        )
    read: Callable[[object], ClientType | ServerType | None]
    read = as_client_type if declaration.kind == "client" else _as_server_type
    names: set[str] = set()
    filled: set[str] = set()
    opened: list[ClientType | ServerType] = []
    for one in stated:
        try:
            kind = read(one)
            name = kind.name() if kind is not None else ""
        except Exception as error:
            raise _WrongError(
                f"{one!r} of the role {shown} fails: {type(error).__name__}: {error}", ""
            ) from error
        if kind is None:
            hint = f"use a type of trafficlight.{declaration.kind}_types, or a subclass of one"
            raise _WrongError(f"{one!r} is not a {declaration.kind} type (role {shown})", hint)
        if isinstance(kind, AnyMatrixClient | AnyHomeServer):
            if isinstance(kind, AnyHomeServer):
                _check_type(kind, declaration, shown)
            opened.append(kind)
            more = [one for one in _filling(kind, chosen) if one.name() not in names | filled]
            filled.update(one.name() for one in more)
            yield from more
            continue
        if name in filled:
            continue
        if name in names:
            raise _WrongError(f"the role {shown} has two types named {name}", "remove one, or rename it")
        names.add(name)
        _check_type(kind, declaration, shown)
        yield kind
    if not names | filled:
        yield opened[0]


def _filling(
    kind: AnyMatrixClient | AnyHomeServer, chosen: Sequence[ClientType | ServerType]
) -> Iterable[ClientType | ServerType]:
    if isinstance(kind, AnyMatrixClient):
        return kind.filled_by(one for one in chosen if isinstance(one, ClientType))
    return [one for one in chosen if isinstance(one, ServerType)]


class _AdaptedServerType(ServerType):
    """Adapts a duck-typed server type."""

    def __init__(self, like: Any) -> None:
        self._like = like

    def name(self) -> str:
        return str(self._like.name())

    def complement_types(self) -> list[str]:
        return list(self._like.complement_types())


def _as_server_type(kind: object) -> ServerType | None:
    if not all(callable(getattr(kind, name, None)) for name in ("name", "complement_types")):
        return None
    made = kind() if isinstance(kind, type) else kind
    return made if isinstance(made, ServerType) else _AdaptedServerType(made)


def _check_type(kind: ClientType | ServerType, declaration: Declaration, shown: str) -> None:
    if isinstance(kind, ClientType):
        if type(kind).match is ClientType.match and not kind.type:
            raise _WrongError(
                f"the client type {kind.name()} has no `type`", "set it to what its adapters register as"
            )
        return
    try:
        stands_for = len(kind.homeservers())
    except Exception as error:
        raise _WrongError(
            f"{kind.name()} of the role {shown} fails: {type(error).__name__}: {error}", ""
        ) from error
    # The older form need not name all homeservers of a type.
    if stands_for < len(declaration.names) or (
        declaration.where is None and stands_for > len(declaration.names)
    ):
        roles = "one role" if len(declaration.names) == 1 else f"{len(declaration.names)} roles"
        hint = f"give it {stands_for} names" if stands_for > 1 else "give every role its own types"
        raise _WrongError(
            f"{kind.name()} stands for {stands_for} homeserver(s), but fills {roles}: {shown}", hint
        )


def _check_names(role: Role, found: Roles) -> None:
    stated: Sequence[object] = role.names
    for name in stated:
        if not isinstance(name, str) or not name.isidentifier():
            raise _WrongError(
                f"a role cannot be named {name!r}", "roles are arguments of the test: use a Python name"
            )
        if name in found.names or role.names.count(name) > 1:
            raise _WrongError(f"there are two roles named {name!r}", "rename one of them")
    if not role.names:
        raise _WrongError("a server type fills no role", "name at least one server")


def _read_groups(test: Test, cls: type[Test], source: SourceLines, found: Roles) -> None:
    given: Any = test.interchangeable
    where = (source.path, source.attribute_line(cls.__name__, "interchangeable"))
    if isinstance(given, str) or not isinstance(given, Iterable):
        hint = 'for instance ("alice", "bob")'
        found.problems.append(TestFileError(*where, "interchangeable is not a tuple of roles", hint))
        return
    stated = list(given)
    groups = [stated] if any(isinstance(one, str) for one in stated) else [list(one) for one in stated]
    places: dict[object, int] = {role.key: index for index, role in enumerate(found.roles)}
    for group in groups:
        unknown = [name for name in group if name not in places]
        kinds = {
            isinstance(found.roles[places[name]].types[0], ClientType) for name in group if name in places
        }
        if unknown:
            hint = (
                did_you_mean(str(unknown[0]), [role.key for role in found.roles]) or "list roles of the test"
            )
            found.problems.append(
                TestFileError(*where, f"interchangeable names no role: {unknown[0]!r}", hint)
            )
        elif len(set(group)) < 2 or len(kinds) > 1:
            problem = f"interchangeable needs two or more roles of one kind, not {', '.join(map(str, group))}"
            found.problems.append(TestFileError(*where, problem))
        else:
            found.groups.append(tuple(sorted(places[name] for name in set(group))))


def _where(declaration: Declaration, cls: type[Test], source: SourceLines) -> tuple[Path, int | None]:
    if declaration.where is not None:
        return Path(declaration.where[0]), declaration.where[1]
    attribute = f"{declaration.kind}s"
    for owner in cls.__mro__:
        if attribute in vars(owner):
            line = source.attribute_line(
                owner.__name__, attribute, declaration.names[0] if declaration.names else None
            )
            return source.path, line or source.class_line(cls.__name__)
    return source.path, source.class_line(cls.__name__)


def _line_of(error: BaseException, path: Path) -> int | None:
    line, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    return line
