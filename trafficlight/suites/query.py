"""The query language for cases: words, ``name:value``, and, or, not, parentheses.

The parser is pure. What a name means for a case is up to the caller: before a session there is a plan, and
after it a record with verdicts.
"""

import fnmatch
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypeVar

from trafficlight.errors import UsageError

C = TypeVar("C")
Lookup: TypeAlias = Callable[[str], Sequence[str | float] | None]
"""Returns the values that a case has under a name; None if it has no role or parameter of that name."""

_Test: TypeAlias = Callable[[Lookup], bool]

WORDS = ""
"""The name under which plain words are looked for."""

_DEEPEST = 50  # parentheses within each other
_OPERATOR = re.compile(r"(and|or|not)(?=[\s()]|$)")
# A case id has ``::`` behind the file.
_NAME = re.compile(r"([^\W\d][\w.-]*):(?!:)")
_COMPARISON = re.compile(r">=|<=|>|<|")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
# Parentheses inside a word belong to it: types with settings have some.
_WORD = re.compile(r"(?:[^\s()]|(?<=[^\s()])\([^\s()]*\))+")
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">=": lambda one, other: one >= other,
    "<=": lambda one, other: one <= other,
    ">": lambda one, other: one > other,
    "<": lambda one, other: one < other,
    "": lambda one, other: one == other,
}


@dataclass(frozen=True, slots=True)
class Field:
    """A name that queries know.

    :param help: what it matches.
    :param kind: ``text`` contains the value, a ``name`` is the value, a ``number`` is compared with it.
    :param choices: the only names that there are.
    """

    help: str
    kind: Literal["text", "name", "number"] = "name"
    choices: tuple[str, ...] = ()


PLANNED: Mapping[str, Field] = {
    "id": Field("the id of the case", "text"),
    "file": Field("the test file, as in ids"),
    "test": Field("the class, or class and method, as in ids"),
    "client": Field("the client type in any role"),
    "server": Field("the server type in any role"),
    "clients": Field("the client types of all roles in their order, as in `Nio+HydrogenWeb`"),
    "servers": Field("the server types of all roles in their order"),
}
"""What is known of a case before it runs, besides its roles and parameters."""


class QueryError(UsageError):
    """A query is malformed, or names what does not exist.

    :param text: the query.
    :param position: where in it, from 0.
    :param problem: what was expected there.
    """

    def __init__(self, text: str, position: int, problem: str) -> None:
        self.position = position
        self.problem = problem
        super().__init__(f"the query {text!r}, column {position + 1}: {problem}")


@dataclass(frozen=True, slots=True)
class Query:
    """A parsed query.

    :param matches: whether the case with these values is meant.
    :param others: names that are no field, with their position: roles or parameters.
    """

    text: str
    matches: _Test
    others: tuple[tuple[str, int], ...]
    fields: tuple[str, ...]

    def select(self, cases: Iterable[C], lookup_of: Callable[[C], Lookup]) -> list[C]:
        """Return the cases that are meant.

        :raises QueryError: there are none, and no case has a role or parameter that the query names.
        """
        lookups = [(case, lookup_of(case)) for case in cases]
        found = [case for case, lookup in lookups if self.matches(lookup)]
        for name, position in () if found else self.others:
            if lookups and all(lookup(name) is None for _, lookup in lookups):
                known = ", ".join(self.fields)
                problem = f"{name} is no role or parameter of these cases, and none of {known}"
                raise QueryError(self.text, position, problem)
        return found


def parse(text: str, fields: Mapping[str, Field] = PLANNED) -> Query:
    """Parse a query.

    :param fields: the names that are known, besides roles and parameters.
    :raises QueryError: it is malformed.
    """
    parser = _Parser(text, fields)
    return Query(text, parser.whole(), tuple(parser.others), tuple(parser.fields))


def planned_values(
    suite: str,
    file: str,
    clients: Mapping[str, str],
    servers: Mapping[str, str],
    parameters: Mapping[str, object],
) -> Iterator[tuple[str, str]]:
    """Yield name and value of what is known of a case before it runs; several may have one name."""
    yield from clients.items()
    yield from servers.items()
    yield from (("client", kind) for kind in dict.fromkeys(clients.values()))
    yield from (("server", kind) for kind in dict.fromkeys(servers.values()) if "server" not in servers)
    yield "file", file
    yield "test", suite.rpartition("::")[2]
    for name, value in parameters.items():
        yield name, value if isinstance(value, str) else json.dumps(value)


def joined(types: Iterable[str]) -> Sequence[str]:
    """Return the value of `clients` or `servers`: the types of all roles; none without a role."""
    text = "+".join(types)
    return (text,) if text else ()


def quoted(name: str, value: str) -> str:
    """Return the term that matches exactly this value."""
    if _WORD.fullmatch(value) and not value.startswith('"'):
        return f"{name}:{value}"
    return f"{name}:" + '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


