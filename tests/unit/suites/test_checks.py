"""Mistakes in a test class are named before anything runs, with their line and what to do."""

from collections.abc import Callable
from pathlib import Path

import pytest

from trafficlight.suites.expansion import expand_case
from trafficlight.suites.planning import plan

Write = Callable[..., Path]

ALICE = 'clients = {"alice": [Nio]}'


def body(*lines: str) -> str:
    return "class A(Test):\n" + "".join(f"    {line}\n" for line in lines)


def run(arguments: str) -> str:
    return f"async def run(self{arguments}): ..."


@pytest.mark.parametrize(
    ("lines", "line", "problem", "hint"),
    [
        ((ALICE, run(", alcie")), 4, "nothing fills 'alcie' of run()", "did you mean 'alice'?"),
        ((ALICE, run("")), 3, "no test of A takes the role 'alice'", "remove the role"),
        ((run(", size"),), 3, "nothing fills 'size' of run()", "@parametrize(size=...)"),
        (
            ("@parametrize(siez=1)", run(", size=2")),
            4,
            "does not take the parameter 'siez'",
            "did you mean 'size'?",
        ),
        (
            (ALICE, "@parametrize(alice=1)", run(", alice")),
            5,
            "'alice' is both a role and a parameter",
            "rename",
        ),
        (("@parametrize(size=1)", "@parametrize(n=1)", run(", size=0, n=0, m=0")), 0, "", ""),
        (
            ("@parametrize(size=1)", "@parametrize(n=1)", run(", size, n=0")),
            5,
            "nothing fills 'size'",
            "default",
        ),
        (('clients = {"alice": []}', run(", alice")), 3, "no types for the role 'alice'", "[Nio]"),
        (('servers = {"s": ()}', run(", s")), 3, "no types for the role 's'", "[SynapseStable]"),
        (
            ("clients = {", '"alice": [Nio],', '"bob": ["Nio"]}', run(", alice, bob")),
            5,
            "'Nio' is not a client type",
            "",
        ),
        (
            ('clients = {"alice": [Dendrite]}', run(", alice")),
            3,
            "is not a client type",
            "trafficlight.client_types",
        ),
        (('servers = {"s": Nio}', run(", s")), 3, "is not a server type", "trafficlight.server_types"),
        (('clients = {"alice": [Nio, Nio()]}', run(", alice")), 3, "two types named Nio", "remove one"),
        (('clients = {"alice": [ClientType]}', run(", alice")), 3, "ClientType has no `type`", "register as"),
        (
            ('clients = {"a b": [Nio]}', "async def run(self, **r): ..."),
            3,
            "cannot be named 'a b'",
            "Python name",
        ),
        (
            (ALICE, 'servers = {"alice": [Dendrite]}', run(", alice")),
            4,
            "two roles named 'alice'",
            "rename",
        ),
        (
            ('servers = {"s": TwoSynapseFederation}', run(", s")),
            3,
            "stands for 2 homeserver(s)",
            "give it 2 names",
        ),
        (('servers = {("s", "t"): Dendrite}', run(", s, t")), 3, "but fills 2 roles", "its own types"),
        (("def run(self): ...",), 3, "run() is not async", "write `async def run`"),
        (("def test_x(self): ...",), 3, "test_x() is not async", "write `async def test_x`"),
        (("async def run(self, x, /): ...",), 3, "takes 'x' by position only", "remove the /"),
        (("async def setup(self, size): ...", run("")), 3, "nothing fills 'size' of setup()", "may ask for"),
        (("def teardown(self): ...", run("")), 3, "teardown() is not async", "write `async def teardown`"),
        (
            ("def __init__(self, context): ...", run("")),
            3,
            "A cannot be created: TypeError",
            "without arguments",
        ),
        (("def __init__(self):", "    1 / 0", run("")), 4, "A cannot be created: ZeroDivisionError", ""),
        (
            (ALICE, 'interchangeable = ("alice", "bod")', run(", alice")),
            4,
            "names no role: 'bod'",
            "list roles",
        ),
        ((ALICE, 'interchangeable = ("alice",)', run(", alice")), 4, "two or more roles", ""),
        ((ALICE, "interchangeable = 5", run(", alice")), 4, "interchangeable is not a tuple", "alice"),
        ((ALICE, "interchangeable = 'alice'", run(", alice")), 4, "interchangeable is not a tuple", "bob"),
        (('client = {"alice": Nio}', run(", alice")), 3, "'client' is no attribute of a test", "clients = {"),
        (("clients = [Nio]", run(", alice")), 3, "clients is not a mapping from roles to types", "clients ="),
        ((run(""), run("")), 4, "two methods run()", "rename"),
        (
            (ALICE, "@ignore(alice=HydrogenWeb)", run(", alice")),
            5,
            "@ignore names a type that does not fill the role 'alice'",
            "there are Nio",
        ),
        (("deadline = 30", run("")), 3, "'deadline' hides a member of Test", "write `timeout`"),
        (("def record(self): ...", run("")), 3, "'record' hides a member of Test", "rename"),
        (("timeout = '30'", run("")), 3, "timeout is not a number of seconds", "timeout = 30"),
        (("timeout = 0", run("")), 3, "timeout is not a number of seconds", ""),
        (("timeout = 1e999", run("")), 3, "timeout is not a number of seconds", ""),
        (
            ("@parametrize(x=1)", "@parametrize(x=1)", run(", x")),
            5,
            "two tests with one id: a_test.py::A[x=1]",
            "names",
        ),
        (
            ("@ignore(x=2)", "@parametrize(x=1)", run(", x")),
            5,
            "@ignore(x=2) matches none of the values",
            "correct",
        ),
    ],
)
def test_a_mistake_is_named(write: Write, lines: tuple[str, ...], line: int, problem: str, hint: str) -> None:
    path = write("a_test.py", body(*lines))
    found = plan([path]).problems
    if not problem:
        assert found == ()
        return
    named = [(one.path, one.line) for one in found if problem in one.problem and hint in one.hint]
    assert named == [(path, line)], [str(one) for one in found]


