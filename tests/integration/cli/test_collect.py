"""The command `collect`."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from trafficlight.cli.main import main

FILE = '''\
from trafficlight.client_types import HydrogenWeb, Nio
from trafficlight.parameters import ignore, matrix
from trafficlight.server_types import Dendrite, SynapseStable
from trafficlight.test import Test

print("imported")


class Send(Test):
    """Two users exchange messages."""

    clients = {"alice": [Nio, HydrogenWeb], "bob": [Nio, HydrogenWeb]}
    servers = {"server": [SynapseStable]}
    interchangeable = ("alice", "bob")

    async def run(self, alice, bob, server): ...


class Count(Test):
    @ignore("too slow", size=100)
    @matrix(size=[10, 100], odd=[float("nan")])
    async def test_up(self, size, odd): ...
'''


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "chat").mkdir()
    (tmp_path / "chat" / "send_test.py").write_text(FILE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def collect(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main(["collect", *arguments])
    captured = capsys.readouterr()
    code = left.value.code
    assert isinstance(code, int)
    return code, captured.out, captured.err


def collected(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    code, out, _ = collect(capsys, "--json", *arguments)
    return code, json.loads(out)


@pytest.mark.usefixtures("here")
def test_the_plan_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = collect(capsys, ".")
    assert code == 0
    assert out == (
        "chat/send_test.py::Send  3 cases, 1 mirrored left out\n"
        "    Two users exchange messages.\n"
        "  chat/send_test.py::Send[alice=Nio,bob=Nio,server=SynapseStable]\n"
        "  chat/send_test.py::Send[alice=Nio,bob=HydrogenWeb,server=SynapseStable]\n"
        "  chat/send_test.py::Send[alice=HydrogenWeb,bob=HydrogenWeb,server=SynapseStable]\n"
        "\n"
        "chat/send_test.py::Count.test_up  2 cases, 1 skipped\n"
        "  chat/send_test.py::Count.test_up[size=10,odd=nan]\n"
        "  chat/send_test.py::Count.test_up[size=100,odd=nan]  skipped: too slow\n"
        "\n"
        "5 cases in 2 tests · 1 skipped · 1 mirrored left out\n"
    )
    assert "error" not in err


@pytest.mark.usefixtures("here")
def test_the_plan_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    code, read = collected(capsys, "chat")
    assert code == 0
    assert read["cases"][0] == {
        "id": "chat/send_test.py::Send[alice=Nio,bob=Nio,server=SynapseStable]",
        "suite": "chat/send_test.py::Send",
        "file": "chat/send_test.py",
        "line": 16,
        "roles": {"alice": "Nio", "bob": "Nio", "server": "SynapseStable"},
        "parameters": {},
        "skipped": None,
        "expected_failure": None,
    }
    assert read["cases"][-1]["parameters"] == {"size": 100, "odd": "nan"}
    assert read["cases"][-1]["skipped"] == "too slow"
    assert read["suites"][0] == {
        "id": "chat/send_test.py::Send",
        "documentation": "Two users exchange messages.",
        "cases": 3,
        "skipped": 0,
        "pruned": 1,
        "unpaired": 0,
        "deselected": 0,
    }
    assert read["problems"] == []


def test_a_file_that_is_wrong_costs_only_itself(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    (here / "broken_test.py").write_text("import nothing_of_the_sort\n", encoding="utf-8")
    code, out, err = collect(capsys, ".")
    assert code == 3
    assert out.endswith("1 mirrored left out · 1 problem\n")
    assert "error: broken_test.py:1: does not import: ModuleNotFoundError" in err
    code, read = collected(capsys, ".")
    assert (code, len(read["cases"])) == (3, 5)
    assert read["problems"][0]["path"] == str(here / "broken_test.py")
    assert read["problems"][0]["line"] == 1


def test_nothing_to_run(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    (here / "empty").mkdir()
    code, out, err = collect(capsys, "empty")
    assert (code, out) == (2, "0 cases in 0 tests\nthere is no test in empty\n")
    assert err == "nothing to run: no test was found\n"


@pytest.mark.usefixtures("here")
def test_a_selection_that_leaves_nothing_says_of_how_many(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = collect(capsys, ".", "-k", "no_such_word")
    assert code == 2
    assert err.endswith("nothing to run: the selection leaves none of 5 cases\n")


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nowhere"], "there is no nowhere"),
        (["chat/send_test.py::Nothing"], "there is no such test"),
        (
            ["chat/send_test.py::Count", "--parameters", '{"sise": 1}'],
            "no test takes sise; there are odd, size",
        ),
        (['chat/send_test.py::Count.test_up@{"sise": 1}'], "no test takes sise; there are odd, size"),
        (["--client", "Dog", "."], "--client Dog: no test has such a client type"),
        (["-k", "and", "."], "column 1: expected a word"),
        (["--shard", "3/2", "."], "not of the form I/N"),
        (["--shard", "x", "."], "not of the form I/N"),
        (["--shard", "1/2", "--sample", "3", "."], "--sample with --shard needs --seed"),
        (["--durations", ".", "."], "--durations . balances shards: add --shard I/N"),
        (["--durations", "5", "."], "--durations 5: only trafficlight run lists the slowest cases"),
        (["--durations", "0", "."], "0 is not a number of cases"),
        (["--shard", "1/2", "--durations", "nowhere", "."], "there is no folder"),
        (["--parameters", "[1]", "."], "not a JSON object"),
        (["--parameters", "{", "."], "is not JSON"),
        (["--sample", "0", "."], "--sample"),
        (["--rerun-failed", "yesterday", "."], "name the folder of a session's results"),
        (["--expected-failures", "nowhere.yml", "."], "nowhere.yml"),
    ],
)
def test_what_cannot_be_carried_out(
    capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str
) -> None:
    code, out, err = collect(capsys, *arguments)
    assert (code, out) == (2, "")
    assert complaint in err


@pytest.mark.usefixtures("here")
def test_options_choose(capsys: pytest.CaptureFixture[str]) -> None:
    def count(*arguments: str) -> int:
        return len(collected(capsys, *arguments, ".")[1]["cases"])

    assert count("--client", "Nio") == 1
    assert count("--server", "Synapse*", "--client", "Nio", "--client", "HydrogenWeb") == 3
    assert count("--parameters", '{"size": 5}') == 1
    assert count("-k", "::send and not bob=nio") == 2
    assert count("--repeat", "2") == 10
    assert count("--shard", "1/2") + count("--shard", "2/2") == 5
    assert count("--pairwise") == 5


@pytest.mark.usefixtures("here")
def test_a_sample_can_be_drawn_again(capsys: pytest.CaptureFixture[str]) -> None:
    _, first = collected(capsys, "--sample", "2", ".")
    _, again = collected(capsys, "--sample", "2", "--seed", str(first["seed"]), ".")
    assert first["cases"] == again["cases"]
    assert f"--seed {first['seed']}" in collect(capsys, "--sample", "2", "--seed", str(first["seed"]), ".")[1]


def test_a_session_is_found_by_its_name(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    session = here / "results" / "2026-11-20--001"
    session.mkdir(parents=True)
    failed = "chat/send_test.py::Send[alice=Nio,bob=Nio,server=SynapseStable]"
    (session / "rerun-failed.yml").write_text(f'- "{failed}"\n', encoding="utf-8")
    for name in ("2026-11-20--001", "results/2026-11-20--001"):
        _, read = collected(capsys, "--rerun-failed", name, ".")
        assert [case["id"] for case in read["cases"]] == [failed]


def test_expected_failures_are_shown(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    (here / "known.yml").write_text(
        "- {case: 'chat/send_test.py::Send[alice=Hydrogen*]', reason: not yet, link: 'https://example.org/1'}\n"
        "- {case: gone_test.py::Gone, reason: old}\n",
        encoding="utf-8",
    )
    _, out, _ = collect(capsys, "--expected-failures", "known.yml", ".")
    assert "server=SynapseStable]  expected to fail: not yet\n" in out
    assert "the expected failure gone_test.py::Gone matches no case" in out
    _, read = collected(capsys, "--expected-failures", "known.yml", ".")
    stated = {"reason": "not yet", "link": "https://example.org/1", "outcome": "failure", "sometimes": False}
    assert read["cases"][2]["expected_failure"] == stated


def test_the_configured_pattern_counts(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    (here / "trafficlight.json").write_text('{"TEST_PATTERN": "/**/*_spec.py"}', encoding="utf-8")
    assert collect(capsys, ".")[0] == 2


def test_a_configuration_file_elsewhere_is_not_read_with_a_warning(
    capsys: pytest.CaptureFixture[str], here: Path
) -> None:
    """Its settings were silently missing."""
    other = here / "chat" / "trafficlight.json"
    other.write_text("{}", encoding="utf-8")
    code, _, err = collect(capsys, "chat", "chat/send_test.py::Count")
    assert code == 0
    assert err.count("warning") == 1
    assert f"warning: {other} is not read: run this in {other.parent}, or name it by --config" in err
    assert "warning" not in collect(capsys, "chat", "--config", str(other))[2]
    (here / "trafficlight.json").write_text("{}", encoding="utf-8")
    other.unlink()
    assert "warning" not in collect(capsys, "chat")[2]


def test_ten_thousand_cases_are_cheap(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = (
        "from trafficlight.parameters import matrix\nfrom trafficlight.test import Test\nclass Big(Test):\n"
    )
    text += "    @matrix(a=range(100), b=range(100))\n    async def run(self, a, b): ...\n"
    (tmp_path / "big_test.py").write_text(text, encoding="utf-8")
    before = sum(os.times()[:4])
    _, read = collected(capsys, str(tmp_path))
    assert len(read["cases"]) == 10_000
    # CPU time of this process and its workers. About 2 s; this finds what is slower by an order.
    assert sum(os.times()[:4]) - before < 10
