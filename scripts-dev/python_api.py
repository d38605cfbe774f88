"""The reference of the Python API: signatures and docstrings of what test files use."""

import ast
import functools
import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import is_dataclass
from enum import Enum
from types import ModuleType
from typing import Any

from pydantic import BaseModel
from typing_extensions import is_typeddict

import trafficlight
from trafficlight import client_types, clients, errors, server_types, services, test
from trafficlight.clients import matrix_answers
from trafficlight.network import control, federation


def _own_types(module: ModuleType) -> list[str]:
    """Return the names of the typed dictionaries that a module defines, but those of requests."""
    return [name for name, value in vars(module).items() if is_typeddict(value) and name != "HomeserverUrl"]


def _kinds(module: Any, base: type) -> list[str]:
    """Return the names of a base class and of its subclasses in a module."""
    public = [name for name in module.__all__ if isinstance(getattr(module, name), type)]
    return [base.__name__, *(name for name in public if base in getattr(module, name).__mro__[1:])]


# Headings, the module that names are imported from, and the names.
SECTIONS: list[tuple[str, ModuleType, list[str]]] = [
    ("Tests", trafficlight, ["Test", "parametrize", "matrix", "defaults", "ignore", "time_limit", "cluster"]),
    ("The running case", test, ["CaseInfo", "Deadline"]),
    ("Clients", clients, ["Client", "MatrixClient", "NetworkProxyClient", "ClientApi"]),
    ("What Matrix clients answer", matrix_answers, _own_types(matrix_answers)),
    ("Element Call", clients, ["ElementCallClient", "VideoImage", "LobbyData", "CallData", "VideoTile"]),
    ("Homeservers", clients, ["HomeServer"]),
    ("The network of a client", control, ["ClientNetwork", "Line", "Options", "Rule", "Held", "Exchange"]),
    ("The network between homeservers", federation, ["FederationNetwork"]),
    ("Services", services, ["Service", "Log", "Node", "Account", "Completed", "Monitor"]),
    ("Faults of services", services, ["pause", "kill", "partition", "degrade", "clock_offset"]),
    ("Client classes of your own", clients, ["action", "Wire"]),
    ("Client types", client_types, [*_kinds(client_types, client_types.ClientType), "Candidate"]),
    ("Server types", server_types, [*_kinds(server_types, server_types.ServerType), "HomeServerSpec"]),
    (
        "Errors",
        errors,
        [
            "TrafficlightError",
            "RemoteError",
            "ActionError",
            "UnsupportedError",
            "LabError",
            "AdapterError",
            "DeadlineError",
            "Skipped",
        ],
    ),
]
_LISTED = [getattr(module, name) for _, module, names in SECTIONS for name in names]
# What is public for other parts of the lab only.
_INTERNAL = {"Test.bind", "Test.declarations", "HomeServer.close", "RemoteError.formatted_message"}
_INTERNAL_FIELDS = {"link", "faults"}


def python_api() -> str:
    """Return a section for each group of names."""
    return "\n".join(line for section in SECTIONS for line in _section(*section))


def _section(heading: str, module: ModuleType, names: list[str]) -> Iterator[str]:
    yield f"## {heading}\n"
    yield f"Import from `{module.__name__}`.\n"
    brief: list[type] = []
    for name in names:
        found = getattr(module, name)
        if not isinstance(found, type):
            yield from _function_lines(found, "###")
        elif found.__base__ in _LISTED and not (list(members(found)) or "__init__" in vars(found)):
            brief.append(found)
        else:
            yield from _class_lines(found)
    if brief:
        yield "| class | base | |\n| --- | --- | --- |"
        for cls in brief:
            bases = ", ".join(f"`{base.__name__}`" for base in cls.__bases__)
            yield f"| `{cls.__name__}` | {bases} | {' '.join(_text(cls.__doc__ or '').split())} |"
        yield ""


def _class_lines(cls: type) -> Iterator[str]:
    yield f"### {cls.__name__}\n"
    if "__init__" in vars(cls) and issubclass(cls, client_types.ClientType | server_types.ServerType):
        arguments = signature(cls.__init__).removeprefix("def __init__").removesuffix(" -> None")
        yield f"```python\n{cls.__name__}{arguments}\n```\n"
    bases = [base.__name__ for base in cls.__bases__ if base in _LISTED]
    if bases:
        yield f"A `{'` and `'.join(bases)}`, with everything that it has.\n"
    yield from _described(inspect.cleandoc(cls.__doc__ or ""), cls)
    if issubclass(cls, Enum):
        yield "Its members are " + ", ".join(f"`{member.name}`" for member in cls) + ".\n"
    for name, member in members(cls):
        if isinstance(member, property | functools.cached_property):
            getter: Any = member.fget if isinstance(member, property) else member.func
            yield f"#### {cls.__name__}.{name}\n"
            yield f"```python\n{name}: {_returns(_node(getter))}\n```\n"
            yield from _described(inspect.getdoc(member) or "")
        else:
            yield from _function_lines(member, "####", f"{cls.__name__}.")


