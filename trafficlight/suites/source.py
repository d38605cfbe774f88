"""Line numbers of the parts of a test file, read from its text, for messages."""

import ast
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

_Function = ast.FunctionDef | ast.AsyncFunctionDef


def is_test_method(name: str) -> bool:
    """Return whether a method of this name is a test."""
    return name == "run" or name.startswith("test_")


class SourceLines:
    """The lines of classes, methods and attributes in a test file; parsed when first needed.

    :param path: the file; one that cannot be parsed has no lines.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def _tree(self) -> ast.Module:
        try:
            return ast.parse(self.path.read_bytes())
        except (OSError, SyntaxError, ValueError):
            return ast.Module([], [])

    @cached_property
    def _classes(self) -> dict[str, ast.ClassDef]:
        return {node.name: node for node in ast.walk(self._tree) if isinstance(node, ast.ClassDef)}

    def class_line(self, class_name: str) -> int | None:
        """Return the line of a class."""
        node = self._classes.get(class_name)
        return node.lineno if node else None

    def method_line(self, class_name: str, method: str) -> int | None:
        """Return the line of a method in a class's own body."""
        return next((one.lineno for one in self._methods(class_name) if one.name == method), None)

    def attribute_line(self, class_name: str, attribute: str, key: str | None = None) -> int | None:
        """Return the line of a class attribute, or of a key if it is a dictionary."""
        for node in self._body(class_name):
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            if not any(isinstance(target, ast.Name) and target.id == attribute for target in targets):
                continue
            value = getattr(node, "value", None)
            for stated in value.keys if isinstance(value, ast.Dict) else ():
                names = stated.elts if isinstance(stated, ast.Tuple) else [stated]
                if any(isinstance(name, ast.Constant) and name.value == key for name in names):
                    return names[0].lineno if names[0] is not None else node.lineno
            return node.lineno
        return None

    def tuple_assertions(self) -> Iterator[int]:
        """Yield the line of every assertion that always holds, because it is of a tuple."""
        for node in ast.walk(self._tree):
            if isinstance(node, ast.Assert) and isinstance(node.test, ast.Tuple) and node.test.elts:
                yield node.lineno

    def repeated_classes(self) -> Iterator[tuple[str, int]]:
        """Yield the name and line of every class that replaces one of the same name."""
        yield from _repeated(node for node in self._tree.body if isinstance(node, ast.ClassDef))

    def repeated_methods(self, class_name: str) -> Iterator[tuple[str, int]]:
        """Yield the name and line of every test method that replaces one of the same name."""
        yield from _repeated(one for one in self._methods(class_name) if is_test_method(one.name))

    def _body(self, class_name: str) -> list[ast.stmt]:
        node = self._classes.get(class_name)
        return node.body if node else []

    def _methods(self, class_name: str) -> Iterator[_Function]:
        return (node for node in self._body(class_name) if isinstance(node, _Function))


def _repeated(nodes: Iterator[ast.ClassDef] | Iterator[_Function]) -> Iterator[tuple[str, int]]:
    seen: set[str] = set()
    for node in nodes:
        if node.name in seen:
            yield node.name, node.lineno
        seen.add(node.name)
