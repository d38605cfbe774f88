"""Which files and classes count as tests."""

import importlib
import os
import re
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest

from trafficlight.errors import TestFileError
from trafficlight.results.folder import ResultsFolder, mark
from trafficlight.suites.discovery import classes_in, file_found, files_below, methods_of
from trafficlight.suites.imports import SHIPPED, load_module, load_test_class
from trafficlight.suites.planning import plan

Write = Callable[..., Path]


def classes(path: Path) -> list[str]:
    module = load_module(path)
    return list(classes_in(module, module.__name__))


def test_files_are_found_by_name_at_any_depth_in_the_order_of_their_paths(
    write: Write, tmp_path: Path
) -> None:
    names = [
        "b_test.py",
        "test_a.py",
        "deep/er/c_test.py",
        "helper.py",
        ".hidden/d_test.py",
        "venv/e_test.py",
    ]
    for name in [*names, "__pycache__/f_test.py"]:
        write(name, "")
    found = [path.relative_to(tmp_path).as_posix() for path in files_below(tmp_path)]
    assert found == ["b_test.py", "deep/er/c_test.py", "test_a.py"]


def test_results_and_environments_are_not_searched(write: Write, tmp_path: Path) -> None:
    """A file that an adapter had uploaded was run as a test."""
    write("results/adapters/a1/up_test.py", "")
    mark(tmp_path / "results" / "adapters")
    session = ResultsFolder.create(tmp_path / "results", date(2026, 11, 21))
    write(f"results/{session.id}/cases/a/attempt-1/clients/alice/up_test.py", "")
    write("results/2025-01-01--001/up_test.py", "")
    for name in ("events.jsonl", "junit.xml"):
        write(f"results/2025-01-01--001/{name}", "")
    for name in ("env/lib/x_test.py", ".venv/y_test.py", "node_modules/z_test.py", ".git/q_test.py"):
        write(name, "")
    write("env/pyvenv.cfg", "")
    kept = [write("results/mine_test.py", ""), write("x_test.py", "")]
    assert list(files_below(tmp_path)) == kept
    assert list(files_below(session.path)) == []


@pytest.mark.parametrize("pattern", ["*_spec.py", "**/*_spec.py", "/**/*_spec.py", "deep/*_spec.py"])
def test_the_pattern_can_be_another(write: Write, tmp_path: Path, pattern: str) -> None:
    write("deep/a_spec.py", "")
    write("deep/a_test.py", "")
    assert [path.name for path in files_below(tmp_path, [pattern])] == ["a_spec.py"]


def test_a_directory_that_links_to_itself_is_searched_once(write: Write, tmp_path: Path) -> None:
    write("sub/a_test.py", "")
    (tmp_path / "sub" / "loop").symlink_to(tmp_path)
    assert len(list(files_below(tmp_path))) == 1


def test_the_built_in_suites_have_a_root_of_their_own(tmp_path: Path) -> None:
    assert file_found(SHIPPED / "chat" / "a_test.py", tmp_path).name == "chat/a_test.py"
    (tmp_path / "link").symlink_to(SHIPPED)
    assert file_found(tmp_path / "link" / "chat" / "a_test.py", tmp_path).name == "chat/a_test.py"


def test_a_link_out_of_the_root_keeps_its_name(write: Write, tmp_path: Path) -> None:
    """Build systems link each file into a tree of its own."""
    write("store/x", "")
    (tmp_path / "tree" / ".git").mkdir(parents=True)
    (tmp_path / "tree" / "x_test.py").symlink_to(tmp_path / "store" / "x")
    assert file_found(tmp_path / "tree" / "x_test.py", tmp_path).name == "x_test.py"


def test_only_leaves_that_the_module_itself_defines_are_tests(write: Write) -> None:
    write(
        "helper_base.py",
        """
        class Imported(Test):
            async def run(self): ...
        """,
    )
    path = write(
        "a_test.py",
        """
        import abc
        from helper_base import Imported

        class Base(Test):
            async def run(self): ...

        class Leaf(Base): ...

        class Mixin: ...

        class NoTest(Test):
            async def helper(self): ...

        class Abstract(Test, abc.ABC):
            @abc.abstractmethod
            async def run(self): ...

        class FromImported(Mixin, Imported): ...

        Alias = Leaf
        """,
    )
    assert classes(path) == ["Leaf", "FromImported"]