def members(cls: type) -> Iterator[tuple[str, Any]]:
    """Yield the public methods and properties that a class adds to those of its listed bases."""
    known = {name for base in cls.__mro__[1:] if base in _LISTED for name in vars(base)}
    for name, member in vars(cls).items():
        if name.startswith("_") or name in known or f"{cls.__name__}.{name}" in _INTERNAL:
            continue
        if isinstance(member, property | functools.cached_property) or inspect.isfunction(member):
            yield name, member


def _types(cls: type) -> tuple[dict[str, str], dict[str, str]]:
    """Return the annotations of a class's attributes, and of the arguments of its constructor."""
    node = _parsed(cls)
    assert isinstance(node, ast.ClassDef)
    attributes, arguments = dict[str, str](), dict[str, str]()
    for line in node.body:
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            attributes[line.target.id] = _annotation(line.annotation)
        elif isinstance(line, ast.FunctionDef) and line.name == "__init__":
            every = (*line.args.args, *line.args.kwonlyargs)
            arguments |= {one.arg: _annotation(one.annotation) for one in every if one.annotation is not None}
    return attributes, arguments


def _function_lines(function: Any, level: str, owner: str = "") -> Iterator[str]:
    yield f"{level} {owner}{function.__name__}\n"
    yield f"```python\n{signature(function)}\n```\n"
    yield from _described(inspect.getdoc(function) or "")


class _Plain(ast.NodeTransformer):
    """Removes quotation marks from an annotation, and what is about the wire, as in `Annotated`."""

    _OUTER = frozenset({"Annotated", "ClassVar", "NotRequired", "SkipJsonSchema"})

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        name = node.value.id if isinstance(node.value, ast.Name) else ""
        if name == "Literal":
            return node
        inner: ast.AST = node.slice
        if name == "Annotated" and isinstance(inner, ast.Tuple):
            inner = inner.elts[0]
        return plain(inner) if name in self._OUTER else self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        return ast.parse(node.value, mode="eval").body if isinstance(node.value, str) else node


def plain(node: ast.AST) -> ast.expr:
    """Return an annotation without what is of no use to a reader."""
    simple = _Plain().visit(node)
    assert isinstance(simple, ast.expr)
    return simple


def _annotation(node: ast.expr) -> str:
    return ast.unparse(plain(node))


def _parsed(found: Any) -> ast.stmt:
    return ast.parse(textwrap.dedent(inspect.getsource(found))).body[0]


def _node(function: Any) -> ast.FunctionDef | ast.AsyncFunctionDef:
    node = _parsed(inspect.unwrap(function))
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    return node


def signature(function: Any) -> str:
    """Return the signature of a function as it is in the source, on one line, without `self`."""
    node = _node(function)
    arguments = node.args
    every = [*arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    for one in every:
        if one is not None and one.annotation is not None:
            one.annotation = plain(one.annotation)
    if arguments.args and arguments.args[0].arg == "self":
        del arguments.args[0]
    word = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    shown = re.sub(r"(?<=\S)=(?=\S)", " = ", ast.unparse(arguments))
    return f"{word} {node.name}({shown}) -> {_returns(node)}"


def _returns(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    returns = "Any" if node.returns is None else _annotation(node.returns)
    return returns if len(returns) < 80 else f"{returns.partition('[')[0]}[...]"


def _described(docstring: str, cls: type | None = None) -> Iterator[str]:
    """Yield a docstring as Markdown: its text, then its fields as a list.

    :param cls: the class whose docstring it is.
    """
    text, *fields = re.split(r"^:(?=\w+(?: [\w.]+)?: )", docstring, flags=re.MULTILINE)
    attributes, arguments = _types(cls) if cls is not None else ({}, {})
    yield _text(text.strip()) + "\n"
    listed = []
    for field in fields:
        key, _, description = field.partition(": ")
        kind, _, name = key.partition(" ")
        if name in _INTERNAL_FIELDS:
            continue
        types = {**attributes, **arguments} if kind == "param" else attributes
        lead = f"`{name}`" + (f" (`{types[name]}`)" if name in types else "")
        if kind == "cvar":
            lead = f"class attribute {lead}"
        elif kind in ("return", "raises"):
            lead = "returns" if kind == "return" else f"raises `{name.rpartition('.')[2]}`"
        listed.append(name)
        yield f"- {lead}: {_text(' '.join(description.split()))}"
    if cls is not None and (is_dataclass(cls) or issubclass(cls, BaseModel | dict)):
        rest = [name for name in attributes if name not in (*listed, *_INTERNAL_FIELDS)]
        yield from (f"- `{name}` (`{attributes[name]}`)" for name in rest)
        listed += rest
    if listed:
        yield ""


def _text(text: str) -> str:
    text = re.sub(r":(?:meth|func|attr):`\.?([\w.]+)`", r"`\1()`", text)
    text = re.sub(r":class:`([\w.]+)`", lambda found: f"`{found[1].rpartition('.')[2]}`", text)
    # A literal block is indented, and the paragraph before it ends with two colons.
    return re.sub(
        r"::\n\n((?:(?: {4}.*)?\n?)+)",
        lambda found: f":\n\n```python\n{textwrap.dedent(found[1]).strip()}\n```\n\n",
        text.replace("``", "`"),
    )


if __name__ == "__main__":
    print(python_api())
