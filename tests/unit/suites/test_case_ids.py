"""Case ids can be parsed again."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trafficlight.suites.case_ids import (
    Cell,
    base_id,
    case_id,
    decode_file,
    encode_file,
    read_symbol,
    suite_id,
)
from trafficlight.suites.rendering import render_name, render_value

identifiers = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
scalars = st.text() | st.integers() | st.floats() | st.booleans() | st.none()
rendered = st.text().map(render_name) | (scalars | st.lists(scalars, max_size=3)).map(render_value)
cells = st.builds(Cell, st.lists(identifiers, min_size=1, max_size=2).map("+".join), rendered)
files = st.text(st.characters(exclude_characters="\0/"), min_size=1).filter(
    lambda name: name not in {".", ".."}
)


@dataclass(frozen=True)
class Parts:
    file: str
    class_name: str
    method: str
    cells: tuple[Cell, ...]
    repeat: int

    def id(self) -> str:
        suite = suite_id(self.file, self.class_name, self.method)
        repetition = f"#{self.repeat}" if self.repeat > 1 else ""
        return case_id(suite, ((cell.key, cell.value) for cell in self.cells)) + repetition


parts = st.builds(
    Parts,
    files,
    identifiers,
    st.just("run") | identifiers.map(lambda name: f"test_{name}"),
    st.lists(cells, max_size=4).map(tuple),
    st.integers(1, 3),
)


@given(parts)
def test_an_id_has_all_its_parts(stated: Parts) -> None:
    text = stated.id()
    file, _, symbol = text.partition("::")
    parsed = read_symbol(symbol)
    assert decode_file(file) == stated.file
    assert (parsed.class_name, parsed.method or "run") == (stated.class_name, stated.method)
    assert parsed.cells == stated.cells
    assert text.isprintable()


@given(parts, parts)
def test_ids_are_the_same_only_for_the_same_case(one: Parts, other: Parts) -> None:
    assert (one.id() == other.id()) == (one == other)


def test_an_id_is_what_people_would_write() -> None:
    stated = (Cell("alice", "Nio"), Cell("server1+server2", "TwoSynapseFederation"), Cell("size", "10"))
    id = Parts("chat/a_test.py", "A", "test_x", stated, 2).id()
    assert id == "chat/a_test.py::A.test_x[alice=Nio,server1+server2=TwoSynapseFederation,size=10]#2"
    assert Parts("a_test.py", "A", "run", (), 1).id() == "a_test.py::A"


def test_the_base_of_a_repetition() -> None:
    assert base_id('a.py::A[x="#2"]#13') == 'a.py::A[x="#2"]'
    assert base_id('a.py::A[x="#2"]') == 'a.py::A[x="#2"]'


@pytest.mark.parametrize("text", ["", "A[", "A[x]", "A[=1]", "A.", "A.b.c", "A@{", "A@[1]", "A b"])
def test_a_malformed_symbol_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"behind ::|not of the form|Expecting"):
        read_symbol(text)


def test_files_keep_their_names_where_they_can() -> None:
    assert encode_file("größe [1]/a_test.py") == "größe [1]/a_test.py"
    assert encode_file("a::b%\n") == "a%3A%3Ab%25%0A"