def test_methods_keep_the_order_of_the_source_inherited_ones_first(write: Write) -> None:
    path = write(
        "a_test.py",
        """
        class Base(Test):
            async def test_b(self): ...
            async def test_a(self): ...

        class Leaf(Base):
            test_data = 1
            async def test_c(self): ...
            async def run(self): ...
            async def test_b(self): ...
        """,
    )
    assert methods_of(load_test_class(path, "Leaf")) == ["test_b", "test_a", "test_c", "run"]


def test_a_file_is_loaded_once(write: Write) -> None:
    path = write("a_test.py", "class A(Test):\n    async def run(self): ...\n")
    assert load_test_class(path, "A") is load_test_class(path, "A")
    assert load_module(path) is sys.modules[load_module(path).__name__]


def test_relative_paths_do_not_depend_on_the_directory_later_on(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("sub/a_test.py", "class A(Test):\n    async def run(self): ...\n")
    monkeypatch.chdir(tmp_path)
    first = load_test_class(Path("sub/a_test.py"), "A")
    monkeypatch.chdir(tmp_path / "sub")
    assert load_test_class(Path("a_test.py"), "A") is first


def test_files_of_one_name_are_different_modules(write: Write) -> None:
    one, other = write("a/x_test.py", "name = 'a'"), write("b/x_test.py", "name = 'b'")
    assert (load_module(one).name, load_module(other).name) == ("a", "b")


def test_helpers_beside_a_file_are_its_own(write: Write) -> None:
    for folder in ("a", "b"):
        write(f"{folder}/helpers.py", f"name = '{folder}'")
    one = write("a/x_test.py", "from helpers import name")
    other = write("b/x_test.py", "from helpers import name")
    assert (load_module(one).name, load_module(other).name) == ("a", "b")


def test_a_helper_does_not_stand_in_for_a_module_that_is_there(write: Write) -> None:
    write("yaml.py", "raise RuntimeError")
    load_module(write("a_test.py", ""))
    import yaml

    assert yaml.safe_load("1") == 1


def test_packages_of_tests_import_relatively(write: Write) -> None:
    write("suite/__init__.py", "root = 1")
    write("suite/sub/__init__.py", "")
    write("suite/sub/helper.py", "name = 'sub'")
    path = write("suite/sub/x_test.py", "from .helper import name\nfrom .. import root\n")
    assert load_module(path).name == "sub"


def test_a_file_is_taken_whatever_its_name(write: Write) -> None:
    path = write("my checks.v2.txt", "name = 1")
    assert load_module(path).name == 1


def test_what_a_file_prints_goes_to_the_error_output(
    write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    load_module(write("a_test.py", "print('hello')"))
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "hello\n")


def test_the_tree_of_another_checkout_imports_its_helpers_by_their_old_name(write: Write) -> None:
    write("trafficlight/tests/video/__init__.py", "", prelude=False)
    write("trafficlight/tests/video/handle_helper_base.py", "name = 'theirs'")
    text = "from trafficlight.tests.video.handle_helper_base import name\n"
    assert load_module(write("trafficlight/tests/video/x_test.py", text)).name == "theirs"
    for package in ("trafficlight.tests", "trafficlight.tests.video"):
        assert importlib.import_module(package).__path__[0] == str(SHIPPED / package[19:])


def test_a_copy_of_some_of_another_checkout_does_so_too(write: Write) -> None:
    write("copy/calls/helper_of_calls.py", "name = 'theirs'")
    text = "from trafficlight.tests.calls.helper_of_calls import name\n"
    assert load_module(write("copy/calls/x_test.py", text)).name == "theirs"


def test_from_package_import_finds_a_module_of_the_same_tree(write: Write) -> None:
    write("trafficlight/tests/chat/helper_of_chat.py", "name = 'theirs'")
    text = "from trafficlight.tests.chat import helper_of_chat as found\n"
    assert load_module(write("trafficlight/tests/chat/x_test.py", text)).found.name == "theirs"
    with pytest.raises(TestFileError, match="cannot import name 'helper_nowhere'"):
        load_module(
            write("trafficlight/tests/chat/y_test.py", "from trafficlight.tests.chat import helper_nowhere")
        )


@pytest.mark.parametrize("name", ["trafficlight/tests/chat/foo_test.py", "trafficlight/foo_test.py"])
def test_another_package_with_our_name_is_never_executed(write: Write, name: str) -> None:
    """The original's checkout has its application there; `import trafficlight.kiwi` in it fails."""
    write("trafficlight/__init__.py", "raise AssertionError('executed')", prelude=False)
    write("trafficlight/tests/__init__.py", "", prelude=False)
    write("trafficlight/tests/chat/__init__.py", "", prelude=False)
    text = "from trafficlight.internals.test import Test\nclass Foo(Test):\n    async def run(self): ...\n"
    assert classes(write(name, text)) == ["Foo"]
    # A second folder whose files are loaded next unloads helpers of the first, never this package.
    load_module(write("other_test.py", ""))
    assert sys.modules["trafficlight"].__file__ == str(SHIPPED.parent / "__init__.py")


def test_the_page_about_porting_replaces_the_types_of_a_test(write: Write) -> None:
    base = """
    class SendMessagesTestSuite(Test):
        def __init__(self):
            super().__init__()
            self._client_under_test([ElementWebStable()], "alice")

        async def run(self, alice): ...
    """
    write("send_messages_test.py", base)
    page = (SHIPPED.parents[1] / "docs" / "how-to" / "port-from-the-original.md").read_text()
    [example] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    file = write("on_nio_test.py", example, prelude=False)
    [case] = plan([str(file)]).cases
    assert case.id == "on_nio_test.py::SendMessagesOnNio[alice=Nio]"


def test_the_hint_for_a_missing_module_of_trafficlight_is_not_to_install_it(write: Write) -> None:
    with pytest.raises(TestFileError, match="this version of trafficlight has no such module"):
        load_module(write("x_test.py", "import trafficlight.kiwi"))


@pytest.mark.parametrize(
    ("text", "line", "problem", "hint"),
    [
        ("x = 1\n1 / 0\n", 3, "ZeroDivisionError: division by zero", ""),
        ("x = (\n", 2, "SyntaxError: '(' was never closed", ""),
        ("import no_such_module", 2, "No module named 'no_such_module'", "install no_such_module"),
        ("import sys\nsys.exit('bye')", 3, "SystemExit: bye", ""),
        ("@matrix(size=3)\nasync def run(): ...", 2, "takes a list of values", ""),
        ("@parametrize('n', [1, 2])\nasync def run(): ...", 2, "positional", "write @matrix(n=[1, 2])"),
        ("time_limit(0)", 2, "@time_limit takes a number of seconds, not 0", ""),
        ("@time_limit(30)\nclass A(Test): ...", 2, "write timeout = 30 in A", ""),
        ("Nio(version='new')", 2, "Invalid specifier", ""),
    ],
)
def test_a_file_that_does_not_import_is_named_with_its_line(
    write: Write, text: str, line: int, problem: str, hint: str
) -> None:
    path = write("a_test.py", text)
    with pytest.raises(TestFileError) as raised:
        load_module(path)
    assert (raised.value.path, raised.value.line) == (path, line)
    assert problem in raised.value.problem
    assert hint in raised.value.hint


def test_a_file_that_failed_can_be_tried_again(write: Write) -> None:
    path = write("a_test.py", "1 / 0")
    with pytest.raises(TestFileError):
        load_module(path)
    path.write_text("name = 1", encoding="utf-8")
    os.utime(path, (1, 1))
    assert load_module(path).name == 1


def test_a_file_or_class_that_is_not_there(write: Write, tmp_path: Path) -> None:
    with pytest.raises(TestFileError, match="the file does not exist"):
        load_test_class(tmp_path / "a_test.py", "A")
    with pytest.raises(TestFileError, match="no test A in it"):
        load_test_class(write("b_test.py", ""), "A")


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_is_no_regular_file_is_not_read(tmp_path: Path, kind: str) -> None:
    """A named pipe occupied the planner until the deadline of the import."""
    path = tmp_path / "a_test.py"
    os.mkfifo(path) if kind == "pipe" else path.symlink_to("/dev/zero")
    with pytest.raises(TestFileError, match="it is not a regular file"):
        load_module(path)