def test_a_test_takes_the_roles_that_it_needs(write: Write) -> None:
    """Every test of a class had to take all of its roles, but setup() only those that it needs."""
    path = write(
        "a_test.py",
        """\
        class Base(Test):
            clients = {"alice": [Nio, HydrogenWeb], "bob": Nio}
            servers = {"server": Dendrite, "unused": Dendrite}
            interchangeable = ("alice", "bob")

            async def setup(self, server): ...

        class Leaf(Base):
            async def test_all(self, alice, bob): ...
            async def test_one(self, bob): ...
            async def test_any(self, **roles): ...
        """,
    )
    found = plan([path])
    assert [str(one) for one in found.problems] == []
    assert [case.id.partition("Leaf.")[2] for case in found.cases] == [
        "test_all[alice=Nio,bob=Nio,server=Dendrite]",
        "test_all[alice=HydrogenWeb,bob=Nio,server=Dendrite]",
        "test_one[bob=Nio,server=Dendrite]",
        "test_any[alice=Nio,bob=Nio,server=Dendrite,unused=Dendrite]",
        "test_any[alice=HydrogenWeb,bob=Nio,server=Dendrite,unused=Dendrite]",
    ]
    for case in found.cases:
        assert set(expand_case(case)[1]) == set(case.clients)


def test_a_test_has_its_own_time_limit(write: Write) -> None:
    """`deadline = 30` replaced a property, and `timeout = 30` had no effect."""
    path = write(
        "a_test.py",
        """\
        from trafficlight import time_limit

        class Limited(Test):
            timeout = 30

            async def test_usual(self): ...

            @time_limit(2.5)
            async def test_quick(self): ...

        class Unlimited(Test):
            async def run(self): ...
        """,
    )
    found = plan([path])
    assert found.problems == ()
    assert [case.timeout for case in found.cases] == [30, 2.5, None]


def test_the_older_form_is_named_where_it_is_called(write: Write) -> None:
    path = write(
        "a_test.py",
        """\
        class A(Test):
            def __init__(self):
                super().__init__()
                self._client_under_test([Nio()], "alice")
                self._server_under_test(
                    Dendrite(), ["one", "two"])

            async def run(self, alice, one, two): ...
        """,
    )
    (problem,) = plan([path]).problems
    assert (problem.path, problem.line) == (path, 6)
    assert "Dendrite stands for 1 homeserver(s), but fills 2 roles" in problem.problem


