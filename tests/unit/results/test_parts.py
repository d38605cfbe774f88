"""The parts of a page: a reader gets what has changed since its version, and nothing else."""

import re

import jinja2

from trafficlight.results.reports.parts import Parts, Versions, known_versions

TEMPLATE = jinja2.Environment(autoescape=True, trim_blocks=True).from_string(
    """
{% call live.part("p", "head", "big") %}{{ head }}{% endcall %}
{% call live.part("ul", "list") %}{% for id, text, seconds in rows %}
{% call live.piece("li", id) %}{{ text }}<i data-seconds="{{ seconds }}">{{ seconds }} s</i>{% endcall %}
{% endfor %}{% endcall %}
"""
)


def page(versions: Versions | None, had: str = "", head: str = "<1>", now: int = 100, **rows: str) -> str:
    """Return the page for a reader with these versions; the row `text 3` has run for 3 seconds now."""
    live = Parts(versions, known_versions(had), now)
    return TEMPLATE.render(
        live=live, head=head, rows=[(id, *text.rsplit(" ", 1)) for id, text in rows.items()]
    ).strip()


def versions_in(text: str) -> str:
    """Return what the reader of a page names."""
    found = re.findall(r'id="(\w+)"[^>]* data-live="(\w+)"', text)
    return " ".join(f"{id}={version}" for id, version in found)


def li(id: str, text: str, seconds: int) -> str:
    return f'<li id="{id}">{text}<i data-seconds="{seconds}">{seconds} s</i></li>'


def test_who_has_nothing_gets_all() -> None:
    first = page(Versions(), a="x 1", b="y 1")
    assert '<p class="big" id="head" data-live="' in first
    assert "&lt;1&gt;" in first
    assert li("a", "x", 1) + li("b", "y", 1) in first
    assert page(Versions(), "head=1 list=2", a="x 1", b="y 1") == first, "unknown versions"


def test_what_is_the_same_is_left_out() -> None:
    known = Versions()
    first = page(known, a="x 1", b="y 1")
    again = page(known, versions_in(first), now=106, a="x 7", b="y 7")
    assert ">" not in again.replace("></p>", "").replace("></ul>", ""), "and seconds go on by themselves"
    assert versions_in(again) == versions_in(first)
    later = page(known, versions_in(first), now=106, a="x 7", b="y 0")
    assert f" data-pieces><template>{li('b', 'y', 0)}</template></ul>" in later, "it began again"


def test_of_a_part_only_the_pieces_that_changed_are_sent() -> None:
    known = Versions()
    first = page(known, a="x 1", b="y 1")
    second = page(known, versions_in(first), "2", a="x 1", b="z 2")
    assert f" data-pieces><template>{li('b', 'z', 2)}</template></ul>" in second
    assert ">2</p>" in second
    third = page(known, versions_in(second), "2", a="x 1", b="y 1")
    assert f" data-pieces><template>{li('b', 'y', 1)}</template></ul>" in third
    assert versions_in(third).split()[1] == versions_in(first).split()[1]


def test_pieces_that_come_go_and_move() -> None:
    known = Versions()
    first = page(known, a="x 1", b="y 1", c="z 1")
    second = page(known, versions_in(first), d="new 0", c="z 1", a="x 1")
    same = '<li id="{}" data-same></li>'
    assert li("d", "new", 0) + same.format("c") + same.format("a") in second
    assert "data-pieces" not in second
    late = page(known, versions_in(first), d="new 0", c="z 1", a="x 1")
    assert late == second, "another reader, who has the first version still"


def test_forgotten_versions() -> None:
    known = Versions()
    first = page(known, a="x 1")
    for number in range(300):
        page(known, "", "", 100, **{f"r{number}-{row}": "x 1" for row in range(1_000)})
    later = page(known, versions_in(first), a="y 1")
    assert li("a", "y", 1) in later
    assert "data-pieces" not in later


def test_a_page_that_follows_nothing_is_plain() -> None:
    text = page(None, a="x 1")
    assert text.startswith('<p class="big" id="head">&lt;1&gt;</p>')
    assert '<li>x<i data-seconds="1">1 s</i></li>' in text
    assert "data-live" not in text


def test_ids_are_escaped() -> None:
    known = Versions()
    text = page(known, "", "", 100, **{'"><b>': "x 1"})
    assert '<li id="&#34;&gt;&lt;b&gt;">x' in text


def test_pieces_side_by_side_are_rendered_only_if_the_reader_lacks_them() -> None:
    rendered: list[object] = []

    def cell(value: object) -> str:
        rendered.append(value)
        return f"<{value}>"

    def row(versions: Versions | None, had: str, *values: object) -> str:
        live = Parts(versions, known_versions(had))
        return str(live.part("p", "row", caller=lambda: live.pieces("td", "c", values, caller=cell)))

    known = Versions()
    first = row(known, "", "x", None, "y")
    assert first.endswith('><td id="c-1"><x></td><td></td><td id="c-3"><y></td></p>')
    again = row(known, versions_in(first), "x", None, "z")
    assert again.endswith(' data-pieces><template><td id="c-3"><z></td></template></p>')
    assert rendered == ["x", "y", "z"]
    assert row(None, "", "x", None) == '<p id="row"><td><x></td><td></td></p>', "a page that stays as it is"
