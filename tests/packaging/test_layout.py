"""How the tests are laid out."""

import ast
from pathlib import Path

import pytest

_TESTS = Path(__file__).parents[1]
_MODULES = sorted(_TESTS.rglob("test_*.py"))


@pytest.mark.parametrize("module", _MODULES, ids=[str(path.relative_to(_TESTS)) for path in _MODULES])
def test_no_test_module_imports_another(module: Path) -> None:
    tree = ast.parse(module.read_text(encoding="utf-8"))

    imported = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]

    assert not [name for name in imported if name.rpartition(".")[2].startswith("test_")]