def test_two_classes_of_one_name(write: Write) -> None:
    text = body(run("")) + body(run("")) + body(run("")).replace("A(", "B(")
    found = plan([write("a_test.py", text)])
    assert [(one.line, one.problem) for one in found.problems] == [
        (4, "two tests with one id: there are two classes A")
    ]
    assert [case.id for case in found.cases] == ["a_test.py::B"]


def test_a_mistake_costs_only_its_own_test(write: Write, tmp_path: Path) -> None:
    write("a_test.py", "1 / 0")
    write("b_test.py", body(ALICE, run(", alice"), "async def test_x(self, size): ..."))
    write("c_test.py", body(run("")))
    found = plan([tmp_path])
    assert [case.id for case in found.cases] == ["b_test.py::A[alice=Nio]", "c_test.py::A"]
    assert [one.path.name for one in found.problems] == ["a_test.py", "b_test.py"]


def test_what_was_not_asked_for_is_not_checked(write: Write) -> None:
    path = write("a_test.py", body(run(", size")) + body(run("")).replace("A(", "B("))
    assert plan([f"{path}::B"]).problems == ()


def test_a_type_that_fails_is_named(write: Write) -> None:
    path = write(
        "a_test.py",
        """\
        class Broken(ClientType):
            def name(self): return self.nothing

        class A(Test):
            clients = {"alice": Broken}
            async def run(self, alice): ...
        """,
    )
    (problem,) = plan([path]).problems
    assert problem.line == 6
    assert "AttributeError" in problem.problem


def test_values_that_look_alike_are_told(write: Write) -> None:
    path = write("a_test.py", body("@matrix(x=[object(), object()])", run(", x")))
    found = plan([path])
    assert "two tests with one id: a_test.py::A[x=<object>]" in found.problems[0].problem
    assert "__repr__" in found.problems[0].hint


def test_values_that_cannot_be_shown_cost_only_their_own_test(write: Write) -> None:
    path = write(
        "a_test.py",
        """\
        class Bad:
            def __repr__(self): raise RuntimeError("no")

        class A(Test):
            @parametrize(x=Bad())
            async def run(self, x): ...

        class B(Test):
            async def run(self): ...
        """,
    )
    found = plan([path])
    assert [(one.line, one.problem) for one in found.problems] == [
        (5, "A cannot be expanded: RuntimeError: no")
    ]
    assert [case.id for case in found.cases] == ["a_test.py::B"]


def test_roles_without_a_test_are_not_left_out_in_silence(write: Write) -> None:
    path = write(
        "a_test.py",
        """\
        import abc

        class Base(Test):
            clients = {"alice": Nio}

        class Leaf(Base):
            async def run(self, alice): ...

        class _Mixin(Test):
            clients = {"alice": Nio}

        class Abstract(Test, abc.ABC):
            clients = {"alice": Nio}
            @abc.abstractmethod
            async def check(self): ...

        class Helper(Test):
            async def log_in(self): ...

        class Misnamed(Test):
            servers = {"server": SynapseStable}
            async def tests(self, server): ...

        class Inherits(Base):
            async def runs(self, alice): ...
        """,
    )
    found = plan([path])
    assert [(one.line, one.problem) for one in found.problems] == [
        (21, "Misnamed has roles and no test"),
        (25, "Inherits has roles and no test"),
    ]
    assert "async def run" in found.problems[0].hint
    assert "_Misnamed" in found.problems[0].hint
    assert [case.id for case in found.cases] == ["a_test.py::Leaf[alice=Nio]"]
    assert not plan([f"{path}::Leaf"]).problems, "the others were not selected"
    (problem,) = plan([f"{path}::Misnamed"]).problems
    assert problem.line == 21


def test_a_base_of_tests_in_other_files_is_none(write: Write) -> None:
    base = write("base_test.py", 'class Base(Test):\n    clients = {"alice": Nio}\n')
    leaf = "from base_test import Base\n\nclass Leaf(Base):\n    async def run(self, alice): ...\n"
    found = plan([base, write("leaf_test.py", leaf)])
    assert not found.problems
    assert [case.id for case in found.cases] == ["leaf_test.py::Leaf[alice=Nio]"]
    (problem,) = plan([base]).problems
    assert problem.problem == "Base has roles and no test"
