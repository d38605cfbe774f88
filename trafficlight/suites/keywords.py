"""Expressions such as ``alice=Nio and not (Dendrite or federation)`` over the ids of cases."""

import ast
import re
from collections.abc import Callable
from typing import TypeAlias

from trafficlight.errors import UsageError

Predicate: TypeAlias = Callable[[str], bool]

_TOKEN = re.compile(r"""\s*(?:(?P<sign>[()])|"(?P<quoted>[^"]*)"|(?P<word>[^\s()"]+))""")
_OPERATORS = frozenset({"and", "or", "not"})


def read_expression(text: str) -> Predicate:
    """Return what decides whether an id is meant: words are parts of it, in either case.

    :raises UsageError: the expression is malformed.
    """
    words: list[str] = []
    parts: list[str] = []
    place = 0
    stripped = text.rstrip()
    while place < len(stripped):
        token = _TOKEN.match(stripped, place)
        if token is None:
            raise UsageError(f"-k {text!r}: a quotation mark is not closed")
        place = token.end()
        if token["sign"] or token["word"] in _OPERATORS:
            parts.append(token["sign"] or token["word"])
        else:
            # Python's own grammar knows what binds closer; words become names that it can read.
            parts.append(f"w{len(words)}")
            words.append((token["quoted"] if token["quoted"] is not None else token["word"]).casefold())
    try:
        tree = ast.parse(" ".join(parts), mode="eval").body
        return _compiled(tree, words)
    except (SyntaxError, _NoExpressionError, RecursionError):
        raise UsageError(f"-k {text!r}: write words with and, or, not and parentheses") from None


class _NoExpressionError(Exception):
    pass


def _compiled(node: ast.expr, words: list[str]) -> Predicate:
    match node:
        case ast.Name(id=name):
            word = words[int(name[1:])]
            return lambda text: word in text.casefold()
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            negated = _compiled(operand, words)
            return lambda text: not negated(text)
        case ast.BoolOp(op=operator, values=values):
            parts = [_compiled(value, words) for value in values]
            decide = all if isinstance(operator, ast.And) else any
            return lambda text: decide(part(text) for part in parts)
        case _:
            raise _NoExpressionError
