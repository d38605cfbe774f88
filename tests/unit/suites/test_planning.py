"""From what stands on the command line to a plan."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trafficlight.errors import ConfigError, NothingLeftError, UsageError
from trafficlight.suites.imports import load_test_class
from trafficlight.suites.planning import plan
from trafficlight.suites.selection import Selection, SessionRequest, read_failed

Write = Callable[..., Path]

SEND = """\
class Send(Test):
    clients = {"alice": [Nio, ElementWebStable], "bob": [Nio, HydrogenWeb]}
    servers = {"server": [SynapseStable, Dendrite]}

    async def run(self, alice, bob, server): ...


class Count(Test):
    @matrix(size=[10, 100], word=["a", "b"])
    async def test_up(self, size, word): ...

    @parametrize(size=10)
    @ignore("later")
    @parametrize(size=20)
    async def test_down(self, size): ...
"""


@pytest.fixture
def tree(write: Write, tmp_path: Path) -> Path:
    write("suites/chat/send_test.py", SEND)
    write("suites/other_test.py", "class Other(Test):\n    async def run(self): ...\n")
    write("suites/special.py", "class Special(Test):\n    async def run(self): ...\n")
    (tmp_path / "suites" / ".git").mkdir()
    return tmp_path / "suites"


def ids(*targets: object, directory: Path | None = None, **selection: Any) -> list[str]:
    found = plan([str(one) for one in targets], Selection(**selection), directory=directory)
    return [case.id for case in found.cases]


def test_a_directory_is_searched_recursively(tree: Path) -> None:
    found = ids(tree)
    assert len(found) == 8 + 4 + 2 + 1
    assert found[0] == "chat/send_test.py::Send[alice=Nio,bob=Nio,server=SynapseStable]"
    assert found[-1] == "other_test.py::Other"


def test_ids_do_not_depend_on_the_working_directory(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree.parent)
    one = ids("suites")
    monkeypatch.chdir(tree / "chat")
    assert one == ids("..") == ids(tree)


def test_a_file_is_taken_whatever_its_name_and_once(tree: Path) -> None:
    assert ids(tree / "special.py") == ["special.py::Special"]
    assert ids(tree / "chat" / "send_test.py", tree) == ids(tree)
    assert ids(tree / "chat", tree) == ids(tree)


@pytest.mark.parametrize(
    ("symbol", "count"),
    [
        ("Send", 8),
        ("Send[alice=Nio]", 4),
        ("Send[alice=Nio,bob=Nio,server=Dendrite]", 1),
        ("Send[alice=Nio,bob=Nio,server=Dendrite]#3", 1),
        ("Send[alice=Element*]", 4),
        ("Count", 6),
        ("Count.test_up", 4),
        ("Count.test_up[size=10]", 2),
        ("Count.test_up[word='a']", 2),
        ("Count.test_up[size=10,word=a]", 1),
        ("C*.test_d*", 2),
        ('Count.test_up@{"size": 10}', 2),
        ('Count.test_up@{"size": 7, "word": "c"}', 1),
        ('Count.test_down@{"size": 7}', 1),
    ],
)
def test_a_symbol_is_a_part_of_a_file(tree: Path, symbol: str, count: int) -> None:
    assert len(ids(f"{tree}/chat/send_test.py::{symbol}")) == count


def test_every_id_means_its_own_case(tree: Path) -> None:
    for one in ids(tree):
        assert ids(one, directory=tree) == ids(one, directory=tree / "chat") == [one]


def test_an_id_may_be_longer_than_a_file_name(write: Write) -> None:
    roles = ", ".join(f"role_number_{number}" for number in range(30))
    text = f"class A(Test):\n    clients = dict.fromkeys('{roles}'.split(', '), Nio)\n"
    path = write("a_test.py", text + "    async def run(self, **roles): ...\n")
    (one,) = ids(path)
    assert len(one) > 400
    assert ids(one, directory=path.parent) == [one]


def test_values_of_ones_own_may_be_new(tree: Path) -> None:
    (case,) = plan([f'{tree}/chat/send_test.py::Count.test_up@{{"size": 7, "word": "c"}}']).cases
    assert case.parameters == {"size": 7, "word": "c"}
    assert case.id == "chat/send_test.py::Count.test_up[size=7,word=c]"


def test_symbols_add_up(tree: Path) -> None:
    file = f"{tree}/chat/send_test.py"
    assert len(ids(f"{file}::Count.test_down", f"{file}::Send[alice=Nio]", f"{file}::Send[bob=Nio]")) == 2 + 6


@pytest.mark.parametrize(
    "target",
    [
        "nowhere",
        "chat/send_test.py::Nothing",
        "chat/send_test.py::Send[alice=Dog]",
        "chat/send_test.py::Send[",
        "chat/send_test.py::Count.test_up@{size}",
        "chat/send_test.py::Count.test_sideways",
    ],
)
def test_what_is_not_there_is_refused(tree: Path, target: str) -> None:
    with pytest.raises(UsageError, match=r"nowhere|send_test\.py"):
        plan([target], directory=tree)


def test_a_file_without_tests_is_a_problem(write: Write) -> None:
    (problem,) = plan([write("empty_test.py", "")]).problems
    assert "no test in it" in problem.problem


X = "class X(Test):\n    async def run(self): ...\n"


def test_ids_do_not_depend_on_how_a_path_is_written(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`run .` and `run tests` named the cases differently."""
    write("a/x_test.py", X)
    write("a/b/y_test.py", X)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    (tmp_path / "lists.yml").write_text("all: ['a/**/*_test.py']\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    both = ["a/b/y_test.py::X", "a/x_test.py::X"]
    for target in (".", "a", "a/../a", "link", tmp_path, tmp_path / "link", "lists.yml", "a/b/../"):
        assert ids(target) == both
    assert ids("a/x_test.py") == ids("link/x_test.py::X") == ["a/x_test.py::X"]
    monkeypatch.chdir(tmp_path / "a" / "b")
    assert ids("..") == ids("a") == both


def test_files_of_one_name_have_their_own_ids(write: Write, tmp_path: Path) -> None:
    """The second one was a problem."""
    files = [write(f"{folder}/x_test.py", X) for folder in "ab"]
    assert ids(*files) == ["a/x_test.py::X", "b/x_test.py::X"]
    for folder in "ab":
        (tmp_path / folder / ".git").mkdir()
    assert ids(*files) == [f"{file}::X" for file in files]
    assert ids(ids(*files)[1]) == ["x_test.py::X"]


@pytest.mark.parametrize("marker", [".git", "trafficlight.json", "instance/trafficlight.json"])
def test_the_nearest_root_counts(write: Write, tmp_path: Path, marker: str) -> None:
    file = write("a/b/c/x_test.py", X)
    write(f"a/b/{marker}", "")
    assert ids(file) == ids(tmp_path) == ["c/x_test.py::X"]


def test_without_a_root_the_working_directory_is_one(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write("a/x_test.py", X)
    (tmp_path / ".git").rmdir()
    assert ids(file) == [f"{file}::X"]
    assert ids(f"{file}::X", directory=tmp_path) == ids("a", directory=tmp_path) == ["a/x_test.py::X"]
    monkeypatch.chdir(tmp_path / "a")
    assert ids("x_test.py") == ["x_test.py::X"]


def test_an_id_of_before_there_were_roots_is_answered_with_the_file(tree: Path) -> None:
    entry = {"case": "send_test.py::Send[*]", "reason": "known"}
    cases = [case.id for case in plan([tree]).cases]
    (line,) = Selection(expected_failures=[entry]).unused(cases)
    assert "matches no case (did you mean chat/send_test.py? paths in case ids begin at the root)" in line
    with pytest.raises(UsageError, match=r"did you mean chat/send_test\.py\?"):
        plan([tree], Selection(only=["send_test.py::Count.test_down[size=10]"]))


def test_suite_files(tree: Path) -> None:
    (tree / "lists.yml").write_text(
        "smoke: ['chat/*_test.py::Send[alice=Nio]', special.py]\n"
        "rest:\n  include: .\n  exclude: ['**/send_test.py::Count', '**/send_test.py::Send[bob=H*]']\n",
        encoding="utf-8",
    )
    smoke = ids(f"{tree}/lists.yml::smoke")
    assert len(smoke) == 5
    assert smoke[0].startswith("chat/send_test.py::Send[")
    assert len(ids(f"{tree}/lists.yml::rest")) == 4 + 1
    assert len(ids(f"{tree}/lists.yml")) == 6 + 1 + 1


def test_a_suite_file_that_names_what_is_not_there(tree: Path) -> None:
    (tree / "lists.yml").write_text("smoke: ['no/*_test.py']\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"no/\*_test\.py"):
        plan([tree / "lists.yml"])


def test_types_limit_the_matrix(tree: Path) -> None:
    assert len(ids(tree, clients=("Nio",))) == 2
    assert len(ids(tree, clients=("nio", "Hydrogen*"))) == 4
    assert len(ids(tree, servers=("dendrite",))) == 4
    assert len(ids(tree, clients=("element-web", "nio"), servers=("SynapseStable",))) == 2
    with pytest.raises(UsageError, match=r"--client Dog: .* there are ElementWebStable, HydrogenWeb, Nio"):
        plan([tree], Selection(clients=("Nio", "Dog")))


def test_network_proxies_do_not_count_as_clients(write: Write) -> None:
    text = "class A(Test):\n    clients = {'alice': [Nio, HydrogenWeb], 'proxy': NetworkProxy}\n"
    path = write("a_test.py", text + "    async def run(self, alice, proxy): ...\n")
    assert ids(path, clients=("Nio",)) == ["a_test.py::A[alice=Nio,proxy=NetworkProxy]"]


def test_parameters_take_the_place_of_stated_ones(tree: Path) -> None:
    assert ids(tree, parameters={"size": 7}) == [
        "chat/send_test.py::Count.test_up[size=7,word=a]",
        "chat/send_test.py::Count.test_up[size=7,word=b]",
        "chat/send_test.py::Count.test_down[size=7]",
    ]
    assert ids(tree, parameters={"size": 7, "word": "c"}) == [
        "chat/send_test.py::Count.test_up[size=7,word=c]"
    ]
    with pytest.raises(UsageError, match="no test takes unknown, n; there are size, word"):
        ids(tree, parameters={"unknown": 7, "n": 1})


def test_what_is_probably_not_meant_so_is_said(write: Write) -> None:
    """Tests as pytest has them were left out, or were one case instead of two, without a word."""
    text = """
    import unittest

    class Good(Test):
        @parametrize(n=[1, 2], word=["a", "b"])
        @parametrize(n=[1, 2], word="a")
        @parametrize(n=(1, 2), word=("a", "b"))
        async def test_lists(self, n, word): ...

    class TestLogin:
        def test_it(self): ...

    class Mixin:
        async def test_it(self): ...

    class Mixed(Mixin, Test): ...

    class Forgotten:
        clients = {"alice": Nio}
        async def run(self, alice): ...

    class Helper:
        def run(self): ...

    def test_by_itself(): ...
    """
    found = plan([write("sub/a_test.py", text)])
    assert found.problems == ()
    beside, lists = found.warnings
    assert beside.startswith("sub/a_test.py: TestLogin, Forgotten, test_by_itself() will not run (tests are")
    assert lists.startswith("sub/a_test.py: Good.test_lists: @parametrize(n=[1,2], word=[a,b]) is one case")
    alone = write("pytest_test.py", "def test_by_itself(): ...\n")
    assert plan([alone.parent]).warnings == found.warnings, "a file without tests of ours"


@pytest.mark.parametrize(
    ("body", "warning"),
    [
        ("class One(Test):\n async def testThing(self): ...", "One.testThing() will not run"),
        ("class One(Test):\n async def Test_thing(self): ...", "One.Test_thing() will not run"),
        (
            "class One(Test):\n async def setUp(self): ...",
            "One.setUp() will not be called (it is named setup",
        ),
        ("class One(Test):\n async def tearDown(self): ...", "One.tearDown() will not be called"),
        ("class One(Test):\n @property\n async def test_p(self): ...", "One.test_p will not run"),
        ("class One(Test):\n class In(Test):\n  async def run(self): ...", "One.In will not run"),
        ("class One:\n class In(Test):\n  async def run(self): ...", "One.In will not run"),
        (
            "class A(Test):\n async def run(self): ...\nclass One(A):\n async def run(self): ...",
            "A.run() will",
        ),
        ("class One(Test):\n async def test_a(self):\n  assert (1 == 2, 'no')", "a_test.py:7: the assertion"),
        ("class _A(Test):\n async def run(self): ...\nclass One(_A):\n async def run(self): ...", ""),
        (
            (
                "class A(Test):\n async def run(self): ...\n"
                "class One(A):\n async def run(self):\n  await super().run()"
            ),
            "",
        ),
        (
            (
                "class A(Test):\n async def run(self): ...\n"
                "class One(A):\n async def run(self): ...\nclass Other(A):\n async def test_x(self): ..."
            ),
            "",
        ),
        ("async def body(self): ...\nclass One(Test):\n test_z = body", ""),
        ("class One(Test):\n __test__ = False\n async def run(self): ...", ""),
    ],
)
@pytest.mark.filterwarnings("ignore:assertion is always true:SyntaxWarning")
def test_what_looks_like_a_test_and_does_not_run_is_a_warning(write: Write, body: str, warning: str) -> None:
    body += (
        "\n async def test_more(self): ..." if "class One(Test)" in body and "__test__" not in body else ""
    )
    text = f"from trafficlight import Test\n\n\n{body}\nclass Good(Test):\n async def run(self): ...\n"
    found = plan([write("a_test.py", text)])
    assert found.problems == ()
    assert [warning in line for line in found.warnings] == [True] * bool(warning)
    assert ("::One" in str([case.id for case in found.cases])) == (
        "__test__" not in body and "One:" not in body
    )


def test_keywords(tree: Path) -> None:
    assert len(ids(tree, keyword="send_test and alice=Nio and not dendrite")) == 2


def test_what_is_left_out_is_counted(tree: Path) -> None:
    found = plan([tree], Selection(clients=("Nio",), keyword="Dendrite"))
    (suite,) = found.suites
    assert (len(suite.cases), suite.deselected, found.deselected) == (1, 7, 7)
    assert plan([tree]).deselected == 0


def test_what_is_ignored_is_listed_as_skipped(tree: Path) -> None:
    assert [case.skip for case in plan([f"{tree}/chat/send_test.py::Count.test_down"]).cases] == [
        None,
        "later",
    ]


def test_repetitions_have_ids_of_their_own(tree: Path) -> None:
    assert ids(f"{tree}/other_test.py", repeat=3) == [
        "other_test.py::Other",
        "other_test.py::Other#2",
        "other_test.py::Other#3",
    ]


def test_too_many_repetitions_are_refused_before_they_are_made(tree: Path) -> None:
    with pytest.raises(UsageError, match=r"1 case, 1,000,000,000 times each, are more than .*: 250,000"):
        ids(f"{tree}/other_test.py", repeat=10**9)


def test_the_same_seed_chooses_the_same_sample(tree: Path) -> None:
    samples = {tuple(ids(tree, sample=3, seed=seed)) for seed in range(20)}
    assert {len(sample) for sample in samples} == {3}
    assert len(samples) > 10
    assert ids(tree, sample=3, seed=5) == ids(tree, sample=3, seed=5)
    assert len(ids(tree, sample=1000)) == 14


def test_what_failed_before(tree: Path, tmp_path: Path) -> None:
    session = tmp_path / "2026-11-20--001"
    session.mkdir()
    (session / "rerun-failed.yml").write_text(
        "- other_test.py::Other#2\n- chat/send_test.py::Count.test_up[size=10,word=a]\n", encoding="utf-8"
    )
    failed = read_failed(session)
    assert failed == read_failed(session / "rerun-failed.yml")
    found = ["chat/send_test.py::Count.test_up[size=10,word=a]", "other_test.py::Other"]
    assert ids(tree, only=failed) == found
    assert ids(tree, only=failed, keyword="Count") == found[:1]
    assert ids(tree, only=failed, parameters={"size": 10}) == found[:1]
    with pytest.raises(UsageError, match=r"no case other_test\.py::Other: name the PATH"):
        plan([tree / "chat"], Selection(only=["other_test.py::Other"]))
    with pytest.raises(UsageError, match=r"no case .*\[size=11\]: its test has others: .* import to import"):
        plan([tree], Selection(only=["chat/send_test.py::Count.test_up[size=11]"]))
    with pytest.raises(UsageError, match="name the folder"):
        read_failed(tmp_path / "nothing")
    (session / "rerun-failed.yml").write_text("a: 1", encoding="utf-8")
    with pytest.raises(ConfigError):
        read_failed(session)


def test_a_file_that_could_not_be_imported_is_among_what_failed_before(tree: Path) -> None:
    broken = tree / "broken_test.py"
    broken.write_text("import nosuchmodule\n")
    selection = Selection(only=["broken_test.py", "other_test.py::Other"])
    planned = plan([tree], selection)
    assert [case.id for case in planned.cases] == ["other_test.py::Other"]
    assert len(planned.problems) == 1
    broken.write_text((tree / "other_test.py").read_text())
    assert ids(tree, only=selection.only) == ["broken_test.py::Other", "other_test.py::Other"]
    with pytest.raises(UsageError, match=r"no case gone_test\.py"):
        plan([tree], Selection(only=["gone_test.py"]))


def test_what_is_no_list_of_failed_cases_is_not_printed(tmp_path: Path) -> None:
    for name, why in (("passwd", "is no list of cases"), ("passwd.yml", "is not YAML: line 1, column 13: ")):
        (tmp_path / name).write_text("root: secret: x\n", encoding="utf-8")
        with pytest.raises((UsageError, ConfigError), match=why) as raised:
            read_failed(tmp_path / name)
        assert "secret" not in str(raised.value)


def test_the_list_of_failed_cases_is_a_suite_file(tree: Path) -> None:
    (tree / "results" / "one").mkdir(parents=True)
    file = tree / "results" / "one" / "rerun-failed.yml"
    case = "chat/send_test.py::Count.test_up[size=10,word=a]"
    file.write_text(f"failed:\n- {case}\n", encoding="utf-8")
    assert ids(file) == [case]


def test_nothing_failed_before(tree: Path, tmp_path: Path) -> None:
    assert ids(tree, only=frozenset()) == []
    failed = tmp_path / "rerun-failed.yml"
    failed.write_text("failed: []\n")
    assert plan([failed]).cases == ()
    with pytest.raises(NothingLeftError, match=r"no case of .* failed"):
        read_failed(tmp_path)
    (tmp_path / "session.json").write_text('{"exit_code": 3}')
    with pytest.raises(UsageError, match="its exit code is 3: run all of it again"):
        read_failed(tmp_path)


def test_a_shard_may_be_empty(tree: Path) -> None:
    """One job of CI failed where there were fewer cases than jobs."""
    cases = len(ids(tree))
    shards = [(part, cases + 1) for part in range(1, cases + 2)]
    for shard in shards[:-1]:
        assert len(ids(tree, shard=shard)) == 1
    with pytest.raises(NothingLeftError, match=f"shard {cases + 1}/{cases + 1} of {cases} cases is empty"):
        ids(tree, shard=shards[-1])
    assert ids(tree, shard=shards[-1], keyword="no_such_case") == [], "which is a mistake"


def test_a_target_without_tests(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    planned = plan([tree, tmp_path / "empty"])
    assert planned.cases
    assert planned.warnings == (f"there is no test in {tmp_path / 'empty'}",)


@pytest.mark.parametrize(
    "wrong",
    [
        {"sample": 0},
        {"repeat": 0},
        {"shard": (0, 2)},
        {"shard": (3, 2)},
        {"keyword": "and"},
        {"durations": {"a": -1}},
    ],
)
def test_a_selection_that_makes_no_sense(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        SessionRequest.read(wrong)


def test_a_worker_loads_the_same_class(tree: Path) -> None:
    for case in plan([tree]).cases:
        cls = load_test_class(case.path, case.class_name)
        assert cls.__name__ == case.class_name
        assert callable(getattr(cls, case.method))


def test_the_default_is_what_ships() -> None:
    assert plan([]).problems == ()
