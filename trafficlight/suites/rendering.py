"""Values and names in case ids: short, printable, and different for different values."""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Set
from enum import Enum
from typing import Any

# Longer ones are cut and get a digest.
_LONGEST = 100
# Beyond this many digits Python refuses to print a number.
_LARGEST = 10**300

_BARE_STRING = re.compile(r"[^\W\d][\w-]*")
# Words that would read as another kind of value without quotes.
_NOT_BARE = frozenset({"None", "True", "False", "nan", "inf"})
_BARE_NAME = re.compile(r"[^\W][\w.\-+()<>=!~*,:/@]*")
_BARE_OBJECT = re.compile(r"[\w. -]+")


def render_value(value: Any) -> str:
    """Return a parameter's value as text for a case id.

    Numbers, truth values and simple words are written as they are, other text in JSON's quotes, containers
    with their items, anything else in angle brackets.
    """
    return _shortened(_rendered(value))


def render_name(name: str) -> str:
    """Return the name of a type as text for a case id: as it is, or in quotes if it could be misread."""
    bare = _BARE_NAME.fullmatch(name) and len(name) <= _LONGEST and _commas_within_parentheses(name)
    return name if bare else _shortened(_quoted(name))


def as_json(value: Any) -> Any:
    """Return a parameter's value as JSON: other objects as text in angle brackets, as in case ids."""
    match value:
        case None | bool():
            return value
        case str() if not isinstance(value, Enum):
            return str.__str__(value)
        case int() if not isinstance(value, Enum) and abs(value) < _LARGEST:
            return int.__int__(value)
        case float() if math.isfinite(value) and not isinstance(value, Enum):
            return float.__float__(value)
        case Mapping():
            return {str(key): as_json(item) for key, item in value.items()}
        case list() | tuple():
            return [as_json(item) for item in value]
        case Set():
            return [as_json(item) for item in sorted(value, key=_rendered)]
        case _:
            return _rendered(value)


def _rendered(value: Any) -> str:
    match value:
        case Enum():
            return _object(f"{type(value).__name__}.{value.name}")
        case bool() | None:
            return str(value)
        case int():
            return int.__repr__(value) if abs(value) < _LARGEST else _object(f"int {hex(value)}")
        case float():
            return float.__repr__(value)
        case str():
            bare = _BARE_STRING.fullmatch(value) and value not in _NOT_BARE
            return str(value) if bare else _quoted(value)
        case tuple():
            return "(" + _joined(value) + ")"
        case list():
            return "[" + _joined(value) + "]"
        case Mapping():
            return "{" + ",".join(sorted(f"{_rendered(k)}:{_rendered(v)}" for k, v in value.items())) + "}"
        case Set():
            return "set{" + ",".join(sorted(_rendered(item) for item in value)) + "}"
        case type():
            return _object(value.__qualname__)
        case _:
            return _object(_described(value))


def _described(value: Any) -> str:
    if isinstance(qualified := getattr(value, "__qualname__", None), str):
        return qualified
    shown = repr(value)
    # The default representation holds an address, which changes with every process.
    return type(value).__qualname__ if re.search(r" at 0x[0-9a-fA-F]+", shown) else shown


def _joined(values: Iterable[Any]) -> str:
    return ",".join(_rendered(value) for value in values)


def _object(text: str) -> str:
    return f"<{text if _BARE_OBJECT.fullmatch(text) else _quoted(text)}>"


def _quoted(text: str) -> str:
    """Return a JSON string in which unprintable characters are escaped."""
    quoted = json.dumps(text, ensure_ascii=False)
    return quoted if quoted.isprintable() else "".join(map(_escaped, quoted))


def _escaped(character: str) -> str:
    return character if character.isprintable() else json.dumps(character)[1:-1]


def _shortened(text: str) -> str:
    if len(text) <= _LONGEST:
        return text
    digest = hashlib.sha256(text.encode("utf-8")).hexdigest()[:12]
    start = re.sub(r"[^\w. -]+", " ", text[:40]).strip()
    return f"<{start} .. {digest}>"


def _commas_within_parentheses(name: str) -> bool:
    depth = 0
    for character in name:
        depth += (character == "(") - (character == ")")
        if depth < 0 or (character == "," and depth == 0):
            return False
    return depth == 0