class _Parser:
    def __init__(self, text: str, fields: Mapping[str, Field]) -> None:
        self._text = text
        self._place = 0
        self._depth = 0
        self.fields = fields
        self.others: list[tuple[str, int]] = []

    def whole(self) -> _Test:
        test = self._either()
        if self._rest():
            raise self._error("expected and, or, or the end; no parenthesis is open")
        return test

    def _either(self) -> _Test:
        tests = [self._every()]
        while self._operator("or"):
            tests.append(self._every())
        return tests[0] if len(tests) == 1 else lambda lookup: any(test(lookup) for test in tests)

    def _every(self) -> _Test:
        tests = [self._negated()]
        # Terms side by side must all match, as in a search field.
        while self._operator("and") or (self._rest()[:1] not in ("", ")") and not self._peek("or")):
            tests.append(self._negated())
        return tests[0] if len(tests) == 1 else lambda lookup: all(test(lookup) for test in tests)

    def _negated(self) -> _Test:
        negated = False
        while self._operator("not"):
            negated = not negated
        test = self._primary()
        return (lambda lookup: not test(lookup)) if negated else test

    def _primary(self) -> _Test:
        rest = self._rest()
        if rest[:1] in ("", ")") or _OPERATOR.match(rest):
            raise self._error('expected a word, "text in quotes", name:value or (')
        if rest[0] != "(":
            return self._term()
        if self._depth == _DEEPEST:
            raise self._error(f"expected at most {_DEEPEST} parentheses within each other")
        self._place += 1
        self._depth += 1
        test = self._either()
        if self._rest()[:1] != ")":
            raise self._error("expected )")
        self._place += 1
        self._depth -= 1
        return test

    def _term(self) -> _Test:
        begin = self._place
        named = _NAME.match(self._text, begin)
        if named is None:
            return _contains(WORDS, self._value())
        name = named[1]
        self._place = named.end()
        field = self.fields.get(name)
        if field is not None and field.kind == "number":
            return self._number(name)
        at, value = self._place, self._value()
        if field is not None and field.kind == "text":
            return _contains(name, value)
        if field is not None and field.choices:
            value = value.replace("-", " ")
            known = ", ".join(field.choices)
            if not any(map(_pattern(value).match, field.choices)):
                raise QueryError(self._text, at, f"expected one of {known}")
        if field is None:
            self.others.append((name, begin))
        whole, written = _pattern(value), _contains(WORDS, f"{name}:{value}")

        def test(lookup: Lookup) -> bool:
            values = lookup(name)
            if values is None:  # may be a plain word with a colon
                return written(lookup)
            return any(whole.match(str(value)) for value in values)

        return test

    def _number(self, name: str) -> _Test:
        sign = _COMPARISON.match(self._text, self._place)
        assert sign is not None  # it may be empty
        self._place = at = sign.end()
        try:
            number = float(self._value())
        except ValueError:
            raise QueryError(self._text, at, f"expected a number, as in {name}:>5") from None
        compare = _COMPARE[sign[0]]
        return lambda lookup: any(compare(float(value), number) for value in lookup(name) or ())

    def _value(self) -> str:
        if self._text[self._place : self._place + 1] == '"':
            if (found := _QUOTED.match(self._text, self._place)) is None:
                raise self._error("expected a second quotation mark")
            self._place = found.end()
            return re.sub(r"\\(.)", r"\1", found[1], flags=re.DOTALL)
        if (found := _WORD.match(self._text, self._place)) is None:
            raise self._error('expected a word or "text in quotes"')
        self._place = found.end()
        return found[0]

    def _rest(self) -> str:
        while self._text[self._place : self._place + 1].isspace():
            self._place += 1
        return self._text[self._place : self._place + 4]

    def _peek(self, operator: str) -> bool:
        self._rest()
        found = _OPERATOR.match(self._text, self._place)
        return found is not None and found[1] == operator

    def _operator(self, operator: str) -> bool:
        if found := self._peek(operator):
            self._place += len(operator)
        return found

    def _error(self, problem: str) -> QueryError:
        return QueryError(self._text, self._place, problem)


def _contains(name: str, part: str) -> _Test:
    folded = part.casefold()
    if "*" not in part and "?" not in part:
        return lambda lookup: any(folded in str(text).casefold() for text in lookup(name) or ())
    # A text that has the wildcards themselves is found as well.
    inside = _pattern(f"*{part}*")
    return lambda lookup: any(
        folded in str(text).casefold() or inside.match(str(text)) for text in lookup(name) or ()
    )


def _pattern(value: str) -> re.Pattern[str]:
    """Return the pattern of a whole value with the wildcards ``*`` and ``?``, in any case."""
    return re.compile(fnmatch.translate(value.replace("[", "[[]")), re.IGNORECASE)
