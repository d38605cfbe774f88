from itertools import pairwise
from pathlib import PurePosixPath

from hypothesis import given
from hypothesis import strategies as st

from trafficlight.results.folder import LONGEST, attempt_path, case_path, file_name, folder_name

USUAL = "chat/send_messages_test.py::SendMessages[alice=Nio,bob=ElementWebStable,server=SynapseStable]"

# Few characters, so that ids nearly collide often.
tight = st.text(alphabet='ab/.:[]=,-_~A\x00 é\ud800"', max_size=24)
idlike = st.builds("{}.py::{}[{}]".format, tight, tight, tight)
ids = st.one_of(st.text(), tight, idlike)


def test_a_usual_id_can_be_guessed() -> None:
    assert case_path(USUAL) == (
        "cases/chat.send_messages_test/SendMessages/alice=Nio,bob=ElementWebStable,server=SynapseStable"
    )
    assert attempt_path("a_test.py::T.test_x", 2) == "cases/a_test/T.test_x/-/attempt-2"


@given(st.lists(ids, min_size=2, max_size=6, unique=True))
def test_no_two_cases_share_a_folder_or_lie_within_each_other(several: list[str]) -> None:
    for one, other in pairwise(several):
        first, second = PurePosixPath(case_path(one)), PurePosixPath(case_path(other))
        assert first != second
        assert first not in second.parents
        assert second not in first.parents


def test_what_is_easily_confused_is_told_apart() -> None:
    near = [
        "a/b.py::C",
        "a.b.py::C",
        "a.py::b.C",
        "a/b.py::C[]",
        "a/b.py::C[-]",
        "a/b.py::C[_]",
        "a/b.py::C[x=a b]",
        "a/b.py::C[x=a_b]",
        "a/b.py::C[x=a/b]",
        "a\\b.py::C",
        "../b.py::C",
        "/b.py::C",
    ]
    assert len({case_path(one) for one in near}) == len(near)


@given(ids)
def test_a_path_fits_and_stays_below_the_session(case_id: str) -> None:
    path = PurePosixPath(case_path(case_id))
    assert not path.is_absolute()
    assert len(path.parts) == 4
    for part in path.parts:
        assert part not in ("", ".", "..")
        assert len(part.encode()) <= LONGEST
        assert not set(part) & set('/\\\x00<>:"|?*[]\n')


def test_long_ids_that_differ_at_the_end_only() -> None:
    one, other = (f"a_test.py::T[{'role=Type,' * 60}x={end}]" for end in "ab")
    assert case_path(one) != case_path(other)


@given(st.text(), st.text())
def test_folder_names_are_distinct(one: str, other: str) -> None:
    assert (folder_name(one) == folder_name(other)) == (one == other)


@given(st.text())
def test_a_file_name_is_one_name_that_fits(text: str) -> None:
    name = file_name(text)
    assert PurePosixPath(name).name == name
    assert 0 < len(name.encode()) <= LONGEST
    assert not name.startswith(".")


def test_a_file_name_keeps_what_is_safe() -> None:
    assert file_name("my shot.png") == "my shot.png"
    assert file_name("снимок.png") == "снимок.png"
    assert file_name("../../etc/passwd") == "passwd"
    assert file_name("") == "unnamed"
    assert file_name("é" * 200 + ".png").endswith("é.png")
